"""The group of an ablation in a results file: made, filled a checkpoint at a time, read, checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from ...errors import ArgumentError
from ..ablation import COLUMNS, KINDS, MEASURES, MODES, TEXTS, UNITS, Ablation, HeadSet
from . import schema
from .netcdf import at_least_version, set_attrs, storable, with_scales
from .provenance import read_provenance
from .schema import StoreError, ablation_variables, has

Key = tuple[str, int, int]  # kind, k, draw


def misfit(file: h5py.File, ablation: Ablation, row: int | None = None) -> str:
    """Why an ablation cannot be put into a file, in words; "" when it can. row: the checkpoint that it is of; where no
    other has one, what is there gives way."""
    if not has(file, "ablation"):
        return "it has a group 'ablation' that is not headscope's" if "ablation" in file else ""
    if {*rows(file)} <= {row}:
        return ""
    group = file["ablation"]
    for name, here in attributes(ablation).items():
        there = schema.text(group, name)
        if there != here:
            return f"its other ablations have {name.replace('_', ' ')} {there!r}, this one {here!r}"
    if group["ablated"].asstr()[:].tolist() != ablation.probes["id"].tolist():
        return "its other ablations are measured on other probes of the set (of needles that another seed chose?)"
    if {*_keys(ablation.sets)} - {*keys_of(file)} or _slots(ablation) > len(group["slot"]):
        return "its other ablations have other sets of heads; give the same top, controls and each"
    return ""


def attributes(ablation: Ablation) -> dict[str, str]:
    """What all ablations of a file have in common, as the group's attributes."""
    named = {"mode": ablation.mode, "rows": " ".join(ablation.rows), "unit": ablation.unit}
    return named | {"probe_set_name": ablation.probe_set_name, "probe_set_hash": ablation.probe_set_hash}


def put(file: h5py.File, row: int, ablation: Ablation) -> None:
    """Fill in the ablation of the checkpoint that is number `row`; the first one makes the group, and where no other
    checkpoint has one, so does every later one."""
    if has(file, "ablation") and {*rows(file)} <= {row}:
        del file["ablation"]
    if not has(file, "ablation"):
        _create(file, ablation)
    group, place = file["ablation"], {key: i for i, key in enumerate(keys_of(file))}
    at = np.array([place[key] for key in _keys(ablation.sets)])
    n_sets, n_slots = len(place), len(group["slot"])
    heads, score = np.full((n_sets, n_slots, 2), -1, np.int32), np.full(n_sets, np.nan, np.float32)
    measured = {name: np.full((n_sets, len(ablation)), np.nan, np.float32) for name in MEASURES}
    for i, one in zip(at, ablation.sets, strict=True):
        heads[i, : len(one.heads)] = np.array(one.heads, np.int32).reshape(-1, 2)
        score[i] = one.score
    for name, values in measured.items():
        values[at] = ablation.measured[name]
    new: dict[str, Any] = {"set_layer": heads[..., 0], "set_head": heads[..., 1], "set_score": score, **measured}
    new |= {"model_id": ablation.model_id, "json": json.dumps(ablation.provenance, ensure_ascii=False)}
    for name, values in new.items():
        group[name][row] = storable(f"ablation/{name}", values, group[name])


def _create(file: h5py.File, ablation: Ablation) -> None:
    group = file.create_group("ablation", track_order=True)
    set_attrs(group, attributes(ablation))
    keys = _grid(ablation)
    sizes = {"checkpoint": len(file["checkpoint"]), "ablated": len(ablation), "set": len(keys)}
    sizes["slot"] = max(1, _slots(ablation))
    scales = {"checkpoint": file["checkpoint"]}
    fixed: dict[str, Any] = {"set": np.arange(len(keys)), "slot": np.arange(sizes["slot"])}
    fixed |= {name: [key[i] for key in keys] for i, name in enumerate(("kind", "k", "draw"))}
    fixed |= {"ablated" if name == "id" else name: ablation.probes[name] for name in COLUMNS}
    for variable in ablation_variables():
        dataset = with_scales(file, variable, sizes, scales)
        if variable.name in fixed:
            dataset[...] = storable(variable.path, fixed[variable.name], dataset)
    at_least_version(file, (1, 3))


def _keys(sets: tuple[HeadSet, ...]) -> list[Key]:
    return [(one.kind, one.k, one.draw) for one in sets]


def keys_of(file: h5py.File) -> list[Key]:
    """Kind, size and number of every set that a file has room for."""
    group = file["ablation"]
    columns = (group["kind"].asstr()[:].tolist(), group["k"][:].tolist(), group["draw"][:].tolist())
    return list(zip(*columns, strict=True))


def _grid(ablation: Ablation) -> list[Key]:
    """The sets of an ablation, with room for controls that were asked for and do not exist: there may be more of them
    round the leading heads of another checkpoint."""
    asked = ablation.provenance.get("controls")
    found: list[Key] = []
    for kind in KINDS:
        of_kind = [one for one in ablation.sets if one.kind == kind]
        if kind in ("layer_matched", "mass_matched") and of_kind:
            draws = max(asked if isinstance(asked, int) else 0, *(one.draw + 1 for one in of_kind))
            found += [(kind, k, draw) for k in sorted({one.k for one in of_kind}) for draw in range(draws)]
        else:
            found += _keys(tuple(of_kind))
    return found


def _slots(ablation: Ablation) -> int:
    return max(len(one.heads) for one in ablation.sets)


def rows(file: h5py.File) -> list[int]:
    """The numbers of the checkpoints that have one."""
    return schema.rows_told(file, "ablation")


def in_common(file: h5py.File) -> tuple[str, ...]:
    """What the ablations of all checkpoints of a file have in common: how, of which probes and of which sets."""
    probes, sets = file["ablation/ablated"].asstr()[:].tolist(), keys_of(file)
    told = hashlib.sha256(json.dumps([probes, sets]).encode()).hexdigest()[:12]
    how = (schema.text(file["ablation"], name) for name in ("mode", "rows", "unit"))
    return (*how, schema.text(file["ablation"], "probe_set_hash")[:12], told)


def read(file: h5py.File, row: int) -> Ablation:
    """The ablation of the checkpoint that is number `row` and has one. Raises StoreError for what is none."""
    group = file["ablation"]
    if told := next(iter(_row_problems(group, row)), None):
        raise StoreError(f"{told}; `headscope validate` says more")
    layers, heads, score = (group[f"set_{name}"][row] for name in ("layer", "head", "score"))
    sets, kept = [], []
    for i, (kind, k, draw) in enumerate(keys_of(file)):
        places = tuple((int(a), int(b)) for a, b in zip(layers[i], heads[i], strict=True) if a >= 0)
        if places or kind == "none":
            sets.append(HeadSet(kind, k, draw, places, float(score[i])))
            kept.append(i)
    probes = {}
    for name in COLUMNS:
        item = group["ablated" if name == "id" else name]
        probes[name] = item.asstr()[:].astype(str) if name in TEXTS else item[:].astype(item.dtype.kind + "8")
    try:
        return Ablation(
            model_id=group["model_id"].asstr()[row],
            mode=schema.text(group, "mode"),
            rows=tuple(schema.text(group, "rows").split()),
            unit=schema.text(group, "unit"),
            sets=tuple(sets),
            measured={name: group[name][row][kept] for name in MEASURES},
            probes=probes,
            probe_set_name=schema.text(group, "probe_set_name"),
            probe_set_hash=schema.text(group, "probe_set_hash"),
            provenance=read_provenance(group["json"].asstr()[row]),
        )
    except ArgumentError as error:
        raise StoreError(f"/ablation holds what is none: {error}") from error


def problems(file: h5py.File) -> Iterator[str]:
    """What is wrong with the ablation of a file whose variables are all there."""
    group = file["ablation"]
    known = {"mode": MODES, "unit": UNITS}
    for name, names in known.items():
        if schema.text(group, name) not in names:
            yield f"the {name} of /ablation is {schema.text(group, name)!r}, which is none of {', '.join(names)}"
    for name in ("set", "slot"):
        if (group[name][:] != np.arange(len(group[name]))).any():
            yield f"ablation/{name} does not count from 0 to {len(group[name]) - 1}"
    steps = file["checkpoint"][:]
    for row in rows(file):
        yield from (f"checkpoint {steps[row]}: {problem}" for problem in _row_problems(group, row, file))


def _row_problems(group: h5py.Group, row: int, file: h5py.File | None = None) -> Iterator[str]:
    kinds = group["kind"].asstr()[:].tolist()
    if odd := {*kinds} - {*KINDS}:
        yield f"ablation/kind holds {sorted(odd)[0]!r}, which is none of {', '.join(KINDS)}"
    if not kinds or kinds[0] != "none":
        yield "ablation/kind does not begin with 'none', the model as it is"
    layers, heads = group["set_layer"][row], group["set_head"][row]
    if ((layers < 0) != (heads < 0)).any():
        yield "ablation/set_layer and set_head name other numbers of heads"
    most = (layers.max(initial=-1), heads.max(initial=-1))
    if file is not None and (most[0] >= len(file["layer"]) or most[1] >= len(file["head"])):
        yield "ablation/set_layer or set_head names a head that the model does not have"
    for name, low, high in (
        ("nll", 0, np.inf),
        ("nll_novel", 0, np.inf),
        ("logprob", -np.inf, 0),
        ("twin_logprob", -np.inf, 0),
        ("exact_match", 0, 1),
        ("answer_score", 0, 1),
    ):
        values = group[name][row]
        known = values[~np.isnan(values)]
        if (known < low).any() or (known > high).any() or np.isinf(known).any():
            yield f"ablation/{name} has values outside {low:g} to {high:g}"
    try:
        read_provenance(group["json"].asstr()[row])
    except ArgumentError as error:
        yield f"ablation: {error}"
