"""Train a small model from scratch at short context, continue at a longer one, and keep checkpoints on the way.

    python examples/evolution/train.py --output demo/evolution            about ten minutes on two quiet cores
    python examples/evolution/train.py --output demo/evolution --quick    less than a minute; heads are not yet born

In OUTPUT: checkpoint-N/ (transformers folders, one after N optimizer steps), haystack/ (texts that were held out) and
resume.pt. Killed at any moment, the same command goes on after the last checkpoint and ends with the same weights;
other settings start over.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich import print
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from checkpoint import set_rope_base, write_checkpoint
from corpus import common_words, sentences, split_documents, train_tokenizer, write_haystack
from lessons import Lessons, words_of_the_probes

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
CLIP = 1.0
# What a run with another recipe left in the folder, and what was measured on its checkpoints.
LEFT_BEHIND = ("checkpoint-*", ".checkpoint", "haystack", "*resume.pt", "evolution.*", "*.lock")


@dataclass(frozen=True)
class Phase:
    """One stretch of training at one context length.

    steps: optimizer steps. rows, length: sequences a batch, tokens a sequence. rope_base: rope_theta.
    muon, adam: peak learning rates of the weight matrices and of everything else.
    keep: steps of this phase after which a checkpoint is kept; the last one always is.
    """

    steps: int
    rows: int
    length: int
    rope_base: float
    muon: float
    adam: float
    keep: tuple[int, ...]


@dataclass(frozen=True)
class Recipe:
    """Everything the outcome depends on, besides the text and the versions of Python and PyTorch."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    copied_weight: float  # loss weight of tokens that can be copied; the others have 1
    warmup: int
    seed: int
    documents: int | None  # how many of the standard library's documents; None: all
    context: int  # what the config says; the model is run up to it, whatever it was trained at
    phases: tuple[Phase, ...]


FULL = Recipe(
    layers=4,
    width=128,
    heads=8,
    kv_heads=4,
    head_dim=32,
    copied_weight=3.0,
    warmup=30,
    seed=0,
    documents=None,
    context=1024,
    phases=(
        Phase(1000, 8, 256, 10_000.0, 0.02, 0.005, (200, 300, 400, 500, 600, 650, 700, 750, 800)),
        Phase(300, 4, 1024, 200_000.0, 0.01, 0.002, (10, 25, 50, 100, 200)),
    ),
)
QUICK = Recipe(
    layers=2,
    width=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    copied_weight=3.0,
    warmup=5,
    seed=0,
    documents=120,
    context=512,
    phases=(Phase(20, 8, 128, 10_000.0, 0.02, 0.005, (10,)), Phase(10, 2, 512, 50_000.0, 0.01, 0.002, ())),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the checkpoints")
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps, to see that it all works")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's own choice)")
    given = parser.parse_args()
    if given.threads is not None:
        if given.threads < 1:
            parser.error(f"--threads: got {given.threads}; give 1 or more")
        torch.set_num_threads(given.threads)
    disable_progress_bar()  # one for every checkpoint's single file
    train(QUICK if given.quick else FULL, given.output)


def train(recipe: Recipe, output: Path) -> None:
    """Train by the recipe, from where `output` was left if it was left by the same recipe and text."""
    learn, held_out = split_documents(recipe.documents)
    tokenizer = train_tokenizer(learn)
    text = sentences(learn, tokenizer)
    lessons = Lessons(tokenizer, text, common_words(learn, without=words_of_the_probes()), recipe.seed)
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(config(recipe, tokenizer))
    optimizers = make_optimizers(model)

    done, seen = resume(recipe, fingerprint(recipe, learn), output, model, optimizers)
    write_haystack(held_out, output / "haystack")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters:,} parameters, {sum(map(len, text)):,} tokens of text, {done} of {total(recipe)} steps done")
    if done == 0:
        keep(recipe, output, model, optimizers, tokenizer, 0, 0)

    first = 0
    for phase in recipe.phases:
        last = first + phase.steps
        if done < last:
            set_rope_base(model, phase.rope_base)
            print(f"context {phase.length}, RoPE base {phase.rope_base:,.0f}: steps {first} to {last}")
        losses: list[tuple[float, float]] = []
        since = time.monotonic()
        for step in range(max(done, first), last):
            losses.append(learn_from(lessons, step, phase, step - first, recipe, model, optimizers))
            seen += phase.rows * phase.length
            done = step + 1
            if done - first in phase.keep or done == last:
                keep(recipe, output, model, optimizers, tokenizer, done, seen)
                plain, copied = (sum(values) / len(values) for values in zip(*losses, strict=True))
                print(f"step {done:5}: loss {plain:.2f}, where copying helps {copied:.2f}", end="")
                print(f", {(time.monotonic() - since) / len(losses):.2f} s a step")
                losses, since = [], time.monotonic()
        first = last


def config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama with grouped queries and tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=3 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.head_dim,
        max_position_embeddings=recipe.context,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.phases[0].rope_base},
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices, in which heads take a third of the steps to appear; AdamW for the rest."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and "embed" not in name else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, weight_decay=WEIGHT_DECAY),
        torch.optim.AdamW(rest, betas=BETAS, weight_decay=0.0),
    ]


def learn_from(
    lessons: Lessons,
    number: int,
    phase: Phase,
    step: int,
    recipe: Recipe,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
) -> tuple[float, float]:
    """One optimizer step on batch `number`; the mean loss of plain tokens and of those that can be copied, in nats."""
    rise = min(1.0, (step + 1) / recipe.warmup)
    fall = 0.1 + 0.9 * (1 + math.cos(math.pi * step / phase.steps)) / 2
    for optimizer, peak in zip(optimizers, (phase.muon, phase.adam), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * rise * fall

    drawn, copied = lessons.batch(number, phase.rows, phase.length)
    ids, copied = torch.from_numpy(drawn).long(), torch.from_numpy(copied)[:, 1:].float()
    logits = model(ids[:, :-1], use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view_as(copied)
    weight = 1 + (recipe.copied_weight - 1) * copied
    ((loss * weight).sum() / weight.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    loss = loss.detach()
    return float((loss * (1 - copied)).sum() / (1 - copied).sum()), float((loss * copied).sum() / copied.sum())


def keep(
    recipe: Recipe,
    output: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    tokenizer: PreTrainedTokenizerFast,
    step: int,
    seen: int,
) -> None:
    """Write checkpoint-STEP and then what is needed to go on after it; each appears whole or not at all."""
    write_checkpoint(output, model, tokenizer, step, seen, total(recipe))
    torch.save(
        {"step": step, "seen": seen, "optimizers": [optimizer.state_dict() for optimizer in optimizers]},
        output / ".resume.pt",
    )
    os.replace(output / ".resume.pt", output / "resume.pt")


def resume(
    recipe: Recipe,
    wanted: str,
    output: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
) -> tuple[int, int]:
    """Steps done and tokens seen; with them the weights and optimizers are loaded. What another recipe left is removed.

    Checkpoints behind the one that resume.pt belongs to are written again when training gets there.
    """
    settings = output / "recipe.json"
    told = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    if told.get("fingerprint") != wanted:
        for pattern in LEFT_BEHIND:
            for old in output.glob(pattern):
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        output.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps({"fingerprint": wanted, **asdict(recipe)}, indent=1) + "\n", encoding="utf-8")
    if not (output / "resume.pt").is_file():
        return 0, 0
    state: dict[str, Any] = torch.load(output / "resume.pt", weights_only=True)
    folder = output / f"checkpoint-{state['step']}"
    if not folder.is_dir():
        raise SystemExit(f"error: {folder} is gone and training cannot go on after it; delete {output} to start over")
    trained = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(trained.state_dict())
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seen"]


def fingerprint(recipe: Recipe, documents: list[str]) -> str:
    """What must be the same for a run to go on: recipe, text and this code."""
    digest = hashlib.sha256(repr(recipe).encode())
    for document in documents:
        digest.update(document.encode())
    for source in ("checkpoint.py", "corpus.py", "lessons.py", "train.py"):
        digest.update(Path(__file__).with_name(source).read_bytes())
    return digest.hexdigest()


def total(recipe: Recipe) -> int:
    return sum(phase.steps for phase in recipe.phases)


if __name__ == "__main__":
    main()
