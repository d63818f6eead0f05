"""Shards -> one results file, in step order, in one replace: a reader sees the file before or after, never between."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from os import PathLike, fspath
from pathlib import Path

from ..results import CHANCE_COLUMNS
from . import schema
from .added import find_beside
from .beside import KINDS, Beside
from .provenance import read_provenance, swept
from .results_file import Row, append, read_scores, read_steps, reading, target_path, write
from .schema import StoreError

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class _Row:
    """One checkpoint of a file: enough to know whether two files hold the same, without the scores."""

    step: int
    tokens_seen: float | None
    json: str
    beside: Mapping[str, str]  # name -> the same of what it has beside its scores
    stage: tuple[str, str]  # of which run and stage a sweep took it to be; empty texts where none did


@dataclass(frozen=True)
class _Contents:
    shape: Shape  # layers, heads, key-value heads
    probe_set: tuple[str, str]  # name, hash
    columns: str  # hash of the columns that describe the probes
    beside: Mapping[str, tuple[str, ...]]  # name -> what those of all its checkpoints have in common
    rows: tuple[_Row, ...]

    @property
    def kind(self) -> tuple[Shape, tuple[str, str], str]:
        """What all checkpoints of one file must have in common."""
        return self.shape, self.probe_set, self.columns


def merge(shards: str | PathLike[str] | Iterable[str | PathLike[str]], output: str | PathLike[str]) -> dict[int, str]:
    """Build `output` from results files, or from folders of shards, in step order and in one replace.

    The files may hold one checkpoint or many, and `output` may be one of them.

    Returns:
        step -> reason of the checkpoints that sweeps into these folders could not score.

    Estimators may differ: what a checkpoint was not measured with is NaN. Raises StoreError, and leaves `output` as it
    was, when a checkpoint is there twice, when steps of several runs or stages would be mixed, when probe sets or
    models differ, when a file cannot be read, and when `output` holds a checkpoint that no shard has.
    """
    given = [Path(shards)] if isinstance(shards, (str, PathLike)) else [Path(path) for path in shards]
    target = target_path(output)
    holders = _holders(given, target)
    write(target, _rows(holders))
    return {step: why for path in given for step, why in _failed(path).items() if step not in holders}


def could_merge(shards: Iterable[Path], output: Path) -> bool:
    """Whether `merge` would take these files, as far as reading them tells."""
    try:
        _holders(list(shards), output)
    except StoreError:
        return False
    return True


def _holders(given: list[Path], target: Path) -> dict[int, Path]:
    """Step -> the file that holds it; StoreError where the files do not make one."""
    files = [file for path in given for file in _files(path)]
    if not files:
        raise StoreError("no shards given; name results files, or the folder that a sweep left beside its output")
    holders: dict[int, Path] = {}
    for file in dict.fromkeys(Path(os.path.realpath(path)) for path in files):
        for step in read_steps(file):
            if step in holders:
                raise StoreError(f"checkpoint {step} is in {holders[step]} and in {file}; leave one of them out")
            holders[step] = file
    first, *others = dict.fromkeys(holders.values())
    for file in others:
        if difference := _difference(_contents(first), _contents(file)):
            raise StoreError(f"{file} does not belong with {first}: {difference}; merge them into files of their own")
    _refuse_mixed(holders)
    if target.exists():
        lost = [step for step in read_steps(target) if step not in holders]
        if lost:
            raise StoreError(
                f"{target} holds checkpoint {', '.join(map(str, lost[:5]))}, which is in no shard; name {target} among "
                "the shards to keep it, or choose another output"
            )
    return holders


def _refuse_mixed(holders: Mapping[int, Path]) -> None:
    """Where files were swept apart, or one stage has grown since, their steps may lie between each other."""
    rows = {row.step: row for path in set(holders.values()) for row in _contents(path).rows}
    stages = [rows[step].stage for step in sorted(rows)]
    blocks = [stage for stage, _ in groupby(stage for stage in stages if any(stage))]
    for stage, times in Counter(blocks).items():
        if times > 1:
            others = dict.fromkeys(" ".join(filter(None, other)) for other in blocks if other != stage)
            raise StoreError(
                f"the checkpoints of {' '.join(filter(None, stage))} and of {', '.join(others)} would be mixed: their "
                "steps are counted apart; sweep them together, named in the order of training"
            )


def refresh(files: Iterable[Path], output: Path) -> dict[int, str]:
    """Bring `output` up to date with the shards in `files`: nothing to do, an append, or a merge.

    Where checkpoints are of different architectures, those of the kind that most have make the file.

    Returns:
        step -> reason of the checkpoints that do not fit in with the others.
    """
    if not files:
        return {}
    shards = {_contents(path).rows[0].step: path for path in files}
    contents = {step: _contents(path) for step, path in sorted(shards.items())}
    (kind, _), *_ = Counter(each.kind for each in contents.values()).most_common(1)  # of equals, the first step's
    kept = {step: each for step, each in contents.items() if each.kind == kind}
    wanted = [row for each in kept.values() for row in each.rows]
    there = _contents(output) if output.exists() else None
    rows = list(there.rows) if there is not None and there.kind == kind else []
    rows = [_as_in_shard(row, wanted[i]) if i < len(wanted) else row for i, row in enumerate(rows)]
    if rows and rows == wanted[: len(rows)]:
        for row in wanted[len(rows) :]:
            shard = shards[row.step]
            append(output, read_scores(shard), row.step, row.tokens_seen, **find_beside(shard, row.step).there())
    else:
        write(output, _rows({step: shards[step] for step in kept}, _added(output, there, kept)))
    standard = next(iter(kept.values()))
    return {
        step: f"does not fit in with the other checkpoints: {_difference(standard, each)}"
        for step, each in contents.items()
        if each.kind != kind
    }


def _as_in_shard(row: _Row, shard: _Row) -> _Row:
    """A checkpoint of the output without what was added to it there: shards know nothing of it."""
    return replace(row, beside={name: told for name, told in row.beside.items() if name in shard.beside})


def _added(output: Path, there: _Contents | None, kept: Mapping[int, _Contents]) -> dict[int, Beside]:
    """Step -> what the output has beside the same scores that a shard has, as far as it fits in with the shards'."""
    if there is None:
        return {}
    # of the scores alone: something may have been added to one of the two since
    held = {(row.step, row.json) for row in there.rows}
    same = [step for step, each in kept.items() if (step, each.rows[0].json) in held]
    others = [each.beside for each in kept.values()]
    fit = {name for name, told in there.beside.items() if all(each.get(name, told) == told for each in others)}
    found = {step: find_beside(output, step).there() for step in same if fit - {*kept[step].rows[0].beside}}
    return {step: Beside(**{name: each[name] for name in fit & {*each}}) for step, each in found.items()}


def _rows(holders: Mapping[int, Path], added: Mapping[int, Beside] | None = None) -> Iterable[Row]:
    tokens = {(path, row.step): row.tokens_seen for path in {*holders.values()} for row in _contents(path).rows}
    for step, path in sorted(holders.items()):
        beside = find_beside(path, step).or_of((added or {}).get(step, Beside()))
        yield step, tokens[path, step], read_scores(path, step), beside


def _files(path: Path) -> list[Path]:
    if not os.path.isdir(path):
        return [path]
    found = sorted(path.glob("step-*.h5"))
    if not found:
        raise StoreError(f"{path} holds no shards (step-*.h5); give the folder that a sweep left beside its output")
    return found


def _failed(folder: Path) -> dict[int, str]:
    """Step -> why it has no scores, as the last sweep into this folder noted it."""
    found = {}
    for path in sorted(folder.glob("step-*.failed.json")):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            found[int(note["step"])] = str(note["reason"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return found


def _contents(path: Path) -> _Contents:
    stat = path.stat()
    return _read_contents(fspath(path), stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4096)  # every refresh asks for all shards, and a shard never changes: a new one has a new inode
def _read_contents(path: str, modified: int, inode: int) -> _Contents:
    steps = read_steps(path)
    with reading(path) as file:
        columns = hashlib.sha256()
        # what chance is follows from the probes; shards of schema 1.0 do not tell it, and belong with the others
        for name in sorted(schema.columns_of(file).keys() - {*CHANCE_COLUMNS}):
            item = file[f"probes/{name}"]
            columns.update(f"{name}|{item[:].tolist()}|".encode())
        told = file["provenance/json"].asstr()[:]
        made: list[dict[str, str]] = [{} for _ in steps]
        common = {}
        for name, kind in KINDS.items():
            there = kind.keeper.rows(file)
            for i in there:
                made[i][name] = file[f"{name}/json"].asstr()[i]
            if there:
                common[name] = kind.keeper.in_common(file)
        return _Contents(
            shape=(len(file["layer"]), len(file["head"]), int(file.attrs["n_kv_heads"].ravel()[0])),
            probe_set=(schema.text(file, "probe_set_name"), schema.text(file, "probe_set_hash")),
            columns=columns.hexdigest(),
            beside=common,
            rows=tuple(
                _Row(step, tokens, told[i], made[i], _stage(told[i])) for i, (step, tokens) in enumerate(steps.items())
            ),
        )


def _stage(told: str) -> tuple[str, str]:
    made = swept(read_provenance(told))
    return (made["stage"], "") if "stage" in made else (made.get("run", ""), made.get("label", ""))


def _difference(a: _Contents, b: _Contents) -> str:
    """How b differs from a, in words; empty when both fit into one file."""
    words = []
    if a.shape != b.shape:
        sizes = "{} layers, {} heads and {} kv heads"
        words.append(f"it has {sizes.format(*b.shape)}, not {sizes.format(*a.shape)}")
    if a.probe_set != b.probe_set:
        there, here = (f"{name!r} ({digest[:12]})" for name, digest in (a.probe_set, b.probe_set))
        words.append(f"its probe set is {here}, not {there}")
    elif a.columns != b.columns:
        words.append("its probes were shared in another way, though they are the same (column grafted)")
    for name, kind in KINDS.items():
        then, now = (each.beside.get(name) for each in (a, b))
        if then and now and then != now:
            is_ = "are" if kind.many else "is"
            words.append(f"its {kind.words} ({kind.asked}) {is_} {', '.join(now)}, not {', '.join(then)}")
    return "; ".join(words)
