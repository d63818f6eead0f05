"""What --tasks means: suites, tasks of one, sets of needles and saved sets, put together in the order given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .options import ProbeOptions, at_least, check_haystack, is_saved, read_lengths

if TYPE_CHECKING:
    from ..probes import ProbeSet


def tasks_of(text: str, asked: ProbeOptions) -> Callable[[Any], ProbeSet]:
    """--tasks and the options that are for it; the others, which shape sets of needles, are refused."""
    names = ("lengths", "items", "seed", "chat", "haystack")
    for field in fields(ProbeOptions):
        if field.name not in (*names, "qa_file", "mrcr_file") and getattr(asked, field.name) != field.default:
            raise UsageError(f"--{field.name.replace('_', '-')} is for --probes; leave it out with --tasks")
    files = {"ruler": {"qa_file": asked.qa_file or None}, "mrcr": {"mrcr_file": asked.mrcr_file or None}}
    return read_tasks(text, files=files, **{name: getattr(asked, name) for name in names})


def recipe_of_tasks(text: str, asked: ProbeOptions) -> dict[str, Any]:
    """The same as JSON-able values; of saved sets their hashes, for a file may change."""
    from .. import probes

    saved = [probes.ProbeSet.load(name).hash for name in _names(text) if is_saved(name)]
    return {"tasks": text, "saved": saved, **asked.recipe("tasks")}


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",")))


def read_tasks(
    text: str,
    *,
    lengths: str | None,
    items: int | None,
    seed: int,
    chat: bool,
    haystack: str | None = None,
    files: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Callable[[Any], ProbeSet]:
    """ "ruler/vt,niah,my.npz" -> tokenizer -> ProbeSet. What needs no tokenizer is checked at once.

    files: suite -> its options that are files, None where they are not given.
    """
    from .. import probes

    at_least("--items", items, 1)
    check_haystack(haystack)
    names = _names(text)
    built = [name for name in names if is_saved(name)]
    saved = [probes.ProbeSet.load(path) for path in built]
    wanted: dict[str, list[str] | None] = {}  # set -> which of its tasks, None for all
    for name in (name for name in names if name not in built):
        found, tasks = _place(name)
        before = wanted.get(found, [])
        wanted[found] = None if tasks is None or before is None else list(dict.fromkeys([*before, *tasks]))
    given: dict[str, Any] = {"lengths": read_lengths(lengths), "haystack": haystack, "chat": chat or None}
    given = {option: value for option, value in given.items() if value is not None}
    options = [*given, *(["items"] if items is not None else [])]
    if options and not wanted:
        named = ", ".join(f"--{option}" for option in options)
        raise UsageError(f"{named}: {built[0]} holds probes that are built already; leave it out, or name a suite")
    suites = _suites()
    if items is not None and not wanted.keys() & suites.keys():
        raise UsageError(f"--items is for suites of tasks ({', '.join(suites)}); {', '.join(wanted)} has needles")
    for suite, of_suite in files.items():
        for option, value in of_suite.items():
            if value is not None and suite not in wanted:
                raise UsageError(f"--{option.replace('_', '-')} is for {suite}, which --tasks does not name; add it")

    def build(tokenizer: Any) -> ProbeSet:
        sets = list(saved)
        for name, tasks in wanted.items():
            own: dict[str, Any] = {"items": items, "tasks": tasks} if name in suites else {}
            own |= {option: value for option, value in files.get(name, {}).items() if value is not None}
            sets.append(probes.build(name, tokenizer, seed=seed, **given, **own))
        if len(sets) == 1:
            return sets[0]
        return probes.ProbeSet(tuple(probe for each in sets for probe in each), "+".join(each.name for each in sets))

    return build


def _suites() -> dict[str, list[str]]:
    """Suite -> its tasks."""
    from .. import probes

    return {name: list(probes.list_tasks(name)) for name in probes.list_suites()}


def _place(name: str) -> tuple[str, list[str] | None]:
    """The set that a name is, or is some tasks of. `niah` stands for all tasks that begin with it."""
    from .. import probes

    sets, suites = probes.list_sets(), _suites()
    if name in sets:
        return name, None
    suite, slash, task = name.partition("/")
    if slash and suite in suites and task in suites[suite]:
        return suite, [task]
    holders = [suite for suite, tasks in suites.items() if name in tasks]
    begun = {
        suite: [task for task in probes.list_tasks(suite, from_file=False) if task.startswith(f"{name}_")]
        for suite in suites
    }
    begun = {suite: tasks for suite, tasks in begun.items() if tasks} if not holders else {}
    if len(holders) > 1 or len(begun) > 1:
        told = " or ".join(f"{suite}/{name}" for suite in holders or begun)
        raise UsageError(f"--tasks: {name} is in several suites; give {told}")
    if holders:
        return holders[0], [name]
    if begun:
        return next(iter(begun.items()))
    known = [*sets, *(task for tasks in suites.values() for task in tasks)]
    paths = [f"{suite}/{task}" for suite, tasks in suites.items() for task in tasks]
    near = get_close_matches(name, paths if slash else known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"--tasks: no suite, task or set is called {name!r}; {hint}suites and sets: {', '.join(sets)}; their "
        "tasks: headscope probes list SUITE; or give a saved .npz file"
    )
