"""What a model of a run answered by itself: scores over the checkpoints, and wrong answers beside where its heads look.

found = evolve("run.h5").behaviour          # None where no checkpoint has answers
found.by_task(), found.table(), found.wrong()
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..analysis import Interval, clustered_interval
from ..tasks import Answers

MOST_CURVES = 8  # more tasks than there are colours are drawn by benchmark
LOOKED = ("needle_mass", "distractor_mass", "sink_mass")  # the estimators that tell where a head looks
PLACES = ("right needle", "wrong sibling", "sink")  # what these are called, in the same order


@dataclass(frozen=True)
class Looked:
    """Where the leading heads looked while the right answer was teacher-forced: mean attention, in [0, 1].

    shares: place -> attention on it, over the answer rows and the heads; NaN where nobody measured it.
    """

    shares: Mapping[str, float]

    @property
    def most(self) -> str:
        """The place with the largest share of those known; "" where none is."""
        known = {place: share for place, share in self.shares.items() if np.isfinite(share)}
        return max(known, key=lambda place: known[place]) if known else ""


@dataclass(frozen=True)
class WrongAnswer:
    """One answer that is not wholly right. rival: the context's wrong answer that it names, "" for none."""

    id: str
    task: str
    length: int
    depth: float
    asked: str
    golds: tuple[str, ...]
    said: str
    rival: str
    score: float
    looked: Looked


@dataclass(frozen=True, eq=False)
class Behaviour:
    """The answers of a run of C checkpoints to N items.

    answers: index of a checkpoint -> its answers, to the same items in the same order; at least one.
    n_checkpoints: C.
    looks: estimator -> float32 [N, n_heads], attention of the leading heads at the last checkpoint with answers, NaN
        where it was not measured for an item.
    """

    answers: Mapping[int, Answers]
    n_checkpoints: int
    looks: Mapping[str, np.ndarray]

    @property
    def last(self) -> int:
        """The last checkpoint that has answers."""
        return max(self.answers)

    @property
    def items(self) -> Mapping[str, np.ndarray]:
        return self.answers[self.last].probes

    @property
    def scores(self) -> np.ndarray:
        """float64 [C, N]: each task's own metric on the greedy answers, in [0, 1]; NaN where nothing was asked."""
        found = np.full((self.n_checkpoints, len(self.items["id"])), np.nan)
        for checkpoint, answers in self.answers.items():
            found[checkpoint] = answers.score
        return found

    def mean(self, chosen: np.ndarray | None = None) -> Interval:
        """Mean score [C] with its interval over needles; chosen: bool [N], the items that count."""
        chosen = np.ones(len(self.items["id"]), bool) if chosen is None else chosen
        return clustered_interval(self.scores[:, chosen], self.items["needle_id"][chosen], bounds=(0, 1))

    def by_task(self, length: int | None = None) -> dict[str, Interval]:
        """Task -> its mean score [C], over all lengths or at one; of more than eight tasks, by benchmark."""
        names = self.items["task"] if len(np.unique(self.items["task"])) <= MOST_CURVES else self.items["family"]
        asked = np.ones(len(names), bool) if length is None else self.items["length"] == length
        return {name: self.mean(asked & (names == name)) for name in dict.fromkeys(names[asked].tolist())}

    def table(self) -> list[tuple[str, int, int, Interval]]:
        """(task, length, items, mean score [C]) of every task and length, tasks in the order of the items."""
        tasks, lengths = self.items["task"], self.items["length"]
        found = []
        for task in dict.fromkeys(tasks.tolist()):
            for length in np.unique(lengths[tasks == task]).tolist():
                chosen = (tasks == task) & (lengths == length)
                found.append((task, int(length), int(chosen.sum()), self.mean(chosen)))
        return found

    def wrong(self) -> list[WrongAnswer]:
        """The answers of the last checkpoint that are not wholly right, the worst first."""
        answers = self.answers[self.last]
        items, said, rivals = answers.probes, answers.text, answers.rival_text
        found = []
        for i in np.flatnonzero(answers.is_wrong).tolist():
            found.append(
                WrongAnswer(
                    id=str(items["id"][i]),
                    task=str(items["task"][i]),
                    length=int(items["length"][i]),
                    depth=float(items["depth"][i]),
                    asked=str(items["question"][i]),
                    golds=tuple(json.loads(items["golds"][i])),
                    said=said[i],
                    rival=rivals[i],
                    score=float(answers.score[i]),
                    looked=looked({name: values[i] for name, values in self.looks.items()}),
                )
            )
        return sorted(found, key=lambda answer: answer.score)


def looked(masses: Mapping[str, np.ndarray]) -> Looked:
    """Attention on each place, mean over heads; estimator -> [n_heads]. What is left of 1 is "elsewhere".

    A probe without distractors has none to look at; where needle or sink were not measured, the rest is unknown.
    """
    shares = {}
    for name, place in zip(LOOKED, PLACES, strict=True):
        values = np.asarray(masses.get(name, ()), float)
        shares[place] = float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
    if np.isfinite([shares[PLACES[0]], shares[PLACES[2]]]).all():
        shares["elsewhere"] = max(0.0, 1.0 - float(np.nansum(list(shares.values()))))
    return Looked(shares)


def looks_of(
    masses: Mapping[str, np.ndarray],
    heads: Sequence[tuple[int, int]],
    probes: Sequence[str],
    items: Sequence[str],
) -> dict[str, np.ndarray]:
    """Masses [P, n_layers, n_heads] of the probes `probes` -> [N, len(heads)] of the items, found by their ids."""
    place = {id: at for at, id in enumerate(probes)}
    at = np.array([place.get(id, -1) for id in items])
    found = {}
    for name, values in masses.items():
        chosen = np.array([values[:, layer, head] for layer, head in heads], np.float32).reshape(len(heads), -1).T
        found[name] = np.where((at >= 0)[:, None], chosen[np.maximum(at, 0)], np.float32(np.nan))
    return found
