"""What would going on be worth? An upper limit of the gain over the next tokens, or "insufficient".

The curve so far is continued by laws that go on for ever (A log(N + N0) + B, the paper's) and by ones that level off
(exponential, power, S-shaped), each with the weight that the run gives it. Where the run cannot tell them apart the
limit is mostly that of the laws that go on: an unknown plateau is no reason to stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...errors import ArgumentError
from .bootstrap import MIN_NEEDLES, needle_sums, needle_weights

MIN_CHECKPOINTS = 6
DRAWS = 1999
FARTHEST = 1.0  # times the progress of the run: no law of it is tried on more than a doubling
_MEMORIES = (0.0, 0.25, 0.5, 0.75)
_PRIOR = (0.4, 0.2, 0.2, 0.2)  # logarithms, exponential, power, S: what is believed before the run is seen


@dataclass(frozen=True)
class StoppingAdvice:
    """What `more` progress is worth on a measure, oriented so that a gain is positive.

    answer: "at most" or "insufficient". most: the upper limit of the gain, held with probability `level`; expected: the
        median. both in the measure's unit; NaN where insufficient. so_far: gain from the first checkpoint to the last.
    laws: weight of the laws that go on and of those that level off, [logarithm, levels off].
    words: one sentence. n, n_needles: checkpoints and needles.
    """

    measure: str
    answer: str
    more: float
    most: float
    expected: float
    so_far: float
    level: float
    laws: tuple[float, float]
    n: int
    n_needles: int
    words: str


def stopping_advice(
    values: np.ndarray,
    needles: np.ndarray,
    progress: np.ndarray,
    more: float,
    *,
    measure: str = "score",
    higher_is_better: bool = True,
    bounds: tuple[float, float] | None = None,
    unit: str = "tokens",
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> StoppingAdvice:
    """The most that `more` further progress is worth, with probability `level`.

    Each draw takes a law by its posterior weight given the run's means (marginal over height, noise, and the noise's
    correlation from checkpoint to checkpoint), fits its height to resampled needles, adds what checkpoints jitter, and
    goes on to the end. Held on average over laws, each as often as `_PRIOR` says; of one law alone it holds in 89 to
    100 % (benchmarks/levels.py): where the run cannot tell laws apart, those that level off are given too much.

    Args:
        values: [C, P], items at every checkpoint of one stage of training; items with a NaN are left out.
        needles: [P]. progress: [C], increasing, counted from where the stage began.
        more: further progress, at most as much as there was so far.
        higher_is_better: False for an NLL. bounds: least and greatest value possible; the gain ends there.

    Raises ArgumentError when shapes do not fit, progress does not increase, or `more` is not above 0 or too far away.
    """
    values, progress, needles = np.asarray(values, np.float64), np.asarray(progress, np.float64), np.asarray(needles)
    if values.ndim != 2 or values.shape != (len(progress), len(needles)):
        raise ArgumentError(
            f"values must be [checkpoints, items], got the shape {values.shape} with {len(progress)} checkpoints and "
            f"{len(needles)} needles"
        )
    if (np.diff(progress) <= 0).any() or (progress < 0).any():
        raise ArgumentError(f"progress must increase and not be negative, got {progress.tolist()}")
    span = float(progress[-1] - progress[0]) if len(progress) > 1 else 0.0
    if not 0 < more <= FARTHEST * span * (1 + 1e-9) and span > 0:
        raise ArgumentError(f"more must be above 0 and at most {FARTHEST * span:g}, the progress so far, got {more:g}")
    used = ~np.isnan(values).all(axis=1)
    progress, values = progress[used], values[used]
    kept = ~np.isnan(values).any(axis=0)
    n, n_needles = len(values), len(np.unique(needles[kept]))
    sign = 1.0 if higher_is_better else -1.0
    so_far = float(sign * (values[-1, kept] - values[0, kept]).mean()) if n and kept.any() else float("nan")
    nan = float("nan")
    start = f"{measure}: what {more:g} more {unit} are worth is insufficiently known"
    if n < MIN_CHECKPOINTS or n_needles < MIN_NEEDLES:
        lacks = f"{n} checkpoints and {n_needles} needles; {MIN_CHECKPOINTS} and {MIN_NEEDLES} are needed at the least"
        return StoppingAdvice(
            measure, "insufficient", more, nan, nan, so_far, level, (nan, nan), n, n_needles, f"{start}: {lacks}."
        )
    sums, counts = needle_sums(values[:, kept], needles[kept])
    w = needle_weights(n_needles, draws, seed)
    curves = sign * (w @ sums.T) / (w @ counts.T)
    whole = sign * sums.sum(axis=1) / counts.sum(axis=1)
    gains, logarithm = _gains(whole, curves, progress, more, _noise(sums, counts), np.random.default_rng(seed))
    if bounds is not None:
        end = bounds[1] if higher_is_better else -bounds[0]
        gains = np.minimum(gains, np.maximum(end - curves[:, -1], 0))
    most, expected = (float(x) for x in np.quantile(gains, [level, 0.5]))
    laws = (float(logarithm.mean()), float(1 - logarithm.mean()))
    told = f"{n} checkpoints, {n_needles} needles"
    if most > max(so_far, 0):
        words = f"{start}: it may be {most:.3g}, more than all of the run so far ({so_far:.3g}; {told})."
        return StoppingAdvice(measure, "insufficient", more, most, expected, so_far, level, laws, n, n_needles, words)
    words = (
        f"Going on for {more:g} more {unit} is worth at most {most:.3g} on {measure} ({level:.0%}; {expected:.3g} is "
        f"likeliest, the run so far gave {so_far:.3g}; {told})."
    )
    return StoppingAdvice(measure, "at most", more, most, expected, so_far, level, laws, n, n_needles, words)


def _noise(sums: np.ndarray, counts: np.ndarray) -> float:
    """Variance that items' own noise gives to a checkpoint's mean: what needles scatter beside a common curve."""
    g, n = sums.shape[1], sums.shape[0]
    share = counts / counts.sum(axis=1, keepdims=True) * g
    apart = (sums / np.maximum(counts, 1) - (sums.sum(1) / counts.sum(1))[:, None]) * share  # [n, G]
    curve = sums.sum(1) / counts.sum(1)
    curve = curve - curve.mean()
    apart = apart - apart.mean(axis=0)
    if (curve @ curve) > 0:
        apart = apart - np.outer(curve, curve @ apart) / (curve @ curve)
    return float((apart**2).sum() / max((n - 2) * (g - 1), 1) / g)


def _gains(
    whole: np.ndarray, curves: np.ndarray, progress: np.ndarray, more: float, noise: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """For each of the curves [draws, C] a gain drawn, and whether its law goes on for ever."""
    n = curves.shape[1]
    span = progress[-1] - progress[0]
    shapes, further, kind = laws(tuple((progress - progress[0]) / span), float(more / span))
    y = np.concatenate([whole[None], curves])
    y = y - y.mean(axis=1, keepdims=True)
    prior = np.log(np.array(_PRIOR)[kind] / np.bincount(kind)[kind])
    logs, slopes, errors = [], [], []
    for memory in _MEMORIES:
        white = np.eye(n)
        white[np.arange(1, n), np.arange(n - 1)] = -memory
        white[1:] /= np.sqrt(1 - memory**2)
        one = white.sum(axis=1)
        size = np.sqrt(one @ one)
        one = one / size
        v, f = y @ white.T, shapes @ white.T
        v, f = v - np.outer(v @ one, one), f - np.outer(f @ one, one)
        norm = np.sqrt((f**2).sum(axis=1))
        along = v @ (f / norm[:, None]).T
        left = np.maximum((v**2).sum(axis=1)[:, None] - along**2, 0) + 1e-8 * (y**2).sum(axis=1)[:, None] + 1e-300
        left = left[0]
        logs.append(-(n - 1) / 2 * np.log(1 - memory**2) - np.log(size) - (n - 2) / 2 * np.log(left) + prior)
        slopes.append(along[1:] / norm)
        shared = np.maximum(left / (n - 2) - noise, 0.1 * left / (n - 2))
        errors.append(np.sqrt(shared) / norm)
    weight, slope, error = np.concatenate(logs), np.concatenate(slopes, axis=1), np.concatenate(errors)
    weight = np.exp(weight - weight.max())
    chosen = rng.choice(len(weight), size=len(curves), p=weight / weight.sum())
    drawn = slope[np.arange(len(curves)), chosen] + error[chosen] * rng.standard_t(n - 2, len(curves))
    law = chosen % len(shapes)
    return drawn * further[law], kind[law] == 0


@lru_cache(maxsize=8)
def laws(progress: tuple[float, ...], more: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curves [m, n] over progress [n] from 0 to 1, how much each rises over `more`, and its kind [m].

    Kinds: 0, logarithms, which go on for ever; 1, exponential, 2, power laws and 3, S-shaped ones, which level off.
    """
    x = np.array(progress)
    axis = np.append(x, 1 + more)
    first = float(np.diff(x).min())
    offsets = np.geomspace(min(first / 2, 0.02), 1, 8)
    found = [(np.log(axis + offset), 0) for offset in offsets]
    found += [(1 - np.exp(-axis / tau), 1) for tau in np.geomspace(0.08, 2, 16)]
    found += [(-((axis + offset) ** -alpha), 2) for offset in offsets for alpha in (0.25, 0.5, 1.0, 2.0)]
    found += [
        (1 / (1 + np.exp(-(axis - centre) / width)), 3)
        for centre in np.linspace(0, 1.1, 12)
        for width in np.geomspace(0.05, 0.3, 5)
    ]
    curves = np.array([curve for curve, _ in found])
    curves = (curves - curves[:, :1]) / (curves[:, -2] - curves[:, 0])[:, None]
    return curves[:, :-1], curves[:, -1] - curves[:, -2], np.array([kind for _, kind in found])
