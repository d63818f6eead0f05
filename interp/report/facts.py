"""What was run, in a few words, for the head of a picture or a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...printable import NAME, printable
from .. import checkpoint_names
from ..lengths import human_length

if TYPE_CHECKING:
    from ..results import HeadScores


def model_name(scores: HeadScores) -> str:
    """A hub id as it is; of a local path only its end, in files that an older version wrote."""
    return printable(checkpoint_names.model_name(scores.model_id), NAME)


def sharing(scores: HeadScores) -> str:
    """How the probes were really run: "grafted", "exact", "alone" or, for instance, "grafted for 12 of 20 probes"."""
    return how_shared(scores.provenance.get("sharing"), scores.probes.get("grafted"))


def how_shared(asked: str | None, grafted: np.ndarray | None) -> str:
    """The same from what was asked for and the probes' column `grafted` (not in every file)."""
    if asked == "alone" or grafted is None:
        return str(asked or "unknown")
    count = int(np.count_nonzero(grafted))
    if count in (0, len(grafted)):
        return "grafted" if count else "exact"
    return f"grafted for {count} of {len(grafted)} probes"


def facts(scores: HeadScores) -> list[str]:
    """Probe set, how many probes and needles, lengths, size of the model, sharing, share of exact matches."""
    lengths = np.asarray(scores.probes["length"])
    span = human_length(int(lengths.min()))
    if lengths.max() > lengths.min():
        span += f" to {human_length(int(lengths.max()))}"
    needles = len(np.unique(scores.probes["needle_id"]))
    return [
        f"probe set {printable(scores.probe_set_name, NAME)}",
        f"{len(lengths)} probe{'s' if len(lengths) != 1 else ''}",
        f"{needles} needle{'s' if needles != 1 else ''}",
        f"{span} tokens",
        f"{scores.n_layers} layers x {scores.n_heads} heads ({scores.n_kv_heads} KV)",
        f"sharing: {sharing(scores)}",
        f"exact match {scores.share_of_matches:.0%}",
    ]


def plural(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"
