"""What a measurement ran on, and one JSON file per measurement."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headscope.interp.environment import describe

RESULTS = Path(__file__).parent / "results"
_SOFTWARE = ("headscope", "git_commit", "git_dirty", "python", "torch", "triton", "transformers", "cuda")
_HARDWARE = ("cpu", "cpu_count", "devices")


def machine() -> dict[str, Any]:
    """Versions, commit, processor, devices, torch threads and the load before anything was measured."""
    import torch

    found = describe()
    return {
        **{name: found[name] for name in (*_SOFTWARE, *_HARDWARE)},
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def one_line(found: dict[str, Any]) -> str:
    """`machine()` in a line, to stand above a table."""
    processor = ", ".join(map(str, found["devices"])) or f"{found['cpu']}, {found['cpu_count']} cores"
    commit = (found["git_commit"] or "no commit")[:9] + (" and uncommitted changes" if found["git_dirty"] else "")
    software = f"torch {found['torch']} ({found['threads']} threads), transformers {found['transformers']}"
    return f"{processor}; {software}; load {found['load_1min']}; {commit}"


def device_name(found: dict[str, Any]) -> str:
    """Short and fit for a file name: "cpu2", "nvidia-h100-80gb-hbm3"."""
    if not found["devices"]:
        return f"cpu{found['cpu_count']}"
    return re.sub(r"[^a-z0-9]+", "-", found["devices"][0].lower()).strip("-")


def command() -> str:
    """The command line of this process; paths are cut to their last part, the only one with a meaning elsewhere."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    start = ["python", "-m", module.name.removesuffix(".__main__")] if module else ["python", Path(sys.argv[0]).name]
    words = [Path(word).name if os.sep in word and Path(word).exists() else word for word in sys.argv[1:]]
    return shlex.join([*start, *words])


def write_results(name: str, results: Any, found: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write `<folder>/<date>-<device>-<name>.json`, complete or not at all; `found` is machine() before measuring.

    Without a name it is `<date>-<device>.json`.
    """
    now = datetime.now(UTC)
    content = {
        "name": name,
        "created": now.isoformat(timespec="seconds"),
        "command": command(),
        "machine": found,
        "results": results,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{'-'.join(filter(None, (f'{now:%Y-%m-%d}', device_name(found), name)))}.json"
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path
