"""Suites of tasks as published benchmarks have them: every task draws items, and an item grows to a length."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from .errors import HaystackTooShort, LengthTooShort, ProbeError
from .frame import Frame
from .haystack import Haystack
from .passage import Passage, count, fit, lay
from .probe import Probe
from .seeds import rng
from .sentences import sentence_starts
from .stream import ordinary
from .tokens import Codec

MOST_CHARACTERS = 12  # of a token, on average, in any text: a passage of more is not even counted
TOGETHER = 4  # items in a row that may share a context, and with it a prefill

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """What one item is made from.

    Attributes:
        own: random numbers of this item alone.
        shared: random numbers that `TOGETHER` items in a row have in common, for a context that they share.
        index: which item of its task and length it is, from 0.
        length: tokens of the whole probe that will be asked for at most.
        options: what the suite was asked for beside its tasks, for example {"compat": "ruler"}.
        text: the haystack's text, the same for all items of a set.
    """

    own: np.random.Generator
    shared: np.random.Generator
    index: int
    length: int
    options: Mapping[str, Any]
    text: Text

    @property
    def turn(self) -> int:
        """Which of the items that may share a context this is, from 0."""
        return self.index % TOGETHER


@dataclass(frozen=True)
class Growing:
    """An item that grows: `make(n)` is the passage with n units of context, for n from `least` up.

    Called several times with different n: it must draw nothing when it is called.
    """

    make: Callable[[int], Passage]
    least: int = 1


@dataclass(frozen=True)
class SuiteTask:
    """draw: the item; scored: whether its answer is copied, so that heads have scores (told by `probes list`).

    ready: instead of `draw`, options -> passages of a length of their own, taken where they fit.
    """

    description: str
    draw: Callable[[Draw], Growing] | None = None
    scored: bool = True
    ready: Callable[[Mapping[str, Any]], Generator[Passage, None, None]] | None = None


@dataclass(frozen=True)
class FromFile:
    """A task that needs what an option reads. `missing`: options -> why it cannot be built and what to do, or "".

    instead_of: the task that stands in for it, where it is not asked for by name.
    """

    task: SuiteTask
    instead_of: str
    missing: Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Suite:
    """A benchmark by its public name: task -> how its items are made, and what is asked for where nothing is said.

    options: names that `build` takes for this suite alone, with what they may be and the default first, or a function
        that reads what is given, such as a path, and raises ProbeError; None where nothing is.
    from_file: tasks beside those, which need an option.
    """

    name: str
    description: str
    tasks: Mapping[str, SuiteTask]
    lengths: tuple[int, ...]
    items: int
    options: Mapping[str, tuple[Any, ...] | Callable[[Any], Any]]
    from_file: Mapping[str, FromFile] = field(default_factory=dict)

    @property
    def all_tasks(self) -> dict[str, SuiteTask]:
        return {**self.tasks, **{name: each.task for name, each in self.from_file.items()}}


class Text:
    """Sentences of a haystack, in the order of a seed; read as far as is asked for.

    Lines with special tokens or unknown characters are left out.
    """

    def __init__(self, haystack: Haystack, seed: int, codec: Codec) -> None:
        self.haystack, self.seed, self.codec = haystack, seed, codec
        self._found: list[str] = []

    @cached_property
    def _source(self) -> Iterator[str]:
        return (
            sentence
            for document in self.haystack.documents(self.seed)
            for line in document.splitlines()
            if ordinary(self.codec, line)
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
    text, tokens = Text(haystack, seed, codec), count(codec, frame)
    found, known = [], suite.all_tasks
    for name in _chosen(suite, tasks, options):
        task = known[name]
        if task.ready is not None:
            made = _fitting(name, task.ready(options), tokens, lengths, items)
        else:
            made = _drawn(suite, name, tokens, lengths, items, seed, options, text)
        found += [
            lay(codec, frame, passage, family=suite.name, variant=name, length=length, seed=seed)
            for length, passage in made
        ]
    return found


def _drawn(
    suite: Suite,
    name: str,
    tokens: Callable[[Passage], int],
    lengths: Sequence[int],
    items: int,
    seed: int,
    options: Mapping[str, Any],
    text: Text,
) -> Iterator[tuple[int, Passage]]:
    """`items` for every length, each grown to it."""
    draw_item = suite.all_tasks[name].draw
    if draw_item is None:
        return
    for length, i in product(lengths, range(items)):
        draw = Draw(
            rng(seed, suite.name, name, length, i),
            rng(seed, suite.name, name, length, "context", i // TOGETHER),
            i,
            length,
            options,
            text,
        )
        growing = draw_item(draw)
        yield length, fit(growing.make, tokens, length, growing.least)


def _fitting(
    name: str,
    passages: Generator[Passage, None, None],
    tokens: Callable[[Passage], int],
    lengths: Sequence[int],
    items: int,
) -> Iterator[tuple[int, Passage]]:
    """Of passages as they come: for every length the first `items` that it holds and no shorter one asked for does.

    Raises LengthTooShort where no length holds any.
    """
    found: dict[int, list[Passage]] = {length: [] for length in sorted(lengths)}
    with closing(passages):
        for passage in passages:
            if passage.characters > MOST_CHARACTERS * max(lengths):
                continue
            used = tokens(passage)
            length = next((length for length in found if used <= length), None)
            if length is not None and len(found[length]) < items:
                found[length].append(passage)
            if all(len(each) == items for each in found.values()):
                break
    if not any(found.values()):
        raise LengthTooShort(f"{name}: nothing in the file has at most {max(lengths)} tokens; give longer lengths.")
    for length, each in found.items():
        if len(each) < items:
            log.warning("%s: %d of %d items at length %d; the file has no more of them", name, len(each), items, length)
    yield from ((length, passage) for length, each in found.items() for passage in each)


def _chosen(suite: Suite, tasks: Sequence[str] | None, options: Mapping[str, Any]) -> list[str]:
    missing = {name: each.missing(options) for name, each in suite.from_file.items()}
    if tasks is None:
        better = {each.instead_of: name for name, each in suite.from_file.items() if not missing[name]}
        return [better.get(name, name) for name in suite.tasks]
    if isinstance(tasks, str):
        raise ProbeError(f"tasks is {tasks!r}; give a list: [{tasks!r}].")
    known = suite.all_tasks
    for task in tasks:
        if task not in known:
            close = difflib.get_close_matches(str(task), known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ProbeError(f"{suite.name} has no task {task!r}; it has {', '.join(known)}.{hint}")
        if missing.get(task):
            raise ProbeError(missing[task])
    if not tasks:
        raise ProbeError(f"tasks is empty; {suite.name} has {', '.join(known)}.")
    return list(dict.fromkeys(tasks))
