"""The group of perplexities in a results file: made, filled a checkpoint at a time, read, checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from ...errors import ArgumentError
from ..perplexity import COUNTS, MEASURED, Perplexity
from . import schema
from .netcdf import at_least_version, set_attrs, storable, with_scales
from .provenance import read_provenance
from .schema import StoreError, has, perplexity_variables

_TEXTS = ("texts_hash", "tokenizer_fp", "keys_hash")
_FIXED = {"document": "documents", "bucket": "buckets", "context": "lengths", "corpus": "corpora"}
_FIXED |= {name: name for name in ("n_tokens", *COUNTS.values())}
"""Variables that are the same at all checkpoints -> what they are of a Perplexity."""


def misfit(file: h5py.File, found: Perplexity, row: int | None = None) -> str:
    """Why a perplexity cannot be put into a file, in words; "" when it can. row: the checkpoint that it is of; where no
    other has one, what is there gives way."""
    if not has(file, "perplexity"):
        return "it has a group 'perplexity' that is not headscope's" if "perplexity" in file else ""
    if {*rows(file)} <= {row}:
        return ""
    return difference(file, found.texts_hash, found.tokenizer_fp, found.keys_hash)


def difference(file: h5py.File, texts_hash: str, tokenizer_fp: str, keys_hash: str | None = None) -> str:
    """How the texts of a file's perplexities, and the key tokens where they are told, differ from these, in words; ""
    where they are the same."""
    if _attribute(file, "texts_hash") == texts_hash:
        keys = [_attribute(file, "keys_hash")[:12] or "none", (keys_hash or "")[:12] or "none"]
        told = keys_hash is not None and keys[0] != keys[1]
        return f"its others have the key tokens {keys[0]}, this one {keys[1]}" if told else ""
    lengths, names = file["perplexity/context"][:].tolist(), dict.fromkeys(file["perplexity/corpus"].asstr()[:])
    there = f"{', '.join(names)} at lengths {', '.join(map(str, lengths))}, stride {_number(file, 'stride')}"
    tokenizer = ", by another tokenizer" if _attribute(file, "tokenizer_fp") != tokenizer_fp else ""
    return f"its others are of other texts or windows ({there}{tokenizer})"


def put(file: h5py.File, row: int, found: Perplexity) -> None:
    """Fill in that of the checkpoint that is number `row`; the first one makes the group, and where no other checkpoint
    has one, so does every later one."""
    if has(file, "perplexity") and {*rows(file)} <= {row}:
        del file["perplexity"]
    if not has(file, "perplexity"):
        _create(file, found)
    group = file["perplexity"]
    new: dict[str, Any] = {name: getattr(found, name) for name in MEASURED}
    new |= {"model_id": found.model_id, "json": json.dumps(found.provenance, ensure_ascii=False)}
    for name, values in new.items():
        group[name][row] = storable(f"perplexity/{name}", values, group[name])


def _create(file: h5py.File, found: Perplexity) -> None:
    group = file.create_group("perplexity", track_order=True)
    set_attrs(group, {name: getattr(found, name) for name in _TEXTS})
    set_attrs(group, {name: np.int32(getattr(found, name)) for name in ("tail", "stride")})
    sizes = {"checkpoint": len(file["checkpoint"]), "document": len(found)}
    sizes |= {"bucket": len(found.buckets), "context": len(found.lengths)}
    scales = {"checkpoint": file["checkpoint"]}
    for variable in perplexity_variables():
        dataset = with_scales(file, variable, sizes, scales)
        if variable.name in _FIXED:
            dataset[...] = storable(variable.path, getattr(found, _FIXED[variable.name]), dataset)
    at_least_version(file, (1, 4))


def rows(file: h5py.File) -> list[int]:
    """The numbers of the checkpoints that have one."""
    return schema.rows_told(file, "perplexity")


def in_common(file: h5py.File) -> tuple[str, ...]:
    """What the perplexities of all checkpoints of a file have in common: texts, tokenizer and key tokens."""
    named = ("texts_hash", "tokenizer_fp", "keys_hash")
    return tuple(schema.text(file["perplexity"], name).strip()[:12] or "none" for name in named)


def read(file: h5py.File, row: int) -> Perplexity:
    """That of the checkpoint that is number `row` and has one. Raises StoreError for what is none."""
    group = file["perplexity"]
    if told := next(iter(_row_problems(group, row)), None):
        raise StoreError(f"{told}; `headscope validate` says more")
    fixed: dict[str, Any] = {
        field: group[name].asstr()[:].astype(str) if name in ("document", "corpus") else group[name][:].astype(np.int64)
        for name, field in _FIXED.items()
    }
    try:
        return Perplexity(
            model_id=group["model_id"].asstr()[row],
            **fixed,
            **{name: group[name][row] for name in MEASURED},
            texts_hash=_attribute(file, "texts_hash"),
            tokenizer_fp=_attribute(file, "tokenizer_fp"),
            keys_hash=_attribute(file, "keys_hash"),
            tail=_number(file, "tail"),
            stride=_number(file, "stride"),
            provenance=read_provenance(group["json"].asstr()[row]),
        )
    except ArgumentError as error:
        raise StoreError(f"/perplexity holds what is none: {error}") from error


def _attribute(file: h5py.File, name: str) -> str:
    return schema.text(file["perplexity"], name).strip() if name in file["perplexity"].attrs else ""


def _number(file: h5py.File, name: str) -> int:
    return int(np.ravel(file["perplexity"].attrs[name])[0])


def problems(file: h5py.File) -> Iterator[str]:
    """What is wrong with the perplexities of a file whose variables are all there."""
    group = file["perplexity"]
    for name in ("bucket", "context"):
        if (np.diff(group[name][:].astype(np.int64)) <= 0).any() or (group[name][:] < 1).any():
            yield f"perplexity/{name} does not increase from 1 or more"
    for name in COUNTS.values():
        if (group[name][:] < 0).any():
            yield f"perplexity/{name} has negative values"
    steps = file["checkpoint"][:]
    for row in rows(file):
        yield from (f"checkpoint {steps[row]}: {problem}" for problem in _row_problems(group, row))


def _row_problems(group: h5py.Group, row: int) -> Iterator[str]:
    for name in MEASURED:
        values, counts = group[name][row], group[COUNTS[name]][:]
        if (values < 0).any() or np.isinf(values).any():
            yield f"perplexity/{name} has negative or infinite values"
        if values.shape == counts.shape and (~np.isnan(values) & (counts <= 0)).any():
            yield f"perplexity/{name} has values of documents without tokens there"
    try:
        read_provenance(group["json"].asstr()[row])
    except ArgumentError as error:
        yield f"perplexity: {error}"
