"""What is watched while a model trains: numbers of a measurement that should not get worse.

- the score of the leading heads, over all probes and at each context length (heads that lead at that length);
- the score at the longest length over that at the shortest, of the heads that lead at the shortest. Where retrieval
  grows, and at the shortest length first, nothing is lost: the score at the longest has to have fallen as well;
- the NLL of the tokens that only the needle tells, at the shortest length (a model that forgets what it could) and over
  all, taken negative, so that higher is better everywhere.

What may be lost before it counts is one `margin`: a share of the score, of the ratio, or of the probability of a token
(geometric mean), which is -log(1 - margin) nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..lengths import human_length
from ..results import observed_mean
from .effective_length import length_groups
from .leading import LEADING, leading

FEWEST_NEEDLES = 8  # below, a cluster-robust test in the far tail is not to be trusted


@dataclass(frozen=True, eq=False)
class Measurement:
    """scores: float64 [P, L, H], retrieval; nll: float64 [P], of the tokens that only the needle tells. NaN: none."""

    scores: np.ndarray
    nll: np.ndarray


@dataclass(frozen=True, eq=False)
class LeadingHeads:
    """Mean score of the heads that lead on `deciding` probes, over `probes`, both bool [P]. columns: of the probes."""

    name: str
    probes: np.ndarray
    deciding: np.ndarray
    columns: Mapping[str, np.ndarray]

    def choose(self, now: Measurement, half: np.ndarray) -> np.ndarray:
        """bool [L, H]: the heads to follow, by the probes of a half of the needles, bool [P]; none may be any."""
        on = half & self.deciding
        if not on.any():
            return np.zeros(now.scores.shape[1:], bool)
        return leading(now.scores[on], {name: values[on] for name, values in self.columns.items()})

    def height(self, now: Measurement, half: np.ndarray) -> float:
        """By what a measurement is called the best on these probes; -inf where nothing can be said."""
        on = half & self.deciding
        means = observed_mean(now.scores[on])[0].ravel() if on.any() else np.empty(0)
        best = np.sort(means[~np.isnan(means)])[::-1][:LEADING]
        return float(best.mean()) if len(best) else -math.inf

    def read(self, now: Measurement, heads: np.ndarray) -> np.ndarray:
        """[P, n]: what is compared, NaN on other probes; a probe's number is the mean over those seen both times."""
        return np.where(self.probes[:, None], now.scores[:, heads], np.nan)

    def number(self, values: np.ndarray) -> np.ndarray:
        """[P]: values whose mean is the number that is watched, and whose spread over needles is its error."""
        return values

    def left(self, then: np.ndarray, now: np.ndarray, margin: float) -> list[np.ndarray]:
        """Each [P]: where the mean of all of them is below 0, more is lost than may be. then, now: values [P]."""
        return [self.number(now) - (1 - margin) * self.number(then)]

    def words(self, margin: float, fell: bool) -> str:
        return f"{self.name} {'fell' if fell else 'did not fall'} by more than {margin:.0%}"

    nothing = "no retrieval heads yet whose loss could be noticed"
    shown = 1  # times the number: what is told


@dataclass(frozen=True, eq=False)
class TargetOverShortest(LeadingHeads):
    """`probes` are those of the longest and the shortest length, `deciding` those of the shortest."""

    @property
    def _longest(self) -> np.ndarray:
        return self.probes & ~self.deciding

    def height(self, now: Measurement, half: np.ndarray) -> float:
        heads = self.choose(now, half)
        if not heads.any():
            return -math.inf
        long, short = (
            observed_mean(now.scores[half & on][:, heads].ravel())[0] for on in (self._longest, self.deciding)
        )
        return float(long / short) if short > 0 and np.isfinite(long) else -math.inf

    def number(self, values: np.ndarray) -> np.ndarray:
        """The ratio, linearised in the probes' values (delta method); NaN with few needles at either length."""
        seen = ~np.isnan(values)
        parts = [seen & self._longest, seen & self.deciding]
        if any(len(np.unique(self.columns["needle_id"][part])) < FEWEST_NEEDLES for part in parts):
            return np.full(len(values), np.nan)
        long, short = (values[part].mean() for part in parts)
        if short <= 0:
            return np.full(len(values), np.nan)
        found = np.where(seen, long / short, np.nan)
        found[parts[0]] += (values[parts[0]] - long) / short * seen.sum() / parts[0].sum()
        found[parts[1]] -= (values[parts[1]] - short) * long / short**2 * seen.sum() / parts[1].sum()
        return found

    def left(self, then: np.ndarray, now: np.ndarray, margin: float) -> list[np.ndarray]:
        return [*super().left(then, now, margin), np.where(self._longest, now - then, np.nan)]

    nothing = f"no retrieval heads yet at both lengths, or fewer than {FEWEST_NEEDLES} needles at one"


@dataclass(frozen=True, eq=False)
class NovelNLL:
    """Minus the NLL of the tokens that only the needle tells, on `probes`, bool [P]."""

    name: str
    probes: np.ndarray

    def choose(self, now: Measurement, half: np.ndarray) -> np.ndarray:
        return np.ones((1, 1), bool)

    def height(self, now: Measurement, half: np.ndarray) -> float:
        values = now.nll[half & self.probes]
        return -float(np.nanmean(values)) if not np.isnan(values).all() else -math.inf

    def read(self, now: Measurement, heads: np.ndarray) -> np.ndarray:
        return np.where(self.probes, -now.nll, np.nan)[:, None]

    def number(self, values: np.ndarray) -> np.ndarray:
        return values

    def left(self, then: np.ndarray, now: np.ndarray, margin: float) -> list[np.ndarray]:
        return [now - then - math.log1p(-margin)]

    def words(self, margin: float, fell: bool) -> str:
        return f"{self.name} {'rose' if fell else 'did not rise'} by more than {-math.log1p(-margin):.3f} nats"

    nothing = "no token that only the needle tells"
    shown = -1


Quantity = LeadingHeads | NovelNLL


def quantities(columns: Mapping[str, np.ndarray]) -> list[Quantity]:
    """All that can be watched on probes with these columns [P]: needle_id, length, and where known chance, chance_sd.

    Without lengths it is the leading heads alone; where all are of one length, it is they and the NLL.
    """
    everything = np.ones(len(columns["needle_id"]), bool)
    found: list[Quantity] = [LeadingHeads("the leading heads", everything, everything, columns)]
    if "length" not in columns:
        return found
    lengths, group = length_groups(columns["length"])
    at = [f"at {human_length(round(length))}" for length in lengths]
    nll = "the NLL of tokens that only the needle tells"
    if len(lengths) > 1:
        found += [
            LeadingHeads(f"the leading heads {name}", group == k, group == k, columns) for k, name in enumerate(at)
        ]
        ends = np.isin(group, (0, len(lengths) - 1))
        ratio = f"the leading heads' score {at[-1]} over that {at[0]}"
        found += [TargetOverShortest(ratio, ends, group == 0, columns), NovelNLL(f"{nll} {at[0]}", group == 0)]
    return [*found, NovelNLL(nll, everything)]
