"""A checkpoint's files, and a hash by which they are seen to be the same afterwards."""

from __future__ import annotations

from hashlib import sha256
from os import PathLike, fspath
from pathlib import Path

from ..model import LoadedModel

KINDS = (".safetensors", ".bin", ".gguf", ".json", ".model", ".txt", ".jinja", ".tiktoken", ".py")
BLOCK = 1 << 22


def files_of(model: object, loaded: object) -> Path | None:
    """Where a model came from that was named by path or hub id; None for one in memory."""
    if not isinstance(model, (str, PathLike)):
        return None
    if Path(fspath(model)).exists():
        return Path(fspath(model))
    config = getattr(loaded.model, "config", None) if isinstance(loaded, LoadedModel) else None
    snapshot = Path(str(getattr(config, "_name_or_path", "") or ""))  # of a hub model, in the cache
    return snapshot if snapshot.is_dir() and snapshot.is_absolute() else None


def files_hash(path: Path | None) -> str | None:
    """ "sha256:..." over names and bytes of a model's files in a folder, or of the one file; None for none.

    What a trainer keeps beside them (optimizer and random states) is left out: nothing here reads it.
    """
    if path is None:
        return None
    digest = sha256()
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in KINDS)
    for file in files:
        if not file.is_file() or file.name.startswith("optimizer"):
            continue
        digest.update(f"{file.name}\n{file.stat().st_size}\n".encode())
        with file.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"
