"""The estimators of this folder, and which ones a run computes."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from ...errors import ArgumentError, ArgumentTypeError
from ..evidence import STANDARD, Measure, Spans
from ..results import CHANCE_COLUMNS, PROBE_COLUMNS, check_name
from .base import Estimator

# What is computed where nothing else is asked for, in the order of the file.
DEFAULT = ("retrieval", "wu_count", "aligned_copy", "needle_mass", "source_mass", "sink_mass")
ALL = "all"  # of ESTIMATORS, those that are not named beside it
_TAKEN = {ALL, *PROBE_COLUMNS, *CHANCE_COLUMNS, "grafted", "wu_count_generated"}


def _of_this_folder() -> dict[str, Estimator]:
    """Every `Estimator` that a module here defines; a new one needs its file and no other line."""
    room = __name__.rpartition(".")[0]
    modules = [import_module(f"{room}.{found.name}") for found in pkgutil.iter_modules(import_module(room).__path__)]
    defined = [each for module in modules for each in vars(module).values() if isinstance(each, Estimator)]
    found = {each.name: each for each in defined}
    return {name: found[name] for name in (*DEFAULT, *sorted(found.keys() - {*DEFAULT}))}


ESTIMATORS: dict[str, Estimator] = _of_this_folder()


def choose(asked: Iterable[str | Callable[..., Any]] | None) -> dict[str, Estimator]:
    """The estimators of a run by name: those asked for, in that order, or DEFAULT.

    "retrieval" is always computed, first where it is not asked for: the results file, the counts of heads and the
    ranking rest on it.

    Args:
        asked: names of ESTIMATORS, `Estimator` objects, or functions (probe, evidence) -> [n_layers, n_heads]. "all"
            stands for all of ESTIMATORS.

    Raises:
        ArgumentError: an unknown name, one that cannot be used or is there twice.
        ArgumentTypeError: no name and no function.
    """
    if isinstance(asked, str):
        raise ArgumentTypeError(f"estimators must be a list, got {asked!r}; give [{asked!r}]")
    found: dict[str, Estimator] = {}
    wanted = [*(DEFAULT if asked is None else asked)]
    if ALL in wanted:
        at = wanted.index(ALL)
        wanted[at : at + 1] = [name for name in ESTIMATORS if name not in wanted]
    for each in wanted:
        made = _made(each)
        if made.name in found:
            raise ArgumentError(f"estimators: {made.name!r} is there twice; give each one a name of its own")
        if made.name in ESTIMATORS and made is not ESTIMATORS[made.name]:
            raise ArgumentError(f"estimators: {made.name!r} is the name of a built-in one; choose another")
        found[made.name] = made
    return found if "retrieval" in found else {"retrieval": ESTIMATORS["retrieval"], **found}


def _made(asked: Any) -> Estimator:
    if isinstance(asked, str):
        if asked in ESTIMATORS:
            return ESTIMATORS[asked]
        near = get_close_matches(asked, ESTIMATORS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ArgumentError(f"estimators: unknown estimator {asked!r}{hint}; built in: {', '.join(ESTIMATORS)}; or all")
    if not callable(asked):
        raise ArgumentTypeError(
            f"estimators: give names, Estimator objects or functions, got {type(asked).__name__} {asked!r}"
        )
    made = asked if isinstance(asked, Estimator) else Estimator(getattr(asked, "__name__", ""), asked)
    check_name(made.name)
    if made.name in _TAKEN:
        raise ArgumentError(
            f"estimators: {made.name!r} is the name of something else in a results file; choose another"
        )
    return made


def as_asked(estimators: Mapping[str, Estimator]) -> list[str | Estimator]:
    """What `choose` makes the same of again, also in another process: built-in ones by name."""
    return [name if each is ESTIMATORS.get(name) else each for name, each in estimators.items()]


def spans_of(estimators: Mapping[str, Estimator]) -> dict[str, Spans]:
    """All spans that a run measures, by name. Raises ArgumentError when two different ones have the same name."""
    found = dict(STANDARD)
    for each in estimators.values():
        for name, where in each.spans.items():
            if found.setdefault(name, where) is not where:
                others = (e.name for e in estimators.values() if name in e.spans and name not in STANDARD)
                first = next(others, "every run")
                raise ArgumentError(
                    f"estimators: {each.name!r} means other spans by {name!r} than {first}; rename them"
                )
    return found


def measures_of(estimators: Mapping[str, Estimator]) -> dict[str, Measure]:
    """All that a run measures in the pass, by name. Raises ArgumentError when two different ones have the same name."""
    found: dict[str, Measure] = {}
    for each in estimators.values():
        for name, measure in each.measures.items():
            if found.setdefault(name, measure) is not measure:
                raise ArgumentError(
                    f"estimators: {each.name!r} measures something else by {name!r} than another one; rename it"
                )
    return found
