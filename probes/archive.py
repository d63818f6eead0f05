"""One file for a probe set: a .npz without pickle, checked against its own hash when read.

A file may come from anywhere: what its directory and headers say is checked before anything is expanded.
"""

from __future__ import annotations

import io
import json
import math
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
from .task import Task

FORMAT = "headscope probe set"
VERSION = 1
MEMBERS = {"manifest": "|u1", "input_ids": "<i4", "sources": "<i4"}  # name -> dtype, each of one dimension
# Bytes that are expanded, and so many times the file's size: zeros can be made a thousand times smaller.
FREE, TIMES = 2**28, 3
MANIFEST_FREE = 2**24  # the same for the manifest, which Python holds in twenty times its size
# What numpy, zipfile, zlib and json raise on a file that is truncated, pickled, or something else altogether.
UNREADABLE = (
    *(KeyError, TypeError, ValueError, AttributeError, RuntimeError, OSError, EOFError, RecursionError, OverflowError),
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
            arrays: dict[str, Any] = {
                "manifest": np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8),
                "input_ids": np.concatenate([probe.input_ids for probe in probes]).astype("<i4"),
                "sources": np.concatenate([probe.sources.ravel() for probe in probes]).astype("<i4"),
            }
            np.savez_compressed(file, **arrays)
            if _too_large({name: array.nbytes for name, array in arrays.items()}, file.tell()):
                file.seek(0)  # a set that becomes so much smaller would not be read again
                file.truncate()
                np.savez(file, **arrays)
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
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ProbeFileError(f"{path} does not hold a valid probe set: {error}") from error


def _read(path: Path) -> tuple[dict[str, Any], NDArray[np.int32], NDArray[np.int32]]:
    if not os.path.isfile(path):
        raise ProbeFileError(f"There is no probe set at {path}; ProbeSet.save(path) writes one.")
    try:
        found = _members(path)
        manifest = json.loads(found["manifest"].tobytes())
    except ProbeFileError:
        raise
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
    if not isinstance(manifest.get("name"), str) or not isinstance(manifest.get("hash"), str):
        raise ProbeFileError(f"{path} does not hold a valid probe set: its name and its hash are not both texts")
    return manifest, found["input_ids"], found["sources"]


def _members(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the archive. Raises ProbeFileError for others than `save` writes, any of UNREADABLE for damage."""
    with zipfile.ZipFile(path) as archive:
        held = archive.infolist()
        if sorted(info.filename for info in held) != sorted(f"{name}.npy" for name in MEMBERS):
            names = ", ".join(repr(info.filename[:60]) for info in held[:5]) + (", ..." if len(held) > 5 else "")
            raise ProbeFileError(f"{path} is not a probe set: it holds {names or 'nothing'}, not {', '.join(MEMBERS)}")
        if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in held):
            raise ProbeFileError(f"{path} is not a probe set: it is compressed as no ProbeSet.save does it")
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in held}
        if _too_large(sizes, size := path.stat().st_size):
            raise ProbeFileError(
                f"{path} is not read: its {size:,} bytes expand to {sum(sizes.values()):,}, of which at most "
                f"{FREE + TIMES * size:,} are read ({MANIFEST_FREE + TIMES * size:,} of its manifest); build it again"
            )
        return {name: _array(archive.read(f"{name}.npy"), name, dtype) for name, dtype in MEMBERS.items()}


def _too_large(sizes: dict[str, int], size: int) -> bool:
    """Whether arrays of these bytes are more than is read from a file of `size` bytes."""
    return sum(sizes.values()) > FREE + TIMES * size or sizes["manifest"] > MANIFEST_FREE + TIMES * size


def _array(content: bytes, name: str, wanted: str) -> NDArray[Any]:
    """The array in a .npy file, whose header must say what `save` writes. Raises ProbeError or any of UNREADABLE."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ProbeError(f"{name} is of version {version} of numpy's format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    length = len(content) - stream.tell()
    if dtype != np.dtype(wanted) or len(shape) != 1 or shape[0] * dtype.itemsize != length:
        raise ProbeError(f"{name} is {dtype} {shape} in {length} bytes, not a row of {np.dtype(wanted)}")
    return np.frombuffer(content, dtype, offset=stream.tell())


def _cut(entries: list[dict[str, Any]], ids: NDArray[np.int32], sources: NDArray[np.int32]) -> list[Probe]:
    probes, at_id, at_source = [], 0, 0
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ProbeError("its manifest has no list of probes")
    for entry in entries:
        scalars = dict(entry)
        length, shape = _size(scalars.pop("length")), tuple(map(_size, scalars.pop("sources_shape")))
        next_id, next_source = at_id + length, at_source + math.prod(shape)
        if next_id > len(ids) or next_source > len(sources):
            raise ProbeError("its arrays are shorter than its manifest says")
        scalars["spans"] = tuple(Span(*span) for span in scalars["spans"])
        if "task" in scalars:
            scalars["task"] = Task.from_scalars(scalars["task"])
        scalars["graft"] = None if scalars["graft"] is None else tuple(scalars["graft"])
        scalars["input_ids"] = ids[at_id:next_id]
        scalars["sources"] = sources[at_source:next_source].reshape(shape)
        probes.append(Probe(**scalars))
        at_id, at_source = next_id, next_source
    if (at_id, at_source) != (len(ids), len(sources)):
        raise ProbeError("its arrays are longer than its manifest says")
    return probes


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ProbeError(f"its manifest has {value!r} in the place of a size")
    return value
