"""What a recipe trains on: probes drawn for a seed, and proof that none of them is what is asked afterwards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...printable import printable
from ...probes import Codec, Probe, ProbeError, build
from .recipe import Recipe, RecipeError

SEEDS_FROM = 1_000_000_000  # seeds of what is trained on begin here, and those of what is asked below
RUN = 5  # words in a row that two tasks may not have in common, in question, answer or needle
OFTEN = 1 / 8  # of a task's questions: a word that is in more of them is wording, not a key
SHORT = 2  # words of a right answer that is a name or a value, not prose
_WORD = re.compile(r"\w+")


def lessons(recipe: Recipe, seed: int, tokenizer: Any, *, chat: bool = False) -> list[Probe]:
    """The probes that a seed is trained on, in their order: steps x sequences.

    chat: in the tokenizer's chat template.

    Raises RecipeError where a task cannot be written with this tokenizer, or not in so many tokens.
    """
    found: list[Probe] = []
    for task, n in recipe.counts().items():
        suite, _, name = task.partition("/")
        how: dict[str, Any] = {"lengths": [recipe.length], "items": n, "seed": SEEDS_FROM + seed, "chat": chat}
        try:
            found += build(suite, tokenizer, tasks=[name], **how)
        except ProbeError as error:
            raise RecipeError(f"the recipe's {task} of length {recipe.length} cannot be written: {error}") from error
    order = np.random.default_rng([SEEDS_FROM, seed]).permutation(len(found))
    return [found[i] for i in order]


def check_disjoint(trained: Sequence[Probe], asked: Iterable[Probe], codec: Codec) -> None:
    """Raise RecipeError where anything that is trained on helps with what is asked by being the same.

    Told apart are: the seed (and with it the stream of random numbers and the text of haystacks); the task; the needle
    and its value; the wording, by runs of RUN words in needles, question and answer; and the keys: words of questions,
    and of right answers of SHORT words at most, that are no wording of their task.
    """
    asked, told = list(asked), Told.of(trained, codec)
    for probe in asked:
        text = _Text(probe, codec)
        if clash := told.clash(text):
            raise RecipeError(
                f"the recipe trains on what is asked: {printable(probe.id, 80)} has {clash} as well; ask other tasks, "
                "or change the recipe's mix or the seed of the tasks"
            )


class _Text:
    """The words of a probe that a model could remember."""

    def __init__(self, probe: Probe, codec: Codec) -> None:
        ids = probe.input_ids
        self.probe = probe
        self.needles = [codec.decode(ids[first:last]).strip() for first, last in probe.needle_spans]
        marked = [codec.decode(ids[span.start : span.end]) for span in probe.spans]
        self.question = _words(codec.decode(ids[probe.question_start : probe.prompt_len]))
        tail = _words(codec.decode(ids[probe.question_start :]))
        golds = probe.task.golds if probe.task else (probe.answer_text,)
        self.names = {word for gold in golds if len(words := _words(gold)) <= SHORT for word in words}
        self.parts = [tail, *map(_words, marked)]
        self.all = {word for part in self.parts for word in part} | self.names

    @property
    def runs(self) -> set[tuple[str, ...]]:
        return {tuple(part[i : i + RUN]) for part in self.parts for i in range(len(part) - RUN + 1)}


@dataclass(frozen=True)
class Told:
    """What is said in what a model is trained on."""

    seeds: frozenset[int]
    tasks: frozenset[tuple[str, str]]
    needles: frozenset[str]
    values: frozenset[str]
    runs: frozenset[tuple[str, ...]]
    keys: frozenset[str]

    @classmethod
    def of(cls, trained: Sequence[Probe], codec: Codec) -> Told:
        texts = [_Text(probe, codec) for probe in trained]
        keys: set[str] = set()
        for task in {_task(text.probe) for text in texts}:
            same = [text for text in texts if _task(text.probe) == task]
            times = Counter(word for text in same for word in {*text.question})
            constant = {word for word, n in times.items() if n > max(1, OFTEN * len(same))}
            keys |= {word for text in same for word in {*text.question, *text.names} - constant if len(word) > 2}
        return cls(
            seeds=frozenset(probe.seed for probe in trained),
            tasks=frozenset(map(_task, trained)),
            needles=frozenset(needle for text in texts for needle in text.needles),
            values=frozenset(probe.value for probe in trained if probe.value),
            runs=frozenset(run for text in texts for run in text.runs),
            keys=frozenset(keys),
        )

    def clash(self, text: _Text) -> str:
        """What a probe that is asked has in common with it, in words; "" for nothing."""
        probe = text.probe
        if _task(probe) in self.tasks:
            return f"the task {'/'.join(_task(probe))}"
        if probe.seed in self.seeds:
            return f"the seed {probe.seed}"
        if same := self.needles & {*text.needles}:
            return f"the needle {printable(min(same), 60)!r}"
        if probe.value in self.values:
            return f"the value {printable(probe.value, 60)!r}"
        if runs := self.runs & text.runs:
            return f"the words {printable(' '.join(min(runs)), 80)!r}"
        if keys := self.keys & text.all:
            return f"the key {printable(min(keys), 40)!r}"
        return ""


def _task(probe: Probe) -> tuple[str, str]:
    return probe.family, probe.variant.removesuffix("-chat")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
