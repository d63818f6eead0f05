"""The HDF5 file of a run: head scores by checkpoint, valid netCDF-4, safe against a crash at any moment.

A file is never changed in place. `append` copies it, writes to the copy and renames the copy over it, so that a reader
sees the file as it was or as it will be, and a killed writer leaves nothing behind but a hidden .tmp. The layout is in
schema.py and, for people, in SCHEMA.md.
"""

from __future__ import annotations

import operator
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import chain, count
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from ...errors import ArgumentError, ArgumentTypeError
from ..ablation import Ablation
from ..finetuned import SftProbe
from ..packages import need
from ..results import CHANCE_COLUMNS, NLL_CLASSES, HeadScores
from ..tasks import Answers
from . import ablations, gate, schema, sft_probes
from . import answers as of_answers
from .growing import add, in_memory, pack
from .locks import Busy, beside, has_flock, locked
from .netcdf import LIBVER, create, row, write_row
from .partial import partial_file
from .provenance import read_provenance
from .schema import StoreError
from .structure import Use, one_line

if TYPE_CHECKING:
    import xarray as xr

Row = (
    tuple[int, float | None, HeadScores]
    | tuple[int, float | None, HeadScores, Answers | None]
    | tuple[int, float | None, HeadScores, Answers | None, Ablation | None]
    | tuple[int, float | None, HeadScores, Answers | None, Ablation | None, SftProbe | None]
)
LOCK_TIMEOUT = 300.0  # seconds to wait for another writer
_fitting = gate.Remembered()  # files that keep the schema: asking each of their variables is most of opening one


def open(path: str | PathLike[str], *, group: str | None = None) -> xr.Dataset:  # noqa: A001 - it is hs.open
    """The scores of a file as an xarray.Dataset with dims (checkpoint, layer, head).

    Variables: `retrieval` and every other estimator, each with its `_stderr`, NaN at checkpoints that were not measured
    with it; `n_heads_above_chance` (not in files of schema 1.0), the paper's plain count `n_retrieval_heads`, and
    `tokens_seen` [checkpoint]. They are in memory: the file may grow or go afterwards. `group="probes"` gives the
    detail with the further dim `probe`, `group="provenance"` where each checkpoint came from; both read lazily and keep
    the file open.

    Raises StoreError when the file is missing, damaged, not ours or from a newer major version; MissingPackageError
    without xarray or h5netcdf.
    """
    gate.start()
    xarray = need("xarray", "open()")
    need("h5netcdf", "open()")
    with _opened(path, "root" if group is None else "xarray") as file, warnings.catch_warnings():
        # of a variable that is not ours; what comes of it is right, or an error
        warnings.filterwarnings("ignore", "Duplicate dimension names present", UserWarning)
        _check_group(file, group, str(path))
        found: xr.Dataset
        unlocked = not file.id.get_access_plist().get_file_locking()[0]
        how = {"engine": "h5netcdf", "driver_kwds": {"locking": False} if unlocked else None}  # as it is open already
        if group is None:
            found = xarray.load_dataset(path, **how)
        else:
            found = xarray.open_datatree(path, **how)[group].to_dataset()
            for name, variable in found.variables.items():
                found[name].isel(dict.fromkeys(variable.dims, slice(0, 0))).load()  # can its attributes be decoded?
        return found


def as_dataset(
    scores: HeadScores, *, group: str | None = None, checkpoint: int = 0, tokens_seen: float | None = None
) -> xr.Dataset:
    """What `open` gives of a file that holds these scores as its one checkpoint; the file is never written.

    Raises StoreError for an unknown group; MissingPackageError without xarray or h5netcdf.
    """
    xarray = need("xarray", "to_xarray()")
    need("h5netcdf", "to_xarray()")
    image = BytesIO()
    with h5py.File(image, "w", libver=LIBVER, track_order=True) as file:
        create(file, scores)
        write_row(file, row(scores, _step(checkpoint), _tokens(tokens_seen)))
        _check_group(file, group, "a set of scores")
    with xarray.open_datatree(image, engine="h5netcdf") as tree:
        found: xr.Dataset = tree[group or "/"].to_dataset().load()
    return found


def _check_group(file: h5py.File, group: str | None, what: str) -> None:
    groups = [name for name, item in file.items() if isinstance(item, h5py.Group)]
    if group is not None and group not in groups:
        raise StoreError(f"{what} has no group {group!r}; it has {', '.join(sorted(groups))}")


def append(
    path: str | PathLike[str],
    scores: HeadScores,
    checkpoint: int,
    tokens_seen: float | None = None,
    *,
    answers: Answers | None = None,
    ablation: Ablation | None = None,
    sft: SftProbe | None = None,
    timeout: float | None = None,
) -> None:
    """Add `scores` as one checkpoint (an optimizer step) after those in the file; create the file if there is none.

    Waits while another process writes to the same file, up to `timeout` seconds (LOCK_TIMEOUT). Raises StoreError, and
    leaves the file as it was, when the checkpoint is there already or is not after the last one, when model shape or
    probe set are others, and when the file cannot be read or written. An estimator that the file does not have is NaN
    at its older checkpoints, one that the scores do not have at this one. A file of schema 1.0 stays one: what chance
    is, it does not tell. `answers` are those of the same checkpoint; the others of the file must be to the same probes,
    as many to each; so it is with `ablation`, whose sets of heads and measured probes must be those of the others, and
    with `sft`, whose recipe, seeds and probes must be.
    """
    step, tokens = _step(checkpoint), _tokens(tokens_seen)
    with _in_one_step(path, timeout) as (target, partial):
        if target.exists():
            gate.start()
            if target.is_file():
                shutil.copy(target, partial)
            with reading(target, "structure") as file:
                _refuse_misfit(file, path, scores, step, answers, ablation, sft)
            packed = (None if each is None else pack(each) for each in (answers, ablation, sft))
            gate.change(partial, "grow", pack(scores), step, tokens, *packed)
        else:
            with in_memory(partial, "w") as file:
                add(file, scores, step, tokens, answers, ablation, sft)


def add_answers(path: str | PathLike[str], answers: Answers, checkpoint: int, *, timeout: float | None = None) -> None:
    """Add answers to a checkpoint that has its scores, in place of any that it had.

    Waits like `append`. Raises StoreError, and leaves the file as it was, when it holds no such checkpoint, when its
    other answers are to other probes or more or fewer to each, and when it cannot be read or written.
    """
    step = _step(checkpoint)
    with _in_one_step(path, timeout) as (target, partial):
        gate.start()
        if target.is_file():
            shutil.copy(target, partial)
        with reading(target, "structure") as file:
            steps = checkpoints_of(file)
            if step not in steps:
                raise StoreError(
                    f"{path} has no checkpoint {step}, which the answers would go with; it has {_list(steps)}: "
                    "score it first, or with the answers (heads=True)"
                )
            _refuse_answers(file, path, answers)
        gate.change(partial, "answer", pack(answers), steps.index(step))


def add_ablation(
    path: str | PathLike[str], ablation: Ablation, checkpoint: int, *, timeout: float | None = None
) -> None:
    """Add an ablation to a checkpoint that has its scores, in place of any that it had.

    Waits like `append`. Raises StoreError, and leaves the file as it was, when it holds no such checkpoint, when its
    other ablations are of another mode, other probes or other sets, and when it cannot be read or written.
    """
    step = _step(checkpoint)
    with _in_one_step(path, timeout) as (target, partial):
        gate.start()
        if target.is_file():
            shutil.copy(target, partial)
        with reading(target, "structure") as file:
            steps = checkpoints_of(file)
            if step not in steps:
                raise StoreError(
                    f"{path} has no checkpoint {step}, which the ablation would go with; it has {_list(steps)}: "
                    "score it first"
                )
            _refuse_ablation(file, path, ablation, steps.index(step))
        gate.change(partial, "ablate", pack(ablation), steps.index(step))


def add_sft_probe(path: str | PathLike[str], probe: SftProbe, checkpoint: int, *, timeout: float | None = None) -> None:
    """Add an SFT probe to a checkpoint that has its scores, in place of any that it had.

    Waits like `append`. Raises StoreError, and leaves the file as it was, when it holds no such checkpoint, when its
    other SFT probes are of another recipe, other seeds or other probes, and when it cannot be read or written.
    """
    step = _step(checkpoint)
    with _in_one_step(path, timeout) as (target, partial):
        gate.start()
        if target.is_file():
            shutil.copy(target, partial)
        with reading(target, "structure") as file:
            steps = checkpoints_of(file)
            if step not in steps:
                raise StoreError(
                    f"{path} has no checkpoint {step}, which the SFT probe would go with; it has {_list(steps)}: "
                    "score it first"
                )
            _refuse_sft_probe(file, path, probe, steps.index(step))
        gate.change(partial, "finetune", pack(probe), steps.index(step))


def write(path: str | PathLike[str], rows: Iterable[Row]) -> None:
    """A file that holds these checkpoints (step, tokens seen, scores; answers; ablation; SFT probe), in place of what
    was there.

    Rows are taken one at a time, in order of their steps. Raises StoreError, and leaves what was there as it was, when
    two rows do not belong into one file (see `append`), when there is none, or when the file cannot be written.
    """
    with _in_one_step(path) as (_, partial):
        empty = True
        with in_memory(partial, "w") as file:
            for step, tokens_seen, scores, *rest in rows:
                answers, ablation, sft = (*rest, None, None, None)[:3]
                if not empty:
                    _refuse_misfit(file, path, scores, _step(step), answers, ablation, sft)
                add(file, scores, _step(step), _tokens(tokens_seen), answers, ablation, sft)
                empty = False
            if empty:
                raise StoreError(f"no checkpoint to write to {path}: give at least one")
        gate.written(partial)


def set_aside(path: str | PathLike[str], checkpoint: int, *, timeout: float | None = None) -> Path:
    """Take what was measured from `checkpoint` on out of a file, for training that went back; nothing is lost.

    The file as it was is kept beside it under a name of its own, run.abandoned-1000.h5, whole: what led up to that
    branch is in it too. The file goes on with the checkpoints before; where there are none, it is gone. Returns the
    path of the one beside. Waits like `append`. Raises StoreError, and leaves the file as it was, when it cannot be
    read or written, or holds no such checkpoint.
    """
    step = _step(checkpoint)
    with _in_one_step(path, timeout) as (target, partial):
        with reading(target, "structure") as file:
            steps = checkpoints_of(file)
        kept = [held for held in steps if held < step]
        if len(kept) == len(steps):
            raise StoreError(f"{path} holds no checkpoint from {step} on; it has {_list(steps)}")
        apart = _apart(target, step)
        shutil.copy(target, partial)
        replace(partial, apart)
        if not kept:
            target.unlink()
            return apart
        shutil.copy(target, partial)
        gate.change(partial, "shrink", len(kept))
    return apart


def _apart(target: Path, step: int) -> Path:
    """A name that is free, for what was measured from `step` on."""
    again = chain([""], (f"-{n}" for n in count(2)))
    paths = (beside(target.with_suffix(""), f"{{}}.abandoned-{step}{number}") for number in again)
    return next(path for each in paths if not (path := each.with_name(each.name + target.suffix)).exists())


@contextmanager
def _in_one_step(path: str | PathLike[str], timeout: float | None = None) -> Iterator[tuple[Path, Path]]:
    """The file to write and, under its lock, the partial one that takes its place when the block ends well."""
    with _alone(path, timeout) as target:
        partial = beside(target, ".{}.tmp")
        partial.unlink(missing_ok=True)  # half a file of a writer that was killed
        try:
            yield target, partial
            if partial.exists():
                replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _alone(path: str | PathLike[str], timeout: float | None = None) -> Iterator[Path]:
    """The file to write, under its lock."""
    target = target_path(path)
    wait = LOCK_TIMEOUT if timeout is None else timeout
    try:
        with locked(beside(target, ".{}.lock"), wait):
            yield target
    except Busy as error:
        raise StoreError(f"another process has held {path} for {wait:.0f} s; {error}") from error
    except OSError as error:
        held = f" ({error.filename})" if str(error.filename).endswith("lock") else ""
        raise StoreError(f"cannot write {path}: {one_line(error)}{held}; it is left as it was") from error


def check_writable(path: str | PathLike[str], *, appends: bool = True) -> None:
    """Raise StoreError, before any work is done, when a file could not be written to `path` afterwards.

    Its name, its folder and, where it is to be appended to, its lock are tried; the file itself is not touched.
    """
    target = target_path(path)
    try:
        with partial_file(target) as tried:
            tried.write_bytes(b"tried")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {one_line(error)}; choose another place") from error
    # A lock file that is not there is held by nobody, and need not be made for trying.
    if appends and (beside(target, ".{}.lock").exists() or not has_flock(target.parent)):
        with _alone(path):
            pass


def check_takes(path: str | PathLike[str], checkpoint: int, probe_set_hash: str, *, samples: int, scores: bool) -> None:
    """Raise StoreError, before any work is done, when a file would not take answers to these probes afterwards.

    samples: drawn answers of each probe. scores: whether heads' scores on the same probes come with them, as a new
    checkpoint; else the checkpoint has to be there.
    """
    step = _step(checkpoint)
    check_writable(path)
    if not target_path(path).exists():
        if not scores:
            raise StoreError(f"{path} does not exist, and answers go with scores: leave heads=True, or score first")
        return
    with reading(path, "structure") as file:
        steps, has = checkpoints_of(file), schema.has_answers(file)
        if scores and step in steps:
            raise StoreError(
                f"{path} holds checkpoint {step} already; give another one, heads=False to add answers to "
                "it, or another file"
            )
        if scores and steps and step < steps[-1]:
            raise StoreError(f"{path} holds checkpoint {steps[-1]}; give a later one, or another file and `merge` them")
        if not scores and step not in steps:
            raise StoreError(f"{path} has no checkpoint {step}, which the answers would go with; it has {_list(steps)}")
        there = schema.text(file, "probe_set_hash")
        if scores and there != probe_set_hash:
            raise StoreError(
                f"{path} holds scores on other probes ({there[:12]}, these are {probe_set_hash[:12]}); build them with "
                "the same arguments, give heads=False to add answers to what is there, or another file"
            )
        answered = schema.text(file["answers"], "task_set_hash") if has else probe_set_hash
        if answered != probe_set_hash or (has and len(file["answers/sample"]) != samples + 1):
            drawn = len(file["answers/sample"]) - 1
            raise StoreError(
                f"{path} holds answers to the probes {answered[:12]} with samples={drawn}, and these are to "
                f"{probe_set_hash[:12]} with samples={samples}; ask the same, or choose another file"
            )


def check_takes_ablation(path: str | PathLike[str], checkpoint: int, **how: str) -> None:
    """Raise StoreError, before any work is done, when a file would not take an ablation made so afterwards.

    how: mode, rows, unit, as they are in the file.
    """
    check_writable(path)
    with reading(path, "structure") as file:
        steps = checkpoints_of(file)
        if checkpoint not in steps:
            raise StoreError(f"{path} has no checkpoint {checkpoint}; it has {_list(steps)}")
        others = {*ablations.rows_with_ablation(file)} - {steps.index(checkpoint)}
        there = {name: schema.text(file["ablation"], name) for name in how} if others else how
        if there != how:
            words = (" ".join(f"{name}={value!r}" for name, value in each.items()) for each in (there, how))
            held, asked = words
            raise StoreError(f"{path} holds ablations of other checkpoints by {held}, not {asked}; use a copy of it")


def read_scores(path: str | PathLike[str], checkpoint: int | None = None) -> HeadScores:
    """The scores of one checkpoint (by default the last), exactly as they were appended.

    They have every estimator of the file; one that was not measured at this checkpoint is NaN. Raises StoreError
    when the file cannot be read or does not hold that checkpoint.
    """
    with reading(path) as file:
        steps = checkpoints_of(file)
        if not steps:
            raise StoreError(f"{path} holds no checkpoint")
        step = steps[-1] if checkpoint is None else checkpoint
        if step not in steps:
            raise StoreError(f"{path} has no checkpoint {step}; it has {_list(steps)}")
        i, detail = steps.index(step), file["probes"]
        columns = {"id": detail["probe"].asstr()[:].astype(str)}
        for name, dtype in schema.columns_of(file).items():
            columns[name] = detail[name].asstr()[:].astype(str) if dtype == schema.STRING else detail[name][:]
        return HeadScores(
            model_id=file["provenance/model_id"].asstr()[i],
            n_layers=len(file["layer"]),
            n_heads=len(file["head"]),
            n_kv_heads=_n_kv_heads(file),
            per_probe={name: detail[name][i] for name in schema.estimators_of(file)},
            **{name: detail[name][i] for name in NLL_CLASSES},
            exact_match=detail["exact_match"][i] == 1,
            probes=columns,
            probe_set_name=schema.text(file, "probe_set_name"),
            probe_set_hash=schema.text(file, "probe_set_hash"),
            provenance=read_provenance(file["provenance/json"].asstr()[i]),
        )


def read_answers(path: str | PathLike[str], checkpoint: int | None = None) -> Answers:
    """The answers of one checkpoint, by default of the last that has some, as they were written.

    Raises StoreError when the file cannot be read, or has no answers of that checkpoint.
    """
    with reading(path) as file:
        there = _steps_of(file, of_answers.rows_with_answers(file))
        remedy = f"`headscope evaluate MODEL -o {path}` lets a model answer"
        return of_answers.read(file, _row_of(path, there, checkpoint, "answers", remedy))


def all_answers(path: str | PathLike[str]) -> dict[int, Answers]:
    """Number of the checkpoint in the file -> its answers, of all that have some. Raises StoreError."""
    with reading(path) as file:
        return {row: of_answers.read(file, row) for row in of_answers.rows_with_answers(file)}


def find_answers(path: str | PathLike[str], checkpoint: int) -> Answers | None:
    """The answers of one checkpoint; None where it has none. Raises StoreError when the file cannot be read."""
    with reading(path) as file:
        there = _steps_of(file, of_answers.rows_with_answers(file))
        return of_answers.read(file, there[checkpoint]) if checkpoint in there else None


def _steps_of(file: h5py.File, rows: list[int]) -> dict[int, int]:
    """Checkpoint -> its number in the file, of these numbers."""
    steps = checkpoints_of(file)
    return {steps[row]: row for row in rows}


def _row_of(path: str | PathLike[str], there: dict[int, int], checkpoint: int | None, what: str, remedy: str) -> int:
    """The number of a checkpoint among those that have something, by default of the last. Raises StoreError."""
    if not there:
        raise StoreError(f"{path} holds no {what}; {remedy}")
    step = max(there) if checkpoint is None else checkpoint
    if step not in there:
        raise StoreError(f"{path} holds no {what} of checkpoint {step}; it has those of {_list([*there])}")
    return there[step]


def read_ablation(path: str | PathLike[str], checkpoint: int | None = None) -> Ablation:
    """The ablation of one checkpoint, by default of the last that has one, as it was written.

    Raises StoreError when the file cannot be read, or has none of that checkpoint.
    """
    with reading(path) as file:
        there = _steps_of(file, ablations.rows_with_ablation(file))
        remedy = f"`headscope ablate {path} --model MODEL` makes one"
        return ablations.read(file, _row_of(path, there, checkpoint, "ablation", remedy))


def all_ablations(path: str | PathLike[str]) -> dict[int, Ablation]:
    """Number of the checkpoint in the file -> its ablation, of all that have one. Raises StoreError."""
    with reading(path) as file:
        return {row: ablations.read(file, row) for row in ablations.rows_with_ablation(file)}


def find_ablation(path: str | PathLike[str], checkpoint: int) -> Ablation | None:
    """The ablation of one checkpoint; None where it has none. Raises StoreError when the file cannot be read."""
    with reading(path) as file:
        there = _steps_of(file, ablations.rows_with_ablation(file))
        return ablations.read(file, there[checkpoint]) if checkpoint in there else None


def read_sft_probe(path: str | PathLike[str], checkpoint: int | None = None) -> SftProbe:
    """The SFT probe of one checkpoint, by default of the last that has one, as it was written.

    Raises StoreError when the file cannot be read, or has none of that checkpoint.
    """
    with reading(path) as file:
        there = _steps_of(file, sft_probes.rows_with_sft_probe(file))
        remedy = f"`headscope sft-probe MODEL -o {path}` makes one"
        return sft_probes.read(file, _row_of(path, there, checkpoint, "SFT probe", remedy))


def all_sft_probes(path: str | PathLike[str]) -> dict[int, SftProbe]:
    """Number of the checkpoint in the file -> its SFT probe, of all that have one. Raises StoreError."""
    with reading(path) as file:
        return {row: sft_probes.read(file, row) for row in sft_probes.rows_with_sft_probe(file)}


def find_sft_probe(path: str | PathLike[str], checkpoint: int) -> SftProbe | None:
    """The SFT probe of one checkpoint; None where it has none. Raises StoreError when the file cannot be read."""
    with reading(path) as file:
        there = _steps_of(file, sft_probes.rows_with_sft_probe(file))
        return sft_probes.read(file, there[checkpoint]) if checkpoint in there else None


def check_takes_sft_probe(
    path: str | PathLike[str], checkpoint: int, recipe_hash: str, seeds: Sequence[int], probe_set_hash: str
) -> None:
    """Raise StoreError, before any work is done, when a file has SFT probes of other checkpoints by another recipe, or
    on other probes."""
    check_writable(path)
    if not target_path(path).exists():
        return
    with reading(path, "structure") as file:
        steps = checkpoints_of(file)
        own = {steps.index(checkpoint)} if checkpoint in steps else set()
        if {*sft_probes.rows_with_sft_probe(file)} - own:
            group = file["sft_probe"]
            there = (schema.text(group, "recipe_hash"), group["sft_seed"][:].tolist())
            if there != (recipe_hash, [*seeds]):
                raise StoreError(
                    f"{path} holds SFT probes by the recipe {there[0]} with seeds {there[1]}, not {recipe_hash} with "
                    f"{[*seeds]}; use the same recipe, or another file"
                )
            if (asked := schema.text(group, "task_set_hash")) != probe_set_hash:
                raise StoreError(
                    f"{path} holds SFT probes on other tasks ({asked[:12]}, these are {probe_set_hash[:12]}); ask the "
                    "same, or choose another file"
                )


def runs_alone(path: str | PathLike[str]) -> bool | None:
    """Whether the scores of a file are of probes that each ran alone (`score_heads(alone=)`); None: there are none.

    Raises StoreError when the file cannot be read.
    """
    if not os.path.exists(target_path(path)):
        return None
    with reading(path, "structure") as file:
        told = file["provenance/sharing"].asstr()[:]
        return told[0] == "alone" if len(told) else None


def checkpoints(path: str | PathLike[str]) -> list[int]:
    """The checkpoints a file holds, in order. Raises StoreError when it cannot be read."""
    return list(read_steps(path))


def read_steps(path: str | PathLike[str]) -> dict[int, float | None]:
    """The checkpoints of a file, in order, with the training tokens seen by each (None: not told).

    Raises StoreError when the file cannot be read.
    """
    with reading(path, "structure") as file:
        told = (None if np.isnan(tokens) else float(tokens) for tokens in file["tokens_seen"][:])
        return dict(zip(checkpoints_of(file), told, strict=True))


def validate(path: str | PathLike[str]) -> list[str]:
    """What is wrong with a file, one sentence each; an empty list when all is well. Never raises for a bad file."""
    from .validation import problems

    try:
        with _opened(path) as file:
            return list(problems(file))
    except StoreError as error:
        return [str(error)]


def write_file(path: str | PathLike[str], content: bytes) -> None:
    """Write a whole file or nothing. Raises StoreError when it cannot be written."""
    target = target_path(path)
    try:
        with partial_file(target) as partial:
            partial.write_bytes(content)
            replace(partial, target)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {one_line(error)}") from error


def replace(partial: Path, target: Path) -> None:
    """Put a finished file in the place of `target` in one step that also a power cut cannot halve."""
    with partial.open("rb+") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, target)
    if os.name == "posix":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def checkpoints_of(file: h5py.File) -> list[int]:
    return [int(step) for step in file["checkpoint"][:]]


@contextmanager
def reading(path: str | PathLike[str], use: Use = "values") -> Iterator[h5py.File]:
    """Open a file of ours, or say in one line why it is none. What fails while it is read is told as damage."""
    with _opened(path, use) as file:
        same = gate.identity(file)
        if same not in _fitting:
            for misfit in schema.misfits(file):
                raise StoreError(f"{path} does not keep the schema: {misfit}; `headscope validate {path}` says all")
            if same is not None:
                _fitting.remember(same)
        yield file


@contextmanager
def _opened(path: str | PathLike[str], use: Use = "values") -> Iterator[h5py.File]:
    """The same for a file whose variables need not be as the schema has them."""
    path = Path(path)
    if not os.path.exists(path):
        raise StoreError(f"{path} does not exist; `headscope score MODEL -o {path}` or scores.save() makes it")
    if not path.is_file():
        raise StoreError(f"{path} is {'a folder' if path.is_dir() else 'no file'}; give the .h5 file that was written")
    if path.stat().st_size == 0:
        raise StoreError(f"{path} is empty; delete it and run again")
    if not h5py.is_hdf5(path):
        raise StoreError(f"{path} is not an HDF5 file")
    file = gate.open_hdf5(path, use)
    try:
        with file:
            _check_ours(file, path)
            yield file
    except StoreError:
        raise
    except Exception as error:  # whatever h5py, numpy and xarray make of damage
        remedy = f"`headscope validate {path}` says what is wrong"
        told = one_line(error) or type(error).__name__
        raise StoreError(f"{path} is damaged or incomplete: {told}; {remedy}") from error


def _check_ours(file: h5py.File, path: Path) -> None:
    from ... import __version__

    name = schema.text(file, "schema_name") if "schema_name" in file.attrs else None
    if name == schema.COPY_PROFILE:
        remedy = f"read it with headscope.CopyProfile.load({str(path)!r})"
        raise StoreError(f"{path} is a copy profile, not head scores; {remedy}")
    if name != schema.NAME:
        raise StoreError(f"{path} is HDF5, but was not written by headscope (no schema_name={schema.NAME!r})")
    version = schema.text(file, "schema_version")
    try:
        major = int(version.split(".")[0])
    except ValueError:
        raise StoreError(f"{path} has the schema_version {version!r}, which is none; restore the file") from None
    if major > schema.VERSION[0]:
        here = f"this is headscope {__version__} (schema {schema.VERSION[0]}.x)"
        raise StoreError(f"{path} was written with schema {version}; {here}: upgrade with `pip install -U headscope`")


def target_path(path: str | PathLike[str]) -> Path:
    """Where to write: links are followed, so that the file behind a link grows and the link stays."""
    try:
        target = Path(path).resolve()
        target.stat()
    except FileNotFoundError:
        pass
    except RuntimeError as error:
        raise StoreError(f"cannot write {path}: it is a link to itself; choose another name") from error
    except OSError as error:  # a name that is too long, a file system that is gone, a file where a folder should be
        raise StoreError(f"cannot write {path}: {one_line(error)}; choose another name or place") from error
    if target.is_dir():
        raise StoreError(f"{path} is a folder; give the name of a file in it, such as {Path(path) / 'run.h5'}")
    if not target.parent.is_dir():
        raise StoreError(f"the folder {target.parent} does not exist; create it, then write {target.name} again")
    if not os.access(target.parent, os.W_OK):
        raise StoreError(f"the folder {target.parent} is not writable; choose another place for {target.name}")
    if target.exists() and not os.access(target, os.W_OK):
        raise StoreError(f"{path} is read-only; make it writable or write to another file")
    return target


def _step(checkpoint: int) -> int:
    try:
        step = operator.index(checkpoint)
    except TypeError:
        kind = type(checkpoint).__name__
        raise ArgumentTypeError(
            f"checkpoint must be an integer, the optimizer step, got {kind} {checkpoint!r}"
        ) from None
    if isinstance(checkpoint, bool) or not 0 <= step < 2**31:
        raise ArgumentError(f"checkpoint must be an optimizer step from 0 to {2**31 - 1}, got {checkpoint!r}")
    return step


def _tokens(tokens_seen: float | None) -> float:
    tokens = np.nan if tokens_seen is None else float(tokens_seen)
    if tokens_seen is not None and not 0 <= tokens < np.inf:
        raise ArgumentError(f"tokens_seen must be a count of at least 0, or None, got {tokens_seen!r}")
    return tokens


def _refuse_answers(file: h5py.File, path: str | PathLike[str], answers: Answers) -> None:
    if difference := of_answers.misfit(file, answers):
        raise StoreError(f"these answers do not fit into {path}: {difference}. Keep them apart: write to another file")


def _refuse_ablation(file: h5py.File, path: str | PathLike[str], ablation: Ablation, row: int | None = None) -> None:
    if difference := ablations.misfit(file, ablation, row):
        raise StoreError(f"this ablation does not fit into {path}: {difference}. Keep it apart: write to another file")


def _refuse_sft_probe(file: h5py.File, path: str | PathLike[str], probe: SftProbe, row: int | None = None) -> None:
    if difference := sft_probes.misfit(file, probe, row):
        raise StoreError(f"this SFT probe does not fit into {path}: {difference}. Keep it apart: write to another file")


def _refuse_misfit(
    file: h5py.File,
    path: str | PathLike[str],
    scores: HeadScores,
    step: int,
    answers: Answers | None = None,
    ablation: Ablation | None = None,
    sft: SftProbe | None = None,
) -> None:
    steps = checkpoints_of(file)
    if step in steps:
        remedy = "give another checkpoint, or write to another file"
        raise StoreError(f"checkpoint {step} is already in {path} (it has {_list(steps)}); {remedy}")
    if steps and step < steps[-1]:
        remedy = "write it to another file, and `headscope merge` puts the two in order; or, if training went back to "
        remedy += "it, headscope.interp.store.set_aside(path, checkpoint) keeps what is later in a file beside"
        raise StoreError(f"checkpoint {step} comes before the last one in {path}, {steps[-1]}; {remedy}")

    for name, item in schema.datasets(file).items():
        if schema.along_checkpoints(item) and item.maxshape[0] is not None:
            raise StoreError(f"{name} in {path} cannot grow along checkpoint; write to another file")

    there = (len(file["layer"]), len(file["head"]), _n_kv_heads(file))
    here = (scores.n_layers, scores.n_heads, scores.n_kv_heads)
    differences = []
    if here != there:
        sizes = "{} layers, {} heads, {} kv heads"
        differences.append(f"the model has {sizes.format(*here)}, not {sizes.format(*there)}")
    new = {*scores.estimators} - {*schema.estimators_of(file)}
    if taken := sorted(name for name in new if any(v.path in file for v in schema.estimator_variables(name))):
        differences.append(f"{', '.join(taken)} names an estimator here and something else in the file")
    differences += _other_probes(file, scores)
    if differences:
        remedy = "write them to another file"
        raise StoreError(f"these scores do not fit into {path}: {'; '.join(differences)}. Keep them apart: {remedy}")
    if answers is not None:
        _refuse_answers(file, path, answers)
    if ablation is not None:
        _refuse_ablation(file, path, ablation)
    if sft is not None:
        _refuse_sft_probe(file, path, sft)


def _other_probes(file: h5py.File, scores: HeadScores) -> list[str]:
    names = [schema.text(file, "probe_set_name"), scores.probe_set_name]
    hashes = [schema.text(file, "probe_set_hash"), scores.probe_set_hash]
    if hashes[0] != hashes[1]:
        there, here = (f"{name!r} ({digest[:12]})" for name, digest in zip(names, hashes, strict=True))
        return [f"the probe set is {here}, not {there}"]
    columns = schema.columns_of(file)
    if ({*columns, "id"} ^ set(scores.probes)) - {*CHANCE_COLUMNS}:
        return [f"the probe columns are {', '.join(sorted(scores.probes))}, not {', '.join(sorted([*columns, 'id']))}"]
    for name, values in scores.probes.items():
        if name in CHANCE_COLUMNS and name not in columns:
            continue
        if name == "grafted" and not values.any() and file["probes/grafted"][:].any():
            return [
                "every probe ran alone (or sharing='exact'), and in the file they share prefills; score with what "
                "store.runs_alone(file) says as alone=..., and with the same sharing"
            ]
        item = file["probes/probe" if name == "id" else f"probes/{name}"]
        stored = item.asstr()[:].astype(str) if schema.disk_type(item) == schema.STRING else item[:]
        if not np.array_equal(stored, values, equal_nan=values.dtype.kind == "f"):
            return [f"the probe column {name!r} has other values, though the hash of the probe set is the same"]
    return []


def _n_kv_heads(file: h5py.File) -> int:
    return int(np.ravel(file.attrs["n_kv_heads"])[0])


def _list(steps: list[int]) -> str:
    shown = steps if len(steps) <= 8 else [*steps[:3], "...", *steps[-3:]]
    return ", ".join(map(str, shown))
