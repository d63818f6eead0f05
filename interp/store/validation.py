"""Check a headscope file against its schema: what is missing, what other readers would lose, which numbers disagree."""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np

from ...errors import ArgumentError
from ..levels import FALSE_DISCOVERY_RATE, above_null, chance_known, counting_level, null_p
from ..results import CHANCE_COLUMNS, INTEGER_COLUMNS, NLL_CLASSES, REAL_COLUMNS, RETRIEVAL_THRESHOLD, TEXT_COLUMNS
from . import ablations, answers, sft_probes
from .provenance import read_provenance
from .schema import (
    ABOVE_NULL,
    IN_UNIT_INTERVAL,
    NULL_MOMENTS,
    ROOT_ATTRIBUTES,
    column_type,
    columns_of,
    datasets,
    dims,
    disk_type,
    estimators_of,
    further_variables,
    has_ablation,
    has_answers,
    has_sft_probe,
    knows_chance,
    layout,
)

TOLERANCE = 1e-4  # a probability summed in float32 may pass 1 by this much
KINDS = dict.fromkeys(TEXT_COLUMNS, "U") | dict.fromkeys(INTEGER_COLUMNS, "i") | dict.fromkeys(REAL_COLUMNS, "f")


def problems(file: h5py.File) -> Iterator[str]:
    """Everything that is wrong with an open file, one sentence each; nothing when it keeps the schema."""
    yield from _portability(file)
    gaps = [f"the root attribute {name!r} is missing" for name in ROOT_ATTRIBUTES if name not in file.attrs]
    gaps += _structure(file)
    yield from gaps
    if not gaps:  # numbers are compared only in a complete file
        yield from _contents(file)


def _portability(file: h5py.File) -> Iterator[str]:
    """What h5py writes gladly and other readers lose."""
    for path, item in datasets(file).items():
        if item.dtype.kind == "b" or h5py.check_enum_dtype(item.dtype):
            yield f"{path} is an HDF5 enum (bool): netCDF readers drop it without a word; store int8 with flag_meanings"
        elif item.dtype.kind == "c" or item.dtype == np.float16:
            yield f"{path} has the type {item.dtype}, which netCDF does not know; store float32"
        plugins = _plugin_filters(item)
        if plugins:
            yield f"{path} is compressed with {', '.join(plugins)}, which other readers need a plugin for; use gzip"
        bare = [axis for axis, name in enumerate(dims(item)) if name is None]
        if bare:
            axes = ", ".join(map(str, bare))
            yield f"{path} has no dimension scale on axis {axes}: netCDF readers cannot open the file"


def _plugin_filters(item: h5py.Dataset) -> list[str]:
    created = item.id.get_create_plist()
    filters = [created.get_filter(i) for i in range(created.get_nfilters())]
    builtin = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
    return [name.decode() or str(code) for code, _, _, name in filters if code not in builtin]


def _structure(file: h5py.File) -> Iterator[str]:
    if "estimators" not in file.attrs or not isinstance(file.get("probes"), h5py.Group):
        yield "the group 'probes' or the root attribute 'estimators' is missing"
        return
    required = {name: column_type(name, kind) for name, kind in KINDS.items() if name != "id"}
    columns = columns_of(file)
    if any(name in columns for name in CHANCE_COLUMNS):
        required |= dict.fromkeys(CHANCE_COLUMNS, "f8")
    expected = layout(estimators_of(file), columns | required, stages="step_in_stage" in file)
    expected += further_variables(file)
    if "retrieval" not in estimators_of(file):
        yield "the attribute 'estimators' does not name 'retrieval'"
    for variable in expected:
        item = file.get(variable.path)
        if item is None and variable.path == ABOVE_NULL.path:  # before 1.4 nobody counted them
            continue
        if not isinstance(item, h5py.Dataset):
            yield f"the variable {variable.path} is missing"
            continue
        if (found := dims(item)) != variable.dims:
            yield f"{variable.path} has the dimensions {_names(found)}, not {_names(variable.dims)}"
        if disk_type(item) != variable.dtype:
            yield f"{variable.path} has the type {disk_type(item)}, not {variable.dtype}"
    for path, item in datasets(file).items():
        if item.is_scale:
            continue
        for axis, size in zip(item.dims, item.shape, strict=True):
            if len(axis) and len(axis[0]) != size:
                scale = axis[0].name.lstrip("/")
                yield f"{path} has {size} entries along {scale}, which has {len(axis[0])}"
    checkpoint = file.get("checkpoint")
    if isinstance(checkpoint, h5py.Dataset) and checkpoint.maxshape != (None,):
        yield "the dimension checkpoint is not unlimited: nothing can be appended"


def _names(dimensions: tuple[str | None, ...]) -> str:
    return f"({', '.join(name or '?' for name in dimensions)})"


def _contents(file: h5py.File) -> Iterator[str]:
    steps = file["checkpoint"][:]
    if not len(steps):
        yield "the file holds no checkpoint"
    if (np.diff(steps.astype(np.int64)) <= 0).any():
        yield f"checkpoint is not strictly increasing: {', '.join(map(str, steps))}"
    for name in ("layer", "head"):
        if (file[name][:] != np.arange(len(file[name]))).any():
            yield f"{name} does not count from 0 to {len(file[name]) - 1}"
    n_heads, n_kv_heads = len(file["head"]), int(np.ravel(file.attrs["n_kv_heads"])[0])
    if n_kv_heads < 1 or n_heads % n_kv_heads:
        yield f"n_kv_heads is {n_kv_heads}, which does not divide the {n_heads} heads"
    elif (file["kv_head"][:] != np.arange(n_heads) // (n_heads // n_kv_heads)).any():
        yield f"kv_head does not map {n_heads} query heads onto {n_kv_heads} key-value heads in order"
    with_chance = knows_chance(columns_of(file))
    for name in CHANCE_COLUMNS if with_chance else ():
        if ((file[f"probes/{name}"][:] < 0) | (file[f"probes/{name}"][:] > 1)).any():
            yield f"probes/{name} has values outside 0 to 1"
    for row, step in enumerate(steps):
        yield from (f"checkpoint {step}: {problem}" for problem in _row_contents(file, row, with_chance))
    if has_answers(file):
        yield from answers.problems(file)
    if has_ablation(file):
        yield from ablations.problems(file)
    if has_sft_probe(file):
        yield from sft_probes.problems(file)


def _row_contents(file: h5py.File, row: int, with_chance: bool) -> Iterator[str]:
    for name in estimators_of(file):
        detail, mean, stderr = file[f"probes/{name}"][row], file[name][row], file[f"{name}_stderr"][row]
        high = 1 + TOLERANCE if name in IN_UNIT_INTERVAL else np.finfo(np.float32).max
        for path, values in ((f"probes/{name}", detail), (name, mean)):
            outside = values[~np.isnan(values) & ~((values >= 0) & (values <= high))]
            if outside.size:
                bound = "1" if name in IN_UNIT_INTERVAL else "infinity"
                yield f"{path} has {outside.size} value(s) outside 0 to {bound}, such as {outside.flat[0]:g}"
        if (stderr < 0).any() or np.isinf(stderr).any():
            yield f"{name}_stderr has negative or infinite values"
        seen = ~np.isnan(detail)
        total = np.where(seen, detail, 0).astype(np.float64).sum(axis=0)
        again = np.where(seen.any(axis=0), total / np.maximum(seen.sum(axis=0), 1), np.nan)
        if not np.allclose(mean, again, rtol=1e-5, atol=1e-6, equal_nan=True):
            yield f"{name} is not the mean of probes/{name}"
    counted, found = file["n_retrieval_heads"][row], int((file["retrieval"][row] > RETRIEVAL_THRESHOLD).sum())
    if counted not in (-1, found):
        yield f"n_retrieval_heads is {counted}, but {found} heads are above {RETRIEVAL_THRESHOLD}"
    if with_chance:
        probes = {name: file[f"probes/{name}"][:] for name in CHANCE_COLUMNS}
        probes["needle_id"] = file["probes/needle_id"].asstr()[:].astype(str)
        level = counting_level(~np.isnan(file["probes/retrieval"][row]), probes, RETRIEVAL_THRESHOLD)
        counted, found = file["n_heads_above_chance"][row], int((file["retrieval"][row] > level).sum())
        if counted not in ((-1, found) if chance_known(probes) else (-1,)):
            told = f"{found} heads are above threshold and chance" if chance_known(probes) else "chance is unknown"
            yield f"n_heads_above_chance is {counted}, but {told}"
    if ABOVE_NULL.path in file and (counted := file[ABOVE_NULL.path][row]) >= 0:
        score, mean, sd = (file[f"probes/{name}"][row].astype(np.float64) for name in ("retrieval", *NULL_MOMENTS))
        p = null_p(score, mean, sd, file["probes/needle_id"].asstr()[:].astype(str))
        if counted != (found := int(above_null(p, FALSE_DISCOVERY_RATE).sum())):
            yield f"{ABOVE_NULL.path} is {counted}, but {found} heads are above a null of their own"
    for name in NLL_CLASSES:
        values = file[f"probes/{name}"][row]
        if (values < 0).any() or np.isinf(values).any():
            yield f"probes/{name} has negative or infinite values"
    if not np.isin(file["probes/exact_match"][row], (-1, 0, 1)).all():
        yield "probes/exact_match has values other than -1, 0 and 1"
    try:
        read_provenance(file["provenance/json"].asstr()[row])
    except ArgumentError as error:
        yield str(error)
