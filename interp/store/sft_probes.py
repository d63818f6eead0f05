"""The group of SFT probes in a results file: made, filled a checkpoint at a time, read, checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from ...errors import ArgumentError
from ..finetuned import AFTER, BEFORE, COST, SftProbe
from ..tasks import COLUMNS, ENDS, TEXT_COLUMNS
from . import schema
from .netcdf import at_least_version, set_attrs, storable, storable_text, with_scales
from .provenance import read_provenance
from .schema import StoreError, has, sft_probe_variables

FLAGS = ("exact_match",)  # 0, 1 and, where nothing was measured, NaN: -1 in the file


def misfit(file: h5py.File, probe: SftProbe, row: int | None = None) -> str:
    """Why an SFT probe cannot be put into a file, in words; "" when it can. row: the checkpoint that it is of; where no
    other has one, what is there gives way."""
    if not has(file, "sft_probe"):
        return "it has a group 'sft_probe' that is not headscope's" if "sft_probe" in file else ""
    if {*rows(file)} <= {row}:
        return ""
    group = file["sft_probe"]
    for name, here in attributes(probe).items():
        if name != "recipe" and (there := schema.text(group, name)) != here:
            return f"its other SFT probes have {name.replace('_', ' ')} {there!r}, this one {here!r}"
    seeds = group["sft_seed"][:].tolist()
    if seeds != [*probe.seeds]:
        return f"its other SFT probes have seeds {seeds}, this one {[*probe.seeds]}"
    return ""


def attributes(probe: SftProbe) -> dict[str, str]:
    """What all SFT probes of a file have in common, as the group's attributes."""
    named = {"recipe": probe.recipe, "recipe_hash": probe.recipe_hash}
    return named | {"task_set_name": probe.probe_set_name, "task_set_hash": probe.probe_set_hash}


def put(file: h5py.File, row: int, probe: SftProbe) -> None:
    """Fill in the SFT probe of the checkpoint that is number `row`; the first one makes the group, and where no other
    checkpoint has one, so does every later one."""
    if has(file, "sft_probe") and {*rows(file)} <= {row}:
        del file["sft_probe"]
    if not has(file, "sft_probe"):
        _create(file, probe)
    group = file["sft_probe"]
    new: dict[str, Any] = {f"before_{name}": values for name, values in probe.before.items()}
    new |= {**probe.after, **probe.cost, "loss": probe.loss}
    new["text"] = np.vectorize(storable_text, otypes=[object])(new["text"])
    new["end"] = np.vectorize(ENDS.index, otypes=[np.int8])(new["end"])
    for name in (*FLAGS, *(f"before_{name}" for name in FLAGS)):
        new[name] = np.where(np.isnan(new[name]), -1, new[name]).astype(np.int8)
    new |= {"model_id": probe.model_id, "json": json.dumps(probe.provenance, ensure_ascii=False)}
    for name, values in new.items():
        group[name][row] = storable(f"sft_probe/{name}", values, group[name])


def _create(file: h5py.File, probe: SftProbe) -> None:
    group = file.create_group("sft_probe", track_order=True)
    set_attrs(group, attributes(probe))
    sizes = {"checkpoint": len(file["checkpoint"]), "sft_item": len(probe), "sft_seed": len(probe.seeds)}
    sizes["sft_step"] = probe.loss.shape[1]
    scales = {"checkpoint": file["checkpoint"]}
    fixed: dict[str, Any] = {"sft_seed": np.array(probe.seeds), "sft_step": np.arange(sizes["sft_step"])}
    for name in COLUMNS:
        values = probe.probes[name]
        fixed["sft_item" if name == "id" else name] = (
            [storable_text(text) for text in values] if name in TEXT_COLUMNS else values
        )
    for variable in sft_probe_variables():
        dataset = with_scales(file, variable, sizes, scales)
        if variable.name in fixed:
            dataset[...] = storable(variable.path, fixed[variable.name], dataset)
    at_least_version(file, (1, 4))


def rows(file: h5py.File) -> list[int]:
    """The numbers of the checkpoints that have one."""
    return schema.rows_told(file, "sft_probe")


def in_common(file: h5py.File) -> tuple[str, ...]:
    """What the SFT probes of all checkpoints of a file have in common: recipe, seeds and probes."""
    group = file["sft_probe"]
    seeds = " ".join(map(str, group["sft_seed"][:].tolist()))
    return schema.text(group, "recipe_hash"), seeds, schema.text(group, "task_set_hash")[:12]


def read(file: h5py.File, row: int) -> SftProbe:
    """The SFT probe of the checkpoint that is number `row` and has one. Raises StoreError for what is none."""
    group = file["sft_probe"]
    if told := next(iter(_row_problems(group, row)), None):
        raise StoreError(f"{told}; `headscope validate` says more")
    found: dict[str, Any] = {}
    for name in (*AFTER, *(f"before_{name}" for name in BEFORE)):
        found[name] = group[name].asstr()[row] if name == "text" else group[name][row]
        if name.removeprefix("before_") in FLAGS:
            found[name] = np.where(found[name] < 0, np.nan, found[name])
    found["end"] = np.array(ENDS, object)[found["end"]]
    columns = {name: group["sft_item" if name == "id" else name] for name in COLUMNS}
    try:
        return SftProbe(
            model_id=group["model_id"].asstr()[row],
            seeds=tuple(group["sft_seed"][:].tolist()),
            before={name: found[f"before_{name}"] for name in BEFORE},
            after={name: found[name] for name in AFTER},
            loss=group["loss"][row],
            cost={name: group[name][row] for name in COST},
            probes={
                name: item.asstr()[:].astype(str)
                if name in TEXT_COLUMNS
                else item[:].astype(np.dtype(item.dtype.kind + "8"))
                for name, item in columns.items()
            },
            recipe=schema.text(group, "recipe"),
            recipe_hash=schema.text(group, "recipe_hash"),
            probe_set_name=schema.text(group, "task_set_name"),
            probe_set_hash=schema.text(group, "task_set_hash"),
            provenance=read_provenance(group["json"].asstr()[row]),
        )
    except ArgumentError as error:
        raise StoreError(f"/sft_probe holds what is none: {error}") from error


def problems(file: h5py.File) -> Iterator[str]:
    """What is wrong with the SFT probes of a file whose variables are all there."""
    group = file["sft_probe"]
    try:
        recipe = json.loads(schema.text(group, "recipe"))
    except (KeyError, ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        yield "the recipe of /sft_probe is no JSON object"
    if (group["sft_step"][:] != np.arange(len(group["sft_step"]))).any():
        yield f"sft_probe/sft_step does not count from 0 to {len(group['sft_step']) - 1}"
    if len({*group["sft_seed"][:].tolist()}) < len(group["sft_seed"]):
        yield "sft_probe/sft_seed holds a seed twice"
    steps = file["checkpoint"][:]
    for row in rows(file):
        yield from (f"checkpoint {steps[row]}: {problem}" for problem in _row_problems(group, row))


def _row_problems(group: h5py.Group, row: int) -> Iterator[str]:
    for name, low, high in (
        ("before_score", 0, 1),
        ("before_nll", 0, np.inf),
        ("score", 0, 1),
        ("nll", 0, np.inf),
        ("precision", 0, 1),
        ("above_chance", -np.inf, 1),
        ("logprob", -np.inf, 1e-4),
        ("loss", 0, np.finfo(np.float32).max),
        *((name, 0, np.finfo(np.float64).max) for name in COST),
    ):
        values = group[name][row]
        known = values[~np.isnan(values)]
        if (known < low).any() or (known > high).any():
            yield f"sft_probe/{name} has values outside {low:g} to {high:g}"
    for name in (*FLAGS, *(f"before_{name}" for name in FLAGS)):
        if not np.isin(group[name][row], (-1, 0, 1)).all():
            yield f"sft_probe/{name} has values other than -1, 0 and 1"
    if not np.isin(group["end"][row], np.arange(len(ENDS))).all():
        yield f"sft_probe/end has values that are none of {', '.join(ENDS)}"
    if (group["n_tokens"][row] < 0).any():
        yield "sft_probe/n_tokens has negative values"
    try:
        read_provenance(group["json"].asstr()[row])
    except ArgumentError as error:
        yield f"sft_probe: {error}"
