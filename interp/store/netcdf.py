"""Make and grow a file of the schema with h5py alone, so that every netCDF-4 reader opens it without a warning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import h5py
import numpy as np

from ..results import NLL_CLASSES, RETRIEVAL_THRESHOLD, HeadScores
from .provenance import swept
from .schema import (
    ABOVE_NULL,
    NAME,
    NULL_MOMENTS,
    PROVENANCE_COLUMNS,
    SCALES,
    STRING,
    StoreError,
    Variable,
    along_checkpoints,
    bare_layout,
    column_type,
    columns_of,
    datasets,
    disk_type,
    estimator_variables,
    estimators_of,
    knows_chance,
    layout,
    text,
)

LIBVER = ("v108", "v110")  # no newer than HDF5 1.10, or older readers fail
FILTERS: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True}


def create(file: h5py.File, scores: HeadScores) -> None:
    """A file of these dimensions with no checkpoint in it yet."""
    from ... import __version__

    created = scores.provenance.get("created_at") or datetime.now(UTC).isoformat(timespec="seconds")
    set_attrs(
        file,
        {
            "Conventions": "CF-1.11",
            "title": f"Attention-head scores of {scores.model_id} on the probe set {scores.probe_set_name}",
            "history": f"{created} created by headscope {__version__}",
            "references": "https://arxiv.org/abs/2604.02650",
            "schema_name": NAME,
            "schema_version": ".".join(map(str, (1, 1) if knows_chance(scores.probes) else (1, 0))),
            "model_id": scores.model_id,
            "n_kv_heads": np.int32(scores.n_kv_heads),
            "estimators": " ".join(scores.estimators),
            "probe_set_name": scores.probe_set_name,
            "probe_set_hash": scores.probe_set_hash,
            "created_at": str(created),
            "creation_library": "headscope",
            "creation_library_version": __version__,
            "creation_library_language": "Python",
        },
    )
    layer, head = np.arange(scores.n_layers), np.arange(scores.n_heads)
    fixed = {"layer": layer, "head": head, "kv_head": head // (scores.n_heads // scores.n_kv_heads)}
    columns = {name: column_type(name, values.dtype.kind) for name, values in scores.probes.items()}
    fixed |= {f"probes/{name}": values for name, values in scores.probes.items()}
    fixed["probes/probe"] = fixed.pop("probes/id")
    columns.pop("id")

    sizes = {"checkpoint": 0, "probe": scores.n_probes, "layer": scores.n_layers, "head": scores.n_heads}
    scales: dict[str, h5py.Dataset] = {}
    for variable in layout(scores.estimators, columns, stages="stage" in _swept(scores)):
        if variable.group and variable.group not in file:
            file.create_group(variable.group, track_order=True)
        dataset = with_scales(file, variable, sizes, scales)
        if variable.path in fixed:
            dataset[...] = storable(variable.path, fixed[variable.path], dataset)
    if ABOVE_NULL.path in file:
        at_least_version(file, (1, 4))


def create_bare(file: h5py.File, model_id: str) -> None:
    """A file for what needs no heads and no probes, with no checkpoint in it yet."""
    from ... import __version__

    created = datetime.now(UTC).isoformat(timespec="seconds")
    set_attrs(
        file,
        {
            "Conventions": "CF-1.11",
            "title": f"Loss of {model_id} on texts",
            "history": f"{created} created by headscope {__version__}",
            "schema_name": NAME,
            "schema_version": "1.4",
            "model_id": model_id,
            "created_at": created,
            "creation_library": "headscope",
            "creation_library_version": __version__,
            "creation_library_language": "Python",
        },
    )
    scales: dict[str, h5py.Dataset] = {}
    for variable in bare_layout():
        with_scales(file, variable, {"checkpoint": 0}, scales)


def extend(file: h5py.File, estimators: Sequence[str]) -> None:
    """Room for estimators that the file does not have yet: NaN at all checkpoints that are there."""
    if not estimators:
        return
    scales = {name: file[path] for name, path in SCALES.items() if path in file}
    sizes, columns = {name: len(scale) for name, scale in scales.items()}, columns_of(file)
    for name in estimators:
        for variable in estimator_variables(name, columns):
            with_scales(file, variable, sizes, scales)
    set_attrs(file, {"estimators": " ".join([*estimators_of(file), *estimators])})
    if {*NULL_MOMENTS} <= {*estimators_of(file)} and ABOVE_NULL.path not in file:
        with_scales(file, ABOVE_NULL, sizes, scales)
        at_least_version(file, (1, 4))


def with_scales(
    file: h5py.File, variable: Variable, sizes: Mapping[str, int], scales: dict[str, h5py.Dataset]
) -> h5py.Dataset:
    """A new variable with its dimensions. scales: dimension -> its scale; one that is made is added."""
    dataset = create_variable(file, variable, sizes)
    if variable.dims == (variable.name,):
        dataset.make_scale(variable.name)
        scales[variable.name] = dataset
    else:
        for axis, name in enumerate(variable.dims):
            dataset.dims[axis].attach_scale(scales[name])
    return dataset


def create_variable(file: h5py.File, variable: Variable, sizes: Mapping[str, int]) -> h5py.Dataset:
    """track_order, the chunks and the fill values are what netCDF needs to append along checkpoint by itself."""
    dtype = h5py.string_dtype("utf-8") if variable.dtype == STRING else variable.dtype
    options: dict[str, Any] = {"dtype": dtype}
    shape = tuple(sizes[name] for name in variable.dims)
    attrs = dict(variable.attrs)
    if "checkpoint" in variable.dims:
        options["maxshape"] = tuple(None if name == "checkpoint" else sizes[name] for name in variable.dims)
        options["chunks"] = _chunks(variable.dims, sizes)
        if variable.dtype in ("f4", "f8"):
            attrs["_FillValue"] = options["fillvalue"] = np.dtype(variable.dtype).type(np.nan)
        elif variable.name != "checkpoint" and variable.dtype in ("i1", "i4"):
            options["fillvalue"] = -1  # without the attribute _FillValue, which turns integers into floats in xarray
    if len(variable.dims) > 1 and variable.dtype != STRING:  # whose texts lie apart, where no filter reaches
        options |= FILTERS
    dataset = file.create_dataset(variable.path, shape, track_order=True, **options)
    set_attrs(dataset, attrs)
    return dataset


def _chunks(names: tuple[str, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Probe detail is written and read by checkpoint; maps and vectors are read over checkpoints and hold several."""
    checkpoints = {1: 32, 2: 16, 3: 16, 4: 1}[len(names)]
    many = ("item", "ablated", "sft_item", "document")
    most = {"probe": 64 if len(names) == 4 else 1024} | dict.fromkeys(many, 1024)
    return tuple(
        checkpoints if name == "checkpoint" else min(sizes[name], most.get(name, sizes[name])) for name in names
    )


def row(scores: HeadScores, step: int, tokens_seen: float) -> dict[str, Any]:
    """Path -> what one more checkpoint puts there."""
    new: dict[str, Any] = {"checkpoint": step, "tokens_seen": tokens_seen}
    for name in scores.estimators:
        new |= {name: scores[name], f"{name}_stderr": scores.stderr(name), f"probes/{name}": scores.per_probe[name]}
    above_chance = scores.n_heads_above_chance
    new["n_retrieval_heads"] = len(scores.retrieval_heads(RETRIEVAL_THRESHOLD, plain=True))
    new["n_heads_above_chance"] = -1 if above_chance is None else above_chance
    if {*NULL_MOMENTS} <= {*scores.estimators}:
        new[ABOVE_NULL.path] = len(scores.heads_above_null())
    new |= {f"probes/{name}": getattr(scores, name) for name in NLL_CLASSES}
    new["probes/exact_match"] = np.where(scores.computed, scores.exact_match, -1).astype(np.int8)
    known = {name: scores.provenance.get(name) for name in PROVENANCE_COLUMNS}
    new |= {f"provenance/{name}": "" if value is None else str(value) for name, value in known.items()}
    new |= {name: _swept(scores)[name] for name in ("stage", "step_in_stage") if name in _swept(scores)}
    new["provenance/model_id"] = scores.model_id
    new["provenance/json"] = json.dumps(scores.provenance, ensure_ascii=False)
    return new


def _swept(scores: HeadScores) -> Mapping[str, Any]:
    """What a sweep says of the checkpoint (SCHEMA.md, Sweeps): among others its stage, where there are several."""
    return swept(scores.provenance)


def write_row(file: h5py.File, new: Mapping[str, Any]) -> None:
    """Grow everything along checkpoint, also what others have added to the file, and fill in what we know."""
    n = len(file["checkpoint"])
    for path, dataset in datasets(file).items():
        if along_checkpoints(dataset):
            dataset.resize(n + 1, axis=0)
            if path in new:
                dataset[n] = storable(path, new[path], dataset)


def storable_text(text: str) -> str:
    """A model may say anything: what HDF5 has no place for is replaced, and the rest kept."""
    return str(text).replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def storable(path: str, values: Any, dataset: h5py.Dataset) -> Any:
    """Values as a dataset takes them. Raises StoreError for those that would not come back as they are."""
    if disk_type(dataset) == STRING:
        for value in np.ravel(values):
            if "\0" in value:
                raise StoreError(f"{path} holds a text with a NUL character, which HDF5 would cut there: {value!r}")
        return np.asarray(values, dtype=object)
    if dataset.dtype.kind == "i":
        low, high = np.iinfo(dataset.dtype).min, np.iinfo(dataset.dtype).max
        if np.min(values) < low or np.max(values) > high:
            raise StoreError(f"{path} holds {np.max(values)}, which does not fit into {dataset.dtype}")
    return values


def set_attrs(item: h5py.File | h5py.Dataset, attrs: Mapping[str, Any]) -> None:
    """Text as fixed-length strings, numbers as arrays of length 1: the forms every reader takes."""
    for name, value in attrs.items():
        if isinstance(value, str):
            raw = value.encode("utf-8", "replace") or b" "
            kind = h5py.string_dtype("ascii" if value.isascii() else "utf-8", len(raw))
            item.attrs.create(name, np.bytes_(raw), dtype=kind)
        else:
            item.attrs[name] = np.atleast_1d(value)


def at_least_version(file: h5py.File, least: tuple[int, int]) -> None:
    """Raise the schema version that a file tells, where it is lower: it holds now what came with that version."""
    if tuple(int(part) for part in text(file, "schema_version").split(".")[:2]) < least:
        set_attrs(file, {"schema_version": ".".join(map(str, least))})
