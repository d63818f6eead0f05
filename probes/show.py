"""One probe for the eye: abbreviated, with needle, sources and answer marked."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from .probe import Probe
from .tokens import Codec

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {"needle": "black on yellow", "distractor": "black on cyan"}
ANSWER_STYLES = {"echo": "green", "novel": "bold green", "format": "dim green"}


def show(probe: Probe, tokenizer: Any, *, around: int = 24) -> Text:
    """A rich `Text`: a line of facts, then the sequence with at most `around` tokens on either side of what matters.

    Needle tokens an answer token can be copied from are underlined; answer tokens are green, bold where only the needle
    gives them away.
    """
    from rich.text import Text

    codec = Codec(tokenizer)
    styles = [""] * probe.length
    for span in probe.spans:
        styles[span.start : span.end] = [STYLES[span.role]] * (span.end - span.start)
    for position in probe.sources[probe.sources >= 0].tolist():
        styles[position] += " underline"
    styles[probe.question_start : probe.prompt_len] = ["bold"] * (probe.prompt_len - probe.question_start)
    styles[probe.prompt_len :] = [ANSWER_STYLES[kind] for kind in probe.token_class]

    kept = [False] * probe.length
    for start, end in ((0, 0), *probe.needle_spans, (probe.question_start, probe.length)):
        first, last = max(0, start - around), min(probe.length, end + around)
        kept[first:last] = [True] * (last - first)

    text = Text()
    text.append(f"{probe.id}\n", style="bold")
    text.append(
        f"{probe.family}/{probe.variant}: {probe.length} tokens, needle at depth {probe.depth:.3f} "
        f"(asked for {probe.depth_nominal:g}), {probe.distance} tokens before the question, "
        f"answer {probe.n_answer} tokens\n",
        style="dim",
    )
    surfaces = codec.surfaces(probe.input_ids.tolist())
    for style, run in groupby(
        zip(surfaces, styles, kept, strict=True), key=lambda token: token[1] if token[2] else None
    ):
        run_text = [surface for surface, _, _ in run]
        if style is None:
            text.append(f" [... {len(run_text)} tokens ...] ", style="dim italic")
        else:
            text.append("".join(run_text), style=style.strip())
    return text
