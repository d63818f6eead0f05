"""Which checkpoints are of one stage of training, in which order the stages follow, and how their counts add up.

Stages (stage1 and stage2, 8K and then 32K, pretraining and fine-tuning) begin their steps anew. Within one, steps tell
the order. Between several: a number beside "stage" or "phase", else context lengths in names of one form, else the
order in which the user named them. Where nothing tells it, nothing is guessed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

from ..checkpoint_names import BRANCH_WORDS, LARGEST_STEP, STAGE_WORDS, lengths, numbered, stage_key
from .table import CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint to score.

    name: how it is called in messages: the end of its path, or hub_id@revision. source: what `load_model` takes.
    step: its place in the file: its own step, on top of the last one of the stage before where the count began anew;
        tokens_seen likewise, None where nothing tells them. told_by: where the step was found.
    run: the folder it is in, or its hub id, as short as tells it from the others. label: what its name says of a stage.
    stage: how the file calls its stage; "" where there is only one. step_in_stage, tokens_in_stage: as told.
    """

    name: str
    source: str
    step: int
    tokens_seen: float | None
    told_by: str
    run: str = ""
    label: str = ""
    stage: str = ""
    step_in_stage: int = -1
    tokens_in_stage: float | None = None

    @property
    def place(self) -> str:
        """ "step 500", or "stage2 step 500" where there are several stages."""
        return f"{self.stage} step {self.step_in_stage}" if self.stage else f"step {self.step}"


Named = dict[str, tuple[int, bool]]
"""Source of a checkpoint -> which argument meant it, and whether that was its own name and not a folder or a glob."""


def by_stage(checkpoints: Iterable[Checkpoint]) -> list[list[Checkpoint]]:
    """The checkpoints of each stage, in step order; the stages in any order."""
    found: dict[Hashable, list[Checkpoint]] = {}
    for each in checkpoints:
        found.setdefault((each.run, stage_key(each.label)), []).append(each)
    return [sorted(stage, key=lambda c: c.step_in_stage) for stage in found.values()]


def in_order(stages: list[list[Checkpoint]], named: Named | None = None) -> list[list[Checkpoint]]:
    """The stages in the order of training; `named` where the order of the arguments may tell it.

    Raises CheckpointError where nothing tells it, and where stages are branches of one stage before them.
    """
    runs: dict[str, list[list[Checkpoint]]] = {}
    for stage in stages:
        runs.setdefault(stage[0].run, []).append(stage)
    rules: list[_Rule] = [_number(0), _number(1), _by_length]
    ordered = _sorted([_Part(run, of) for run, of in runs.items()], [*rules, _by_argument(named or {}, of_runs=True)])
    return [
        only
        for run in ordered
        for part in _sorted(
            [_Part("", [stage]) for stage in run.stages],
            [*rules, _by_argument(named or {}, of_runs=False)],
        )
        for only in part.stages
    ]


@dataclass(frozen=True)
class _Part:
    """A run or a stage of one; name: what may tell its place."""

    name: str
    stages: list[list[Checkpoint]]

    @property
    def text(self) -> str:
        """With the stage, where a run has one only."""
        labels = {stage[0].label for stage in self.stages}
        return f"{self.name} {labels.pop()}".strip() if len(labels) == 1 else self.name


_Rule = Callable[[list[_Part]], "list[float] | list[tuple[float, ...]] | None"]


def _sorted(parts: list[_Part], rules: Sequence[_Rule]) -> list[_Part]:
    """By the first rule that tells, and those that it leaves level by the next."""
    if len(parts) == 1:
        return parts
    _refuse_branches(parts)
    if not rules:
        raise CheckpointError(
            f"these checkpoints are of {len(parts)} runs or stages, and nothing tells which came first: "
            f"{_listed(stage for part in parts for stage in part.stages)}; name them in the order of training, one "
            "argument each (a folder, or a glob in quotes), choose one, or write the order into a CSV with the columns "
            'checkpoint,step,stage (the stage that comes first, first) and pass table="steps.csv"'
        )
    keys = rules[0](parts)
    if keys is None:
        return _sorted(parts, rules[1:])
    return [
        each
        for key in sorted(set(keys))  # type: ignore[type-var]
        for each in _sorted([part for part, own in zip(parts, keys, strict=True) if own == key], rules[1:])
    ]


def _refuse_branches(parts: list[_Part]) -> None:
    """stage2-ingredient1 and stage2-ingredient2 both start from the end of stage 1: one does not follow the other."""
    siblings: dict[Hashable, dict[Hashable, _Part]] = {}
    for part in parts:
        words, pairs, length = stage_key(part.text)
        branch = tuple(pair for pair in pairs if pair[0] in BRANCH_WORDS)
        if branch:
            stem = tuple(pair for pair in pairs if pair not in branch)
            siblings.setdefault((words, stem, length), {})[branch] = part
    for side_by_side in siblings.values():
        if len(side_by_side) > 1:
            names = [part.text for part in side_by_side.values()]
            raise CheckpointError(
                f"{' and '.join(names)} are branches side by side, and one does not follow the other; choose one of "
                "them, or sweep each into a file of its own"
            )


def _number(level: int) -> _Rule:
    """The number beside the first (level 0) or second such word: stage2-phase1."""

    def rule(parts: list[_Part]) -> list[float] | None:
        pairs = [_numbers(part) for part in parts]
        if any(len(found) <= level for found in pairs) or len({found[level][0] for found in pairs}) > 1:
            return None
        return [found[level][1] for found in pairs]

    return rule


def _numbers(part: _Part) -> list[tuple[str, int]]:
    return [pair for pair in numbered(part.text) if pair[0] in STAGE_WORDS]


def _by_length(parts: list[_Part]) -> list[tuple[float, ...]] | None:
    """run-8k before run-32k: names that are the same but for the lengths."""
    found = [lengths(part.text) for part in parts]
    same = len({form for _, form in found}) == 1 and all(told for told, _ in found)
    return [told for told, _ in found] if same else None


def _by_argument(named: Named, *, of_runs: bool) -> _Rule:
    """The order in which the user named them, where one argument, or a row of them, means each.

    Files and folders that come one by one in the order of the alphabet are likely a shell's reading of one glob, which
    tells no order; a folder or a glob for each, or any other order, is the user's own.
    """

    def rule(parts: list[_Part]) -> list[float] | None:
        given = []
        for part in parts:
            meant = [named.get(c.source) for stage in part.stages for c in stage]
            if None in meant:
                return None
            given.append(sorted({each for each in meant if each is not None}))
        ends = sorted((each[0][0], each[-1][0]) for each in given)
        if any(after[0] <= before[1] for before, after in pairwise(ends)):
            return None
        ordered = [part for _, part in sorted(zip(given, parts, strict=True), key=lambda pair: pair[0])]
        sources = [stage[0].source for part in ordered for stage in part.stages[:1]]
        on_disk = all(os.path.exists(source) for source in sources)
        one_by_one = any(alone and (len(each) > 1 or not of_runs) for each in given for _, alone in each)
        if on_disk and one_by_one and (sources == sorted(sources) or sources == sorted(sources, key=str.casefold)):
            return None
        numbers = [_numbers(part) for part in ordered]
        if any(a and b and a[0][0] == b[0][0] and b < a for a, b in combinations(numbers, 2)):
            return None  # stage2, lc, stage1
        return [each[0][0] for each in given]

    return rule


def _listed(stages: Iterable[list[Checkpoint]], most: int = 6) -> str:
    stages = list(stages)
    several_runs = len({stage[0].run for stage in stages}) > 1
    found = [f"{_called(stage[0], several_runs)} ({_steps(stage)})" for stage in stages]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def _steps(stage: list[Checkpoint]) -> str:
    first, last = stage[0].step_in_stage, stage[-1].step_in_stage
    return f"steps {first:,} to {last:,}" if last > first else f"step {first:,}"


def _called(checkpoint: Checkpoint, several_runs: bool) -> str:
    """The name of a stage: of its folder or model where there are several, what its checkpoints' names say, or both."""
    run = checkpoint.run if several_runs or not checkpoint.label else ""
    return " ".join(part for part in (run, checkpoint.label) if part)


# How the counts add up


def add_up(stages: list[list[Checkpoint]]) -> list[Checkpoint]:
    """All checkpoints in order, with the place of each in the file and the name of its stage.

    A stage whose own steps go on beyond those of the stage before keeps counting; one that begins anew is put on top.
    Tokens likewise, where all of a stage and of those before are told and fall when the steps do; else they are unknown
    from there on. Raises CheckpointError where steps and millions of tokens are mixed, or the sum is no step any more.
    """
    units = {c.told_by == "millions of tokens" for stage in stages for c in stage}
    if len(stages) == 1:
        return [replace(c, step=c.step_in_stage, tokens_seen=c.tokens_in_stage, stage="") for c in stages[0]]
    if len(units) > 1:
        raise CheckpointError(
            f"some of these stages tell steps and others only tokens: {_listed(stages)}; write the step of each "
            'checkpoint into a CSV with the columns checkpoint,step,tokens_seen,stage and pass table="steps.csv"'
        )
    several_runs = len({c.run for stage in stages for c in stage}) > 1
    placed: list[Checkpoint] = []
    begin, begin_tokens = 0, 0.0  # what the counts of this stage are put on top of
    known = True
    for number, stage in enumerate(stages):
        told = [c.tokens_in_stage for c in stage if c.tokens_in_stage is not None]
        known &= len(told) == len(stage) and told == sorted(told)
        if number:
            before, last = stages[number - 1][-1], placed[-1]
            steps_fall = stage[0].step_in_stage <= before.step_in_stage
            tokens_fall = known and told[0] <= (before.tokens_in_stage or 0.0)
            known &= tokens_fall or not steps_fall  # steps anew and tokens not: of all stages, or many of this one?
            if steps_fall or tokens_fall:
                begin, begin_tokens = last.step, last.tokens_seen or 0.0
        name = stage[0].stage or _called(stage[0], several_runs)
        for c in stage:
            # a step 0 of a later stage comes after the last one before it, which it may equal
            step = max(begin + c.step_in_stage, placed[-1].step + 1 if placed else 0)
            if step > LARGEST_STEP:
                raise CheckpointError(f"{c.name}: the steps of all stages add up to {step}, more than {LARGEST_STEP}")
            own = c.tokens_in_stage
            tokens = begin_tokens + own if known and own is not None else own if not number else None
            placed.append(replace(c, step=step, tokens_seen=tokens, stage=name))
    return placed


def stage_lines(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """A line a stage, in order: "stage2: 3 checkpoints, steps 500 to 1,500, after 3,000 steps"; none for one stage."""
    stages = list(dict.fromkeys(c.stage for c in checkpoints))
    lines: list[str] = []
    for name in stages if len(stages) > 1 else []:
        of = [c for c in checkpoints if c.stage == name]
        line = f"{name}: {len(of)} checkpoint{'s' if len(of) > 1 else ''}, {_steps(of)}"
        begin = of[-1].step - of[-1].step_in_stage
        lines.append(line + (f", on top of {begin:,}" if begin else ", counted on" if lines else ""))
    return lines
