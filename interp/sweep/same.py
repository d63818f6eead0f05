"""Do two results files say the same, bit for bit? How a resumed or distributed sweep is held against a plain one."""

from __future__ import annotations

from os import PathLike
from typing import Any

import h5py
import numpy as np

from ..environment import describe
from ..store import datasets, read_provenance, reading

WHEN = ("created_at", "history")
"""Attributes, provenance columns and entries that tell when the scores were made."""


COST = ("seconds", "answer_seconds", "peak_memory")
"""What a fine-tune took, in `/sft_probe`: never twice the same."""


def differences(a: str | PathLike[str], b: str | PathLike[str]) -> list[str]:
    """What differs between two results files, one sentence each; an empty list when they say the same.

    Compared are all groups, datasets, shapes, types, dimensions, attributes and every value bit for bit (NaN too). Left
    out is only when, where and at what cost: the names in WHEN and COST, and of the provenance JSON the entries of
    `environment.describe()` (host, versions, commit), which tell of a machine and not of scores.

    Raises StoreError when one cannot be read.
    """
    where = {*WHEN, *describe()}
    with reading(a) as first, reading(b) as second:
        found = [f"/: {words}" for words in _attributes(first, second)]
        here, there = _items(first), _items(second)
        found += [f"{path}: only in one of the files" for path in sorted(here.keys() ^ there.keys())]
        for path in sorted(here.keys() & there.keys()):
            found += [f"{path}: {words}" for words in _attributes(here[path], there[path])]
        here, there = datasets(first), datasets(second)
        for path in sorted(here.keys() & there.keys()):
            if path.rpartition("/")[2] not in (*WHEN, *COST):
                found += [f"{path}: {words}" for words in _values(path, here[path], there[path], where)]
        return found


def _items(file: h5py.File) -> dict[str, Any]:
    found: dict[str, Any] = {}
    file.visititems(lambda path, item: found.update({path: item}))
    return found


def _attributes(a: Any, b: Any) -> list[str]:
    names = sorted((a.attrs.keys() | b.attrs.keys()) - {*WHEN, "REFERENCE_LIST", "DIMENSION_LIST"})
    return [f"attribute {name}" for name in names if not _equal(a.attrs.get(name), b.attrs.get(name))]


def _values(path: str, a: h5py.Dataset, b: h5py.Dataset, where: set[str]) -> list[str]:
    if (a.shape, a.dtype, a.chunks) != (b.shape, b.dtype, b.chunks):
        return [f"{a.dtype} {a.shape} and {b.dtype} {b.shape}"]
    if path in ("provenance/json", "answers/json", "ablation/json", "perplexity/json", "sft_probe/json"):
        rows = ([_without_run(read_provenance(told)) for told in item.asstr()[:]] for item in (a, b))
        pairs = zip(*rows, strict=True)
        return [
            f"row {i}, {name}: {x.get(name)!r} and {y.get(name)!r}"
            for i, (x, y) in enumerate(pairs)
            for name in sorted((x.keys() | y.keys()) - where)
            if x.get(name) != y.get(name)
        ]
    return [] if _equal(a[...], b[...]) else [f"other values in {_count(a[...], b[...])} of {a.size} places"]


def _without_run(provenance: dict[str, Any]) -> dict[str, Any]:
    """A folder may be called otherwise; its checkpoints may not."""
    made = provenance.get("sweep")
    return provenance | {"sweep": {k: v for k, v in made.items() if k != "run"}} if made else provenance


def _equal(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return bool((a == b).all()) if a.dtype == object else a.tobytes() == b.tobytes()


def _count(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.count_nonzero(a != b))
