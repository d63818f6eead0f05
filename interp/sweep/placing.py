"""Checkpoints and the shards that there are: which belongs to which, and where each comes in the file.

A shard is told by what it is of (run, name, own step), never by its place, which moves when a stage before it grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..checkpoint_names import stage_key
from ..model import ModelError
from .shards import Held, Shards, SweepError, is_same, same_run, same_weights
from .stages import Checkpoint, add_up, by_stage, in_order
from .table import CheckpointError


@dataclass(frozen=True)
class Placing:
    """found: the checkpoints, each at its place among all that the file will hold. shards: source -> what it has.

    left: shards of checkpoints that are not named now (a trainer may have removed them), with their places.
    """

    found: list[Checkpoint]
    shards: dict[str, Held]
    left: list[tuple[Checkpoint, Held]]


def place(found: Sequence[Checkpoint], shards: Shards, allow_pickle: bool) -> Placing:
    """Raises SweepError when the shards hold checkpoints whose stage or run has no place among those of `found`."""
    several = any(checkpoint.stage for checkpoint in found)
    taken: dict[str, Held] = {}
    free = [Held.read(path) for path in shards.files()]

    def take(fits: Callable[[Checkpoint, Held], bool]) -> None:
        for checkpoint in found:
            shard = next((s for s in free if checkpoint.source not in taken and fits(checkpoint, s)), None)
            if shard is not None:
                taken[checkpoint.source] = shard
                free.remove(shard)

    def of_stage(checkpoint: Checkpoint, shard: Held) -> bool:
        own = shard.checkpoint
        known = own.run and same_run(own.run, checkpoint.run) and stage_key(own.label) == stage_key(checkpoint.label)
        return own.step_in_stage == checkpoint.step_in_stage and bool(known or not (own.run or several))

    def moved(checkpoint: Checkpoint, shard: Held) -> bool:  # a folder has another name now, or its name was not kept
        own = shard.checkpoint
        return is_same(replace(own, run=""), checkpoint) and _same_weights(checkpoint, shard, allow_pickle)

    take(lambda checkpoint, shard: shard.made.get("run") == checkpoint.run and is_same(checkpoint, shard.checkpoint))
    take(moved)
    take(of_stage)

    stages: dict[str, list[Checkpoint]] = {}
    for checkpoint in found:
        stages.setdefault(checkpoint.stage, []).append(checkpoint)
    strangers = []
    for shard in free:
        own = replace(shard.checkpoint, source=str(shard.path))
        stage = next((stage for stage in stages.values() if _belongs(own, stage[0], several)), None)
        if stage is None:
            strangers.append(own)
        else:
            stage.append(replace(own, run=stage[0].run, label=stage[0].label, stage=stage[0].stage))
    ordered = list(stages.values())
    if strangers:
        ordered = _with_strangers(ordered, strangers, shards.output)
    ordered = [sorted(stage, key=lambda checkpoint: checkpoint.step_in_stage) for stage in ordered]
    everything = {checkpoint.source: checkpoint for checkpoint in add_up(ordered)}
    return Placing(
        found=sorted((everything[checkpoint.source] for checkpoint in found), key=lambda checkpoint: checkpoint.step),
        shards=taken,
        left=[(everything[str(shard.path)], shard) for shard in free],
    )


def _belongs(own: Checkpoint, stage: Checkpoint, several: bool) -> bool:
    if own.stage and own.stage == stage.stage:
        return True
    if not own.run:  # scored one by one, or by an older version
        return not several
    return same_run(own.run, stage.run) and stage_key(own.label) == stage_key(stage.label)


def _with_strangers(
    stages: list[list[Checkpoint]], strangers: list[Checkpoint], output: Path
) -> list[list[Checkpoint]]:
    """The stages with those that are not named now, where names tell the order."""
    runs = [stage[0].run for stage in stages]
    known = [replace(own, run=next((run for run in runs if same_run(own.run, run)), own.run)) for own in strangers]
    try:
        if not all(own.run for own in known):
            raise CheckpointError("they do not tell their run")
        return in_order([*stages, *by_stage(known)])
    except CheckpointError:
        steps = ", ".join(str(own.step) for own in strangers[:5]) + (", ..." if len(strangers) > 5 else "")
        of = dict.fromkeys(own.stage or f"{own.run} {own.label}".strip() for own in strangers)
        raise SweepError(
            f"{output} also holds checkpoint {steps}{' of ' if any(of) else ''}{', '.join(of)}, of another run or "
            "stage than those named now, and nothing tells which came first; name all of them, in the order of "
            "training, or choose another output"
        ) from None


def _same_weights(checkpoint: Checkpoint, shard: Held, allow_pickle: bool) -> bool:
    try:
        return same_weights(checkpoint, shard.provenance, allow_pickle)
    except (ModelError, OSError):
        return False
