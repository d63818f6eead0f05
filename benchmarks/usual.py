"""What finding retrieval heads costs without headscope: the procedure of Wu et al. (arXiv 2404.15574), timed honestly.

Per cell of a length x depth grid: prefill the prompt with the fast attention, then decode the answer token by token
with eager attention, whose maps are needed for the bookkeeping. Our own code, and kinder to the procedure than the
published one: a current transformers, logits of one row only in the prefill, bookkeeping in one call per layer.

    python -m benchmarks.usual MODEL --lengths 512 1024 2048 4096 --steps 8
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from headscope.probes import Probe

from .machine import machine, one_line, write_results


@torch.no_grad()
def usual_cell(model: Any, probe: Probe, n_steps: int) -> tuple[float, np.ndarray]:
    """Seconds for one cell, and every head's score [n_layers, n_heads] by the count of Wu et al.

    Greedy decoding of exactly `n_steps` tokens. A head scores 1 / needle length whenever the key that it attends to
    most lies in a needle and holds the token that is generated. `n_steps=0` times the prefill alone.
    """
    worth = np.zeros(probe.prompt_len + n_steps)
    for start, end in probe.needle_spans:
        worth[start:end] = 1 / (end - start)
    seen = np.full(len(worth), -1)
    seen[: probe.prompt_len] = probe.input_ids[: probe.prompt_len]
    prompt = torch.tensor(seen[: probe.prompt_len], device=model.device)[None]
    cache = (
        DynamicCache()
    )  # without a config it keeps every key, so that positions are positions in windowed layers too
    scores = np.zeros((model.config.num_hidden_layers, model.config.num_attention_heads))

    _wait(model)
    began = perf_counter()
    with _attention(model, "sdpa"):
        model(prompt[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
    with _attention(model, "eager"):
        token = prompt[:, -1:]
        for step in range(n_steps):
            output = model(token, past_key_values=cache, use_cache=True, output_attentions=True)
            token = output.logits[:, -1:].argmax(dim=-1)
            seen[probe.prompt_len + step] = generated = int(token)
            for layer, attention in enumerate(output.attentions):
                keys = attention[0, :, -1].argmax(dim=-1).cpu().numpy()
                scores[layer] += np.where(seen[keys] == generated, worth[keys], 0)
    _wait(model)
    return perf_counter() - began, scores


@torch.no_grad()
def plain_forward(model: Any, ids: np.ndarray) -> float:
    """Seconds for one forward of `ids` [T] with SDPA, no cache, logits of the last row only."""
    tokens = torch.tensor(np.asarray(ids, np.int64), device=model.device)[None]
    with _attention(model, "sdpa"):
        _wait(model)
        began = perf_counter()
        model(tokens, use_cache=False, logits_to_keep=1)
        _wait(model)
        return perf_counter() - began


@contextmanager
def _attention(model: Any, implementation: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _wait(model: Any) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


NEEDLE = "The password of the lighthouse keeper in Varnholm is seven copper kettles."
QUESTION = "\nQuestion: What is the password of the lighthouse keeper in Varnholm?\nAnswer:"


def text_probe(tokenizer: Any, length: int) -> Probe:
    """About `length` tokens of the standard library's documentation with NEEDLE in the middle; it is the answer too."""
    from headscope.probes.haystack import standard_library

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    needle, question = encode(" " + NEEDLE), encode(QUESTION)
    wanted = length - len(question) - 2 * len(needle)
    tokens = itertools.chain.from_iterable(encode(document) for document in standard_library().documents(0))
    context = list(itertools.islice(tokens, wanted))
    middle = len(context) // 2
    ids = [*context[:middle], *needle, *context[middle:], *question, *needle]
    return Probe.from_ids(ids, prompt_len=len(ids) - len(needle), needles=[(middle, middle + len(needle))])


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the usual procedure and a plain forward, per length.")
    parser.add_argument("model", help="folder, .gguf file or hub id")
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--steps", type=int, default=8, help="answer tokens to decode")
    parser.add_argument("--repeats", type=int, default=1, help="the median is reported")
    options = parser.parse_args()

    from headscope.interp.model.loading import load_model

    found = machine()
    loaded = load_model(options.model)
    model = loaded.model
    sys.stdout.write(f"{one_line(found)}\n{loaded.model_id}, {model.dtype}, {options.steps} steps\n")
    sys.stdout.write(f"{'length':>8} {'plain':>8} {'prefill':>8} {'cell':>8}  top heads\n")
    rows = []
    plain_forward(model, text_probe(loaded.tokenizer, 256).input_ids)  # warm up
    for length in options.lengths:
        probe = text_probe(loaded.tokenizer, length)
        plain = statistics.median(plain_forward(model, probe.input_ids) for _ in range(options.repeats))
        prefill = statistics.median(usual_cell(model, probe, 0)[0] for _ in range(options.repeats))
        cells = [usual_cell(model, probe, options.steps) for _ in range(options.repeats)]
        cell, scores = statistics.median(seconds for seconds, _ in cells), cells[0][1]
        best = np.argsort(-scores, axis=None, kind="stable")[:6]
        heads = [f"L{layer}H{head}" for layer, head in zip(*np.unravel_index(best, scores.shape), strict=True)]
        sys.stdout.write(f"{probe.length:8} {plain:8.2f} {prefill:8.2f} {cell:8.2f}  {' '.join(heads)}\n")
        sys.stdout.flush()
        rows.append(
            {"length": probe.length, "plain_s": plain, "prefill_s": prefill, "cell_s": cell, "top_heads": heads}
        )
    results = {"model": loaded.model_id, "fingerprint": loaded.fingerprint, "dtype": str(model.dtype), "rows": rows}
    path = write_results("usual", {**results, "steps": options.steps, "repeats": options.repeats}, found)
    sys.stdout.write(f"{path.relative_to(path.parents[2])}\n")


if __name__ == "__main__":
    main()
