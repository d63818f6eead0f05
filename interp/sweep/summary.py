"""The end of a sweep in the terminal: one row a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ...printable import NAME, printable
from ..analysis import effective_length
from ..lengths import group_lengths
from ..levels import in_words
from ..results import CHANCE_COLUMNS, RETRIEVAL_THRESHOLD
from ..store import reading

if TYPE_CHECKING:
    from rich.table import Table

    from ..results import HeadScores

MOST = 30  # rows; of a longer run, the first and the last


def outcome_line(scores: HeadScores) -> str:
    """ "37 heads above chance (level 0.23 with 2 needles), top L18H6 .91, exact match 100 %, NLL 0.12"."""
    best = next(iter(scores.top(1)), None)
    leader = f"top {best} {best.score:.2f}, " if best is not None else ""
    heads, match = len(scores.retrieval_heads()), scores.share_of_matches
    words = in_words(scores.counting_level(), scores.probes, RETRIEVAL_THRESHOLD)
    counted = f"{heads} head{'' if heads == 1 else 's'} above {words}"
    return f"{counted}, {leader}exact match {match:.0%}, NLL {_mean(scores.nll):.3f}"


def summary_table(path: str | PathLike[str]) -> Table:
    """Step, training tokens, numbers of heads, top head, exact match and NLL of every checkpoint of a file.

    Heads are counted above chance ("-" where the file does not tell it), and as the paper does, above 0.1. Where there
    are several stages, the stage and the step within it. Where probes have several lengths, the effective length
    ("holds to", tokens: the leading heads keep 80 % of their score at the shortest).
    """
    from rich.table import Table

    made = Table(box=None, pad_edge=False, header_style="dim")
    with reading(path) as file:
        steps, tokens, counted = file["checkpoint"][:], file["tokens_seen"][:], file["n_retrieval_heads"][:]
        told = file["n_heads_above_chance"][:] if "n_heads_above_chance" in file else np.full(len(steps), -1)
        stages = file["stage"].asstr()[:] if "step_in_stage" in file else None
        own = file["step_in_stage"][:] if stages is not None else steps
        maps, matched, nll = file["retrieval"][:], file["probes/exact_match"][:], file["probes/nll"][:]
        n = len(steps)
        shown = range(n) if n <= MOST else [*range(MOST // 2), *range(n - MOST // 2, n)]
        held = _effective(file, shown)
    counts = ("heads above chance", f"above {RETRIEVAL_THRESHOLD:g}")
    names = ["step", "tokens", *counts, "top head", "score", "exact match", "NLL", *(["holds to"] if held else [])]
    for name in names if stages is None else ["stage", *names]:
        made.add_column(name, justify="left" if name == "stage" else "right", overflow="fold")
    for row in shown:
        if n > MOST and row == n - MOST // 2:
            made.add_row("...")
        seen = _amount(tokens[row]) if np.isfinite(tokens[row]) else "-"
        head, score = "-", "-"
        if np.isfinite(maps[row]).any():
            layer, number = np.unravel_index(np.nanargmax(maps[row]), maps[row].shape)
            head, score = f"L{layer}H{number}", f"{maps[row][layer, number]:.2f}"
        above = "-" if told[row] < 0 else str(told[row])
        exact = f"{_mean(np.where(matched[row] < 0, np.nan, matched[row])):.0%}"
        place = (f"{own[row]:,}",) if stages is None else (printable(stages[row], NAME), f"{own[row]:,}")
        longest = (held[row],) if held else ()
        made.add_row(*place, seen, above, str(counted[row]), head, score, exact, f"{_mean(nll[row]):.3f}", *longest)
    return made


def _effective(file: Any, rows: Iterable[int]) -> dict[int, str]:
    """The effective length of checkpoints by their row; {} where it can be told at none."""
    known = [name for name in ("length", *CHANCE_COLUMNS) if f"probes/{name}" in file]
    probes = {"needle_id": file["probes/needle_id"].asstr()[:], **{name: file[f"probes/{name}"][:] for name in known}}
    if len(group_lengths(probes["length"])[0]) < 2:
        return {}
    found = {row: effective_length(file["probes/retrieval"][row], probes, draws=0).short for row in rows}
    return found if set(found.values()) - {"-"} else {}


def _amount(tokens: float) -> str:
    size, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")) if tokens >= s), (1.0, ""))
    return f"{tokens / size:.4g}{unit}"


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
