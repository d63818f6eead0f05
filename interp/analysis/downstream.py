"""Scores from elsewhere, such as benchmarks after fine-tuning, read from files and set against what the heads say."""

from __future__ import annotations

import csv
import glob
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import numpy as np

from ..sweep.names import steps_in
from .evaluations import PATTERNS, DownstreamError, Key, number, progress_of, read_evaluation
from .evolution import Panel, panel
from .statistics import Correlation, correlate, holm
from .trajectory import Trajectory

Source = str | PathLike[str] | Iterable[str | PathLike[str]]

_PROGRESS = ("step", "tokens")
_NAMED = re.compile(r"(\d+)=(.+)", re.DOTALL)


class Downstream(dict[str, tuple[np.ndarray, np.ndarray]]):
    """Name of a score -> (progress [n], scores [n]), both float64; `by` says what progress is: "step" or "tokens".

    named: names of files or checkpoints told the steps, which count within a stage of training.
    """

    by: str = "step"
    named: bool = False


def read_downstream(source: Source) -> Downstream:
    """Read scores by checkpoint: a table, or what RULER and lm-eval write.

    A table is a CSV with a header: a column `step` or `tokens` (or `checkpoint`, a name that tells the step), and one
    column for each score, named as you like.

        step,RULER,MRCR
        0,68.7,31.2
        2000,74.1,

    An empty cell (or NaN, NA, -) means that this score was not measured there.

    RULER's summary.csv and lm-eval's results_*.json hold one checkpoint each, so `source` is several of them, a glob,
    or a folder that is searched for them. Their step is told by the names of file and folders (`checkpoint-2000`), by
    the model that lm-eval notes, or by you: "2000=summary.csv". A score is named by its task, with the metric or the
    length where there are several. Standard errors, RULER's row of nulls and, where a group has a score, its subtasks
    are left out.

    Raises DownstreamError, a ValueError, which says what is wrong where.
    """
    given = [source] if isinstance(source, (str, PathLike)) else list(source)
    if not given:
        raise DownstreamError("no file of downstream scores was given")
    found: dict[tuple[float, Key], tuple[float, Path]] = {}
    kinds: dict[str, Path] = {}
    named = False
    files = [pair for each in given for pair in _files(fspath(each))]
    for step, path in files:
        text = _text(path)
        evaluation = read_evaluation(path, text)
        if evaluation is None:
            table = _table(path.name, text)
            if step is not None:
                raise DownstreamError(f"{path.name} tells its {table.by}s itself; leave out {step}=")
            if len(files) == 1:
                return table
            by, named = table.by, named or table.named
            cells = [(p, (key, ""), v) for key, (at, scores) in table.items() for p, v in zip(at, scores, strict=True)]
        else:
            by, at = ("step", float(step)) if step is not None else progress_of(path, evaluation)
            named |= step is None
            cells = [(at, key, value) for key, value in evaluation.scores.items()]
        kinds.setdefault(by, path)
        for at, key, value in cells:
            held, where = found.get((at, key), (np.nan, path))
            if not np.isnan(held) and not np.isnan(value) and held != value:
                what = " ".join(filter(None, key))
                raise DownstreamError(
                    f"{what} at {by} {at:g} is {held:g} in {where} and {value:g} in {path}; leave one of them out"
                )
            if np.isnan(held):
                found[at, key] = value, path
    if len(kinds) > 1:
        raise DownstreamError(
            f"{kinds['step']} tells its step and {kinds['tokens']} only its tokens; say the step: --downstream "
            f"2000={kinds['tokens']}"
        )
    scores = _columns(found, next(iter(kinds)))
    scores.named = named
    return scores


def _files(given: str) -> Iterator[tuple[int | None, Path]]:
    """The files that are meant, each with the step that was told with it."""
    told = None if Path(given).exists() else _NAMED.fullmatch(given)
    step, name = (int(told[1]), told[2]) if told else (None, given)
    path = Path(name)
    if not path.exists() and glob.has_magic(name):
        paths = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        if not paths:
            raise DownstreamError(f"{name} matches no file")
    else:
        paths = [path]
    for path in paths:
        if not path.is_dir():
            yield step, path
            continue
        inside = sorted({file for pattern in PATTERNS for file in path.rglob(pattern) if file.is_file()})
        if not inside:
            raise DownstreamError(f"the folder {path} holds neither RULER's summary.csv nor lm-eval's results_*.json")
        for file in inside:
            yield step, file


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DownstreamError(f"{path.name} is not a text file in UTF-8 ({error.reason}); save it as CSV") from error


def _columns(found: dict[tuple[float, Key], tuple[float, Path]], by: str) -> Downstream:
    """One column a score, over all checkpoints; NaN where a checkpoint does not have it."""
    keys = dict.fromkeys(key for (_, key), (value, _) in found.items() if not np.isnan(value))
    if not keys:
        raise DownstreamError("the files hold no score: every one is missing or NaN")
    progress = np.array(sorted({at for at, _ in found}))
    several = Counter(task for task, _ in keys)
    scores = Downstream()
    for task, metric in keys:
        values = [found.get((at, (task, metric)), (np.nan, None))[0] for at in progress]
        scores[f"{task} {metric}".strip() if several[task] > 1 else task] = progress, np.array(values)
    scores.by = by
    return scores


def _table(name: str, text: str) -> Downstream:
    lines = [(i, row) for i, row in enumerate(csv.reader(text.splitlines()), 1) if any(cell.strip() for cell in row)]
    if not lines:
        raise DownstreamError(f"{name} is empty; it needs a header such as step,RULER and one line a checkpoint")
    header = [cell.strip() for cell in lines[0][1]]
    by = [column for column in header if column.lower() in _PROGRESS]
    labels = [column for column in header if column.lower() == "checkpoint"]
    by = by or labels
    if len(by) != 1:
        shown = ", ".join(header[:8]) + (", ..." if len(header) > 8 else "")
        found = f"both {' and '.join(by)}" if by else f"the columns {shown}"
        others = "RULER's summary.csv and lm-eval's results_*.json are taken too"
        raise DownstreamError(f"{name} needs exactly one column named step or tokens; it has {found} ({others})")
    names = [column for column in header if column not in (*by, *labels)]
    if not names:
        raise DownstreamError(f"{name} has no column of scores beside {by[0]!r}")
    if "" in names or len(set(names)) < len(names):
        raise DownstreamError(f"{name} needs a name of its own for every column; its header is {','.join(header)}")
    if len(lines) == 1:
        raise DownstreamError(f"{name} has a header but no line of scores")

    columns: dict[str, list[float]] = {column: [] for column in (by[0], *names)}
    for i, row in lines[1:]:
        if len(row) != len(header):
            raise DownstreamError(f"{name}, line {i}: {len(row)} cells, but the header has {len(header)}")
        for column, cell in zip(header, row, strict=True):
            where = f"{name}, line {i}, column {column!r}"
            if column in columns:
                cell = _step_told(cell, where) if by == labels and column == by[0] else cell
                columns[column].append(number(cell, where, needed=column == by[0]))
    progress = np.array(columns[by[0]])
    again, times = np.unique(progress, return_counts=True)
    if (times > 1).any():
        raise DownstreamError(f"{name}: {by[0]} {again[times > 1][0]:g} is there more than once")
    if (progress < 0).any():
        raise DownstreamError(f"{name}: {by[0]} must not be negative, got {progress.min():g}")
    order = np.argsort(progress)
    scores = Downstream({column: (progress[order], np.array(columns[column])[order]) for column in names})
    scores.by, scores.named = ("step", True) if by == labels else (by[0].lower(), False)
    return scores


def _step_told(cell: str, where: str) -> str:
    """The step in the name of a checkpoint, the last part of its path that tells one."""
    for part in reversed(re.split(r"[/\\@]", cell.strip())):
        if len(steps := steps_in(part)) == 1:
            return str(steps.pop())
    if cell.strip():
        raise DownstreamError(f"{where}: {cell.strip()!r} tells no step; give a column step")
    return cell


@dataclass(frozen=True)
class DownstreamCorrelation:
    """One quantity of the heads against one downstream score. p_holm, p_detrended_holm: its p_permutation and its
    p_detrended, adjusted for all that were compared (Holm); NaN where there is no p."""

    quantity: str
    score: str
    correlation: Correlation
    p_holm: float
    p_detrended_holm: float


def correlate_downstream(
    trajectory: Trajectory, downstream: Downstream, found: Panel | None = None
) -> list[DownstreamCorrelation]:
    """The paper's tables 3 and 4: NIAH score, NLL, number of heads and the initial heads' mean against every score.

    Checkpoints are matched by step - over all stages, or within one where names told it - or by tokens seen, to within
    a thousandth. found: the panel, where it was made already. Raises DownstreamError when no checkpoint of the file is
    one of the run, when a step is that of several, or tokens seen are not known.
    """
    found = panel(trajectory) if found is None else found
    own = (trajectory.steps if downstream.by == "step" else trajectory.tokens).astype(np.float64)
    if np.isnan(own).all():
        raise DownstreamError("the scores are given by tokens, but tokens seen are not known for this run; give step")
    quantities = {
        "NIAH score": found.niah_score.estimate,
        "NLL of the answer": found.nll["nll"].estimate,
        "number of retrieval heads": found.n_heads.estimate,
        "mean score of the initial heads": found.initial_mean.estimate,
    }
    pairs: list[tuple[str, str, Correlation]] = []
    for score, (told, values) in downstream.items():
        progress = _over_stages(trajectory, told) if downstream.by == "step" and downstream.named else told
        nearest = np.nanargmin(np.abs(own - progress[:, None]), axis=1)
        tolerance = 1e-3 * progress if downstream.by == "tokens" else 0.0
        column = np.flatnonzero(np.abs(own[nearest] - progress) <= tolerance)
        row, first = np.unique(nearest[column], return_index=True)
        column = column[first]
        if not len(row):
            given, there = (", ".join(f"{v:g}" for v in side[:8]) for side in (told, own))
            raise DownstreamError(
                f"no checkpoint of the run has a score of {score!r}: the file tells {downstream.by} {given}, the run "
                f"has {there}; give scores of the run's own checkpoints"
            )
        for quantity, curve in quantities.items():
            pairs.append((quantity, score, correlate(curve[row], values[column], trajectory.progress[row])))
    raw = holm(np.array([found.p_permutation for _, _, found in pairs]))
    beyond = holm(np.array([found.p_detrended for _, _, found in pairs]))
    return [DownstreamCorrelation(*pair, float(p), float(q)) for pair, p, q in zip(pairs, raw, beyond, strict=True)]


def _over_stages(trajectory: Trajectory, told: np.ndarray) -> np.ndarray:
    """Steps that names tell, within a stage or over all, as the file counts them: over all."""
    if len(trajectory.stage_spans) == 1:
        return told
    found = told.astype(np.float64)
    for i, step in enumerate(told):
        meant = np.flatnonzero((trajectory.steps == step) | (trajectory.own_steps == step))
        if len(meant) > 1:
            names = " and ".join(f"{trajectory.name(c)} ({trajectory.steps[c]} in the file)" for c in meant)
            raise DownstreamError(
                f"step {step:g} may be {names}; say which: --downstream {trajectory.steps[meant[-1]]}=FILE"
            )
        if len(meant):
            found[i] = trajectory.steps[meant[0]]
    return found
