"""What checkpoints have beside their scores: added to a results file, and read from one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from os import PathLike
from typing import Any

import h5py

from ..ablation import Ablation
from ..finetuned import SftProbe
from ..perplexity import Perplexity
from ..tasks import Answers
from . import gate, perplexities, schema
from .beside import KINDS, Beside, beside_of
from .growing import add_bare, in_memory, pack
from .results_file import (
    as_step,
    as_tokens,
    check_writable,
    checkpoints_of,
    in_one_step,
    listed,
    reading,
    refuse_misfit_of,
    target_path,
)
from .schema import StoreError


def add_answers(path: str | PathLike[str], answers: Answers, checkpoint: int, *, timeout: float | None = None) -> None:
    """Add answers to a checkpoint that has its scores, in place of any that it had.

    Waits like `append`. Raises StoreError, and leaves the file as it was, when it holds no such checkpoint, when its
    other answers are to other probes or more or fewer to each, and when it cannot be read or written.
    """
    _add(path, "answers", answers, checkpoint, timeout)


def add_ablation(
    path: str | PathLike[str], ablation: Ablation, checkpoint: int, *, timeout: float | None = None
) -> None:
    """Add an ablation, as `add_answers` does; the others must be of the same mode, rows, probes and sets."""
    _add(path, "ablation", ablation, checkpoint, timeout)


def add_sft_probe(path: str | PathLike[str], probe: SftProbe, checkpoint: int, *, timeout: float | None = None) -> None:
    """Add an SFT probe, as `add_answers` does; the others must be by the same recipe, of the same seeds and probes."""
    _add(path, "sft_probe", probe, checkpoint, timeout)


def add_perplexity(
    path: str | PathLike[str],
    perplexity: Perplexity,
    checkpoint: int,
    tokens_seen: float | None = None,
    *,
    timeout: float | None = None,
) -> None:
    """Add a perplexity to a checkpoint that has its scores, in place of any that it had; or, where the file holds no
    head scores or there is none, as one more checkpoint of a file of perplexities alone.

    Waits like `append`. Raises StoreError, and leaves the file as it was, when it has head scores and no such
    checkpoint; when the checkpoint comes before the last one of a file of perplexities; when those of its other
    checkpoints are of other texts, tokenizers or windows; and when it cannot be read or written.
    """
    step, tokens = as_step(checkpoint), as_tokens(tokens_seen)
    with in_one_step(path, timeout) as (target, partial):
        if not target.exists():
            with in_memory(partial, "w") as file:
                add_bare(file, perplexity, step, tokens)
            return
        gate.start()
        if target.is_file():
            shutil.copy(target, partial)
        with reading(target, "structure", bare=True) as file:
            row = _row_for_perplexity(file, path, step)
            refuse_misfit_of(file, path, Beside(perplexity=perplexity), row)
        packed = pack(perplexity)
        if row is None:
            gate.change(partial, "grow_bare", packed, step, tokens)
        else:
            gate.change(partial, "add_to", "perplexity", packed, row)


def _row_for_perplexity(file: h5py.File, path: str | PathLike[str], step: int) -> int | None:
    """The number of the checkpoint that it goes with; None where it makes one more. Raises StoreError."""
    steps = checkpoints_of(file)
    if step in steps:
        return steps.index(step)
    if schema.has_scores(file):
        raise StoreError(
            f"{path} has no checkpoint {step}, which the perplexity would go with; it has {listed(steps)}: score it "
            "first, or write to another file"
        )
    if steps and step < steps[-1]:
        raise StoreError(f"{path} holds checkpoint {steps[-1]}; give a later one than that, or another file")
    return None


def _add(path: str | PathLike[str], name: str, found: Any, checkpoint: int, timeout: float | None) -> None:
    step = as_step(checkpoint)
    with in_one_step(path, timeout) as (target, partial):
        gate.start()
        if target.is_file():
            shutil.copy(target, partial)
        with reading(target, "structure") as file:
            steps = checkpoints_of(file)
            if step not in steps:
                remedy = "score it first" + (", or with the answers (heads=True)" if name == "answers" else "")
                raise StoreError(
                    f"{path} has no checkpoint {step}, which the {KINDS[name].words} would go with; it has "
                    f"{listed(steps)}: {remedy}"
                )
            refuse_misfit_of(file, path, Beside(**{name: found}), steps.index(step))
        gate.change(partial, "add_to", name, pack(found), steps.index(step))


def check_takes(path: str | PathLike[str], checkpoint: int, probe_set_hash: str, *, samples: int, scores: bool) -> None:
    """Raise StoreError, before any work is done, when a file would not take answers to these probes afterwards.

    samples: drawn answers of each probe. scores: whether heads' scores on the same probes come with them, as a new
    checkpoint; else the checkpoint has to be there.
    """
    step = as_step(checkpoint)
    check_writable(path)
    if not target_path(path).exists():
        if not scores:
            raise StoreError(f"{path} does not exist, and answers go with scores: leave heads=True, or score first")
        return
    with reading(path, "structure") as file:
        steps, has = checkpoints_of(file), schema.has(file, "answers")
        if scores and step in steps:
            raise StoreError(
                f"{path} holds checkpoint {step} already; give another one, heads=False to add answers to "
                "it, or another file"
            )
        if scores and steps and step < steps[-1]:
            raise StoreError(f"{path} holds checkpoint {steps[-1]}; give a later one, or another file and `merge` them")
        if not scores and step not in steps:
            raise StoreError(
                f"{path} has no checkpoint {step}, which the answers would go with; it has {listed(steps)}"
            )
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
            raise StoreError(f"{path} has no checkpoint {checkpoint}; it has {listed(steps)}")
        others = {*KINDS["ablation"].keeper.rows(file)} - {steps.index(checkpoint)}
        there = {name: schema.text(file["ablation"], name) for name in how} if others else how
        if there != how:
            words = (" ".join(f"{name}={value!r}" for name, value in each.items()) for each in (there, how))
            held, asked = words
            raise StoreError(f"{path} holds ablations of other checkpoints by {held}, not {asked}; use a copy of it")


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
        if {*KINDS["sft_probe"].keeper.rows(file)} - own:
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


def check_takes_perplexity(path: str | PathLike[str], checkpoint: int, texts_hash: str, tokenizer_fp: str) -> None:
    """Raise StoreError, before any work is done, when a file would not take the loss on these texts afterwards."""
    step = as_step(checkpoint)
    check_writable(path)
    if not target_path(path).exists():
        return
    with reading(path, "structure", bare=True) as file:
        row = _row_for_perplexity(file, path, step)
        others = {*perplexities.rows(file)} - {row}
        if others and (difference := perplexities.difference(file, texts_hash, tokenizer_fp)):
            raise StoreError(f"{path} does not take this perplexity: {difference}; give the same, or another file")


def misfit_of_texts(path: str | PathLike[str], texts_hash: str, tokenizer_fp: str) -> str:
    """Why the next checkpoint of a file could not have the loss on these texts, without key tokens, in words; "" where
    it could. Raises StoreError where the file cannot be read."""
    if not target_path(path).exists():
        return ""
    with reading(path, "structure") as file:
        if "perplexity" in file and not schema.has(file, "perplexity"):
            return "it has a group 'perplexity' that is not headscope's"
        return perplexities.difference(file, texts_hash, tokenizer_fp, "") if perplexities.rows(file) else ""


def read_answers(path: str | PathLike[str], checkpoint: int | None = None) -> Answers:
    """The answers of one checkpoint, by default of the last that has some, as they were written.

    Raises StoreError when the file cannot be read, or has no answers of that checkpoint.
    """
    found: Answers = _read(path, "answers", checkpoint)
    return found


def read_ablation(path: str | PathLike[str], checkpoint: int | None = None) -> Ablation:
    """The ablation of one checkpoint, as `read_answers`."""
    found: Ablation = _read(path, "ablation", checkpoint)
    return found


def read_sft_probe(path: str | PathLike[str], checkpoint: int | None = None) -> SftProbe:
    """The SFT probe of one checkpoint, as `read_answers`."""
    found: SftProbe = _read(path, "sft_probe", checkpoint)
    return found


def read_perplexity(path: str | PathLike[str], checkpoint: int | None = None) -> Perplexity:
    """The perplexity of one checkpoint, as `read_answers`, also of a file of perplexities alone."""
    found: Perplexity = _read(path, "perplexity", checkpoint)
    return found


def all_answers(path: str | PathLike[str]) -> dict[int, Answers]:
    """Number of the checkpoint in the file -> its answers, of all that have some. Raises StoreError."""
    return _all(path, "answers")


def all_ablations(path: str | PathLike[str]) -> dict[int, Ablation]:
    """Number of the checkpoint in the file -> its ablation, of all that have one. Raises StoreError."""
    return _all(path, "ablation")


def all_sft_probes(path: str | PathLike[str]) -> dict[int, SftProbe]:
    """Number of the checkpoint in the file -> its SFT probe, of all that have one. Raises StoreError."""
    return _all(path, "sft_probe")


def all_perplexities(path: str | PathLike[str]) -> dict[int, Perplexity]:
    """Number of the checkpoint in the file -> its perplexity, of all that have one. Raises StoreError."""
    return _all(path, "perplexity")


def find_beside(path: str | PathLike[str], checkpoint: int) -> Beside:
    """All that one checkpoint has beside its scores; nothing where it has none or is not there. Raises StoreError."""
    with reading(path, bare=True) as file:
        steps = checkpoints_of(file)
        return beside_of(file, steps.index(checkpoint)) if checkpoint in steps else Beside()


def _read(path: str | PathLike[str], name: str, checkpoint: int | None) -> Any:
    kind = KINDS[name]
    with reading(path, bare=name == "perplexity") as file:
        steps = checkpoints_of(file)
        there = {steps[row]: row for row in kind.keeper.rows(file)}
        if not there:
            raise StoreError(f"{path} holds no {kind.words}; `{kind.remedy.format(path=path)}` makes one")
        step = max(there) if checkpoint is None else checkpoint
        if step not in there:
            raise StoreError(f"{path} holds no {kind.words} of checkpoint {step}; it has those of {listed([*there])}")
        return kind.keeper.read(file, there[step])


def _all(path: str | PathLike[str], name: str) -> dict[int, Any]:
    keeper = KINDS[name].keeper
    with reading(path, bare=name == "perplexity") as file:
        return {row: keeper.read(file, row) for row in keeper.rows(file)}
