"""Scores in the terminal: the leading heads with their bars, every layer's best, the answer by length and needle.

    rich.print(summary(scores))

Coloured and unicode where the terminal can; plain ASCII where its encoding cannot; never wider than the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ...printable import NAME, printable
from ..lengths import group_lengths
from ..levels import chance_known, in_words
from ..results import RETRIEVAL_THRESHOLD

if TYPE_CHECKING:
    from ..results import HeadScores


class Bar:
    """A share in [0, 1] as a bar as wide as its column; a column of dots where the value is missing."""

    def __init__(self, share: float, style: str = "cyan") -> None:
        self.share, self.style = share, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = options.max_width
        if np.isnan(self.share):
            yield Text("." * width, "dim")
            return
        eighths = round(8 * width * min(max(self.share, 0.0), 1.0))
        if options.ascii_only:
            yield Text("#" * round(eighths / 8), self.style)
        else:
            yield Text("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip(), self.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, min(24, options.max_width))


class LayerStrip:
    """One character a layer, as high as the layer's best head, bold where that is a retrieval head; a dot where no head
    of the layer was observable."""

    def __init__(self, best: np.ndarray, counted: np.ndarray) -> None:
        self.best, self.counted = best, counted

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        steps = " .:-=+*#" if options.ascii_only else "▁▂▃▄▅▆▇█"
        label = len(f"L{len(self.best) - 1}") + 1
        per_row = max(options.max_width - label, 10) // 10 * 10
        for start in range(0, len(self.best), per_row):
            row = Text().append(f"L{start}".ljust(label), "dim")
            shown = slice(start, start + per_row)
            for value, strong in zip(self.best[shown], self.counted[shown], strict=True):
                if np.isnan(value):
                    row.append("." if options.ascii_only else "·", "dim")
                else:
                    row.append(steps[min(int(value * 8), 7)], "bold cyan" if strong else "blue")
            yield row


def plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def head_table(scores: HeadScores, k: int = 10) -> Table:
    """The `k` leading heads: score, needle-clustered standard error, a bar, attention probability on the needle."""
    with_mass = "needle_mass" in scores
    table = plain_table()
    table.add_column("head", min_width=6)
    for name in ("retrieval", "stderr"):
        table.add_column(name, justify="right", min_width=len(name))
    table.add_column("", ratio=1)
    if with_mass:
        table.add_column("on needle", justify="right", min_width=6)
    mass, level = scores["needle_mass"] if with_mass else None, scores.counting_level()
    for head in scores.top(k):
        error = f"{head.stderr:.3f}" if np.isfinite(head.stderr) else "-"
        row: list[RenderableType] = [str(head), f"{head.score:.3f}", error, Bar(head.score)]
        if mass is not None:
            row.append(f"{mass[head.layer, head.head]:.3f}")
        table.add_row(*row, style="" if head.score > level[head.layer, head.head] else "dim")
    return table


def answer_table(scores: HeadScores, by: str, labels: list[str], group: np.ndarray) -> Table:
    """How the answer fared in every group of probes: NLL in nats per token, share of exact matches, number of probes.

    group: [n_probes], the index into `labels` of the group of every probe; `by` says what the groups are.
    """
    matched = np.where(scores.computed, scores.exact_match, np.nan)
    columns = {"NLL": scores.nll, "NLL needle only": scores.nll_novel, "exact match": matched}
    table = plain_table()
    for name in (by, *columns, "probes"):
        table.add_column(name, justify="right", min_width=6)
    for index, label in enumerate(labels):
        cells = [label]
        for name, values in columns.items():
            chosen = values[group == index]
            chosen = chosen[~np.isnan(chosen)]
            form = "{:.0%}" if name == "exact match" else "{:.3f}"
            cells.append(form.format(chosen.mean()) if chosen.size else "-")
        table.add_row(*cells, str(int((group == index).sum())))
    return table


def answer_tables(scores: HeadScores) -> list[RenderableType]:
    """By context length and, where the needles are of several kinds, by kind: some are far easier to answer."""
    tables: list[RenderableType] = [answer_table(scores, "length", *group_lengths(scores.probes["length"]))]
    named = ["/".join(pair) for pair in zip(scores.probes["family"], scores.probes["variant"], strict=True)]
    kinds, group = np.unique([printable(name, NAME) for name in named], return_inverse=True)
    if len(kinds) > 1:
        tables += [Text(), answer_table(scores, "needle", kinds.tolist(), group)]
    return tables


def summary(scores: HeadScores, k: int = 10) -> RenderableType:
    """All of it, as `headscope score` prints it."""
    best = np.where(np.isnan(scores.retrieval), -np.inf, scores.retrieval).max(axis=1)
    level = scores.counting_level()
    heads, plain = len(scores.retrieval_heads()), len(scores.retrieval_heads(plain=True))
    unseen = int(np.isnan(scores.retrieval).sum())
    count = Text.assemble((f"{heads}", "bold"), f" of {scores.retrieval.size} heads are retrieval heads")
    count.append(f": mean score above {in_words(level, scores.probes, RETRIEVAL_THRESHOLD)}")
    if chance_known(scores.probes):
        count.append(f"; by the paper's plain count, above {RETRIEVAL_THRESHOLD:g}: {plain}")
    if "dealt_mean" in scores and "dealt_sd" in scores:
        count.append(f"; above a null of their own at q < .05: {len(scores.heads_above_null())}")
    if unseen:
        count.append(f"; {unseen} could not be observed: the needle lay outside their window")
    held = scores.effective_length()
    if len(held.lengths) > 1:
        count.append(f"\nEffective length, to {held.share:.0%} of the score at the shortest: {held.words}")
    strip = LayerStrip(np.where(np.isinf(best), np.nan, best), np.any(scores.retrieval > level, axis=1))
    blank = Text()
    above = (head_table(scores, k), blank, count, blank, Text("Best head of every layer"), strip, blank)
    return Group(*above, *answer_tables(scores))
