"""Intervals that know that probes of one needle are not independent: whole needles are resampled, never probes.

The needle moves a head's score more than anything else about a probe does, so an interval over probes is far too
narrow. Everything here works on sums per needle: a resample of needles is a row of weights, and a mean of a resample
is one matrix product, however many probes, heads or checkpoints there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ArgumentError

MIN_NEEDLES = 12  # below it the intervals may cover less than 93 % of the time where 95 % is asked
DRAWS = 4999  # with 20 needles the ends still move by a few percent of the width with the seed
_BLOCK = 1 << 22  # numbers held at a time while resamples are worked on


@dataclass(frozen=True, eq=False)
class Interval:
    """An estimate with its interval; numbers, or arrays with one entry a checkpoint.

    low, high: NaN where no interval can be given, above all with fewer than MIN_NEEDLES needles.
    level: how often such intervals hold the true value, 0.95 for instance.
    n, n_clusters: probes and needles used; where entries differ, the fewest among entries with a value; 0 when none.
    """

    estimate: Any
    low: Any
    high: Any
    level: float
    n: int
    n_clusters: int


def needle_sums(values: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of values per needle, float64 [..., G], of values [..., P]; NaN is left out of both.

    clusters: [P], any labels; probes with the same one belong together. Raises ValueError when lengths differ.
    """
    values = np.asarray(values)
    labels = np.asarray(clusters)
    if labels.ndim != 1 or values.ndim < 1 or values.shape[-1] != len(labels):
        raise ArgumentError(
            f"clusters must hold one label for each of the values along the last axis; "
            f"values have the shape {values.shape}, clusters {labels.shape}"
        )
    if not len(labels):
        raise ArgumentError("values are empty; at least one probe is needed")
    _, cluster = np.unique(labels, return_inverse=True)
    member = np.equal.outer(cluster, np.arange(cluster.max() + 1)).astype(np.float64)  # [P, G]
    seen = ~np.isnan(values)
    sums = np.where(seen, values, 0.0).astype(np.float64) @ member
    if seen.all():
        return sums, np.broadcast_to(member.sum(axis=0), sums.shape)
    return sums, seen.astype(np.float64) @ member


def needle_weights(n_clusters: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """float64 [draws, G]: how often each needle is drawn when as many as there are get drawn with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=draws).astype(np.float64)


def clustered_interval(
    values: np.ndarray,
    clusters: np.ndarray,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Mean over probes of values [..., P], with a studentised bootstrap interval over needles; entries are [...].

    Each resample of needles gives the mean's deviation in units of its own cluster-robust standard error (the one of
    `HeadScores.stderr`); the interval takes the quantiles of those (bootstrap-t; Efron and Tibshirani 1993, An
    Introduction to the Bootstrap, section 12.5). For skewed scores and few needles it keeps its level where the
    percentile, BCa and t intervals fall to 90 % and below; benchmarks/statistics.py measures it. NaN values are left
    out.

    bounds: the least and greatest value possible, such as (0, 1) or (0, inf); the interval is cut there. Where all
        needles agree, or all but a few, a bootstrap sees too little spread: with finite bounds the interval is then
        Clopper and Pearson's for a share of G needles, which is the widest that bounded values can need (24 of 24
        right: 0.86 to 1); without, it is NaN. With a least value and no greatest one, as for an NLL, the upper end
        gives away a quarter of 1 - level instead of half: a few needles hold much of such a mean, and a sample that
        lacks them shows too little spread. Needles of a kind that no sample holds are beyond any interval.

    Raises ValueError when shapes do not fit, level is not between 0 and 1, or a value lies outside the bounds.
    """
    sums, counts = needle_sums(values, clusters)
    if bounds is not None:
        numbers = np.asarray(values, np.float64)
        least, greatest = np.nanmin(numbers, initial=np.inf), np.nanmax(numbers, initial=-np.inf)
        if least < bounds[0] - 1e-6 or greatest > bounds[1] + 1e-6:
            raise ArgumentError(f"values run from {least:g} to {greatest:g}, outside of the bounds {bounds}")
    return ratio_interval(sums, counts, level=level, bounds=bounds, draws=draws, seed=seed)


def ratio_interval(
    sums: np.ndarray,
    counts: np.ndarray,
    *,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """`clustered_interval` from sums and numbers of values of each cluster [..., G]: needles, or documents of tokens.

    Raises ValueError when level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ArgumentError(f"level must lie between 0 and 1, got {level}")
    counts = np.broadcast_to(counts, sums.shape)
    shape, g = sums.shape[:-1], sums.shape[-1]
    sums, counts = sums.reshape(-1, g), counts.reshape(-1, g)
    n = counts.sum(axis=1)
    used = (counts > 0).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(axis=1) / n
    low, high = np.full(len(mean), np.nan), np.full(len(mean), np.nan)
    weights = needle_weights(g, draws, seed)
    step = max(1, _BLOCK // (draws + g))
    for start in range(0, len(mean), step):
        part = slice(start, start + step)
        low[part], high[part] = _studentised(sums[part], counts[part], mean[part], weights, 1 - level, bounds)
    enough = used >= MIN_NEEDLES
    low, high = np.where(enough, low, np.nan), np.where(enough, high, np.nan)
    some = n > 0
    return Interval(
        estimate=mean.reshape(shape)[()],
        low=low.reshape(shape)[()],
        high=high.reshape(shape)[()],
        level=level,
        n=int(n[some].min()) if some.any() else 0,
        n_clusters=int(used[some].min()) if some.any() else 0,
    )


def resampled_interval(
    estimate: np.ndarray, drawn: np.ndarray, *, n: int, n_clusters: int, level: float = 0.95
) -> Interval:
    """Interval of any statistic [...] from its values in resamples of needles, drawn [draws, ...].

    The expanded percentile interval: quantiles of the resamples, a little further out because a resample of G needles
    varies less than G new needles do (Hesterberg 2015, What Teachers Should Know About the Bootstrap, The American
    Statistician 69(4), section 4.3). For counts of heads it errs on the wide side. NaN with fewer than MIN_NEEDLES.
    """
    from scipy import stats

    if not 0 < level < 1:
        raise ArgumentError(f"level must lie between 0 and 1, got {level}")
    estimate = np.asarray(estimate)
    if n_clusters < MIN_NEEDLES:
        low = high = np.full(estimate.shape, np.nan)
    else:
        wide = np.sqrt(n_clusters / (n_clusters - 1)) * stats.t.ppf((1 - level) / 2, n_clusters - 1)
        tail = float(stats.norm.cdf(wide))
        low = np.quantile(drawn, tail, axis=0, method="lower").astype(np.float64)
        high = np.quantile(drawn, 1 - tail, axis=0, method="higher").astype(np.float64)
    return Interval(estimate[()], low[()], high[()], level, n, n_clusters)


def _studentised(
    sums: np.ndarray,
    counts: np.ndarray,
    mean: np.ndarray,
    weights: np.ndarray,
    alpha: float,
    bounds: tuple[float, float] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high [M] from sums and counts [M, G] and weights [draws, G]; NaN where nothing can be said."""
    long_tail = bounds is not None and np.isfinite(bounds[0]) and np.isinf(bounds[1])
    off = sums - np.where(np.isnan(mean), 0.0, mean)[:, None] * counts
    n, used = counts.sum(axis=1), (counts > 0).sum(axis=1)
    squares = (off**2).sum(axis=1)
    scale = np.maximum((sums**2).sum(axis=1), 1e-30)
    flat = squares <= 1e-20 * scale
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(squares * used / (used - 1)) / n
        drawn = weights @ counts.T
        shift = (weights @ off.T) / drawn  # how far each resample's mean lies from the mean, [draws, M]
        spread = weights @ (off**2).T - 2 * shift * (weights @ (off * counts).T) + shift**2 * (weights @ (counts**2).T)
        still = spread <= 1e-12 * squares
        own = np.sqrt(np.where(still, 1.0, spread) * used / (used - 1)) / drawn
        near = np.abs(shift) <= 1e-12 * (np.abs(mean) + error)
        deviation = np.where(still, np.where(near, 0.0, np.sign(shift) * np.inf), shift / own)
        deviation = np.where(drawn > 0, deviation, 0.0)
        top = np.quantile(deviation, 1 - alpha / 2, axis=0, method="higher")
        bottom = np.quantile(deviation, alpha / (4 if long_tail else 2), axis=0, method="lower")
        low, high = mean - top * error, mean - bottom * error
        low, high = (np.where(flat | ~np.isfinite(side), np.nan, side) for side in (low, high))
        least, greatest = (-np.inf, np.inf) if bounds is None else bounds
        if not np.isfinite(greatest - least):
            low, high = low + 0 * high, high + 0 * low  # one end alone is no interval
        else:
            size = n**2 / (counts**2).sum(axis=1)
            share = np.clip((mean - least) / (greatest - least), 0.0, 1.0)
            low = np.fmax(low, least + (greatest - least) * _clopper_pearson_low(share, size, alpha))
            high = np.fmin(high, greatest - (greatest - least) * _clopper_pearson_low(1 - share, size, alpha))
    return np.clip(low, least, greatest), np.clip(high, least, greatest)


def _clopper_pearson_low(share: np.ndarray, size: np.ndarray, alpha: float) -> np.ndarray:
    """Lower limit [M] of a share of `size` needles; nothing bounded varies more than a share, so it is safe for all."""
    from scipy import stats

    low = stats.beta.ppf(alpha / 2, np.maximum(share * size, 1e-9), (1 - share) * size + 1)
    return np.where(share * size > 1e-9, low, 0.0)
