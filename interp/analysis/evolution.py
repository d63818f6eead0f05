"""The panel of a run: how many heads retrieve, how well the first ones still do, how the order of heads settles.

It is the panel of *Revealing the Learning Dynamics of Long-Context Continual Pre-training* (arXiv 2604.02650, figures 2
to 9, table 5), with an interval over needles on every curve.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ...errors import ArgumentError
from ..results import NLL_CLASSES, RETRIEVAL_THRESHOLD
from .bootstrap import Interval, clustered_interval, needle_sums, needle_weights, resampled_interval
from .cells import DistanceGrid, Grid, checkpoint_index, depth_groups, distance_by_interference, grid, measure
from .trajectory import Trajectory

__all__ = [
    "DepthCurve",
    "DistanceGrid",
    "Grid",
    "LogFit",
    "Panel",
    "by_depth",
    "distance_by_interference",
    "grid",
    "head_count_change",
    "head_counts",
    "heads_mean",
    "log_fit",
    "panel",
]


@dataclass(frozen=True, eq=False)
class Panel:
    """C checkpoints in numbers. Intervals are over needles and have one entry a checkpoint.

    n_heads: heads whose mean score is strictly above `threshold` and above chance: above `levels`, float32 [C, L, H].
    n_plain: int [C], heads above the threshold alone, as the paper counts them.
    initial_heads: those of the first checkpoint; initial_mean: their mean score at every checkpoint, the set held fixed
        (it was chosen on these probes, so its first value is a little too high); NaN when there are none.
    overlap: int [C-1], heads in the top `top` of a checkpoint and of the one before; equal scores in (layer, head)
        order. top: as asked; by default the paper's 30, or half the heads if that is less (all of them always agree).
    spearman: float64 [C-1], rank correlation over all heads with the checkpoint before, ties given their mean rank; NaN
        when all heads of one checkpoint have the same score.
    niah_score: share of probes answered exactly. nll: class -> mean nats per token.
    """

    threshold: float
    levels: np.ndarray
    top: int
    n_heads: Interval
    n_plain: np.ndarray
    initial_heads: list[tuple[int, int]]
    initial_mean: Interval
    overlap: np.ndarray
    spearman: np.ndarray
    niah_score: Interval
    nll: dict[str, Interval]


def panel(trajectory: Trajectory, *, threshold: float = RETRIEVAL_THRESHOLD, top: int | None = None) -> Panel:
    """The paper's panel of a trajectory. Raises ValueError when threshold is no number or top is below 1."""
    if not np.isfinite(threshold):
        raise ArgumentError(f"threshold must be a finite number, got {threshold}")
    if top is not None and top < 1:
        raise ArgumentError(f"top must be at least 1, got {top}")
    maps, levels = trajectory.maps, trajectory.levels(threshold)
    first = [(int(layer), int(head)) for layer, head in np.argwhere(maps[0] > levels[0])]
    flat = maps.reshape(len(maps), -1)
    flat = flat[:, ~np.isnan(flat).any(axis=0)]
    top = min(30, max(1, flat.shape[1] // 2)) if top is None else min(top, flat.shape[1])
    needles = trajectory.needles
    return Panel(
        threshold=threshold,
        levels=levels,
        top=top,
        n_heads=head_counts(trajectory, threshold),
        n_plain=(maps > threshold).sum(axis=(1, 2)),
        initial_heads=first,
        initial_mean=heads_mean(trajectory, first),
        overlap=_overlap(flat, top),
        spearman=np.array([_spearman(a, b) for a, b in zip(flat[:-1], flat[1:], strict=True)]),
        niah_score=clustered_interval(trajectory.exact_match, needles, bounds=(0, 1)),
        nll={name: clustered_interval(trajectory.nll[name], needles, bounds=(0, np.inf)) for name in NLL_CLASSES},
    )


def head_counts(trajectory: Trajectory, threshold: float = RETRIEVAL_THRESHOLD) -> Interval:
    """How many heads score strictly above the threshold and above chance, [C].

    They are counted anew in every resample of needles; the level of chance is that of all needles.
    """
    levels = trajectory.levels(threshold)
    drawn, n_clusters = _drawn_counts(trajectory, levels, range(trajectory.n_checkpoints))
    counts = (trajectory.maps > levels).sum(axis=(1, 2))
    return resampled_interval(counts, drawn, n=len(trajectory.needles), n_clusters=n_clusters)


def head_count_change(
    trajectory: Trajectory, a: int = 0, b: int = -1, threshold: float = RETRIEVAL_THRESHOLD
) -> Interval:
    """How many more heads there are at checkpoint b than at a (positions), counted in the same resamples of needles."""
    places = [checkpoint_index(trajectory, place) for place in (a, b)]
    levels = trajectory.levels(threshold)
    drawn, n_clusters = _drawn_counts(trajectory, levels, places)
    before, after = (trajectory.maps[places] > levels[places]).sum(axis=(1, 2))
    n = len(trajectory.needles)
    return resampled_interval(after - before, drawn[:, 1] - drawn[:, 0], n=n, n_clusters=n_clusters)


def _drawn_counts(trajectory: Trajectory, levels: np.ndarray, checkpoints: Iterable[int]) -> tuple[np.ndarray, int]:
    """Numbers of heads int [draws, checkpoints] in resamples of needles, and how many needles there are."""
    needles = trajectory.needles
    n_clusters = int(needles.max()) + 1
    weights = needle_weights(n_clusters).astype(np.float32)
    drawn = []
    for c in checkpoints:
        sums, counts = needle_sums(trajectory.scores[c].reshape(len(needles), -1).T, needles)
        # a weighted mean is above its level when the weighted sum of what lies above it is positive
        above = sums - levels[c].reshape(-1, 1) * counts
        above = above[(above > 0).any(axis=1)].astype(np.float32)  # the others are below it in every resample
        drawn.append((weights @ above.T > 0).sum(axis=1))
    return np.stack(drawn, axis=1), n_clusters


def heads_mean(trajectory: Trajectory, heads: list[tuple[int, int]]) -> Interval:
    """Mean over the given heads of their mean score, [C]; each head's mean is over the probes where it is observable.

    The interval is NaN where all needles agree, or nearly all (`clustered_interval`).
    Raises ValueError when a head does not exist.
    """
    _, p, layers, width = trajectory.scores.shape
    for layer, head in heads:
        if not (0 <= layer < layers and 0 <= head < width):
            raise ArgumentError(f"there is no head ({layer}, {head}); the model has {layers} layers of {width} heads")
    layer_of, head_of = np.array(heads, int).reshape(-1, 2).T
    chosen = trajectory.scores[:, :, layer_of, head_of].astype(np.float64)  # [C, P, heads]
    seen = ~np.isnan(chosen)
    n = seen.sum(axis=1, keepdims=True)
    shares = np.where(seen, chosen * p / np.maximum(n, 1), 0.0)  # so that the mean over all probes is the head's mean
    some = (n > 0).sum(axis=2)
    with np.errstate(invalid="ignore"):
        values = np.where(some > 0, shares.sum(axis=2) / np.maximum(some, 1), np.nan)
    found = clustered_interval(np.where(seen.any(axis=2), values, np.nan), trajectory.needles)
    if not seen.any() or np.nanmin(chosen) < -1e-6 or np.nanmax(chosen) > 1 + 1e-6:
        return found
    # Cut only: told these bounds, the interval would widen to that of one yes or no a needle where needles agree.
    return replace(found, low=np.clip(found.low, 0, 1), high=np.clip(found.high, 0, 1))


@dataclass(frozen=True, eq=False)
class DepthCurve:
    """depths: float64 [D]; mean: Interval with entries [D] over the probes at that depth (NaN bounds: few needles)."""

    depths: np.ndarray
    mean: Interval


def by_depth(trajectory: Trajectory, value: str = "nll_novel", checkpoint: int = -1) -> DepthCurve:
    """Mean of `value` at each nominal needle depth, over all lengths, at one checkpoint (a position, -1 the last)."""
    depths, group = depth_groups(trajectory.probes["depth_nominal"])
    values = measure(trajectory, value)[checkpoint_index(trajectory, checkpoint)]
    rows = np.where(np.equal.outer(np.arange(len(depths)), group), values, np.nan)  # [D, P]
    bounds = (0, 1) if value == "exact_match" else (0, np.inf)
    return DepthCurve(depths, clustered_interval(rows, trajectory.needles, bounds=bounds))


@dataclass(frozen=True, eq=False)
class LogFit:
    """value = a * log(tokens) + b, natural log, least squares over n checkpoints with tokens above 0.

    a, b: intervals over needles: what other needles would have given on this run, not what another run would.
    r_squared: share of the curve's variance that the line explains. residual: its standard deviation, n - 2 degrees.
    fitted: float64 [C], NaN where left out. All NaN with fewer than 3 usable checkpoints; n says how many there were.
    """

    a: Interval
    b: Interval
    r_squared: float
    residual: float
    fitted: np.ndarray
    n: int


def log_fit(trajectory: Trajectory, value: str = "nll") -> LogFit:
    """The paper's A * log(N) + B for a measure: an NLL class or "exact_match".

    Fitted on the probes that have a value at every usable checkpoint; one without tokens, or at 0, is left out.
    """
    values = measure(trajectory, value).astype(np.float64)
    used = (trajectory.tokens > 0) & np.isfinite(trajectory.tokens) & ~np.isnan(values).all(axis=1)
    n, fitted = int(used.sum()), np.full(trajectory.n_checkpoints, np.nan)
    shape = np.full((2, values.shape[1]), np.nan)
    r_squared = residual = float("nan")
    x = np.log(trajectory.tokens[used])
    if n >= 3 and np.ptp(x) > 0:
        solve = np.linalg.pinv(np.stack([x, np.ones(n)], axis=1))  # [2, n]
        shape = solve @ values[used]  # each probe's own line; NaN for a probe without all its values
        line = np.nanmean(shape, axis=1) if not np.isnan(shape).all() else np.full(2, np.nan)
        fitted[used] = line[0] * x + line[1]
        curve = values[used][:, ~np.isnan(shape[0])].mean(axis=1)
        left = curve - fitted[used]
        residual = float(np.sqrt((left**2).sum() / (n - 2)))
        spread = ((curve - curve.mean()) ** 2).sum()
        r_squared = float(1 - (left**2).sum() / spread) if spread > 0 else float("nan")
    a, b = (clustered_interval(row, trajectory.needles) for row in shape)
    return LogFit(a, b, r_squared, residual, fitted, n)


def _overlap(flat: np.ndarray, top: int) -> np.ndarray:
    leading = np.argsort(-flat, axis=1, kind="stable")[:, :top]
    return np.array([len(np.intersect1d(a, b)) for a, b in zip(leading[:-1], leading[1:], strict=True)], int)


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy import stats

    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1])
