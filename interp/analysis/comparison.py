"""Two runs side by side on identical probes: data mixes, base and instruct, original and quantised, two checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ..results import NLL_CLASSES, RETRIEVAL_THRESHOLD, HeadScores
from ..store import StoreError, all_answers, checkpoints, reading
from ..tasks import Answers
from .agreement import RankAgreement, rank_agreement
from .bootstrap import Interval, needle_sums
from .evolution import head_count_change
from .heads import HeadChanges, changes
from .paired import Difference, paired_difference
from .statistics import holm
from .trajectory import Trajectory, read_trajectory

LEVELS = ("nll_novel", "nll", "exact_match")  # measures of every probe
_BOUNDS = {"exact_match": (0.0, 1.0)}
Run = str | PathLike[str] | HeadScores


@dataclass(frozen=True)
class Side:
    """One of two runs: the file's name ("" for scores in memory), its model, the checkpoint, layers and heads."""

    file: str
    model_id: str
    step: int
    n_layers: int
    n_heads: int


@dataclass(frozen=True, eq=False)
class HeadComparison:
    """The heads of two runs, layer by layer and head by head.

    spearman, overlap: rank correlation over all heads, and the share of the `top` leading ones that both have.
    split_half: of a and b, mean Spearman between two halves of its own needles: how alike a ranking is to itself.
    n_compared: heads that both could observe. maps: float64 [2, L, H], mean scores.
    counts: retrieval heads of a and b; count_change: the difference. Both None for other estimators.
    changes: every head's difference, which are changed at a false discovery rate of 5 %.
    """

    top: int
    spearman: Interval
    overlap: Interval
    split_half: tuple[float, float]
    n_compared: int
    maps: np.ndarray
    counts: tuple[int, int] | None
    count_change: Interval | None
    changes: HeadChanges

    def named(self) -> list[tuple[str, float, float]]:
        """Changed heads, the largest change first: name, mean score in a and in b."""
        places = np.argwhere(self.changes.changed)
        size = np.abs(self.changes.difference[self.changes.changed])
        return [
            (f"L{layer}H{head}", float(self.maps[0, layer, head]), float(self.maps[1, layer, head]))
            for layer, head in places[np.argsort(-size, kind="stable")].tolist()
        ]


@dataclass(frozen=True, eq=False)
class Course:
    """The checkpoints that both files have, one beside the other; arrays are [C]. differences: measure -> one each."""

    steps: np.ndarray
    spearman: np.ndarray
    differences: dict[str, tuple[Difference, ...]]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What sets b apart from a. `verdict` is one line; `to_dict()` all of it for programs.

    heads: None where the models have other numbers of layers or heads.
    levels: NLL of the answer and of its novel tokens, exact match, on the same probes.
    tasks: scores of answers to the same items, all together ("answers") and by task; empty where there are none.
    tasks_holm: p of each of `tasks` but the first, adjusted for all of them; in their order.
    course: the common checkpoints, where none was named and there are several.
    notes: what else a reader has to know, a line each.
    """

    a: Side
    b: Side
    estimator: str
    probe_set_name: str
    probe_set_hash: str
    heads: HeadComparison | None
    levels: tuple[Difference, ...]
    tasks: tuple[Difference, ...]
    tasks_holm: tuple[float, ...]
    course: Course | None
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """One line: what differs beyond what other needles would undo."""
        said = [_in_words(each) for each in (*self.levels, *self.tasks[:1]) if each.better]
        named = [(each, p) for each, p in zip(self.tasks[1:], self.tasks_holm, strict=True) if p <= 0.05]
        if named:
            tasks = ", ".join(f"{each.name} {each.change.estimate:+.2f}" for each, _ in named)
            said.append(f"tasks that differ after Holm over {len(self.tasks_holm)}: {tasks}")
        if self.heads is not None and (moved := int(self.heads.changes.changed.sum())):
            up = int((self.heads.changes.changed & (self.heads.changes.difference > 0)).sum())
            said.append(f"of {self.heads.changes.tested} heads tested, {up} are higher and {moved - up} lower in b")
        if said:
            return f"b beside a: {'; '.join(said)}."
        if all(np.isnan(each.change.low) for each in self.levels):
            return f"Too few needles to tell: {self.levels[0].n_needles}, and 12 are needed for an interval."
        closest = self.levels[0]
        return f"No difference can be told from that between needles; {_in_words(closest)}."

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values, NaN as None, with the verdict."""
        found: dict[str, Any] = _plain(self)
        if self.heads is not None:
            changed = [dict(zip(("head", "a", "b"), each, strict=True)) for each in self.heads.named()]
            found["heads"]["changed_heads"] = changed
        return {"verdict": self.verdict, **found}


def compare(
    a: Run,
    b: Run,
    *,
    checkpoint: int | None = None,
    with_checkpoint: int | None = None,
    estimator: str = "retrieval",
    top: int = 10,
    level: float = 0.05,
) -> Comparison:
    """Compare two runs on identical probes: rank agreement of heads, changed heads, paired differences of all levels.

    Every difference is b - a on the same item, every interval over needles. A whole needle's difference is one draw, so
    what needles have in common is not counted as a difference of the runs.

    Args:
        a, b: results files with the same probe set, or scores in memory. The same file twice compares two checkpoints.
        checkpoint, with_checkpoint: the step of a and of b. One alone stands for both. By default the last step that
            both files have, and the course over all that both have; the last of each where none is common.
        estimator: whose scores of the heads are compared.
        top: leading heads whose overlap is counted.
        level: false discovery rate of the changed heads.

    Raises:
        ArgumentError: the same checkpoint twice, or the probe sets differ.
        StoreError: a file cannot be read, lacks the estimator, or has no such checkpoint.
    """
    runs = [_read(source, estimator) for source in (a, b)]
    _check_probes(a, b, *runs)
    common = [int(step) for step in np.intersect1d(runs[0].steps, runs[1].steps)]
    same_file = _path(a) is not None and _path(a) == _path(b)
    chosen = (checkpoint, with_checkpoint)
    if chosen == (None, None) and not same_file:
        steps = (common[-1], common[-1]) if common else (int(runs[0].steps[-1]), int(runs[1].steps[-1]))
    else:
        first = checkpoint if checkpoint is not None else with_checkpoint
        steps = (first, with_checkpoint if with_checkpoint is not None else first)  # type: ignore[assignment]
        if same_file and (None in chosen or steps[0] == steps[1]):
            raise ArgumentError(
                f"a and b are the same file; name two of its checkpoints, checkpoint= and with_checkpoint=, out of "
                f"{', '.join(map(str, runs[0].steps))}"
            )
    at = [_place(run, step, source) for run, step, source in zip(runs, steps, (a, b), strict=True)]
    answered = [_answers(source) for source in (a, b)]
    notes = _notes(runs)
    heads = None
    if runs[0].scores.shape[2:] == runs[1].scores.shape[2:]:
        heads = _heads(_pair(runs, at), estimator, top, level)
    else:
        shapes = " and ".join("{} x {}".format(*run.scores.shape[2:]) for run in runs)
        notes.append(f"The models have {shapes} layers x heads: heads are not compared, the levels above them are.")
    tasks, more = _tasks(*(found.get(step) for found, step in zip(answered, steps, strict=True)))
    course = None
    if chosen == (None, None) and len(common) > 1:
        course = _course(runs, common, answered)
    return Comparison(
        a=_side(a, runs[0], at[0]),
        b=_side(b, runs[1], at[1]),
        estimator=estimator,
        probe_set_name=str(runs[0].about.get("probe_set_name", "")),
        probe_set_hash=str(runs[0].about.get("probe_set_hash", "")),
        heads=heads,
        levels=tuple(_levels(runs, at)),
        tasks=tasks,
        tasks_holm=tuple(holm(np.array([each.p for each in tasks[1:]])).tolist()),
        course=course,
        notes=tuple(notes + more),
    )


def _read(source: Run, estimator: str) -> Trajectory:
    if not isinstance(source, HeadScores):
        return read_trajectory(source, estimator)
    source[estimator]  # the error for an unknown one
    about = {name: getattr(source, name) for name in ("model_id", "probe_set_name", "probe_set_hash")}
    return Trajectory(
        steps=np.zeros(1, np.int64),
        tokens=np.full(1, np.nan),
        scores=source.per_probe[estimator][None],
        nll={name: getattr(source, name)[None] for name in NLL_CLASSES},
        exact_match=np.where(source.computed, source.exact_match, np.nan).astype(np.float32)[None],
        probes=source.probes,
        about={"estimator": estimator, **about},
    )


def _check_probes(a: Run, b: Run, first: Trajectory, second: Trajectory) -> None:
    """The same probes in the same order, by the hash of the set, which is over what every probe asks."""
    told = [(str(run.about["probe_set_name"]), str(run.about["probe_set_hash"])) for run in (first, second)]
    if told[0][1] == told[1][1] and np.array_equal(first.probes["id"], second.probes["id"]):
        return
    (name_a, hash_a), (name_b, hash_b) = told
    counts = f"{len(first.needles)} probes of {name_a!r} ({hash_a[:12]})"
    counts += f" and {len(second.needles)} of {name_b!r} ({hash_b[:12]})"
    shared = len(np.intersect1d(first.probes["id"], second.probes["id"]))
    raise ArgumentError(
        f"{_name(a) or 'a'} and {_name(b) or 'b'} were not measured on the same probes: {counts}, {shared} ids in "
        "common, and an id does not tell what was asked; measure both with one saved set: headscope probes build ... "
        "-o probes.npz, then score --probes probes.npz"
    )


def _place(run: Trajectory, step: int, source: Run) -> int:
    found = np.flatnonzero(run.steps == step)
    if not len(found):
        there = ", ".join(map(str, run.steps[:12])) + (", ..." if len(run.steps) > 12 else "")
        raise StoreError(f"{_name(source) or 'the scores'} has no checkpoint {step}; it has {there}")
    return int(found[0])


def _path(source: Run) -> Path | None:
    return None if isinstance(source, HeadScores) else Path(source).resolve()


def _name(source: Run) -> str:
    return "" if isinstance(source, HeadScores) else Path(source).name


def _side(source: Run, run: Trajectory, place: int) -> Side:
    layers, heads = run.scores.shape[2:]
    step, model = int(run.steps[place]), str(run.about.get("model_id", ""))
    if not isinstance(source, HeadScores):
        with reading(source) as file:
            model = str(file["provenance/model_id"].asstr()[int(np.flatnonzero(file["checkpoint"][:] == step)[0])])
    return Side(_name(source), model, step, layers, heads)


def _answers(source: Run) -> dict[int, Answers]:
    """Step -> answers."""
    if isinstance(source, HeadScores):
        return {}
    steps = checkpoints(source)
    return {steps[row]: answers for row, answers in all_answers(source).items()}


def _notes(runs: list[Trajectory]) -> list[str]:
    grafted = [run.probes.get("grafted") for run in runs]
    if all(each is not None for each in grafted) and not np.array_equal(*grafted):  # type: ignore[arg-type]
        return [
            "One run shared prefills (grafted probes) and the other did not, which moves scores a little by itself; "
            "for small differences score both with --sharing exact."
        ]
    return []


def _pair(runs: list[Trajectory], at: list[int]) -> Trajectory:
    """Two checkpoints as one trajectory, so that all that compares checkpoints compares runs."""
    first, second = runs
    return replace(
        first,
        steps=np.arange(2),
        tokens=np.full(2, np.nan),
        scores=np.stack([run.scores[i] for run, i in zip(runs, at, strict=True)]),
        nll={name: np.stack([first.nll[name][at[0]], second.nll[name][at[1]]]) for name in NLL_CLASSES},
        exact_match=np.stack([first.exact_match[at[0]], second.exact_match[at[1]]]),
        stages=np.empty(0, str),
        own_steps=np.empty(0, np.int64),
    )


def _heads(pair: Trajectory, estimator: str, top: int, level: float) -> HeadComparison:
    _, p, layers, heads = pair.scores.shape
    if not 1 <= top <= layers * heads:
        raise ArgumentError(f"top must be 1 to {layers * heads}, the number of heads, got {top}")
    retrieval = estimator == "retrieval"
    values = np.moveaxis(pair.scores.reshape(2, p, -1), 1, -1).astype(np.float64)
    ranks: RankAgreement = rank_agreement(*needle_sums(values, pair.needles), top=top, n_probes=p, names=("a", "b"))
    maps = pair.maps.astype(np.float64)
    counted = (maps > pair.levels()).sum(axis=(1, 2)) if retrieval else None
    return HeadComparison(
        top=ranks.top,
        spearman=_between(ranks.spearman),
        overlap=_between(ranks.overlap),
        split_half=(float(ranks.split_half[0]), float(ranks.split_half[1])),
        n_compared=int(ranks.seen.sum()),
        maps=maps,
        counts=None if counted is None else (int(counted[0]), int(counted[1])),
        count_change=head_count_change(pair) if retrieval else None,
        changes=changes(pair, level=level, sum_above=RETRIEVAL_THRESHOLD if retrieval else None),
    )


def _between(matrix: Interval) -> Interval:
    """Of the two views against each other."""
    estimate, low, high = (float(each[0, 1]) for each in (matrix.estimate, matrix.low, matrix.high))
    return Interval(estimate, low, high, matrix.level, matrix.n, matrix.n_clusters)


def _levels(runs: list[Trajectory], at: list[int]) -> list[Difference]:
    needles, found = runs[0].needles, []
    for name in LEVELS:
        a, b = (
            (run.exact_match if name == "exact_match" else run.nll[name])[i] for run, i in zip(runs, at, strict=True)
        )
        if (~np.isnan(a) & ~np.isnan(b)).any():
            up = name == "exact_match"
            found.append(paired_difference(name, a, b, needles, higher_is_better=up, bounds=_BOUNDS.get(name)))
    if not found:
        raise ArgumentError("no probe has an NLL in both runs: the model computed NaN; measure again in another dtype")
    return found


def _tasks(a: Answers | None, b: Answers | None) -> tuple[tuple[Difference, ...], list[str]]:
    """All answers together, then every task where there are several; and why there are none, if only one has some."""
    if a is None or b is None:
        return (), ["Only one of the two has answers here: tasks are not compared."] if a or b else []
    if a.probe_set_hash != b.probe_set_hash or not np.array_equal(a.probes["id"], b.probes["id"]):
        sets = " and ".join(f"{each.probe_set_name!r} ({each.probe_set_hash[:12]})" for each in (a, b))
        return (), [f"The answers are to different items, {sets}: tasks are not compared."]
    needles, names = a.probes["needle_id"], a.probes["task"]
    groups = dict.fromkeys(names.tolist())
    chosen = {"answers": np.ones(len(a), bool)}
    chosen |= {name: names == name for name in groups} if len(groups) > 1 else {}
    known = ~np.isnan(a.score) & ~np.isnan(b.score)
    return tuple(
        paired_difference(name, a.score[which], b.score[which], needles[which], bounds=(0, 1))
        for name, which in chosen.items()
        if (known & which).any()
    ), []


def _course(runs: list[Trajectory], steps: list[int], answered: list[dict[int, Answers]]) -> Course:
    from scipy import stats

    same = runs[0].scores.shape[2:] == runs[1].scores.shape[2:]
    spearman = np.full(len(steps), np.nan)
    differences: dict[str, list[Difference]] = {}
    for c, step in enumerate(steps):
        at = [int(np.flatnonzero(run.steps == step)[0]) for run in runs]
        if same:
            maps = _pair(runs, at).maps.reshape(2, -1)
            maps = maps[:, ~np.isnan(maps).any(axis=0)]
            if maps.shape[1] > 1 and (np.ptp(maps, axis=1) > 0).all():
                spearman[c] = stats.spearmanr(*maps).statistic
        tasks, _ = _tasks(*(found.get(step) for found in answered))
        for each in (*_levels(runs, at), *tasks[:1]):
            differences.setdefault(each.name, []).append(each)
    whole = {name: tuple(found) for name, found in differences.items() if len(found) == len(steps)}
    return Course(np.array(steps), spearman, whole)


def _in_words(found: Difference) -> str:
    names = {
        "nll_novel": "NLL of novel tokens",
        "nll": "NLL of the answer",
        "exact_match": "exact match",
        "answers": "score of the answers",
    }
    form, change = ("+.3f" if found.name.startswith("nll") else "+.2f"), found.change
    ends = "" if np.isnan(change.low) else f" ({change.low:{form}} to {change.high:{form}})"
    return f"{names.get(found.name, found.name)} {change.estimate:{form}}{ends}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        found = {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
        return found | {"better": value.better} if isinstance(value, Difference) else found
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not isfinite(value) else value
