"""headscope: which attention heads copy from far away, how well, and how that changes while a model is trained."""

from pathlib import Path

_root = Path(__file__).resolve().parents[1]
if (_root / "interp").is_dir() and (_root / "setup.py").is_file():
    # In a checkout the rooms lie beside this folder; an installed wheel holds them inside it.
    __path__.append(str(_root))
