"""Which checkpoint is best, and how good is it really? Chosen on one half of the needles, reported on the other.

The best of many noisy scores looks better than it is: its luck was part of why it was taken. On needles that had no say
in the choice it has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ...errors import ArgumentError
from ..results import NLL_CLASSES
from ..tasks import Answers
from .bootstrap import Interval, clustered_interval, needle_sums
from .paired import Difference, paired_difference
from .three_levels import levels_of
from .trajectory import Trajectory

SPLITS = 200
CHOSEN_BY = (*NLL_CLASSES, "exact_match", "answers", "heads")


@dataclass(frozen=True, eq=False)
class Choice:
    """checkpoint: position of the best one by all needles. step: its step, -1 where only arrays were given.

    measure, higher_is_better: what it was chosen by.
    value: what a checkpoint that is chosen like this is worth on needles that did not choose it, with its interval.
        It is chosen by half the needles each time, so it errs on the low side, by what the other half would have added.
    naive: mean of the best checkpoint on the needles that chose it; optimism: how much better that looks than `value`.
    chosen: float64 [C], how often halves of the needles choose each checkpoint. stability: that of `checkpoint`.
    over_last: `value` beside the last checkpoint's, paired: is choosing worth it?
    """

    checkpoint: int
    step: int
    measure: str
    higher_is_better: bool
    value: Interval
    naive: float
    optimism: float
    chosen: np.ndarray
    over_last: Difference
    n: int
    n_needles: int

    @property
    def stability(self) -> float:
        return float(self.chosen[self.checkpoint])

    @property
    def words(self) -> str:
        """One or two sentences."""
        name = f"step {self.step}" if self.step >= 0 else f"checkpoint {self.checkpoint} (position)"
        ends = "" if np.isnan(self.value.low) else f" ({self.value.low:.3f} to {self.value.high:.3f})"
        words = f"Best by {self.measure}: {name}, chosen by {self.stability:.0%} of halves of the needles. "
        words += f"On needles that did not choose, such a choice has {self.value.estimate:.3f}{ends}; "
        words += f"the naive {self.naive:.3f} is {abs(self.optimism):.3f} too good. "
        if self.checkpoint == len(self.chosen) - 1:
            return words + "It is the last checkpoint."
        change = self.over_last.change
        gain = change.estimate if self.higher_is_better else -change.estimate
        if not self.over_last.better:
            return words + f"That is not surely better than the last checkpoint ({gain:+.3f})."
        where = "better" if self.over_last.better == "b" else "worse"
        return words + f"That is {where} than the last checkpoint by {abs(gain):.3f}."


def choose_checkpoint(
    trajectory: Trajectory,
    by: str = "nll_novel",
    *,
    answers: Mapping[int, Answers] | None = None,
    splits: int = SPLITS,
    seed: int = 0,
) -> Choice:
    """The best checkpoint of a run by an NLL class, "exact_match", "answers" or "heads", and what it is really worth.

    "answers": the mean score of answers, where every checkpoint has some (position -> answers). "heads": the mean score
    of the retrieval heads. See `choose_best` for how; raises ArgumentError as it does, and for an unknown measure.
    """
    if by not in CHOSEN_BY:
        raise ArgumentError(f"by must be one of {', '.join(CHOSEN_BY)}, got {by!r}")
    if by in NLL_CLASSES:
        values, needles = trajectory.nll[by].astype(np.float64), trajectory.needles
    elif by == "exact_match":
        values, needles = trajectory.exact_match.astype(np.float64), trajectory.needles
    else:
        level = "behaviour" if by == "answers" else "heads"
        found = levels_of(trajectory, answers)
        if level not in found.values or (by == "answers" and found.behaviour_name != "answers"):
            why = "not every checkpoint has answers" if by == "answers" else "no head is above chance"
            raise ArgumentError(f"by={by!r}: {why}; choose by one of {', '.join((*NLL_CLASSES, 'exact_match'))}")
        values, needles = found.values[level], found.needles[level]
    bounds = (0.0, 1.0) if by not in NLL_CLASSES else (0.0, np.inf)
    return choose_best(
        values,
        needles,
        higher_is_better=by not in NLL_CLASSES,
        measure=by,
        steps=trajectory.steps,
        bounds=bounds,
        splits=splits,
        seed=seed,
    )


def choose_best(
    values: np.ndarray,
    needles: np.ndarray,
    *,
    higher_is_better: bool = True,
    measure: str = "score",
    steps: np.ndarray | None = None,
    bounds: tuple[float, float] | None = None,
    splits: int = SPLITS,
    seed: int = 0,
) -> Choice:
    """The best checkpoint by its mean over items, values [C, P], needles [P], reported on needles that did not choose.

    Needles are cut in half at random, `splits` times; each half chooses and the other reports; the value is the mean of
    all reports. Its interval is that of the best checkpoint's mean over needles (`clustered_interval`), moved there:
    reports of several checkpoints scatter less than one, but which of them report is luck as well. Items with
    a NaN at any checkpoint are left out. Of equal means the earliest checkpoint is best.

    Raises ArgumentError when shapes do not fit, or there are fewer than two checkpoints or four needles.
    """
    values, needles = np.asarray(values, np.float64), np.asarray(needles)
    if values.ndim != 2 or values.shape[1] != len(needles) or len(values) < 2:
        raise ArgumentError(
            f"values must be [checkpoints, items] of two checkpoints or more, with a needle for every item; got the "
            f"shape {values.shape} and {len(needles)} needles"
        )
    kept = ~np.isnan(values).any(axis=0)
    values, needles = values[:, kept], needles[kept]
    labels, cluster = np.unique(needles, return_inverse=True)
    cluster, g = cluster.ravel(), len(labels)
    if g < 4:
        raise ArgumentError(f"{measure}: {g} needles have a value at every checkpoint; 4 are needed to cut in half")
    sums, counts = needle_sums(values, needles)  # [C, G]
    sign = 1.0 if higher_is_better else -1.0
    best = int(np.argmax(sign * sums.sum(axis=1)))
    rng = np.random.default_rng(seed)
    reported, times, chosen = np.zeros(len(cluster)), np.zeros(g), np.zeros(len(values))
    for _ in range(splits):
        half = np.zeros(g, bool)
        half[rng.permutation(g)[: g // 2]] = True
        for side in (half, ~half):
            pick = int(np.argmax(sign * sums[:, side].sum(axis=1) / counts[:, side].sum(axis=1)))
            chosen[pick] += 1
            others = ~side[cluster]
            reported[others] += values[pick, others]
            times[~side] += 1
    estimate = float((reported / times[cluster]).mean())
    naive = float(values[best].mean())
    shift = estimate - naive
    plain = clustered_interval(values[best], needles, bounds=bounds)
    ends = (-np.inf, np.inf) if bounds is None else bounds
    low, high = (float(np.clip(side + shift, *ends)) for side in (plain.low, plain.high))
    value = replace(plain, estimate=estimate, low=low, high=high)
    finite = ends if np.isfinite(ends).all() else None
    last = paired_difference(
        measure, values[-1], values[best] + shift, needles, higher_is_better=higher_is_better, bounds=finite
    )
    return Choice(
        checkpoint=best,
        step=-1 if steps is None else int(steps[best]),
        measure=measure,
        higher_is_better=higher_is_better,
        value=value,
        naive=naive,
        optimism=-sign * shift,
        chosen=chosen / chosen.sum(),
        over_last=last,
        n=len(cluster),
        n_needles=g,
    )
