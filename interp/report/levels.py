"""Behaviour, NLL and heads of a run side by side: curves on one axis, which moves first, what going on would bring.

found = evolve("run.h5").three
found.lanes(), found.lead, found.saturation, found.advice
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import ArgumentError
from ..analysis import (
    Interval,
    Laws,
    LeadLag,
    Levels,
    Losses,
    StoppingAdvice,
    ThreeLevels,
    Trajectory,
    clustered_interval,
    fit_laws,
    lead_lag,
    levels_of,
    losses,
    stopping_advice,
    three_levels,
)
from ..finetuned import SftProbe
from ..perplexity import Perplexity
from ..results import observed_mean
from ..tasks import Answers

ORDER = ("behaviour", "NLL", "heads")
NLL_OF = {"nll": "of the answer", "nll_novel": "of what only the needle has"}


@dataclass(frozen=True)
class Lane:
    """One level: its unit, its curves over the checkpoints (name -> [C]), and whether they are shares."""

    level: str
    unit: str
    curves: Mapping[str, Interval]
    shares: bool


@dataclass(frozen=True)
class LevelCourse:
    """A level from the first checkpoint to the last. half: progress at which half of its change is done, or NaN."""

    level: str
    first: float
    last: float
    half: float
    half_low: float
    half_high: float
    advice: StoppingAdvice | None


@dataclass(frozen=True, eq=False)
class ThreeLevelsOfRun:
    """answers, sft, texts: position of a checkpoint -> what it has, of those that have some."""

    trajectory: Trajectory
    answers: Mapping[int, Answers]
    sft: Mapping[int, SftProbe]
    texts: Mapping[int, Perplexity]

    @cached_property
    def levels(self) -> Levels:
        return levels_of(self.trajectory, self.answers)

    @cached_property
    def saturation(self) -> ThreeLevels:
        """Whether behaviour only seems saturated."""
        return three_levels(self.trajectory, self.answers)

    @cached_property
    def lead(self) -> LeadLag | None:
        """Which level changes first; None where fewer than two have values, or steps do not increase."""
        if len(self.levels.values) < 2 or self.trajectory.n_checkpoints < 2:
            return None
        return lead_lag(self.levels.values, self.levels.needles, self.trajectory.progress)

    @cached_property
    def advice(self) -> dict[str, StoppingAdvice]:
        """Level -> the most that as much training again as the last stage had is worth on it."""
        stage = self.trajectory.last_stage()
        before = self.trajectory.n_checkpoints - stage.n_checkpoints
        progress = stage.progress - (0.0 if before else min(0.0, float(stage.progress[0])))
        more = float(progress[-1] - progress[0])
        if more <= 0:
            return {}
        found = {}
        for level, values in self.levels.values.items():
            falls = level == "NLL"
            found[level] = stopping_advice(
                values[before:],
                self.levels.needles[level],
                progress,
                more,
                measure=level,
                higher_is_better=not falls,
                bounds=(0.0, float("inf") if falls else 1.0),
                unit="tokens" if stage.progress_name == "tokens seen" else "steps",
            )
        return found

    @cached_property
    def courses(self) -> list[LevelCourse]:
        """Every level that has values, in the order behaviour, NLL, heads."""
        found = []
        for level in ORDER:
            if level not in self.levels.values:
                continue
            means = observed_mean(self.levels.values[level], axis=1)[0]
            found.append(
                LevelCourse(level, float(means[0]), float(means[-1]), *self._half(level), self.advice.get(level))
            )
        return found

    def _half(self, level: str) -> tuple[float, float, float]:
        """Progress at which half of the change is done, and its interval; NaN where that cannot be told."""
        if self.lead is None or np.isnan(self.lead.half_progress).any():
            return np.nan, np.nan, np.nan
        at, places = self.lead.names.index(level), np.arange(self.lead.n, dtype=float)
        ends = (np.asarray(each)[at] for each in (self.lead.half.low, self.lead.half.high))
        low, high = (float(np.interp(end, places, self._used)) for end in ends)
        return float(self.lead.half_progress[at]), low, high

    @property
    def _used(self) -> np.ndarray:
        """Progress of the checkpoints at which every level has a value, as `lead_lag` takes them."""
        used = np.all([~np.isnan(values).all(axis=1) for values in self.levels.values.values()], axis=0)
        return self.trajectory.progress[used]

    def lanes(self) -> list[Lane]:
        """The curves of each level that has any."""
        found = []
        for level in ORDER:
            curves = {"behaviour": self._behaviour, "NLL": self._nll, "heads": self._heads}[level]()
            curves = {name: curve for name, curve in curves.items() if np.isfinite(curve.estimate).any()}
            if curves:
                unit = {"behaviour": "score", "NLL": "nats per token", "heads": "mean retrieval score"}[level]
                found.append(Lane(level, unit, curves, level != "NLL"))
        return found

    def _behaviour(self) -> dict[str, Interval]:
        found = {}
        if "behaviour" in self.levels.values:
            name = "the model's own answers" if self.levels.behaviour_name == "answers" else "answered token by token"
            found[name] = self._mean("behaviour", (0, 1))
        if self.sft:
            items = self.sft[max(self.sft)].probes
            scores = np.full((self.trajectory.n_checkpoints, len(items["id"])), np.nan)
            for place, each in self.sft.items():
                scores[place] = each.after["score"].mean(axis=0)
            found["after the SFT probe"] = clustered_interval(scores, items["needle_id"], bounds=(0, 1))
        return found

    def _nll(self) -> dict[str, Interval]:
        found = {}
        if "NLL" in self.levels.values:
            found[NLL_OF[self.levels.nll_name]] = self._mean("NLL", (0, np.inf))
        for corpus, loss in self.corpora.items():
            found[f"of texts: {corpus}"] = self._spread(loss.interval())
        return found

    def _heads(self) -> dict[str, Interval]:
        if "heads" not in self.levels.values:
            return {}
        n = len(self.levels.chosen)
        return {f"mean of {n} head{'' if n == 1 else 's'} above chance": self._mean("heads", (0, 1))}

    @cached_property
    def corpora(self) -> dict[str, Losses]:
        """Corpus -> its loss at the checkpoints that have one, all of the same texts."""
        there = sorted(self.texts)
        if not there:
            return {}
        found, run = [self.texts[c] for c in there], self.trajectory
        told = {"steps": run.steps[there].tolist(), "tokens_seen": run.tokens[there].tolist()}
        kept = {}
        for corpus in found[0].names:
            try:
                kept[corpus] = losses(found, corpus, **told)
            except ArgumentError:  # of other texts, or none of them was long enough
                continue
        return kept

    @cached_property
    def laws(self) -> dict[str, Laws]:
        """Corpus -> A log N + B of its loss, and what twice the training would bring."""
        return {corpus: fit_laws(loss) for corpus, loss in self.corpora.items()}

    def _mean(self, level: str, bounds: tuple[float, float]) -> Interval:
        return clustered_interval(self.levels.values[level], self.levels.needles[level], bounds=bounds)

    def _spread(self, interval: Interval) -> Interval:
        """Of the checkpoints with texts, [C] with NaN at the others."""
        ends = np.full((3, self.trajectory.n_checkpoints), np.nan)
        ends[:, sorted(self.texts)] = [interval.estimate, interval.low, interval.high]
        return Interval(ends[0], ends[1], ends[2], interval.level, interval.n, interval.n_clusters)
