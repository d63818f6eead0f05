"""What a user points at -> checkpoints in step order, before any weight is read.

Paths, globs, folders of checkpoints, GGUF files, hub_id@revision and TransformerLens labels all end as something that
`load_model` takes, with the step and the training tokens that belong to it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..formats import what_it_is
from ..hub import hub_name
from .lens_labels import revisions
from .names import LARGEST_STEP, step_of_tokens, steps_in, tokens_in, trainer_state
from .table import CheckpointError, Table

_WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
_REMEDY = 'name the step of each in a CSV with the columns checkpoint,step,tokens_seen and pass table="steps.csv"'


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint to score.

    name: how it is called in messages: the end of its path, or hub_id@revision. source: what `load_model` takes.
    told_by: where the step was found. tokens_seen is None where nothing tells it.
    """

    name: str
    source: str
    step: int
    tokens_seen: float | None
    told_by: str


@dataclass(frozen=True)
class _Found:
    name: str
    source: str
    aliases: tuple[str, ...]  # what a table may call it
    path: Path | None  # None: on the hub

    @property
    def parts(self) -> list[str]:
        """Where a step may stand: the last part of the path, else the one before (step_1000/hf)."""
        if self.path is None:
            return [self.source.partition("@")[2], self.source.partition("@")[0].rpartition("/")[2]]
        return [self.path.name.removesuffix(".gguf"), self.path.parent.name]


def find_checkpoints(
    given: str | PathLike[str] | Iterable[str | PathLike[str]], table: str | PathLike[str] | None = None
) -> list[Checkpoint]:
    """The checkpoints that `given` means, in step order; a checkpoint that is meant twice comes once.

    Step and tokens come from the table, else from trainer_state.json, else from the name. Where only tokens are told
    ("20B"), the step is their number in millions.

    Raises CheckpointError when something means no checkpoint, when a step is told twice differently or not at all, and
    when two checkpoints have the same step; the message lists what was found.
    """
    given = [given] if isinstance(given, (str, PathLike)) else list(given)
    if not given:
        raise CheckpointError("checkpoints: none given; name folders, a glob, .gguf files or hub_id@revision")
    rows = Table(table) if table is not None else None
    found = {each.source: each for text in given for each in _expand(os.fspath(text))}
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
    placed.sort(key=lambda checkpoint: checkpoint.step)
    _refuse_twins(placed)
    return placed


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
    if path.exists():
        yield from _on_disk(path, text)
    elif "@" in text:
        yield from _on_the_hub(text)
    elif glob.has_magic(text):
        matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
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
    real = path.resolve()
    name = real.name if steps_in(real.name) or not steps_in(real.parent.name) else f"{real.parent.name}/{real.name}"
    return _Found(name, str(real), (text, str(path), str(real), f"{real.parent.name}/{real.name}", real.name), real)


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
    return Checkpoint(found.name, found.source, step, tokens, told_by)


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
