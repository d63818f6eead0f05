"""Effective length: the longest context at which a checkpoint still retrieves as well as, nearly, at the shortest.

One number a checkpoint, in tokens, from the scores by context length of its leading heads:

- *No selection bias.* Heads that were chosen because they score high on some needles score lower on others, and the
  more so the noisier a length is. One half of the needles chooses the heads, at the shortest length; the other half is
  read, at all lengths; and the other way round.
- *One crossing.* The scores by length are replaced by the closest ones that never rise (isotonic regression, weighted
  by probes; Robertson, Wright and Dykstra 1988, Order Restricted Statistical Inference, section 1.2). "The first length
  below the share" of a curve as measured ends the context at every unlucky dip, "the last one above it" forgives every
  hole; the isotonic curve has one crossing, and a length takes support from its neighbours.
- *Between the probed lengths* the curve goes on smoothly over the logarithm of the length, without rising (PCHIP:
  Fritsch and Carlson 1980, SIAM J. Numer. Anal. 17(2)). Straight lines cut the corner where the score begins to fall,
  and every length comes out too short. What no interpolation knows is not in the interval.
- *What was not seen is not said*: a curve that stays above the share gives "at least" the longest length probed; where
  no head retrieves even at the shortest length, it is "below" that; with few needles or one length "insufficient".
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ..lengths import EffectiveLength, about_length, group_lengths
from ..results import HeadScores
from .bootstrap import MIN_NEEDLES, Interval, needle_sums, needle_weights, resampled_interval
from .leading import halves, leading
from .trajectory import Trajectory

SHARE = 0.8  # of the score at the shortest length
DRAWS = 999  # resamples of needles; each needs an isotonic regression of its own
STEPS = 64  # points of the curve between two probed lengths; between these it is a straight line


def effective_length(
    scores: HeadScores | np.ndarray,
    probes: dict[str, np.ndarray] | None = None,
    *,
    share: float = SHARE,
    draws: int = DRAWS,
) -> EffectiveLength:
    """Effective length of one checkpoint.

    Args:
        scores: HeadScores, or retrieval scores [n_probes, n_layers, n_heads], NaN where a head cannot see the needle.
        probes: with an array: columns [n_probes] needle_id and length, and where known chance and chance_sd.
        share: of the score at the shortest length, between 0 and 1.
        draws: resamples of needles for the interval; 0 leaves it out (NaN).

    Raises ValueError when share is out of range or shapes do not fit.
    """
    if not 0 < share < 1:
        raise ArgumentError(f"share must lie between 0 and 1, got {share!r}")
    if isinstance(scores, HeadScores):
        probes, scores = scores.probes, scores.per_probe["retrieval"]
    values = np.asarray(scores, np.float64)
    fits = probes is not None and all(len(probes[name]) == len(values) > 0 for name in ("needle_id", "length"))
    if values.ndim != 3 or probes is None or not fits:
        raise ArgumentError(
            f"scores must be [n_probes, n_layers, n_heads] with the columns needle_id and length of their probes, got "
            f"the shape {values.shape}"
        )
    measured = ~np.isnan(values).all(axis=(1, 2))  # elsewhere the model computed no numbers
    lengths, group = length_groups(np.asarray(probes["length"]))
    values, group = values[measured], group[measured]
    probes = {name: np.asarray(column)[measured] for name, column in probes.items()}
    needles = np.unique(probes["needle_id"], return_inverse=True)[1].ravel()
    fewest = _fewest(needles, group, len(lengths))
    told: dict[str, Any] = {
        **dict.fromkeys(("tokens", "low", "high"), np.nan),
        **dict.fromkeys(("at_least", "below"), False),
        **dict.fromkeys(("score", "kept"), np.full(len(lengths), np.nan)),
        "share": share,
        "lengths": lengths,
        "n_needles": fewest,
    }
    if len(lengths) < 2:
        one = f"insufficient: all probes have about {about_length(lengths[0])} tokens, and two lengths are needed"
        return EffectiveLength(**told, words=one)
    if fewest < MIN_NEEDLES:
        few = f"insufficient: {fewest} needles at a length, and {MIN_NEEDLES} are needed"
        return EffectiveLength(**told, words=few)
    followed = _read_on_the_other_half(values, probes, needles, group)
    seen = ~np.isnan(followed)
    if any(not seen[group == k].any() for k in range(len(lengths))):
        told |= {"tokens": lengths[0], "below": True}
        return EffectiveLength(**told, words=f"below {about_length(lengths[0])} tokens: no head retrieves there")
    by_length = np.where(np.equal.outer(np.arange(len(lengths)), group), followed, np.nan)  # [k, P]
    sums, counts = needle_sums(by_length, needles)
    score, weight = sums.sum(axis=1) / counts.sum(axis=1), counts.sum(axis=1)
    kept = never_rising(score, weight)
    if kept[0] <= 0:
        told |= {"tokens": lengths[0], "below": True, "score": score}
        return EffectiveLength(**told, words=f"below {about_length(lengths[0])} tokens: its heads score 0 there")
    found = float(_crossings(lengths, kept[None], share)[0])
    drawn = needle_weights(sums.shape[1], draws) if draws else np.empty((0, sums.shape[1]))
    totals, numbers = drawn @ sums.T, drawn @ counts.T  # [draws, k]
    whole = (numbers > 0).all(axis=1)
    curves = [never_rising(t / n, n) for t, n in zip(totals[whole], numbers[whole], strict=True)]
    ends = _crossings(lengths, np.array([curve for curve in curves if curve[0] > 0]).reshape(-1, len(lengths)), share)
    low = high = np.nan
    if len(ends):
        used = _fewest(needles[seen], group[seen], len(lengths))  # only half of them, where one half found no heads
        interval = resampled_interval(np.array(found), ends, n=int(seen.sum()), n_clusters=used)
        low, high = float(min(2.0**interval.low, lengths[-1])), float(2.0**interval.high)
    tokens, at_least = float(min(2.0**found, lengths[-1])), bool(np.isinf(found))
    told |= {"tokens": tokens, "low": low, "high": high, "at_least": at_least}
    told |= {"score": score, "kept": kept / kept[0]}
    return EffectiveLength(**told, words=_words(tokens, low, high, at_least))


def effective_lengths(
    trajectory: Trajectory, *, share: float = SHARE, draws: int = DRAWS
) -> tuple[Interval, list[EffectiveLength]]:
    """Effective length of every checkpoint, its leading heads chosen anew; arrays [C] for a curve, and all of each.

    In the Interval, `high` stops at the longest length probed.
    """
    found = [
        effective_length(scores, dict(trajectory.probes), share=share, draws=draws) for scores in trajectory.scores
    ]
    tokens, low, high = (np.array([getattr(each, name) for each in found]) for name in ("tokens", "low", "high"))
    longest = found[-1].lengths[-1]
    n = len(trajectory.needles)
    return Interval(tokens, low, np.minimum(high, longest), 0.95, n, found[-1].n_needles), found


def length_groups(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [k] tokens of `lengths.group_lengths`'s groups, and the group of each probe: what was asked for, and the
    median where a group is a whole doubling."""
    names, group = group_lengths(lengths)
    members = [np.asarray(lengths)[group == k] for k in range(len(names))]
    return np.array([float(np.median(m) if np.ptp(m) > 8 else m.max()) for m in members]), group


def never_rising(score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The closest curve to score [k] that never rises, in weighted least squares."""
    from scipy.optimize import isotonic_regression

    return np.asarray(isotonic_regression(score, weights=weight, increasing=False).x)


def _read_on_the_other_half(
    values: np.ndarray, probes: dict[str, np.ndarray], needles: np.ndarray, group: np.ndarray
) -> np.ndarray:
    """[P]: mean score of the heads that the other half of the needles chose at the shortest length; NaN without any.

    Heads that some length hides behind their window are left out: where they are missing the mean would be of others.
    """
    everywhere = ~np.isnan(values).any(axis=0)
    values = np.where(everywhere, values, np.nan)
    found = np.full(len(values), np.nan)
    for half in halves(needles):
        choosing = half & (group == 0)
        if choosing.any():
            heads = leading(values[choosing], {name: column[choosing] for name, column in probes.items()})
            if heads.any():
                found[~half] = values[~half][:, heads].mean(axis=1)
    return found


def _fewest(needles: np.ndarray, group: np.ndarray, groups: int) -> int:
    return min(len(np.unique(needles[group == k])) for k in range(groups))


def _crossings(lengths: np.ndarray, kept: np.ndarray, share: float) -> np.ndarray:
    """Where curves kept [n, k] over lengths [k], which never rise, fall below a share of their first: float64 [n], log2
    of the length; inf where they do not."""
    from scipy.interpolate import PchipInterpolator

    log = np.log2(lengths)
    fine = np.concatenate([np.linspace(a, b, STEPS, endpoint=False) for a, b in pairwise(log)] + [log[-1:]])
    curve = PchipInterpolator(log, kept / kept[:, :1], axis=1)(fine)
    below = curve < share
    after = np.maximum(below.argmax(axis=1), 1)
    a, b = (np.take_along_axis(curve, at[:, None], axis=1)[:, 0] for at in (after - 1, after))
    lost = below.any(axis=1)
    part = (a - share) / np.where(lost, a - b, 1.0)
    return np.where(lost, fine[after - 1] + (fine[after] - fine[after - 1]) * part, np.inf)


def _words(tokens: float, low: float, high: float, at_least: bool) -> str:
    interval = ""
    if np.isfinite(low):
        end = about_length(high) if np.isfinite(high) else "beyond"
        interval = f" (95% {about_length(low)} to {end})"
    if at_least:
        only = f"; 95% from {about_length(low)} on" if low < tokens else ""
        return f"at least {about_length(tokens)} tokens: not lost at any length probed{only}"
    return f"{about_length(tokens)} tokens{interval}"
