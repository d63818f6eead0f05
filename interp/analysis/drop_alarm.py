"""Did anything get worse while the model was trained? Paired tests on frozen probes, fit to be asked every time.

Three things make a naive alarm ("lower than the best so far, p < .05") cry wolf, and each has its answer here:

- *Probes of one needle move together.* Differences are summed by needle before their spread is taken.
- *The best earlier measurement and its leading heads were chosen because they were high*, so the next one looks lower.
  The needles are split into halves: one half chooses the reference and its heads, the other half is tested on them.
- *Asking at every measurement, and of many quantities,* gives chance many tries. The stated rate holds for the whole
  run: it is divided equally over the planned measurements, a small part kept for later ones, and at each measurement
  equally over what is watched (Bonferroni both times: whatever the dependence between them).

What counts as a loss is one of more than a `margin`: all numbers wander a little as weights drift, and no number of
probes makes that an event. What is watched, and what the margin is of, is in watched.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ..results import CHANCE_COLUMNS, HeadScores, needle_stderr
from .leading import halves
from .watched import FEWEST_NEEDLES, Measurement, Quantity, quantities

RATE = 0.05  # false alarms: probability of one or more in a whole run
MARGIN = 0.1  # a loss smaller than this share of the reference is no regression
_RESERVE = 0.1  # share of the rate kept for measurements beyond the planned ones


@dataclass(frozen=True)
class Regression:
    """Whether one of the watched numbers is worse than at the reference.

    fell: p is at most alpha_spent.
    drop: how much worse: reference minus current, of an NLL current minus reference; NaN where nothing was compared.
    interval: 95 % for the drop, clustered by needle (t with needles - 1 degrees of freedom), for this one comparison.
    p: one-sided, of "no more is lost than the margin".
    alpha_spent: what this one test may spend.
    reference, current: the numbers on the tested probes: mean score of the followed heads, a ratio, nats.
    steps: the reference's steps (the two halves of the needles may have chosen different ones).
    what: what was watched, in words. words: all of it as a sentence.
    """

    fell: bool
    drop: float
    interval: tuple[float, float]
    p: float
    alpha_spent: float
    reference: float
    current: float
    steps: tuple[int, ...]
    n_probes: int
    n_needles: int
    what: str
    words: str


@dataclass(frozen=True, eq=False)
class _Best:
    """The best measurement of a quantity so far, by one half of the needles, and the values [P, n] of its heads."""

    height: float
    step: int
    heads: np.ndarray
    values: np.ndarray


class Watch:
    """Every measurement of a run against the best one before it, with one false-alarm rate for the whole run.

    Args:
        needles: [n_probes], which needle each probe holds.
        planned: how many measurements the run will have. More may come; the later they come the less they may spend.
        lengths: [n_probes], tokens. With them the leading heads are watched at every length, the longest over the
            shortest, and the NLL; without, the leading heads over all probes alone.
        chance: [n_probes, 2], mean and standard deviation of what a head scores by chance (`estimators.chance`). Heads
            that are not above it are not followed. None: heads above 0.1 are.
        rate: probability of one or more false alarms in the run, of anything that is watched: alarms although no true
            number was ever more than `margin` below the reference.
        margin: share of the reference's score, ratio or token probability that may be lost.

    Attributes:
        regressions: all comparisons of the latest measurement, the leading heads over all probes first; [] after the
            first.

    Raises:
        ValueError: planned, rate or margin out of range, columns of other lengths.
    """

    def __init__(
        self,
        needles: np.ndarray,
        *,
        planned: int,
        lengths: np.ndarray | None = None,
        chance: np.ndarray | None = None,
        rate: float = RATE,
        margin: float = MARGIN,
    ):
        if planned < 1:
            raise ArgumentError(f"planned must be how many measurements the run will have, at least 1, got {planned}")
        self.planned, self.rate, self.margin = planned, _share("rate", rate), _share("margin", margin)
        self.tests = 0
        self.regressions: list[Regression] = []
        self._needles = np.unique(np.asarray(needles), return_inverse=True)[1].ravel()
        columns: dict[str, np.ndarray] = {"needle_id": self._needles}
        if chance is not None:
            if np.shape(chance) != (len(self._needles), 2):
                raise ArgumentError(
                    f"chance must be [n_probes, 2], mean and standard deviation, got {np.shape(chance)}"
                )
            columns |= dict(zip(CHANCE_COLUMNS, np.asarray(chance, np.float64).T, strict=True))
        if lengths is not None:
            if np.shape(lengths) != (len(self._needles),):
                raise ArgumentError(f"lengths must be [n_probes], {len(self._needles)}, got {np.shape(lengths)}")
            columns["length"] = np.asarray(lengths)
        self.watched: list[Quantity] = quantities(columns)
        self._best: list[list[_Best]] = []  # of every quantity, per half that chooses

    def add(self, step: int, scores: HeadScores | np.ndarray, nll: np.ndarray | None = None) -> Regression | None:
        """Take in the next measurement; all comparisons are in `regressions`.

        nll: [n_probes], beside an array of scores: NLL of the tokens that only the needle tells, NaN where none is.

        Returns the leading heads over all probes compared; None for the first, which has nothing to be compared with.
        Raises ValueError when the scores are not [n_probes, n_layers, n_heads] of the same probes.
        """
        now = _measurement(scores, nll)
        if len(now.scores) != len(self._needles):
            raise ArgumentError(f"scores are of {len(now.scores)} probes, the watch of {len(self._needles)}")
        self.regressions = []
        if self._best:
            self.tests += 1
            alpha = self.alpha(self.tests) / len(self.watched)
            pairs = zip(self.watched, self._best, strict=True)
            self.regressions = [self._compare(quantity, best, now, alpha) for quantity, best in pairs]
        kept = self._best or [[] for _ in self.watched]
        self._best = [
            [
                self._better(quantity, now, step, half, best[i] if best else None)
                for i, half in enumerate(halves(self._needles))
            ]
            for quantity, best in zip(self.watched, kept, strict=True)
        ]
        return self.regressions[0] if self.regressions else None

    def alpha(self, test: int) -> float:
        """What all tests of one measurement may spend, the number `test` (from 1); the sum over all is the rate."""
        tests = max(self.planned - 1, 1)  # the first measurement is not tested
        if test <= tests:
            return self.rate * (1 - _RESERVE) / tests
        late = test - tests
        return self.rate * _RESERVE / (late * (late + 1))

    def _better(self, quantity: Quantity, now: Measurement, step: int, half: np.ndarray, best: _Best | None) -> _Best:
        height = quantity.height(now, half)
        if best is not None and not height > best.height:
            return best
        heads = quantity.choose(now, half)
        return _Best(height, step, heads, quantity.read(now, heads))

    def _compare(self, quantity: Quantity, best: list[_Best], current: Measurement, alpha: float) -> Regression:
        from scipy import special

        then, now = np.full((2, len(self._needles)), np.nan)
        steps = set()
        for choosing, before in zip(halves(self._needles), best, strict=True):
            if before.heads.any():
                values = quantity.read(current, before.heads)
                then[~choosing], now[~choosing] = _paired_means(before.values[~choosing], values[~choosing])
                steps.add(before.step)
        numbers = quantity.number(then), quantity.number(now)
        drop, drop_se, n, n_needles = self._clustered_mean(numbers[0] - numbers[1])
        told: dict[str, Any] = {"alpha_spent": alpha, "steps": tuple(sorted(steps)), "what": quantity.name}
        told |= {"n_probes": n, "n_needles": n_needles}
        if n_needles < FEWEST_NEEDLES:
            given = n_needles or int(self._needles.max()) + 1
            few = f"{given} needles, and {FEWEST_NEEDLES} are needed"
            why = f"insufficient: {few if given < FEWEST_NEEDLES else quantity.nothing}"
            told |= dict.fromkeys(("drop", "p", "reference", "current"), np.nan)
            return Regression(fell=False, interval=(np.nan, np.nan), words=why, **told)
        tests = []
        for values in quantity.left(then, now, self.margin):
            mean, error, _, counted = self._clustered_mean(values)
            tests.append(float(special.stdtr(counted - 1, mean / error)) if error else float(mean >= 0))
        p = float(np.max(tests))  # all of them have to tell a loss
        reach = float(special.stdtrit(n_needles - 1, 0.975)) * drop_se
        fell = p <= alpha
        reference, now_is = (quantity.shown * float(np.nanmean(values)) for values in numbers)
        at, change = " and ".join(map(str, sorted(steps))), "drop" if quantity.shown > 0 else "rise"
        words = (
            f"{quantity.words(self.margin, fell)}: {reference:.3f} at step {at}, {now_is:.3f} now ({change} "
            f"{drop:.3f}, 95% {drop - reach:.3f} to {drop + reach:.3f}; {n_needles} needles; p = {p:.2g}, alarm at "
            f"{alpha:.2g})"
        )
        told |= {"drop": drop, "p": p, "reference": reference, "current": now_is}
        return Regression(fell=fell, interval=(drop - reach, drop + reach), words=words, **told)

    def _clustered_mean(self, values: np.ndarray) -> tuple[float, float, int, int]:
        """Mean and standard error of values [P], NaN left out, and how many probes and needles there are."""
        seen = ~np.isnan(values)
        if not seen.any():
            return np.nan, np.nan, 0, 0
        codes = self._needles[seen]
        return (
            float(values[seen].mean()),
            float(needle_stderr(values[seen], codes)),
            int(seen.sum()),
            len(np.unique(codes)),
        )


def _paired_means(then: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[P] each: over the values [P, n] that are there both times."""
    seen = ~np.isnan(then) & ~np.isnan(now)
    n = seen.sum(axis=1)
    a, b = (np.where(seen, x, 0.0).sum(axis=1) / np.maximum(n, 1) for x in (then, now))
    return np.where(n > 0, a, np.nan), np.where(n > 0, b, np.nan)


def _measurement(scores: HeadScores | np.ndarray, nll: np.ndarray | None) -> Measurement:
    if isinstance(scores, HeadScores):
        return _measurement(scores.per_probe["retrieval"], scores.nll_novel)
    values = np.asarray(scores, np.float64)
    if values.ndim != 3 or not len(values):
        raise ArgumentError(
            f"scores must be retrieval scores [n_probes, n_layers, n_heads], got the shape {values.shape}"
        )
    beside = np.full(len(values), np.nan) if nll is None else np.asarray(nll, np.float64)
    if beside.shape != values.shape[:1]:
        raise ArgumentError(f"nll must be [n_probes], {len(values)}, got the shape {beside.shape}")
    return Measurement(values, beside)


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ArgumentError(f"{name} must be from 0 to below 1, got {value!r}")
    return float(value)
