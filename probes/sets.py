"""The built-in probe sets, and `build`, which makes one for a tokenizer."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from . import induction, interference, nested
from .errors import DepthOutOfRange, LengthTooShort, ProbeError, UnknownSet
from .families import known_families
from .frame import frame_for
from .haystack import Haystack, as_haystack
from .item import Family, Item
from .layout import Layout
from .probe import Probe
from .probe_set import ProbeSet
from .stream import tokenise
from .suite import Suite, build_suite
from .suites import known_suites
from .tokens import Codec

KIND = "sentence"  # of the grids, where nothing is asked for
APART = (256, 512, 1024, 2048)  # tokens before and behind the needle of "interference", where nothing is asked for


@dataclass(frozen=True)
class Recipe:
    """A built-in set: what it is for, its defaults, and how its probes are laid out."""

    description: str
    lengths: tuple[int, ...]
    depths: int
    needles: int
    probes: Callable[[_Order], list[Probe]]


@dataclass(frozen=True)
class _Order:
    """One call of `build`, with everything checked and filled in."""

    codec: Codec
    layout: Layout
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    needles: int
    seed: int
    families: Mapping[str, Family]
    kind: str
    answer: str | None
    distractors: int | None
    distances: tuple[int, ...]
    interferences: tuple[int, ...]

    def items(self, kind: str, n: int, answer: str | None = None) -> list[Item]:
        """`n` items of the kind, with its default answer where none is asked for."""
        family = self.families[kind]
        if self.distractors is not None and family.among is not None:
            return family.among(n, self.seed, self.distractors)
        return family.items(n, self.seed, answer or next(iter(family.answers), ""))

    def one_depth_each(self, items: Sequence[Item]) -> list[Probe]:
        """One probe per (item, length); the depths go round, so that every length sees all of them."""
        return [
            self.layout.place(item, length=length, depth=self.depths[(i + j) % len(self.depths)])
            for i, item in enumerate(items)
            for j, length in enumerate(self.lengths)
        ]

    def blocks(self, n: int) -> list[Probe]:
        """Induction blocks, laid out as `one_depth_each` does."""
        made = induction.build(self.codec, n=n, lengths=self.lengths, depths=self.depths, seed=self.seed)
        return [
            row[j * len(self.depths) + (i + j) % len(self.depths)]
            for i, row in enumerate(made)
            for j in range(len(self.lengths))
        ]


def _smoke(order: _Order) -> list[Probe]:
    kinds = ("sentence", "number", "biography")
    items = [item for kind in kinds for item in order.items(kind, order.needles)]
    return order.one_depth_each(items) + order.blocks(order.needles)


def _heads(order: _Order) -> list[Probe]:
    kinds = ("biography", "uuid", "sentence")
    items = [item for kind in kinds for item in order.items(kind, order.needles)]
    return order.one_depth_each(items) + order.blocks(order.needles)


def _grid(order: _Order) -> list[Probe]:
    items = order.items(order.kind, order.needles, order.answer)
    return [
        order.layout.place(item, length=length, depth=depth)
        for length in order.lengths
        for depth in order.depths
        for item in items
    ]


def _grid_nested(order: _Order) -> list[Probe]:
    items = order.items(order.kind, order.needles * len(order.depths), order.answer)
    return nested.build(order.layout, items, lengths=order.lengths, depths=order.depths)


def _interference(order: _Order) -> list[Probe]:
    items = order.items(order.kind, order.needles, order.answer)
    return interference.build(order.layout, items, distances=order.distances, interferences=order.interferences)


def _monitor(order: _Order) -> list[Probe]:
    kinds = ("sentence", "number")
    return order.one_depth_each([item for kind in kinds for item in order.items(kind, order.needles)])


SETS = {
    "smoke": Recipe("A handful of short probes of every family: does everything work?", (256, 512), 3, 1, _smoke),
    "heads": Recipe(
        "Biographies, UUIDs, sentences and induction: which heads retrieve?", (512, 1024, 2048), 5, 8, _heads
    ),
    "grid": Recipe(
        "Length x depth x needles, one needle a probe: where does it work?", (1024, 2048, 4096), 11, 2, _grid
    ),
    "grid_nested": Recipe(
        "All needles in one context, asked for at every length: harder.", (1024, 2048, 4096), 11, 2, _grid_nested
    ),
    "interference": Recipe(
        "Tokens before the needle x tokens behind it: distance or distraction?", (max(APART) * 2,), 1, 2, _interference
    ),
    "monitor": Recipe(
        "Many needles, one haystack of one length: cheap enough to run while training.", (2048,), 6, 16, _monitor
    ),
}


def list_sets() -> dict[str, str]:
    """Name -> what it is for."""
    return {name: recipe.description for name, recipe in SETS.items()} | list_suites()


def list_suites() -> dict[str, str]:
    """The sets that are suites of tasks: name -> what it is for."""
    return {name: suite.description for name, suite in known_suites().items()}


def list_kinds() -> list[str]:
    """What the needles of the grids can be: the `kind` of `build`."""
    return list(known_families())


def build(
    name: str,
    tokenizer: Any,
    *,
    lengths: Sequence[int] | int | None = None,
    depths: int | Sequence[float] | None = None,
    needles: int | None = None,
    seed: int = 0,
    haystack: Haystack | str | PathLike[str] | None = None,
    chat: bool = False,
    system: str | None = None,
    template_args: Mapping[str, Any] | None = None,
    kind: str | None = None,
    answer: str | None = None,
    distractors: int | None = None,
    distances: Sequence[int] | int | None = None,
    interferences: Sequence[int] | int | None = None,
    items: int | None = None,
    tasks: Sequence[str] | None = None,
    **options: Any,
) -> ProbeSet:
    """Build a probe set. The same arguments and tokenizer give the same hash in every process.

    Args:
        name: "smoke", "heads", "grid", "grid_nested", "interference" or "monitor", or a suite of tasks, such as
            "ruler"; `list_sets()` says what they are for.
        tokenizer: a Hugging Face tokenizer.
        lengths: tokens of a whole probe, answer included. Default: the set's own.
        depths: how many, evenly from 0 (right after BOS) to 1 (right before the question), or a list of them.
        needles: different needles: in "grid" for every cell (the same in each), in "grid_nested" at every depth, in
            "smoke", "heads" and "monitor" for every family.
        seed: chooses needles, values and the order of the haystack's texts.
        haystack: None or "stdlib" (the standard library's documentation), "noise", a folder or file of yours, or a
            `Haystack`.
        chat: use the tokenizer's chat template instead of plain completion. Induction probes have no chat form. A
            template that writes today's date is told 1 January 2025, and one that can switch thinking off does.
        system: with `chat`, a system prompt.
        template_args: with `chat`, variables that the template reads, for example {"enable_thinking": True}.
        kind: what the needles of the grids are: "sentence" (default), "number", "uuid", "biography", or what another
            file in probes/families/ offers (`list_kinds()`). "interference" counts as a grid.
        answer: for numbers and UUIDs in the grids: the "value" alone (default), or the needle "sentence".
        distractors: for biographies in the grids: so many other people's stand around the one that is asked for.
        distances, interferences: for "interference", in place of lengths and depths: tokens behind the needle and
            before it (BOS included); every pair is a cell. Default: 256, 512, 1024 and 2048 for both.
        items: for suites: probes of every task at every length. A probe is at most as long as asked for.
        tasks: for suites: some of its tasks by name (`list_tasks(name)`); default: all.
        options: of a suite, such as compat="ruler"; `list_tasks` and the suite's file in probes/suites/ say which.

    Raises:
        UnknownSet, LengthTooShort, DepthOutOfRange, HaystackTooShort, PoolTooSmall, JoinNotCanonical, NeedleLeak,
        AlignmentFailed, NoChatTemplate: all of them ProbeError, with the remedy in the message.
    """
    suites = known_suites()
    if name not in SETS and name not in suites:
        close = difflib.get_close_matches(str(name), [*SETS, *suites], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise UnknownSet(f"There is no probe set {name!r}; there are {', '.join([*SETS, *suites])}.{hint}")
    _check_seed(seed)
    if name in suites:
        suite = suites[name]
        given = {"depths": depths, "needles": needles, "kind": kind, "answer": answer, "distractors": distractors}
        for argument, value in (given | {"distances": distances, "interferences": interferences}).items():
            if value is not None:
                raise ProbeError(f"{argument} is for sets of needles; {name!r} takes lengths, items and tasks.")
        codec = Codec(tokenizer)
        found = build_suite(
            suite,
            codec,
            frame_for(codec, chat, system, template_args),
            as_haystack(haystack),
            tasks=tasks,
            lengths=_lengths(suite.lengths if lengths is None else lengths),
            items=_count("items", suite.items if items is None else items),
            seed=int(seed),
            options=_options(suite, options),
        )
        return ProbeSet(tuple(found), name)
    for argument, value in (("items", items), ("tasks", tasks), *options.items()):
        if value is not None:
            raise ProbeError(
                f"{argument} is for suites of tasks ({', '.join(suites)}); {name!r} takes depths and needles."
            )
    known = known_families()
    _check_choice("kind", kind, list(known), name)
    _check_choice("answer", answer, sorted({answer for family in known.values() for answer in family.answers}), name)
    if answer and answer not in known[kind or KIND].answers:
        takers = " and ".join(f"kind={family.kind!r}" for family in known.values() if answer in family.answers)
        raise ProbeError(f"answer={answer!r} is for {takers}; leave it out for kind={kind or KIND!r}.")
    if distractors is not None:
        _check_distractors(distractors, known, kind or KIND, name)
    before, behind = _apart(name, lengths, depths, interferences, distances)
    recipe = SETS[name]
    sizes = (max(before) + max(behind),) if before else _lengths(recipe.lengths if lengths is None else lengths)
    count = _count("needles", recipe.needles if needles is None else needles)
    seed = int(seed)
    codec = Codec(tokenizer)
    frame = frame_for(codec, chat, system, template_args)
    stream = tokenise(codec, as_haystack(haystack), max(sizes), seed)
    order = _Order(
        codec,
        Layout(codec, frame, stream, seed),
        sizes,
        _depths(recipe.depths if depths is None else depths),
        count,
        seed,
        known,
        kind or KIND,
        answer,
        distractors,
        behind,
        before,
    )
    return ProbeSet(tuple(recipe.probes(order)), name)


def list_tasks(name: str, *, from_file: bool = True) -> dict[str, str]:
    """Task of a suite -> what it is; "NLL only" where the answer is no copy, so that heads have no score.

    from_file: also those that need a file of yours.

    Raises UnknownSet.
    """
    suites = known_suites()
    if name not in suites:
        raise UnknownSet(f"There is no suite {name!r}; there are {', '.join(suites)}.")
    tasks = suites[name].all_tasks if from_file else suites[name].tasks
    return {task: each.description + ("" if each.scored else " (NLL only)") for task, each in tasks.items()}


def _options(suite: Suite, given: Mapping[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for option in given:
        if option not in suite.options:
            raise ProbeError(
                f"{suite.name} takes no {option}; it takes {', '.join(suite.options) or 'none of its own'}."
            )
    for option, accepted in suite.options.items():
        if callable(accepted):
            read[option] = None if given.get(option) is None else accepted(given[option])
        elif (value := given.get(option, accepted[0])) in accepted:
            read[option] = value
        else:
            raise ProbeError(f"{option} is {value!r}; use one of {', '.join(map(repr, accepted))}.")
    return read


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ProbeError(f"{name} is {value!r}; give a whole number from 1 up.")
    return int(value)


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise ProbeError(f"seed is {seed!r}; give a whole number.")


def _check_choice(argument: str, value: str | None, choices: Sequence[str], name: str) -> None:
    if value is not None and value not in choices:
        raise ProbeError(f"{argument} is {value!r}; use one of {', '.join(map(repr, choices))}.")
    if value is not None and not _is_grid(name):
        raise ProbeError(f"{argument}={value!r} is for the grids; {name!r} has needles of its own choice.")


def _is_grid(name: str) -> bool:
    return name.startswith("grid") or name == "interference"


def _check_distractors(distractors: int, known: Mapping[str, Family], kind: str, name: str) -> None:
    _count("distractors", distractors)
    if not _is_grid(name) or known[kind].among is None:
        takers = " and ".join(f"kind={family.kind!r}" for family in known.values() if family.among)
        raise ProbeError(f"distractors={distractors} is for the grids with {takers}; leave it out, or ask for these.")


def _apart(
    name: str, lengths: object, depths: object, interferences: Sequence[int] | int | None, distances: Any
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Interferences and distances of the set; none where it has lengths and depths."""
    own = {"lengths": lengths, "depths": depths}
    others = {"interferences": interferences, "distances": distances}
    wrong = own if name == "interference" else others
    for argument, value in wrong.items():
        if value is not None:
            raise ProbeError(
                f"{argument} is not for {name!r}, which takes {' and '.join(others if wrong is own else own)}."
            )
    if name != "interference":
        return (), ()
    before, behind = (_lengths(APART if value is None else value, of) for of, value in others.items())
    return before, behind


def _lengths(lengths: Sequence[int] | int, name: str = "lengths") -> tuple[int, ...]:
    given = [lengths] if isinstance(lengths, int | np.integer) else list(lengths)
    for length in given:
        if isinstance(length, bool) or not isinstance(length, int | np.integer) or length < 1:
            raise LengthTooShort(f"{name} holds {length!r}; give whole numbers of tokens, for example [1024, 2048].")
    if not given:
        raise LengthTooShort(f"{name} is empty; give whole numbers of tokens, for example [1024, 2048].")
    return tuple(sorted({int(length) for length in given}))


def _depths(depths: int | Sequence[float]) -> tuple[float, ...]:
    if isinstance(depths, int | np.integer) and not isinstance(depths, bool):
        if depths < 1:
            raise DepthOutOfRange(f"depths is {depths}; give how many from 1 up, or a list of numbers from 0 to 1.")
        return tuple(np.linspace(0, 1, depths).round(6).tolist()) if depths > 1 else (0.5,)
    try:
        given = sorted({float(depth) for depth in depths})  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        raise DepthOutOfRange(f"depths is {depths!r}; give how many, or a list of numbers from 0 to 1.") from error
    if not given or not all(0.0 <= depth <= 1.0 for depth in given):
        raise DepthOutOfRange(f"depths is {depths!r}; every depth must be from 0 (context start) to 1 (context end).")
    return tuple(given)
