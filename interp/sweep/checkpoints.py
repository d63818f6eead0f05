"""What a user points at -> checkpoints in the order of training, before any weight is read.

Paths, globs, folders of checkpoints, GGUF files, hub_id@revision and TransformerLens labels all end as something that
`load_model` takes, with the step and the training tokens that belong to it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from os import PathLike
from pathlib import Path

from ..checkpoint_names import (
    LARGEST_STEP,
    STAGE_WORDS,
    numbered,
    stage_in,
    step_of_tokens,
    steps_in,
    tokens_in,
    trainer_state,
)
from ..model import hub_name, what_it_is
from .lens_labels import revisions
from .stages import Checkpoint, Named, add_up, by_stage, in_order
from .table import CheckpointError, Table

_WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
_REMEDY = 'name the step of each in a CSV with the columns checkpoint,step,tokens_seen and pass table="steps.csv"'


@dataclass(frozen=True)
class _Found:
    name: str
    source: str
    aliases: tuple[str, ...]  # what a table may call it
    path: Path | None  # None: on the hub
    place: Path | None = None  # where the user sees it, which may be a link

    @property
    def parts(self) -> list[str]:
        """Where a step may stand: the last part of the path, else the one before (step_1000/hf)."""
        if self.path is None:
            return [self.source.partition("@")[2], self.source.partition("@")[0].rpartition("/")[2]]
        return [self.path.name.removesuffix(".gguf"), self.path.parent.name]

    def run(self, part: str) -> str:
        """What holds the checkpoints of a run, where `part` is the one of `parts` that tells the step."""
        if self.path is None or self.place is None:
            hub_id, _, revision = self.source.partition("@")
            return hub_id if part == revision else hub_id.rpartition("/")[0]
        above = self.place.parent
        return str(above if part == self.parts[0] or self.place.is_symlink() else above.parent)


def find_checkpoints(
    given: str | PathLike[str] | Iterable[str | PathLike[str]], table: str | PathLike[str] | None = None
) -> list[Checkpoint]:
    """The checkpoints that `given` means, in the order of training; a checkpoint that is meant twice comes once.

    Step and tokens come from the table, else from trainer_state.json, else from the name. Where only tokens are told
    ("20B"), the step is their number in millions. Where they are of several stages or runs, see stages.py; a table
    that tells every step tells one count for all, unless it has a column `stage`.

    Raises CheckpointError when something means no checkpoint, when a step is told twice differently or not at all,
    when two checkpoints of a stage have the same step, and when nothing tells which stage came first; the message
    lists what was found.
    """
    given = [given] if isinstance(given, (str, PathLike)) else list(given)
    if not given:
        raise CheckpointError("checkpoints: none given; name folders, a glob, .gguf files or hub_id@revision")
    rows = Table(table) if table is not None else None
    found: dict[str, _Found] = {}
    named: Named = {}
    for number, argument in enumerate(given):
        text = os.fspath(argument)
        for each in _expand(text):
            found.setdefault(each.source, each)
            named.setdefault(each.source, (number, text in each.aliases))
    placed: list[Checkpoint] = []
    uncertain: list[str] = []
    for each in found.values():
        try:
            placed.append(_place(each, rows))
        except _Unplaced as error:
            uncertain.append(f"{each.name}: {error}")
    if uncertain:
        of = f"{len(uncertain)} of {len(found)} checkpoints" if len(found) > 1 else "the checkpoint"
        raise CheckpointError(f"the step of {of} is not clear: {_few(uncertain)}; {_REMEDY}")
    placed = _short_runs(placed)
    if rows is not None and rows.stages:
        stages = _told_stages(placed, rows)
    elif all(checkpoint.told_by == "from the table" for checkpoint in placed):
        stages = [sorted(placed, key=lambda checkpoint: checkpoint.step)]
    else:
        stages = by_stage(placed)
    for stage in stages:
        _refuse_twins(stage)
    return add_up(stages if rows is not None and rows.stages else in_order(stages, named))


def _told_stages(placed: list[Checkpoint], rows: Table) -> list[list[Checkpoint]]:
    untold = [checkpoint.name for checkpoint in placed if not checkpoint.stage]
    if untold:
        raise CheckpointError(f"{rows.path} tells no stage of {_few(untold)}; give one to every checkpoint, or to none")
    order = sorted(placed, key=lambda checkpoint: (rows.stages.index(checkpoint.stage), checkpoint.step))
    return [list(stage) for _, stage in groupby(order, key=lambda checkpoint: checkpoint.stage)]


def _short_runs(placed: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Every run by the end of its path, as long as it takes to tell it from the others."""
    runs = {checkpoint.run for checkpoint in placed}
    short = {}
    for run in runs:
        parts = Path(run).parts if os.path.isabs(run) else (run,)
        ends = (str(Path(*parts[-n:])) for n in range(1, len(parts) + 1))
        others = [str(Path("/", other)) for other in runs - {run}]
        short[run] = next((end for end in ends if not any(other.endswith(f"/{end}") for other in others)), run)
    return [replace(checkpoint, run=short[checkpoint.run]) for checkpoint in placed]


def _refuse_twins(placed: Sequence[Checkpoint]) -> None:
    by_step: dict[int, list[Checkpoint]] = {}
    for checkpoint in placed:
        by_step.setdefault(checkpoint.step, []).append(checkpoint)
    twins = [
        f"step {step}: {' and '.join(f'{c.source} ({c.told_by})' for c in same)}"
        for step, same in by_step.items()
        if len(same) > 1
    ]
    if twins:
        raise CheckpointError(f"several checkpoints have the same step: {_few(twins)}; leave some out, or {_REMEDY}")


def _few(items: Sequence[str], most: int = 6) -> str:
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


# What is meant


def _expand(text: str) -> Iterator[_Found]:
    path = Path(text).expanduser()
    matches = _matches(path) if not path.exists() and glob.has_magic(text) else []
    if path.exists():
        yield from _on_disk(path, text)
    elif "@" in text and not matches:
        yield from _on_the_hub(text)
    elif glob.has_magic(text):
        found = [match for match in matches if _is_checkpoint(match)]
        if not found:
            held = (
                f"matches {len(matches)} files and folders, but none is a checkpoint" if matches else "matches nothing"
            )
            raise CheckpointError(f"{text!r} {held}; a checkpoint is a folder with a config.json, or a .gguf file")
        for match in found:
            yield _local(match, str(match))
    elif _may_be_on_the_hub(text):
        yield _Found(text, text, (text,), None)
    else:
        raise CheckpointError(
            f"there is no file or folder {text!r}; give a folder, a glob, a .gguf file or hub_id@revision"
        )


def _matches(pattern: Path) -> list[Path]:
    """What a glob matches. Folders above that exist as they are written are no patterns: run[lr=1e-4]/checkpoint-*.

    Below them too, brackets are first taken as they are written: run[lr=1e-4]*/checkpoint-*.
    """
    parts = pattern.parts
    there = next((n for n in range(len(parts) - 1, 0, -1) if Path(*parts[:n]).is_dir()), 0)
    above = [glob.escape(str(Path(*parts[:there])))] if there else []
    below = parts[there:]
    found = glob.glob(os.path.join(*above, *(part.replace("[", "[[]") for part in below)), recursive=True)
    found = found or glob.glob(os.path.join(*above, *below), recursive=True)
    return [Path(match) for match in sorted(found)]


def _may_be_on_the_hub(text: str) -> bool:
    """org/name or org/name/sub/folder, unless org is a folder here: then the path is misspelt."""
    found = hub_name(text)
    return found is not None and "/" in found.repository and not Path(text.partition("/")[0]).is_dir()


def _on_disk(path: Path, text: str) -> Iterator[_Found]:
    if not path.is_dir():
        if path.suffix != ".gguf":
            raise CheckpointError(f"{text} is a file but not a .gguf file; give the folder that holds config.json")
        yield _local(path, text)
        return
    itself = _holds(path, _WEIGHTS)
    inside = [child for child in sorted(path.iterdir()) if not child.name.startswith((".", "tmp"))]
    # A trainer's folder often ends with a copy of its last checkpoint beside the checkpoints: those are meant then.
    # Optimizer states (checkpoint-500/global_step500) are no checkpoints of their own.
    if steps_in(path.name):
        inside = [child for child in inside if not child.name.startswith("global_step")]
    below = [c for c in inside if (_holds(c, ("config.json",)) if itself else _is_checkpoint(c))]
    if itself and not (below and any(steps_in(child.name) for child in below)):
        yield _local(path, text)
    elif below:
        for child in below:
            yield _local(child, str(child))
    elif _named(path):
        yield _local(path, text)  # a checkpoint by its name, and broken: loading says how
    elif reasons := [f"{each}: {what}" for each in (path, *inside) if each.is_dir() and (what := what_it_is(each))]:
        raise CheckpointError(f"{text} holds no checkpoint that can be read; {_few(reasons, 2)}")
    else:
        names = ", ".join(child.name for child in inside[:4]) or "nothing"
        raise CheckpointError(f"{text} holds no checkpoint (it holds {names}); a checkpoint has a config.json")


def _is_checkpoint(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix == ".gguf"
    return not path.name.startswith("tmp") and (_holds(path, _WEIGHTS) or _named(path))


def _named(folder: Path) -> bool:
    return bool(steps_in(folder.name)) or tokens_in(folder.name) is not None


def _holds(folder: Path, patterns: Iterable[str]) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _local(path: Path, text: str) -> _Found:
    real = Path(os.path.realpath(path))
    name = real.name if steps_in(real.name) or not steps_in(real.parent.name) else f"{real.parent.name}/{real.name}"
    return _Found(name, str(real), (text, str(path), str(real), f"{real.parent.name}/{real.name}", real.name), real,
                  Path(os.path.realpath(path.parent)) / path.name)  # fmt: skip


def _on_the_hub(text: str) -> Iterator[_Found]:
    hub_id, _, revision = text.partition("@")
    if hub_name(text) is None or not revision:
        raise CheckpointError(f"there is no file or folder {text!r}, and it is not of the form hub_id@revision")
    labels = None
    if "/" not in hub_id or revision.isdecimal() or glob.has_magic(revision):
        labels = revisions(hub_id, revision)
    if labels is None and glob.has_magic(revision):
        raise CheckpointError(
            f"{text!r}: patterns of revisions are for models whose checkpoints TransformerLens lists (Pythia, "
            "stanford-crfm; pip install 'headscope[lens]'); name the revisions one by one"
        )
    for each, at in labels or [(hub_id, revision)]:
        name = f"{each}@{at}"
        yield _Found(name, name, (text, name, at), None)


# Which step it is


class _Unplaced(Exception):
    pass


def _place(found: _Found, table: Table | None) -> Checkpoint:
    row = table.find(found.aliases) if table is not None else None
    state = trainer_state(found.path) if found.path is not None and found.path.is_dir() else (None, None)
    part = next((part for part in found.parts if steps_in(part)), found.parts[0])
    told = (row.tokens_seen if row else None, state[1], tokens_in(part))
    tokens = next((amount for amount in told if amount is not None), None)
    step, told_by = _step(row.step if row else None, state[0], part, tokens)
    if step > LARGEST_STEP:
        raise _Unplaced(f"{told_by} says {step}, and a step is at most {LARGEST_STEP}")
    # without a step beside it, a name is a name; a number of a stage is one all the same
    label = stage_in(part)
    if not (steps_in(part) or tokens_in(part) is not None or any(word in STAGE_WORDS for word, _ in numbered(part))):
        label = ""
    stage = row.stage if row else ""
    run = found.run(part)
    return Checkpoint(found.name, found.source, step, tokens, told_by, run, label, stage, step, tokens)


def _step(told: int | None, counted: int | None, part: str, tokens: float | None) -> tuple[int, str]:
    if told is not None:
        return told, "from the table"
    named = steps_in(part)
    if counted is not None:
        if named and counted not in named:
            raise _Unplaced(f"trainer_state.json says {counted}, its name {' and '.join(map(str, sorted(named)))}")
        return counted, "from trainer_state.json"
    if len(named) > 1:
        raise _Unplaced(f"its name says {' and '.join(map(str, sorted(named)))}")
    if named:
        return named.pop(), "from its name"
    if tokens is None:
        raise _Unplaced("neither a table, nor trainer_state.json, nor its name tells it")
    millions = step_of_tokens(tokens)
    if millions is None:
        raise _Unplaced(f"only its {tokens:,.0f} tokens are told, and they are not whole millions")
    return millions, "millions of tokens"
