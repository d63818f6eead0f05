"""Did the copy heads get worse while the model was trained? A paired test on frozen probes, fit to be asked every time.

Three things make a naive alarm ("lower than the best so far, p < .05") cry wolf, and each has its answer here:

- *Probes of one needle move together.* Differences are summed by needle before their spread is taken.
- *The best earlier measurement and its leading heads were chosen because they were high*, so the next one looks lower.
  The needles are split into halves: one half chooses the reference and its heads, the other half is tested on them.
- *Asking at every measurement* gives chance many tries. The stated rate holds for the whole run: it is divided over the
  planned measurements (Bonferroni: whatever the dependence between them), and a small part is kept for later ones.

What counts as a fall is a fall by more than a `margin`: all scores wander a little as weights drift, and no number of
probes makes that an event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ..levels import counting_level
from ..results import CHANCE_COLUMNS, RETRIEVAL_THRESHOLD, HeadScores, needle_stderr, observed_mean

RATE = 0.05  # false alarms: probability of one or more in a whole run
MARGIN = 0.1  # a fall smaller than this share of the reference is no regression
LEADING = 10  # heads that are followed: the best of the reference, as far as they are retrieval heads
FEWEST_NEEDLES = 8  # below, a cluster-robust test in the far tail is not to be trusted
_RESERVE = 0.1  # share of the rate kept for measurements beyond the planned ones


@dataclass(frozen=True)
class Regression:
    """Whether the leading heads copy less than at the reference.

    fell: p is at most alpha_spent.
    drop: reference minus current, mean score of the followed heads; NaN where nothing could be compared.
    interval: 95 % for the drop, clustered by needle (t with needles - 1 degrees of freedom), for this one comparison.
    p: one-sided, of "the current score is at least (1 - margin) x the reference's".
    alpha_spent: what this one test may spend.
    reference, current: mean scores of the followed heads on the tested probes.
    steps: the reference's steps (the two halves of the needles may have chosen different ones).
    words: the same as a sentence.
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
    words: str


class Watch:
    """Every measurement of a run against the best one before it, with one false-alarm rate for the whole run.

    Args:
        needles: [n_probes], which needle each probe holds.
        planned: how many measurements the run will have. More may come; the later they come the less they may spend.
        chance: [n_probes, 2], mean and standard deviation of what a head scores by chance (`estimators.chance`). Heads
            that are not above it are not followed. None: heads above 0.1 are.
        rate: probability of one or more false alarms in the run: alarms although no true score was ever more than
            `margin` below the reference.
        margin: share of the reference's score that may be lost.

    Raises:
        ValueError: planned, rate or margin out of range.
    """

    def __init__(
        self,
        needles: np.ndarray,
        *,
        planned: int,
        chance: np.ndarray | None = None,
        rate: float = RATE,
        margin: float = MARGIN,
    ):
        if planned < 1:
            raise ArgumentError(f"planned must be how many measurements the run will have, at least 1, got {planned}")
        self.planned, self.rate, self.margin = planned, _share("rate", rate), _share("margin", margin)
        self.tests = 0
        self._halves = _Halves(needles, chance)
        # per half that chooses: height of its best measurement so far, its step, its scores
        self._best: list[tuple[float, int, np.ndarray]] = []

    def add(self, step: int, scores: HeadScores | np.ndarray) -> Regression | None:
        """Take in the next measurement; None for the first, which has nothing to be compared with.

        Raises ValueError when the scores are not [n_probes, n_layers, n_heads] of the same probes.
        """
        values = _retrieval(scores)
        if len(values) != len(self._halves.of_probe):
            raise ArgumentError(f"scores are of {len(values)} probes, the watch of {len(self._halves.of_probe)}")
        found = None
        if self._best:
            self.tests += 1
            references = [(step, kept) for _, step, kept in self._best]
            found = _compare(self._halves, references, values, alpha=self.alpha(self.tests), margin=self.margin)
        heights = [_height(values[half]) for half in self._halves]
        if not self._best:
            self._best = [(height, step, values) for height in heights]
        for i, height in enumerate(heights):
            if height > self._best[i][0]:
                self._best[i] = (height, step, values)
        return found

    def alpha(self, test: int) -> float:
        """What the test of this number (from 1) may spend; the sum over all numbers is the rate."""
        tests = max(self.planned - 1, 1)  # the first measurement is not tested
        if test <= tests:
            return self.rate * (1 - _RESERVE) / tests
        late = test - tests
        return self.rate * _RESERVE / (late * (late + 1))


class _Halves:
    """The needles in two halves. Iterating gives, per choosing half, which probes are in it; the others are tested."""

    def __init__(self, needles: np.ndarray, chance: np.ndarray | None):
        names, code = np.unique(np.asarray(needles), return_inverse=True)
        self.of_probe, self.n_needles = code.ravel(), len(names)
        self.probes: dict[str, np.ndarray] = {"needle_id": self.of_probe}
        if chance is not None:
            if np.shape(chance) != (len(self.of_probe), 2):
                raise ArgumentError(
                    f"chance must be [n_probes, 2], mean and standard deviation, got {np.shape(chance)}"
                )
            self.probes |= dict(zip(CHANCE_COLUMNS, np.asarray(chance, np.float64).T, strict=True))

    def __iter__(self) -> Iterator[np.ndarray]:
        yield self.of_probe % 2 == 0
        yield self.of_probe % 2 == 1


def _compare(
    halves: _Halves, references: list[tuple[int, np.ndarray]], current: np.ndarray, *, alpha: float, margin: float
) -> Regression:
    """references: per choosing half, its step and scores [P, L, H]."""
    from scipy import special

    then, now = np.full(len(current), np.nan), np.full(len(current), np.nan)
    steps = set()
    for choosing, (step, scores) in zip(halves, references, strict=True):
        heads = _leading(scores[choosing], {name: values[choosing] for name, values in halves.probes.items()})
        if heads.any():
            pair = scores[~choosing][:, heads], current[~choosing][:, heads]
            then[~choosing], now[~choosing] = _paired_means(*pair)
            steps.add(step)
    seen = ~np.isnan(then)
    n, n_needles = int(seen.sum()), len(np.unique(halves.of_probe[seen]))
    nothing: dict[str, Any] = {
        "fell": False,
        **dict.fromkeys(("drop", "p", "reference", "current"), np.nan),
        "interval": (np.nan, np.nan),
        "alpha_spent": alpha,
        "steps": tuple(sorted(steps)),
        "n_probes": n,
        "n_needles": n_needles,
    }
    if not steps:
        return Regression(**nothing, words="insufficient: no retrieval heads yet whose loss could be noticed")
    if n_needles < FEWEST_NEEDLES:
        few = f"insufficient: {n_needles} needles, and {FEWEST_NEEDLES} are needed"
        return Regression(**nothing, words=few)
    codes = halves.of_probe[seen]
    then, now = then[seen], now[seen]
    kept, kept_se = _clustered_mean(now - (1 - margin) * then, codes)
    p = float(special.stdtr(n_needles - 1, kept / kept_se)) if kept_se else float(kept >= 0)
    drop, drop_se = _clustered_mean(then - now, codes)
    reach = float(special.stdtrit(n_needles - 1, 0.975)) * drop_se
    fell = p <= alpha
    at = " and ".join(map(str, sorted(steps)))
    return Regression(
        fell=fell,
        drop=drop,
        interval=(drop - reach, drop + reach),
        p=p,
        alpha_spent=alpha,
        reference=float(then.mean()),
        current=float(now.mean()),
        steps=tuple(sorted(steps)),
        n_probes=n,
        n_needles=n_needles,
        words=(
            f"the leading heads {'fell' if fell else 'did not fall'} by more than {margin:.0%}: {then.mean():.3f} at "
            f"step {at}, {now.mean():.3f} now (drop {drop:.3f}, 95% {drop - reach:.3f} to {drop + reach:.3f}; "
            f"{n_needles} needles; p = {p:.2g}, alarm at {alpha:.2g})"
        ),
    )


def _leading(scores: np.ndarray, probes: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool [L, H]: the best heads, as far as their mean over these probes [P, L, H] makes them retrieval heads."""
    means = observed_mean(scores)[0]
    order = np.argsort(-means, axis=None, kind="stable")[:LEADING]  # NaN sorts last
    chosen = np.zeros(means.size, bool)
    level = counting_level(~np.isnan(scores), probes, RETRIEVAL_THRESHOLD)
    chosen[order] = means.ravel()[order] > level.ravel()[order]
    return chosen.reshape(means.shape)


def _height(scores: np.ndarray) -> float:
    """Mean score of the best heads on these probes: by which a measurement is called the best."""
    means = observed_mean(scores)[0].ravel()
    best = np.sort(means[~np.isnan(means)])[::-1][:LEADING]
    return float(best.mean()) if len(best) else -np.inf


def _paired_means(then: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[P] each: over the heads [P, n] that are observable in both."""
    seen = ~np.isnan(then) & ~np.isnan(now)
    n = seen.sum(axis=1)
    a, b = (np.where(seen, x, 0.0).sum(axis=1) / np.maximum(n, 1) for x in (then, now))
    return np.where(n > 0, a, np.nan), np.where(n > 0, b, np.nan)


def _clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(needle_stderr(values, clusters))


def _retrieval(scores: HeadScores | np.ndarray) -> np.ndarray:
    values = scores.per_probe["retrieval"] if isinstance(scores, HeadScores) else np.asarray(scores)
    if values.ndim != 3 or not len(values):
        raise ArgumentError(
            f"scores must be retrieval scores [n_probes, n_layers, n_heads], got the shape {values.shape}"
        )
    return np.asarray(values, np.float64)


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ArgumentError(f"{name} must be from 0 to below 1, got {value!r}")
    return float(value)
