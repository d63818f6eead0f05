"""Scores from elsewhere, such as benchmarks after fine-tuning, read from a CSV and set against what the heads say."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np

from .evolution import Panel, panel
from .statistics import Correlation, correlate, holm
from .trajectory import Trajectory

_PROGRESS = ("step", "tokens")
_MISSING = {"", "na", "nan", "n/a", "none", "null", "-"}


class DownstreamError(ValueError):
    """A file of downstream scores that cannot be read, or does not fit the run."""


class Downstream(dict[str, tuple[np.ndarray, np.ndarray]]):
    """Name of a score -> (progress [n], scores [n]), both float64; `by` says what progress is: "step" or "tokens"."""

    by: str = "step"


def read_downstream(path: str | PathLike[str]) -> Downstream:
    """Read a CSV with a header: a column `step` or `tokens`, and one column for each score, named as you like.

        step,RULER,MRCR
        0,68.7,31.2
        2000,74.1,

    An empty cell (or NaN, NA, -) means that this score was not measured there. Raises DownstreamError, a ValueError,
    which says what is wrong in which line.
    """
    name = Path(path).name
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DownstreamError(f"{name} is not a text file in UTF-8 ({error.reason}); save it as CSV") from error
    lines = [(i, row) for i, row in enumerate(csv.reader(text.splitlines()), 1) if any(cell.strip() for cell in row)]
    if not lines:
        raise DownstreamError(f"{name} is empty; it needs a header such as step,RULER and one line a checkpoint")
    header = [cell.strip() for cell in lines[0][1]]
    by = [column for column in header if column.lower() in _PROGRESS]
    if len(by) != 1:
        found = f"both {' and '.join(by)}" if by else f"the columns {', '.join(header)}"
        raise DownstreamError(f"{name} needs exactly one column named step or tokens; it has {found}")
    names = [column for column in header if column != by[0]]
    if not names:
        raise DownstreamError(f"{name} has no column of scores beside {by[0]!r}")
    if "" in names or len(set(names)) < len(names):
        raise DownstreamError(f"{name} needs a name of its own for every column; its header is {','.join(header)}")
    if len(lines) == 1:
        raise DownstreamError(f"{name} has a header but no line of scores")

    columns: dict[str, list[float]] = {column: [] for column in header}
    for i, row in lines[1:]:
        if len(row) != len(header):
            raise DownstreamError(f"{name}, line {i}: {len(row)} cells, but the header has {len(header)}")
        for column, cell in zip(header, row, strict=True):
            columns[column].append(_number(cell, f"{name}, line {i}, column {column!r}", needed=column == by[0]))
    progress = np.array(columns[by[0]])
    again, times = np.unique(progress, return_counts=True)
    if (times > 1).any():
        raise DownstreamError(f"{name}: {by[0]} {again[times > 1][0]:g} is there more than once")
    if (progress < 0).any():
        raise DownstreamError(f"{name}: {by[0]} must not be negative, got {progress.min():g}")
    order = np.argsort(progress)
    scores = Downstream({column: (progress[order], np.array(columns[column])[order]) for column in names})
    scores.by = by[0].lower()
    return scores


@dataclass(frozen=True)
class DownstreamCorrelation:
    """One quantity of the heads against one downstream score. p_holm, p_detrended_holm: its p_permutation and its
    p_detrended, adjusted for all that were compared (Holm); NaN where there is no p."""

    quantity: str
    score: str
    correlation: Correlation
    p_holm: float
    p_detrended_holm: float


def correlate_downstream(
    trajectory: Trajectory, downstream: Downstream, found: Panel | None = None
) -> list[DownstreamCorrelation]:
    """The paper's tables 3 and 4: NIAH score, NLL, number of heads and the initial heads' mean against every score.

    Checkpoints are matched by step, or by tokens seen to within a thousandth. found: the panel, where it was made
    already. Raises DownstreamError when no checkpoint of the file is one of the run, or tokens seen are not known.
    """
    found = panel(trajectory) if found is None else found
    own = (trajectory.steps if downstream.by == "step" else trajectory.tokens).astype(np.float64)
    if np.isnan(own).all():
        raise DownstreamError("the scores are given by tokens, but tokens seen are not known for this run; give step")
    quantities = {
        "NIAH score": found.niah_score.estimate,
        "NLL of the answer": found.nll["nll"].estimate,
        "number of retrieval heads": found.n_heads.estimate,
        "mean score of the initial heads": found.initial_mean.estimate,
    }
    pairs: list[tuple[str, str, Correlation]] = []
    for score, (progress, values) in downstream.items():
        nearest = np.nanargmin(np.abs(own - progress[:, None]), axis=1)
        tolerance = 1e-3 * progress if downstream.by == "tokens" else 0.0
        column = np.flatnonzero(np.abs(own[nearest] - progress) <= tolerance)
        row, first = np.unique(nearest[column], return_index=True)
        column = column[first]
        if not len(row):
            told, there = (", ".join(f"{v:g}" for v in side[:8]) for side in (progress, own))
            raise DownstreamError(
                f"no checkpoint of the run has a score of {score!r}: the file tells {downstream.by} {told}, the run "
                f"has {there}; give scores of the run's own checkpoints"
            )
        for quantity, curve in quantities.items():
            pairs.append((quantity, score, correlate(curve[row], values[column], trajectory.progress[row])))
    raw = holm(np.array([found.p_permutation for _, _, found in pairs]))
    beyond = holm(np.array([found.p_detrended for _, _, found in pairs]))
    return [DownstreamCorrelation(*pair, float(p), float(q)) for pair, p, q in zip(pairs, raw, beyond, strict=True)]


def _number(cell: str, where: str, *, needed: bool) -> float:
    text = cell.strip()
    if text.lower() in _MISSING:
        if needed:
            raise DownstreamError(f"{where}: a number is needed, the cell is empty")
        return float("nan")
    try:
        value = float(text)
    except ValueError:
        raise DownstreamError(f"{where}: {text!r} is not a number; write 1234.5, or leave the cell empty") from None
    if not np.isfinite(value):
        raise DownstreamError(f"{where}: {text!r} is not a finite number")
    return value
