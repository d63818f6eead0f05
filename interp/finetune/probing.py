"""sft_probe: what a model answers before and after a light fine-tune, seed by seed. The path on one page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import ArgumentError
from ...probes import Codec, Probe, ProbeSet, check_tokenizer
from ..engine import CHUNK, Progress
from ..environment import for_files
from ..evaluating import evaluate
from ..finetuned import COST, SftProbe
from ..model import LoadedModel, load_model
from ..packages import need
from ..store import (
    add_answers,
    add_sft_probe,
    check_takes,
    check_takes_sft_probe,
    checkpoints,
    find_beside,
    target_path,
)
from ..tasks import SAID, Answers
from .files import files_hash, files_of
from .kept import Kept, OneSeed
from .lessons import check_disjoint, lessons
from .recipe import Recipe, read_recipe
from .training import FinetuneError, finetuned, trainable


def sft_probe(
    model: Any,
    tasks: ProbeSet | Iterable[Probe],
    tokenizer: Any = None,
    *,
    recipe: str | PathLike[str] | Mapping[str, Any] | Recipe = "default",
    seeds: int | None = None,
    before: Answers | None = None,
    output: str | PathLike[str] | None = None,
    checkpoint: int = 0,
    tokens_seen: float | None = None,
    files: str | PathLike[str] | None = None,
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> SftProbe:
    """Let a model answer probes before and after it was fine-tuned, lightly, on others: what can it do, once it knows
    the form of the question?

    The model is fine-tuned in memory, by every seed anew, and put back: its logits are the same afterwards, bit by bit,
    and the checkpoint's files are only read; both is checked. The same recipe, seed, machine and number of threads give
    the same numbers.

    Args:
        model, tokenizer, chunk: as in `evaluate`; the model is a transformers causal LM without an adapter.
        tasks: probes with a task, none of which the recipe trains on, nor their wording, keys, values or seed.
        recipe: "default" (LoRA of rank 16, 32 steps of 4 sequences of 192 tokens), "small" (all weights of a model of a
            few million), a .json file or a mapping with some of the fields of `Recipe`.
        seeds: so many trainings, instead of the recipe's own: seeds 0, 1, ...
        before: what `evaluate` has let this very model answer to these probes; by default it is asked first.
        output: a results file that it is written to, with the answers of the model as it is, which `evaluate` writes
            with the heads' scores as a new checkpoint, or which are there. Seeds that are done are kept in the folder
            `run.h5.sft` beside it until all are in the file: after a kill the same call goes on with the seed that was
            being trained, from its beginning. That needs weights that are known by their hash.
        checkpoint, tokens_seen: of the file, as in `HeadScores.save`.
        files: where the model's weights came from, if it is in memory: their hash must be the same afterwards.
        progress: called with (done, of how many, what is running).

    Returns:
        SftProbe.

    Raises:
        What `evaluate` raises. RecipeError: a recipe that cannot be read, or that trains on what is asked.
        FinetuneError: a loss that is not finite; a model or files that are not what they were. MissingPackageError:
        peft is not installed, and the recipe's method is "lora". StoreError: the output does not take it, which is
        tried before anything is run.
    """
    wanted, probes = read_recipe(recipe, seeds), ProbeSet.of(tasks)
    if wanted.method == "lora":
        need("peft", "method 'lora' of a recipe", install="headscope[sft]")
    if output is not None:
        check_takes_sft_probe(output, checkpoint, wanted.hash, wanted.seeds, probes.hash)
    loaded = load_model(model, tokenizer=tokenizer) if isinstance(model, (str, PathLike)) else model
    tokenizer = tokenizer or (loaded.tokenizer if isinstance(loaded, LoadedModel) else None)
    if tokenizer is None:
        raise ArgumentError("sft_probe needs tokenizer=..., to write what is trained on; none lies beside the model")
    codec = tokenizer if isinstance(tokenizer, Codec) else Codec(tokenizer)
    module = trainable(loaded.model if isinstance(loaded, LoadedModel) else loaded)
    check_tokenizer(probes, codec)
    chat = all(probe.variant.endswith("-chat") for probe in probes)
    taught = {seed: lessons(wanted, seed, codec.tokenizer, chat=chat) for seed in wanted.seeds}
    for each in taught.values():
        check_disjoint(each, probes, codec)
    source = files_of(model, loaded) if files is None else Path(files)
    on_disk = files_hash(source)
    weights = loaded.fingerprint if isinstance(loaded, LoadedModel) else None
    how: dict[str, Any] = {"tokenizer": codec, "chunk": chunk, "progress": progress}
    if before is None:
        before = _before(loaded, probes, weights, output, checkpoint, tokens_seen, how)
    elif before.probe_set_hash != probes.hash:
        raise ArgumentError("before holds answers to other probes than tasks; give those of evaluate(model, tasks)")
    key = {"weights": weights, "probes": probes.hash, "recipe": wanted.hash, "threads": torch.get_num_threads()}
    kept = Kept(output, checkpoint, key)
    if before.provenance.get("alone_because"):
        how["alone"] = True
    done = {}
    for seed, probes_of in taught.items():
        if (found := kept.read(seed)) is None:
            with finetuned(module, wanted, seed, probes_of, codec.tokenizer.eos_token_id, progress) as trained:
                start = time.monotonic()
                said = evaluate(loaded, probes, estimators=["retrieval"], **how)
                spent = {name: getattr(trained, name) for name in COST if name != "answer_seconds"}
                cost = {**spent, "answer_seconds": time.monotonic() - start}
            found = OneSeed(_measured(said), trained.loss, cost)
            kept.write(seed, found)
        done[seed] = found
    if (now := files_hash(source)) != on_disk:
        raise FinetuneError(f"the files of {source} are not what they were: {on_disk} before, {now} now")
    result = SftProbe(
        model_id=before.model_id,
        seeds=wanted.seeds,
        before={name: _measured(before)[name] for name in ("score", "nll", "exact_match")},
        after={name: np.stack([of.after[name] for of in done.values()]) for name in _measured(before)},
        loss=np.stack([of.loss for of in done.values()]),
        cost={name: np.array([of.cost[name] for of in done.values()]) for name in COST},
        probes=before.probes,
        recipe=wanted.json,
        recipe_hash=wanted.hash,
        probe_set_name=probes.name,
        probe_set_hash=probes.hash,
        provenance={
            **for_files(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "weights_sha256": weights,
            "files_sha256": on_disk,
            "tokenizer_fp": codec.fingerprint,
            "threads": torch.get_num_threads(),
            "device": str(next(module.parameters()).device),
            "dtype": str(next(module.parameters()).dtype).removeprefix("torch."),
            "trained_on": {str(seed): ProbeSet(tuple(each)).hash for seed, each in taught.items()},
        },
    )
    if output is not None:
        add_sft_probe(output, result, checkpoint)
        kept.clear()
    return result


def _before(
    loaded: Any,
    probes: ProbeSet,
    weights: str | None,
    output: str | PathLike[str] | None,
    checkpoint: int,
    tokens_seen: float | None,
    how: dict[str, Any],
) -> Answers:
    """The answers of the model as it is: those in the output, or new ones, which are written there."""
    if output is None:
        return evaluate(loaded, probes, **how)
    if not target_path(output).exists() or checkpoint not in checkpoints(output):
        return evaluate(loaded, probes, output=output, checkpoint=checkpoint, tokens_seen=tokens_seen, **how)
    found = find_beside(output, checkpoint).answers
    same = found is not None and found.probe_set_hash == probes.hash
    if found is not None and same and weights is not None and found.provenance.get("weights_sha256") == weights:
        return found
    check_takes(output, checkpoint, probes.hash, samples=0, scores=False)
    answers = evaluate(loaded, probes, **how)
    add_answers(output, replace(answers, scores=None), checkpoint)
    return answers


def _measured(answers: Answers) -> dict[str, np.ndarray]:
    """What `SftProbe.after` has of one seed, of the greedy answers: name -> [N]."""
    found = {name: answers.said[name][:, 0] for name in SAID}
    matched = np.where(np.isnan(answers.nll), np.nan, answers.exact_match).astype(np.float32)
    return found | {"nll": answers.nll, "exact_match": matched}
