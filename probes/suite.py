"""Suites of tasks as published benchmarks have them: every task draws items, and an item grows to a length."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import HaystackTooShort, ProbeError
from .frame import Frame
from .haystack import Haystack
from .passage import Passage, count, fit, lay
from .probe import Probe
from .seeds import rng
from .sentences import sentence_starts
from .tokens import Codec

TOGETHER = 4  # items in a row that may share a context, and with it a prefill


@dataclass(frozen=True)
class Draw:
    """What one item is made from.

    Attributes:
        own: random numbers of this item alone.
        shared: random numbers that `TOGETHER` items in a row have in common, for a context that they share.
        turn: which of these the item is, from 0 up.
        length: tokens of the whole probe that will be asked for at most.
        options: what the suite was asked for beside its tasks, for example {"compat": "ruler"}.
        text: the haystack's text, the same for all items of a set.
    """

    own: np.random.Generator
    shared: np.random.Generator
    turn: int
    length: int
    options: Mapping[str, Any]
    text: Text


@dataclass(frozen=True)
class Growing:
    """An item that grows: `make(n)` is the passage with n units of context, for n from `least` up.

    Called several times with different n: it must draw nothing when it is called.
    """

    make: Callable[[int], Passage]
    least: int = 1


@dataclass(frozen=True)
class SuiteTask:
    """draw: the item; scored: whether its answer is copied, so that heads have scores (told by `probes list`)."""

    description: str
    draw: Callable[[Draw], Growing]
    scored: bool = True


@dataclass(frozen=True)
class Suite:
    """A benchmark by its public name: task -> how its items are made, and what is asked for where nothing is said.

    options: names that `build` takes for this suite alone, with what they may be and the default first.
    """

    name: str
    description: str
    tasks: Mapping[str, SuiteTask]
    lengths: tuple[int, ...]
    items: int
    options: Mapping[str, tuple[Any, ...]]


class Text:
    """Sentences of a haystack, in the order of a seed; read as far as is asked for."""

    def __init__(self, haystack: Haystack, seed: int) -> None:
        self.haystack, self.seed = haystack, seed
        self._found: list[str] = []

    @cached_property
    def _source(self) -> Iterator[str]:
        return (
            sentence
            for document in self.haystack.documents(self.seed)
            for line in document.splitlines()
            for sentence in _sentences(line)
        )

    def sentences(self, n: int) -> list[str]:
        """The first n sentences, without blanks around them. Raises HaystackTooShort."""
        while len(self._found) < n:
            if (sentence := next(self._source, None)) is None:
                raise HaystackTooShort(
                    f"The haystack {self.haystack.name!r} has {len(self._found)} sentences, and more are needed. Give "
                    "more text or shorter lengths, or let it repeat: Haystack(..., repeat=True) in Python."
                )
            self._found.append(sentence)
        return self._found[:n]


def _sentences(line: str) -> list[str]:
    edges = [0, *(at for at in sentence_starts(line) if at), len(line)]
    return [text for first, last in zip(edges, edges[1:], strict=False) if (text := line[first:last].strip())]


def build_suite(
    suite: Suite,
    codec: Codec,
    frame: Frame,
    haystack: Haystack,
    *,
    tasks: Sequence[str] | None,
    lengths: Sequence[int],
    items: int,
    seed: int,
    options: Mapping[str, Any],
) -> list[Probe]:
    """`items` probes of every task at every length. Raises ProbeError and what `lay` and `fit` raise."""
    text, tokens = Text(haystack, seed), count(codec, frame)
    found = []
    for name in _chosen(suite, tasks):
        for length in lengths:
            for i in range(items):
                draw = Draw(
                    rng(seed, suite.name, name, length, i),
                    rng(seed, suite.name, name, length, "context", i // TOGETHER),
                    i % TOGETHER,
                    length,
                    options,
                    text,
                )
                growing = suite.tasks[name].draw(draw)
                passage = fit(growing.make, tokens, length, growing.least)
                found.append(lay(codec, frame, passage, family=suite.name, variant=name, length=length, seed=seed))
    return found


def _chosen(suite: Suite, tasks: Sequence[str] | None) -> list[str]:
    if tasks is None:
        return list(suite.tasks)
    if isinstance(tasks, str):
        raise ProbeError(f"tasks is {tasks!r}; give a list: [{tasks!r}].")
    for task in tasks:
        if task not in suite.tasks:
            close = difflib.get_close_matches(str(task), suite.tasks, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ProbeError(f"{suite.name} has no task {task!r}; it has {', '.join(suite.tasks)}.{hint}")
    return list(dict.fromkeys(tasks))
