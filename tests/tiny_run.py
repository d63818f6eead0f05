"""A training run on disk: tiny checkpoints with different random weights, and probes that fit them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders import random_grid
from headscope.probes import ProbeSet
from tiny_models import VOCAB, build


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def make_checkpoint(folder: Path, *, seed: int = 0, family: str = "llama", **changes: Any) -> Path:
    build(family, seed=seed, **{"num_hidden_layers": 2, **changes}).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def make_run(folder: Path, steps: tuple[int, ...] = (10, 20, 30), **changes: Any) -> Path:
    """Folders checkpoint-STEP; the seed of their weights is their step."""
    for step in steps:
        make_checkpoint(folder / f"checkpoint-{step}", seed=step, **changes)
    return folder


def small_probes() -> ProbeSet:
    return random_grid(lengths=(60, 90), depths=(0.2, 0.8))
