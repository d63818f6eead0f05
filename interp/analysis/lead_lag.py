"""Which level changes first over a run: heads, NLL or behaviour? With "cannot tell" as an answer.

A level's time is when half of what changed over the run was done. It is read off curves that rise once: S-shaped and
saturating ones of all places and widths are laid through the checkpoints, each with the weight that the data give it,
so that nothing hangs on the right shape, on two neighbouring points, or on the first and last checkpoint alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations

import numpy as np

from ...errors import ArgumentError
from .bootstrap import MIN_NEEDLES, Interval, needle_sums, needle_weights

MIN_CHECKPOINTS = 8
DRAWS = 999
TOGETHER = 1.0  # checkpoints: levels whose times surely differ by less change together
_MEMORIES = (0.0, 0.25, 0.5, 0.75)  # correlation of a checkpoint's jitter with the one before
_STEP = 0.0125  # of the run, between centres
_FINE = 801


@dataclass(frozen=True, eq=False)
class Lead:
    """Two levels; `first` is the one with the earlier estimate.

    later: how many checkpoints after `first` the other one has done half of its change, with its interval at
        1 - .05 / pairs. call: "leads" (the interval is above 0), "together" (within one checkpoint) or "cannot tell".
    """

    first: str
    second: str
    later: Interval
    call: str


@dataclass(frozen=True, eq=False)
class LeadLag:
    """names: the levels. half: position among the checkpoints, from 0, at which half of a level's change is done, as an
    Interval of arrays [levels]; all NaN where nothing can be said. half_progress: the same as training progress.
    leads: every pair. verdict: "NLL leads behaviour", ..., "together" or "cannot tell"; words say why, with numbers.
    n: checkpoints used; n_needles: the fewest of any level."""

    names: tuple[str, ...]
    half: Interval
    half_progress: np.ndarray
    leads: tuple[Lead, ...]
    verdict: str
    words: str
    n: int
    n_needles: int


def lead_lag(
    levels: Mapping[str, np.ndarray],
    needles: Mapping[str, np.ndarray],
    progress: np.ndarray,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> LeadLag:
    """Compare when levels change, in numbers of checkpoints.

    Each draw resamples needles (the same ones for levels that share them), and takes a curve of a family by its
    posterior weight given the resampled means: marginal over height, sign, noise, and the noise's correlation from
    checkpoint to checkpoint (0 to .75). Intervals are quantiles of the draws, those of pairs corrected for how many
    pairs there are, so that with no lead at all there is any call in at most 1 - level of runs.

    A level that answers by a threshold lags behind what it is a threshold of: exact match comes after NLL by being what
    it is. A lead says which curve moves first, not what causes what.

    Args:
        levels: name -> float [C, P], values of items at every checkpoint; items with a NaN are left out, and
            checkpoints where a level has no value at all are left out of all.
        needles: name -> [P], labels of what belongs together.
        progress: [C], increasing, tokens or steps.

    Raises ArgumentError when shapes do not fit, there are fewer than two levels, or progress does not increase.
    """
    progress = np.asarray(progress, np.float64)
    if len(levels) < 2 or progress.ndim != 1 or (np.diff(progress) <= 0).any():
        raise ArgumentError(
            f"lead_lag needs two levels or more and progress that increases, got {len(levels)} and {progress.tolist()}"
        )
    for name, values in levels.items():
        labels = np.asarray(needles.get(name, np.empty(0)))
        if np.ndim(values) != 2 or np.shape(values) != (len(progress), len(labels)):
            raise ArgumentError(
                f"{name} must be [checkpoints, items] with a needle for every item, got the shape {np.shape(values)}, "
                f"{len(progress)} checkpoints and {len(labels)} needles"
            )
    used = np.all([~np.isnan(values).all(axis=1) for values in levels.values()], axis=0)
    progress, n = progress[used], int(used.sum())
    held = {name: np.asarray(values, np.float64)[used] for name, values in levels.items()}
    kept = {name: np.asarray(~np.isnan(values).any(axis=0)) for name, values in held.items()}
    names = tuple(levels)
    counted = {name: len(np.unique(np.asarray(needles[name])[kept[name]])) for name in names}
    fewest = min(counted.values())
    why = ""
    if n < MIN_CHECKPOINTS:
        why = f"{n} checkpoints have all levels; {MIN_CHECKPOINTS} are needed at the least"
    elif fewest < MIN_NEEDLES:
        why = f"{fewest} needles; {MIN_NEEDLES} are needed at the least"
    elif still := [name for name in names if _flat(held[name][:, kept[name]])]:
        why = f"{', '.join(still)} did not change"
    if why:
        unknown = np.full(len(names), np.nan)
        none = Interval(unknown, unknown, unknown, level, 0, fewest)
        return LeadLag(names, none, unknown, (), "cannot tell", f"Cannot tell: {why}.", n, fewest)

    times = _draw_times(held, kept, needles, progress, draws, seed)
    pairs = list(combinations(range(len(names)), 2))
    alpha = (1 - level) / len(pairs)
    leads = tuple(_lead(names, times, a, b, alpha, fewest) for a, b in pairs)
    ends = np.quantile(times, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=1)
    half = Interval(ends[1], ends[0], ends[2], level, min(int(kept[name].sum()) for name in names), fewest)
    verdict = _verdict(leads)
    words = "; ".join(_in_words(each) for each in leads)
    return LeadLag(
        names,
        half,
        np.interp(ends[1], np.arange(n), progress),
        leads,
        verdict,
        f"{words} ({n} checkpoints).",
        n,
        fewest,
    )


def _flat(values: np.ndarray) -> bool:
    curve = values.mean(axis=1)
    return bool(np.ptp(curve) <= 1e-9 * max(1.0, float(np.abs(curve).max())))


def _draw_times(
    held: Mapping[str, np.ndarray],
    kept: Mapping[str, np.ndarray],
    needles: Mapping[str, np.ndarray],
    progress: np.ndarray,
    draws: int,
    seed: int,
) -> np.ndarray:
    """[levels, draws]: position at which half of the change is done."""
    rng = np.random.default_rng(seed)
    weights: dict[tuple[str, ...], np.ndarray] = {}
    found = []
    for name, values in held.items():
        labels = np.asarray(needles[name])[kept[name]].astype(str)
        sums, counts = needle_sums(values[:, kept[name]], labels)
        key = tuple(np.unique(labels).tolist())
        if key not in weights:
            weights[key] = needle_weights(len(key), draws, seed + len(weights))
        w = weights[key]
        curves = (w @ sums.T) / (w @ counts.T)  # [draws, C]
        found.append(_times(curves, progress, _counted_twice(sums, counts), rng))
    return np.array(found)


def _counted_twice(sums: np.ndarray, counts: np.ndarray) -> float:
    """By how much the scatter of a resampled curve exceeds what resampling itself does not show: 1 to 2.

    Items' own noise is in the resamples' spread, and again, twice, in each one's scatter about its curve; what
    all items of a checkpoint share is only there. So weights are made sharper by the share that is counted again.
    """
    n, g = sums.shape
    curve = sums.sum(axis=1) / counts.sum(axis=1)
    apart = (sums - curve[:, None] * counts) / counts.sum(axis=1, keepdims=True) * g  # [n, G], mean 0
    steps = np.diff(apart, n=2, axis=0)  # free of each needle's own level and slope
    own = float((steps**2).sum() / (6 * (n - 2) * (g - 1) * g))  # variance of a mean by items' noise
    whole = float((np.diff(curve, n=2) ** 2).sum() / (6 * (n - 2)))  # with what is shared, and the curve's bend
    shared = max(whole - own, 0.0)
    return min((shared + 2 * own) / max(shared, 1e-300), 2.0) if own > 0 else 1.0


def _times(curves: np.ndarray, progress: np.ndarray, sharper: float, rng: np.random.Generator) -> np.ndarray:
    """A time [draws] for each of the curves [draws, C], drawn by the posterior weights of the family's members."""
    n = curves.shape[1]
    shapes, halves = family(tuple((progress - progress[0]) / (progress[-1] - progress[0])))
    curves = (curves - curves.mean(axis=1, keepdims=True)) / np.ptp(curves, axis=1)[:, None]
    logs = []
    for memory in _MEMORIES:
        white = _whitener(n, memory)
        y, f, one = curves @ white.T, shapes @ white.T, white.sum(axis=1)
        scale = -(n - 1) / 2 * np.log(1 - memory**2) - 0.5 * np.log(one @ one)  # of the density, height left out
        one = one / np.sqrt(one @ one)
        y, f = y - np.outer(y @ one, one), f - np.outer(f @ one, one)
        f = f / np.sqrt((f**2).sum(axis=1))[:, None]
        left = (y**2).sum(axis=1)[:, None] - (y @ f.T) ** 2
        floor = 1e-6 * n  # of a height of 1: curves without any noise are not more certain than that
        logs.append(sharper * (scale - (n - 2) / 2 * np.log(np.maximum(left, 0) + floor)))
    weight = np.concatenate(logs, axis=1)
    weight = np.exp(weight - weight.max(axis=1, keepdims=True))
    total = np.cumsum(weight, axis=1)
    chosen = (total < rng.random(len(curves))[:, None] * total[:, -1:]).sum(axis=1)
    between = (n - 1) * _STEP  # members lie this far apart, and the truth anywhere between them
    return np.clip(halves[chosen % len(halves)] + between * (rng.random(len(curves)) - 0.5), 0, n - 1)


def _whitener(n: int, memory: float) -> np.ndarray:
    """[n, n]: makes noise with this correlation from one to the next independent, of variance 1."""
    found = np.eye(n)
    found[np.arange(1, n), np.arange(n - 1)] = -memory
    found[1:] /= np.sqrt(1 - memory**2)
    return found


@lru_cache(maxsize=8)
def family(progress: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Curves [m, n] that rise once, and the position [m] among the n checkpoints where each has done half of its rise.

    Logistic curves of all centres and widths, and exponential ones of all onsets, along the checkpoints and, where
    those are not evenly spaced, along progress [n] from 0 to 1.
    """
    n = len(progress)
    even = np.linspace(0, 1, n)
    axes = [even] if np.allclose(progress, even, atol=1e-3) else [even, np.array(progress)]
    fine = np.linspace(0, n - 1, _FINE)
    curves, halves = [], []
    for axis in axes:
        along = np.interp(fine, np.arange(n), axis)
        for make in _makers():
            whole = make(along)
            rise = whole[-1] - whole[0]
            if rise < 1e-3:  # all of it is before or after the run
                continue
            curves.append(make(axis))
            halves.append(fine[np.searchsorted(whole, whole[0] + rise / 2)])
    return np.array(curves), np.array(halves)


def _makers() -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    for centre in np.arange(-0.2, 1.2, _STEP):
        for width in np.geomspace(0.012, 0.3, 8):
            yield partial(_logistic, centre=float(centre), width=float(width))
    for onset in np.arange(0, 0.9, _STEP):
        for tau in np.geomspace(0.03, 1.5, 8):
            yield partial(_exponential, onset=float(onset), tau=float(tau))


def _logistic(x: np.ndarray, centre: float, width: float) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip((x - centre) / width, -60, 60))))


def _exponential(x: np.ndarray, onset: float, tau: float) -> np.ndarray:
    return np.asarray(1 - np.exp(-np.maximum(x - onset, 0) / tau))


def _lead(names: tuple[str, ...], times: np.ndarray, a: int, b: int, alpha: float, needles: int) -> Lead:
    if np.median(times[b] - times[a]) < 0:
        a, b = b, a
    apart = times[b] - times[a]
    low, middle, high = (float(x) for x in np.quantile(apart, [alpha / 2, 0.5, 1 - alpha / 2]))
    call = "leads" if low > 0 else "together" if max(-low, high) < TOGETHER else "cannot tell"
    later = Interval(middle, low, high, 1 - alpha, times.shape[1], needles)
    return Lead(names[a], names[b], later, call)


def _verdict(leads: tuple[Lead, ...]) -> str:
    ahead = [each for each in leads if each.call == "leads"]
    if ahead:
        return ", ".join(f"{each.first} leads {each.second}" for each in ahead)
    return "together" if all(each.call == "together" for each in leads) else "cannot tell"


def _in_words(lead: Lead) -> str:
    ends = f"{lead.later.estimate:+.1f} checkpoints, {lead.later.low:+.1f} to {lead.later.high:+.1f}"
    what = {"leads": "leads", "together": "changes together with", "cannot tell": "cannot be told from"}[lead.call]
    return f"{lead.first} {what} {lead.second} ({ends})"
