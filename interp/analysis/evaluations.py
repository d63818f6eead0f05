"""What evaluation tools write, one file a checkpoint: RULER's summary.csv and lm-eval's results_*.json.

Both tell scores by task; which checkpoint they belong to is told by the names of the file and its folders, and by the
model that lm-eval notes down.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import HeadscopeError
from ..checkpoint_names import steps_in, tokens_in

Key = tuple[str, str]  # task; metric, length and filter, as far as there are any

PATTERNS = ("summary*.csv", "*results*.json", "*_????-??-??T*.json")  # how these tools call their files
MISSING = {"", "na", "nan", "n/a", "none", "null", "-"}

# Entries of lm-eval that are no scores.
_ABOUT = {"alias", "name", "sample_len", "sample_count", "samples"}
# Arguments that name a checkpoint to lm-eval, the most telling first.
_MODEL = ("revision", "peft", "delta", "pretrained", "model", "path")


class DownstreamError(HeadscopeError, ValueError):
    """A file of downstream scores that cannot be read, or does not fit the run."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one file. models: names of the checkpoint inside it, the most telling first."""

    scores: dict[Key, float]
    models: tuple[str, ...] = ()


def read_evaluation(path: Path, text: str) -> Evaluation | None:
    """The evaluation in a file of this text, or None where it is a CSV of another kind. Raises DownstreamError."""
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        return _lm_eval(path, text)
    rows = {row[0].strip().lower(): row for row in csv.reader(text.splitlines()) if row}
    tasks = rows.get("tasks") or rows.get("task")
    return None if tasks is None or "score" not in rows else _ruler(path, tasks, rows["score"], rows.get("nulls"))


def _ruler(path: Path, tasks: list[str], scores: list[str], nulls: list[str] | None) -> Evaluation:
    names = [name.strip() for name in tasks[1:]]
    if len(scores) != len(tasks) or len(set(names)) < len(names) or not all(names):
        raise DownstreamError(f"{path.name}: a name of its own and one score are needed for each of {len(names)} tasks")
    length = _length(path.absolute().parts)
    found = {}
    for i, (name, cell) in enumerate(zip(names, scores[1:], strict=True), 1):
        asked = nulls[i] if nulls is not None and i < len(nulls) else ""
        none = re.fullmatch(r"0/0", asked.strip())  # empty answers / all answers: there was no question
        found[name, length] = math.nan if none else number(cell, f"{path.name}, task {name!r}")
    return Evaluation(found)


def _length(parts: tuple[str, ...]) -> str:
    """RULER's folders are MODEL/synthetic/LENGTH/pred; the length as text, "" where they are not."""
    for before, part, after in zip(("", *parts), parts, (*parts[1:], ""), strict=False):
        if part.isdecimal() and (before == "synthetic" or after == "pred"):
            return part
    return ""


def _lm_eval(path: Path, text: str) -> Evaluation:
    try:
        held = json.loads(text)
    except ValueError as error:
        raise DownstreamError(f"{path.name} is not JSON ({error}); give the file that lm-eval has written") from None
    results = held.get("results") if isinstance(held, dict) else None
    if not isinstance(results, dict) or not all(isinstance(entry, dict) for entry in results.values()):
        raise DownstreamError(
            f"{path.name} is JSON, but not of lm-eval: its `results` must be an object of tasks and their metrics"
        )
    by_task = {task: dict(_metrics(entry)) for task, entry in results.items()}
    within = held.get("group_subtasks")
    groups = within if isinstance(within, dict) else {}
    parts = {task for group, tasks in groups.items() if by_task.get(group) for task in tasks if task != group}
    scores = {
        (task, metric): value
        for task, metrics in by_task.items()
        if task not in parts  # the score of a group stands for them
        for metric, value in metrics.items()
    }
    return Evaluation(scores, tuple(_models(held)))


def _metrics(entry: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """lm-eval's "acc,none": .5 and "exact_match,strict": .4, without standard errors and what is no score."""
    for key, value in entry.items():
        metric, _, filtered = key.partition(",")
        if metric in _ABOUT or metric.endswith("_stderr") or isinstance(value, bool):
            continue
        if isinstance(value, str) and value.strip().lower() in MISSING or value is None:
            value = math.nan
        if not isinstance(value, (int, float)):
            continue
        if metric.isdecimal() and value == -1:  # its RULER tasks: this length was not asked
            value = math.nan
        yield f"{metric} ({filtered})" if filtered not in ("", "none") else metric, float(value)


def _models(held: dict[str, Any]) -> Iterator[str]:
    config = held.get("config")
    given = config.get("model_args") if isinstance(config, dict) else None
    if isinstance(given, str):
        given = dict(part.split("=", 1) for part in given.split(",") if "=" in part)
    for name in _MODEL:
        if isinstance(given, dict) and isinstance(given.get(name), str):
            yield given[name]
    if isinstance(held.get("model_name"), str):
        yield held["model_name"]


def progress_of(path: Path, evaluation: Evaluation) -> tuple[str, float]:
    """("step", step) or ("tokens", tokens) of the checkpoint that a file is about.

    Raises DownstreamError where nothing tells it, or where the file and its name tell different steps.
    """
    remedy = f"say it: --downstream 2000={path}"
    models = [_parts(name) for name in evaluation.models]
    places = _parts(str(path.absolute().with_suffix("")))
    inside = next((step for parts in models if (step := _step(parts)) is not None), None)
    outside = _step(places)
    if inside is not None and outside is not None and inside != outside:
        raise DownstreamError(f"{path} names a model of step {inside}, and its own name tells {outside}; {remedy}")
    for step in (inside, outside):
        if step is not None:
            return "step", float(step)
    for parts in (*models, places):
        amounts = (tokens for part in parts if (tokens := tokens_in(part)) is not None)
        if (tokens := next(amounts, None)) is not None:
            return "tokens", tokens
    # A name that is nothing but a number, near the file and other than RULER's length.
    around = {"pred", "synthetic", _length(path.absolute().parts)}
    near = [part for part in places if part not in around][:3]
    if (step := next((int(part) for part in near if part.isdecimal()), None)) is not None:
        return "step", float(step)
    raise DownstreamError(f"neither {path} nor a folder above it tells the step of its checkpoint; {remedy}")


def _parts(name: str) -> list[str]:
    """The parts of a path, the last first; lm-eval writes "/" as "__"."""
    return [part for part in re.split(r"[/\\@]|__", name) if part][::-1]


def _step(parts: Iterable[str]) -> int | None:
    for part in parts:
        told = set() if part.isdecimal() else steps_in(part)
        if len(told) == 1:
            return told.pop()
    return None


def number(cell: str, where: str, *, needed: bool = False) -> float:
    """A cell as a number, NaN where it is empty; DownstreamError where it is neither, or is needed and empty."""
    text = cell.strip()
    if text.lower() in MISSING:
        if needed:
            raise DownstreamError(f"{where}: a number is needed, the cell is empty")
        return math.nan
    try:
        value = float(text)
    except ValueError:
        raise DownstreamError(f"{where}: {text!r} is not a number; write 1234.5, or leave the cell empty") from None
    if not math.isfinite(value):
        raise DownstreamError(f"{where}: {text!r} is not a finite number")
    return value
