"""Hostile GGUF files: a tiny Llama with its tokenizer, mostly damaged in the header, which is most of such a file."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from .bytes_of import MUTATORS
from .canary import Canaries
from .cases import Action
from .folders import ACTIONS, prepare
from .probe_sets import tokenizer

__all__ = ["ACTIONS", "actions", "bases", "make", "prepare"]

HEADER = 4096  # bytes from the start where most of the damage is done
_SIZES = (0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


def bases(folder: Path) -> list[Path]:
    import gguf
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.gguf"
    rng = np.random.default_rng(0)
    model = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    words = sorted(model["vocab"], key=model["vocab"].__getitem__)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * len(words))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd.weight": (len(words), 32), "output_norm.weight": (32,), "output.weight": (len(words), 32)}
    for layer in range(2):
        of_layer = {"attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_output": (32, 32)}
        of_layer |= {
            "attn_k": (16, 32),
            "attn_v": (16, 32),
            "ffn_gate": (64, 32),
            "ffn_up": (64, 32),
            "ffn_down": (32, 64),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    for name, shape in shapes.items():
        writer.add_tensor(name, rng.standard_normal(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [path]


def number(data: bytearray, rng: random.Random) -> None:
    """Some count, length or offset becomes one that cannot be."""
    at, size = rng.randrange(len(data) - 8), rng.choice((4, 8))
    data[at : at + size] = (rng.choice(_SIZES) % 2 ** (8 * size)).to_bytes(size, "little")


def counts(data: bytearray, rng: random.Random) -> None:
    """The numbers of tensors and of entries."""
    at = rng.choice((8, 16))
    data[at : at + 8] = rng.choice(_SIZES).to_bytes(8, "little")


def make(path: Path, base: Path, rng: random.Random, canaries: Canaries) -> str:
    shutil.copy(base, path)
    data = bytearray(path.read_bytes())
    change = rng.choice((*MUTATORS, number, number, number, counts))
    if change is counts or rng.random() < 0.1:
        change(data, rng)
    else:
        header = data[:HEADER]
        change(header, rng)
        data[:HEADER] = header
    path.write_bytes(data)
    return f"bytes: {change.__name__}"


def actions(number: int) -> dict[str, Action]:
    return ACTIONS
