"""The group of answers in a results file: made, filled a checkpoint at a time, read, checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from ...errors import ArgumentError
from ..tasks import COLUMNS, ENDS, SAID, TEXT_COLUMNS, Answers
from . import schema
from .netcdf import at_least_version, set_attrs, storable, storable_text, with_scales
from .provenance import read_provenance
from .schema import StoreError, answer_variables, has


def misfit(file: h5py.File, answers: Answers, row: int | None = None) -> str:
    """Why answers cannot be put into a file, in words; "" when they can."""
    if not has(file, "answers"):
        return "it has a group 'answers' that is not headscope's" if "answers" in file else ""
    there, here = schema.text(file["answers"], "task_set_hash"), answers.probe_set_hash
    if there != here:
        name = schema.text(file["answers"], "task_set_name")
        return f"its answers are to {name!r} ({there[:12]}), not to {answers.probe_set_name!r} ({here[:12]})"
    drawn = len(file["answers/sample"]) - 1
    if drawn != answers.n_samples:
        return f"its answers have samples={drawn}, these samples={answers.n_samples}"
    return ""


def put(file: h5py.File, row: int, answers: Answers) -> None:
    """Fill in the answers of the checkpoint that is number `row`; the first ones make the group."""
    if not has(file, "answers"):
        _create(file, answers)
    group = file["answers"]
    new: dict[str, Any] = dict(answers.said)
    new["text"] = np.vectorize(storable_text, otypes=[object])(new["text"])
    new["end"] = np.vectorize(ENDS.index, otypes=[np.int8])(new["end"])
    new["nll"] = answers.nll
    new["exact_match"] = np.where(np.isnan(answers.nll), -1, answers.exact_match).astype(np.int8)
    new["json"] = json.dumps(answers.provenance, ensure_ascii=False)
    for name, values in new.items():
        group[name][row] = storable(f"answers/{name}", values, group[name])


def _create(file: h5py.File, answers: Answers) -> None:
    group = file.create_group("answers", track_order=True)
    set_attrs(group, {"task_set_name": answers.probe_set_name, "task_set_hash": answers.probe_set_hash})
    sizes = {"checkpoint": len(file["checkpoint"]), "item": len(answers), "sample": 1 + answers.n_samples}
    scales = {"checkpoint": file["checkpoint"]}
    for variable in answer_variables():
        dataset = with_scales(file, variable, sizes, scales)
        name = "id" if variable.name == "item" else variable.name
        if name in COLUMNS:
            values = answers.probes[name]
            told = [storable_text(text) for text in values] if name in TEXT_COLUMNS else values
            dataset[...] = storable(variable.path, told, dataset)
    group["sample"][...] = np.arange(sizes["sample"])
    at_least_version(file, (1, 2))


def rows(file: h5py.File) -> list[int]:
    """The numbers of the checkpoints that have answers."""
    if not has(file, "answers"):
        return []
    return [int(row) for row in np.flatnonzero((file["answers/n_tokens"][:] >= 0).any(axis=(1, 2)))]


def in_common(file: h5py.File) -> tuple[str, ...]:
    """What the answers of all checkpoints of a file have in common: the probes, and how many are drawn to each."""
    return schema.text(file["answers"], "task_set_hash")[:12], str(len(file["answers/sample"]) - 1)


def read(file: h5py.File, row: int) -> Answers:
    """The answers of the checkpoint that is number `row` and has some. Raises StoreError for what is none."""
    group = file["answers"]
    columns = {name: group["item" if name == "id" else name] for name in COLUMNS}
    said = {name: group[name].asstr()[row] if name == "text" else group[name][row] for name in SAID}
    said["end"] = np.array(ENDS, object)[said["end"]]
    lists = {name: [_list(text) for text in group[name].asstr()[:]] for name in ("golds", "rivals")}
    for name, found in lists.items():
        if None in found:
            raise StoreError(f"answers/{name} holds what is no JSON list of texts; `headscope validate` says where")
    if (said["rival"] >= np.array([len(found or ()) for found in lists["rivals"]])[:, None]).any():
        raise StoreError("answers/rival names rivals that the item does not have; `headscope validate` says where")
    return Answers(
        model_id=file["provenance/model_id"].asstr()[row],
        said=said,
        nll=group["nll"][row],
        exact_match=group["exact_match"][row] == 1,
        probes={
            name: item.asstr()[:].astype(str)
            if name in TEXT_COLUMNS
            else item[:].astype(np.dtype(item.dtype.kind + "8"))
            for name, item in columns.items()
        },
        probe_set_name=schema.text(group, "task_set_name"),
        probe_set_hash=schema.text(group, "task_set_hash"),
        provenance=read_provenance(group["json"].asstr()[row]),
    )


def problems(file: h5py.File) -> Iterator[str]:
    """What is wrong with the answers of a file whose variables are all there."""
    group = file["answers"]
    if (group["sample"][:] != np.arange(len(group["sample"]))).any():
        yield f"answers/sample does not count from 0 to {len(group['sample']) - 1}"
    rivals = []
    for name in ("golds", "rivals"):
        for number, text in enumerate(group[name].asstr()[:]):
            told = _list(text)
            if told is None or not (told or name == "rivals"):
                yield f"answers/{name} has {text!r} at item {number}, which is no JSON list of texts"
            rivals.append(len(told or ()) if name == "rivals" else 0)
    most = np.array(rivals[-len(group["item"]) :])[:, None]
    for row, step in enumerate(file["checkpoint"][:]):
        yield from (f"checkpoint {step}: {problem}" for problem in _row_problems(group, row, most))


def _row_problems(group: h5py.Group, row: int, n_rivals: np.ndarray) -> Iterator[str]:
    asked = group["n_tokens"][row] >= 0
    if asked.any() and not asked.all():
        yield f"{(~asked).sum()} of {asked.size} answers are missing: a checkpoint has all or none"
    for name, low, high in (
        ("score", 0, 1),
        ("precision", 0, 1),
        ("above_chance", -np.inf, 1),
        ("logprob", -np.inf, 0),
    ):
        values = group[name][row][asked]
        known = values[~np.isnan(values)]
        if (known < low).any() or (known > high + 1e-4).any():
            yield f"answers/{name} has values outside {low:g} to {high:g}"
    if (np.isnan(group["score"][row]) & ~np.isnan(group["logprob"][row]) & asked).any():
        yield "answers/score is NaN for an answer that was given"  # only one at which the model computed NaN has none
    if not np.isin(group["end"][row], np.arange(len(ENDS)) if asked.all() else np.arange(-1, len(ENDS))).all():
        yield f"answers/end has values that are none of {', '.join(ENDS)}"
    rival = group["rival"][row]
    if (rival < -1).any() or (rival >= np.maximum(n_rivals, 0)).any():
        yield "answers/rival names rivals that the item does not have"
    if (group["nll"][row] < 0).any():
        yield "answers/nll has negative values"
    if not np.isin(group["exact_match"][row], (-1, 0, 1)).all():
        yield "answers/exact_match has values other than -1, 0 and 1"
    if asked.any():
        try:
            read_provenance(group["json"].asstr()[row])
        except ArgumentError as error:
            yield f"answers: {error}"


def _list(text: str) -> list[str] | None:
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, list) and all(isinstance(item, str) for item in told) else None
