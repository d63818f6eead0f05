"""What needles say, one family a file. A new file in this folder is a new `kind`: nothing else names it."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..errors import ProbeError
from ..item import Family


def known_families() -> dict[str, Family]:
    """Kind -> the family, over all files of this folder, in the order of the files' names.

    Raises ProbeError where two files offer the same kind.
    """
    found: dict[str, Family] = {}
    for module in sorted(iter_modules(__path__), key=lambda module: module.name):
        for family in import_module(f".{module.name}", __name__).FAMILIES:
            if family.kind in found:
                raise ProbeError(f"{module.name}.py offers the kind {family.kind!r}, which another file has; rename it")
            found[family.kind] = family
    return found
