"""Continue a pre-trained model at a longer context with a raised RoPE base, and keep checkpoints on the way.

    python examples/evolution/extend.py HuggingFaceTB/SmolLM2-135M -o demo/extension

MODEL is whatever headscope loads: a folder, a hub id or a .gguf file. One H100 is meant for the defaults. In OUTPUT:
checkpoint-N/ after N optimizer steps (step 0 is MODEL as it came, with its own RoPE base; from step 1 on the base is
raised), text.json (which packages at which version and licence were read) and training.jsonl (every step's loss, and
the held-out loss of every checkpoint). It ends after --minutes at the latest, and keeps the step it came to.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from rich import print
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version
from transformers.utils.logging import disable_progress_bar

from checkpoint import set_rope_base, write_checkpoint
from corpus import Ids
from headscope.interp.model.loading import load_model
from headscope.interp.model.weights import ModelError
from long_loss import flops_per_token, token_losses
from source_code import cut, packages

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
CLIP = 1.0


@dataclass(frozen=True)
class Recipe:
    """What the outcome depends on, besides the model, the text and the versions.

    rows: sequences a step, one after the other. warmup: steps until the learning rate is at `peak`, where it stays:
    the trajectory then shows learning and no schedule, and training may end at any step. validated: held-out sequences.
    """

    length: int
    base: float
    rows: int
    steps: int
    checkpoints: int
    minutes: float
    peak: float
    warmup: int
    most_bytes: int
    validated: int
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="folder, hub id or .gguf file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the checkpoints")
    parser.add_argument("--length", type=int, default=32768, help="tokens a sequence (%(default)s)")
    parser.add_argument("--base", type=float, default=1e6, help="RoPE base from the first step on (%(default)g)")
    parser.add_argument("--rows", type=int, default=2, help="sequences a step (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps (%(default)s)")
    parser.add_argument("--checkpoints", type=int, default=14, help="how many, denser at first (%(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training at most (%(default)g)")
    parser.add_argument("--peak", type=float, default=3e-4, help="learning rate after the warm-up (%(default)g)")
    parser.add_argument("--warmup", type=int, default=20, help="steps until then (%(default)s)")
    parser.add_argument("--most-bytes", type=int, default=6_000_000, help="of text a package (%(default)s)")
    parser.add_argument("--validated", type=int, default=4, help="held-out sequences (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="order of the sequences (%(default)s)")
    given = vars(parser.parse_args())
    model, output = given.pop("model"), given.pop("output")
    for name in ("length", "rows", "steps", "checkpoints", "warmup", "most_bytes", "validated"):
        least = 2 if name in ("length", "checkpoints") else 1
        if given[name] < least:
            parser.error(f"--{name.replace('_', '-')}: got {given[name]}; give {least} or more")
    if any(output.glob("checkpoint-*")):
        parser.error(f"--output: {output} holds the checkpoints of another run; delete it or name another folder")
    disable_progress_bar()
    try:
        extend(model, output, Recipe(**given))
    except ModelError as error:
        parser.error(str(error))


def extend(name: str, output: Path, recipe: Recipe) -> None:
    """Load, read the text, train and keep checkpoints."""
    loaded = load_model(name, dtype="float32")
    model, tokenizer = loaded.model, loaded.tokenizer
    refuse_other_positions(name, model)
    output.mkdir(parents=True, exist_ok=True)
    text = read_text(tokenizer, recipe)
    about = {"model": loaded.model_id, "revision": loaded.revision, "weights": loaded.fingerprint}
    versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers_version}
    shown = {"recipe": vars(recipe), **about, **versions, "packages": text.record}
    (output / "text.json").write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    print(f"{len(text.learned)} sequences of {recipe.length:,} tokens to learn from, {len(text.held_out)} held out")

    trained_to = model.config.max_position_embeddings
    model.config.max_position_embeddings = max(trained_to, recipe.length)
    model.config.use_cache = False
    with (output / "training.jsonl").open("w", encoding="utf-8") as log, lean_attention(model.device):
        Run(recipe, output, log, model, tokenizer, text, trained_to).train()


def refuse_other_positions(name: str, model: PreTrainedModel) -> None:
    """Refuse what is not a Llama-like model with plain rotary positions."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    if not hasattr(getattr(model, "model", None), "rotary_emb") or rope.get("rope_type", "default") != "default":
        kind = rope.get("rope_type", "none")
        raise ModelError(f"{name}: RoPE of type {kind}; the base can only be raised where it is 'default', as in Llama")


@dataclass(frozen=True)
class Text:
    """learned, held_out: int32 [n, length]. record: what text.json says about every package."""

    learned: Ids
    held_out: Ids
    record: list[dict[str, Any]]


def read_text(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> Text:
    """All whole sequences of the packages that are learned, and of those held out some from every package first."""
    learned, held_out, record = [], [], []
    for package in packages(most_bytes=recipe.most_bytes):
        sequences = cut(package, tokenizer, recipe.length)
        record.append({**package.record(), "sequences": len(sequences)})
        (held_out if package.held_out else learned).append(sequences)
    by_turns = sorted((n, i) for i, of in enumerate(held_out) for n in range(len(of)))[: recipe.validated]
    if not by_turns or not any(map(len, learned)):
        raise SystemExit(
            f"error: --length: no installed package has {recipe.length:,} tokens of permissively licensed text to"
            " learn from and another to hold out; install more packages, or give a shorter length"
        )
    return Text(np.concatenate(learned), np.stack([held_out[i][n] for n, i in by_turns]), record)


def schedule(steps: int, checkpoints: int) -> list[int]:
    """Steps to keep: 0, 1, then in about equal ratios up to the last; all of them where there are not enough."""
    if steps < checkpoints:
        return list(range(steps + 1))
    fine = checkpoints - 1
    while len(kept := np.unique(np.geomspace(1, steps, fine).round().astype(int))) < checkpoints - 1:
        fine += 1
    return [0, *kept.tolist()]


def order(sequences: int, seed: int) -> Iterator[int]:
    """Endless: every sequence once in random order, then all again in another."""
    draw = np.random.default_rng(seed)
    while True:
        yield from draw.permutation(sequences).tolist()


def lean_attention(device: torch.device) -> AbstractContextManager[Any]:
    """On a GPU only attention that never makes a [tokens, tokens] matrix; where that cannot be, an error at once."""
    if device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])


class Run:
    """One training: the model, its optimizer, and what it has seen."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path,
        log: TextIO,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        text: Text,
        trained_to: int,
    ) -> None:
        self.recipe, self.output, self.log = recipe, output, log
        self.model, self.tokenizer, self.text, self.trained_to = model, tokenizer, text, trained_to
        matrices = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.peak, betas=BETAS)
        self.seen = 0

    def train(self) -> None:
        """Until the last step or the last minute, whichever comes first."""
        recipe, keep = self.recipe, set(schedule(self.recipe.steps, self.recipe.checkpoints))
        begin = time.monotonic()
        self.keep(0)
        set_rope_base(self.model, recipe.base)
        self.model.train()
        self.rehearse()
        drawn = order(len(self.text.learned), recipe.seed)
        slowest, busy, step = 0.0, 0.0, 0
        while step < recipe.steps and time.monotonic() - begin + 2 * slowest < 60 * recipe.minutes:
            step += 1
            since = time.monotonic()
            rate = recipe.peak * min(1.0, step / recipe.warmup)
            loss = self.learn([next(drawn) for _ in range(recipe.rows)], rate)
            seconds = time.monotonic() - since  # `learn` has read the loss, so the device is done
            slowest, busy = max(slowest, seconds), busy + seconds
            self.note(step=step, tokens=self.seen, loss=loss, rate=rate, seconds=seconds)
            speed = recipe.rows * recipe.length / seconds
            print(f"step {step:5}: loss {loss:.3f}, {speed:,.0f} tokens/s")
            if step in keep:
                self.keep(step)
        if step not in keep:
            self.keep(step)
        speed = self.seen / busy if busy else math.nan
        rate = speed * flops_per_token(self.model, recipe.length) / 1e12
        print(f"{self.seen:,} tokens in {time.monotonic() - begin:.0f} s; {speed:,.0f} a second is {rate:.2f} TFLOP/s")

    def rehearse(self) -> None:
        """One backward pass whose gradients are thrown away: compiles, and shows whether activations fit in memory."""
        try:
            self.backward(0)
        except torch.OutOfMemoryError:
            print("activations do not fit: gradient checkpointing, about a quarter slower")
            self.optimizer.zero_grad()
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
            self.backward(0)
        self.optimizer.zero_grad()

    def backward(self, sequence: int) -> torch.Tensor:
        loss = self.losses(self.text.learned[sequence]).mean()
        (loss / self.recipe.rows).backward()
        return loss.detach()

    def learn(self, sequences: list[int], rate: float) -> float:
        """One optimizer step; the mean loss in nats before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = torch.stack([self.backward(sequence) for sequence in sequences]).mean()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seen += len(sequences) * self.recipe.length
        return float(loss)

    def keep(self, step: int) -> None:
        """Measure on held-out text, and write the checkpoint in bfloat16."""
        near, far = self.validate()
        self.note(step=step, tokens=self.seen, held_out_near=near, held_out_far=far)
        print(f"step {step:5}: held out {near:.3f} up to {self.trained_to:,} tokens, {far:.3f} beyond; kept")
        copied = copy.deepcopy(self.model).to(torch.bfloat16)
        write_checkpoint(self.output, copied, self.tokenizer, step, self.seen, self.recipe.steps)

    def validate(self) -> tuple[float, float]:
        """Mean held-out loss in nats of tokens at positions the model knew before, and of those behind (else NaN)."""
        self.model.eval()
        with torch.no_grad():
            losses = torch.stack([self.losses(row) for row in self.text.held_out])
        self.model.train()
        return float(losses[:, : self.trained_to].mean()), float(losses[:, self.trained_to :].mean())

    def losses(self, row: Ids) -> torch.Tensor:
        """Next-token losses of one sequence, on a GPU in bfloat16 beside float32 weights.

        The weights stay float32 because a step of 3e-4 and less is lost in bfloat16's eight bits; with autocast the
        optimizer needs no copy of its own. It ends with the forward, since it remembers the weights it has cast.
        """
        device = self.model.device
        ids = torch.from_numpy(row).to(device, torch.int64)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return token_losses(self.model, ids)

    def note(self, **told: float) -> None:
        """A line of training.jsonl; NaN, which JSON lacks, is null."""
        self.log.write(json.dumps({key: None if value != value else value for key, value in told.items()}) + "\n")
        self.log.flush()


if __name__ == "__main__":
    main()
