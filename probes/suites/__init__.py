"""Benchmarks, one a file, each by its public name. A new file with a `SUITE` is a new one: nothing else names it."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..suite import Suite


def known_suites() -> dict[str, Suite]:
    """Name -> the suite, over the files of this folder that have one, in the order of their names."""
    modules = sorted(iter_modules(__path__), key=lambda module: module.name)
    found = [getattr(import_module(f".{module.name}", __name__), "SUITE", None) for module in modules]
    return {suite.name: suite for suite in found if suite is not None}
