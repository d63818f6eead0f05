"""benchmarks/worlds.py, loaded by its path: with the root on the import path, kernels/ would be imported as it is."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_spec = spec_from_file_location("made_up_worlds_file", Path(__file__).parent.parent / "benchmarks" / "worlds.py")
assert _spec is not None and _spec.loader is not None
worlds = module_from_spec(_spec)
_spec.loader.exec_module(worlds)
