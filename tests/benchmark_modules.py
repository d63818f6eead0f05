"""Modules of benchmarks/, which is not installed.

The checkout itself is not to be on the path: `kernels` is another's name.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]


def benchmark(name: str) -> ModuleType:
    """The module benchmarks.NAME."""
    if "benchmarks" not in sys.modules:
        spec = spec_from_file_location("benchmarks", ROOT / "benchmarks" / "__init__.py")
        assert spec is not None
        sys.modules["benchmarks"] = module_from_spec(spec)
    return import_module(f"benchmarks.{name}")
