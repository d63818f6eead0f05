"""One file for a probe set: a .npz without pickle, checked against its own hash when read."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ProbeError, ProbeFileError
from .probe import Probe, Span

FORMAT = "headscope probe set"
VERSION = 1
# What numpy, zipfile, zlib and json raise on a file that is truncated, pickled, or something else altogether.
UNREADABLE = (
    *(KeyError, TypeError, ValueError, AttributeError, RuntimeError, OSError, EOFError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


def save(path: str | os.PathLike[str], probes: Sequence[Probe], *, name: str, hash: str) -> None:
    """Write the probes of a set to `path`: int32 arrays end to end, and a JSON manifest that says how to cut them.

    Raises ProbeFileError, and leaves what was there as it was, when it cannot be written.
    """
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "hash": hash,
        "probes": [
            {**probe.scalars(), "length": probe.length, "sources_shape": list(probe.sources.shape)} for probe in probes
        ],
    }
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    if target.is_dir():
        raise ProbeFileError(f"{path} is a folder; give the name of a file in it, such as {target / 'probes.npz'}")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                manifest=np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8),
                input_ids=np.concatenate([probe.input_ids for probe in probes]).astype("<i4"),
                sources=np.concatenate([probe.sources.ravel() for probe in probes]).astype("<i4"),
            )
        os.replace(partial, target)
    except OSError as error:  # zipfile's own, of a full disk, names no file
        raise ProbeFileError(f"cannot write {path}: {error.strerror or error}; choose another place for it") from error
    finally:
        partial.unlink(missing_ok=True)


def load(path: str | os.PathLike[str]) -> tuple[tuple[Probe, ...], str, str]:
    """The probes that `save` wrote, the set's name, and its hash as it was then. ProbeFileError for anything else."""
    manifest, ids, sources = _read(Path(path))
    try:
        return tuple(_cut(manifest["probes"], ids, sources)), manifest["name"], manifest["hash"]
    except (KeyError, TypeError, ValueError) as error:
        raise ProbeFileError(f"{path} does not hold a valid probe set: {error}") from error


def _read(path: Path) -> tuple[dict[str, Any], NDArray[np.int32], NDArray[np.int32]]:
    if not path.is_file():
        raise ProbeFileError(f"There is no probe set at {path}; ProbeSet.save(path) writes one.")
    try:
        with np.load(path, allow_pickle=False) as file:
            manifest = json.loads(file["manifest"].tobytes())
            ids, sources = file["input_ids"], file["sources"]
    except UNREADABLE as error:
        raise ProbeFileError(
            f"{path} is not a complete saved probe set ({type(error).__name__}: {error}); take a fresh copy, or build "
            "the set again and ProbeSet.save it."
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ProbeFileError(f"{path} is not a probe set; it was not written by ProbeSet.save.")
    if manifest.get("version") != VERSION:
        raise ProbeFileError(
            f"{path} has format version {manifest.get('version')}; this headscope reads version {VERSION}."
        )
    return manifest, ids, sources


def _cut(entries: list[dict[str, Any]], ids: NDArray[np.int32], sources: NDArray[np.int32]) -> list[Probe]:
    probes, at_id, at_source = [], 0, 0
    for entry in entries:
        scalars = dict(entry)
        length, shape = scalars.pop("length"), tuple(scalars.pop("sources_shape"))
        next_id, next_source = at_id + length, at_source + int(np.prod(shape))
        if next_id > len(ids) or next_source > len(sources):
            raise ProbeError("its arrays are shorter than its manifest says")
        scalars["spans"] = tuple(Span(*span) for span in scalars["spans"])
        scalars["graft"] = None if scalars["graft"] is None else tuple(scalars["graft"])
        scalars["input_ids"] = ids[at_id:next_id]
        scalars["sources"] = sources[at_source:next_source].reshape(shape)
        probes.append(Probe(**scalars))
        at_id, at_source = next_id, next_source
    return probes
