"""A whole length x depth grid on an 8B-shaped model at 256K tokens, beside one plain prefill of the same tokens.

The plain prefill is the strictest one to compare with: the same chunks, a preallocated cache, torch's fastest attention
(`kernels.plain.attend`), one row of logits, no evidence. Weights and token ids are random; the grafts are real.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np
import torch

from headscope.interp.engine.engine import CHUNK, Engine
from headscope.interp.engine.passes import PrefixPass
from headscope.interp.engine.plan import plan
from headscope.interp.model.adapt import HuggingFaceModel, adapt
from headscope.interp.model.attention import running
from headscope.interp.model.prefix_cache import PrefixCache
from headscope.interp.results import HeadScores
from headscope.interp.scoring import score_heads
from headscope.probes import Probe, ProbeSet

from .inputs import heads
from .record import Record
from .stage import Stage

LENGTHS, DEPTHS, NEEDLES = 7, 11, 4
NEEDLE, QUESTION, ANSWER = 22, 29, 8  # tokens, as number needles have with SmolLM2's tokenizer
GIB = 1 << 30


def run(stage: Stage, record: Record) -> None:
    longest = stage.size(256 << 10, 160)
    chunk = stage.size(CHUNK, 64)
    model = adapt(_model(stage, longest))
    probes = grid(longest, stage.size(32000, 180))
    seventy_seven = probes.subset(lambda probe: probe.id.endswith("-0"))
    record.add("weights", sum(p.nbytes for p in model.model.parameters()) / GIB, "GiB")
    prefix = plan(probes, "grafted").prefixes[0]
    assert len(plan(probes, "grafted").prefixes) == 1

    with model.routed(longest):
        _plain(stage, model, prefix.ids, chunk, layers=1)  # backends plan per length: not part of either side
        _suffixes(model, seventy_seven[: stage.size(4, 1)], _prefilled(model, prefix.ids[: 2 * chunk]))  # warm up
        stage.free()
        with stage.memory() as plain_peak:
            plain, cache = stage.wall(lambda: _plain(stage, model, prefix.ids, chunk))
        record.add(f"plain prefill of {len(prefix.ids)} tokens", plain, "s", detail={"peak_bytes": plain_peak[0]})
        few, _ = stage.wall(partial(_suffixes, model, seventy_seven, cache))
        record.add(f"suffixes of {len(seventy_seven)} probes", few, "s")
        ratio = (plain + few) / plain
        record.add(
            f"(plain prefill + suffixes of {len(seventy_seven)} probes) / plain prefill", ratio, "x", at_most=1.10
        )
    del cache
    stage.free()

    marks: dict[str, float] = {}

    def progress(done: int, total: int, what: str) -> None:
        if what == "haystack" and done >= len(prefix.ids):
            stage.wait()
            marks.setdefault("prefix", perf_counter())

    def score() -> HeadScores:
        return score_heads(model.model, probes, sharing="grafted", chunk=chunk, progress=progress)

    with stage.memory() as grid_peak:
        began = perf_counter()
        whole, scores = stage.wall(score)
    prefix_seconds = marks["prefix"] - began
    detail = {"prefix_s": prefix_seconds, "kernels": scores.provenance["kernels"], "peak_bytes": grid_peak[0]}
    record.add(f"score_heads, {len(probes)} probes in {LENGTHS} lengths x {DEPTHS} depths", whole, "s", detail=detail)
    record.add(f"score_heads of {len(probes)} probes / plain prefill", whole / plain, "x", at_most=1.25, detail=detail)
    record.add(
        f"its prefix + suffixes of {len(seventy_seven)} probes / plain prefill", (prefix_seconds + few) / plain, "x"
    )
    record.add(f"memory above the weights, {len(probes)} probes / plain prefill", _ratio(grid_peak, plain_peak), "x")
    weights = sum(p.nbytes for p in model.model.parameters())
    both = ([peak[0] + weights] for peak in (grid_peak, plain_peak))
    record.add(f"peak memory, {len(probes)} probes / plain prefill", _ratio(*both), "x", at_most=1.05)


def grid(longest: int, vocabulary: int) -> ProbeSet:
    """LENGTHS x DEPTHS x NEEDLES probes of random ids over one haystack, each with its needle as a real graft."""
    rng = np.random.default_rng(0)
    needle, question, answer = (NEEDLE, QUESTION, ANSWER) if longest > 1000 else (7, 5, 3)
    haystack = rng.integers(3, vocabulary, longest)
    probes = []
    for length in np.linspace(longest // 8, longest, LENGTHS).astype(int):
        held = int(length) - needle - question - answer
        for depth in np.linspace(0, 1, DEPTHS):
            at = round(float(depth) * held)
            for n in range(NEEDLES):
                inserted, asked = rng.integers(3, vocabulary, needle), rng.integers(3, vocabulary, question)
                context = np.concatenate([haystack[:at], inserted, haystack[at:held]])
                probe = Probe.from_ids(
                    np.concatenate([context, asked, inserted[-answer:]]),
                    prompt_len=len(context) + question,
                    needles=[(at, at + needle)],
                    question_start=len(context),
                    id=f"{length}-{depth:.1f}-{n}",
                )
                probes.append(replace(probe, graft=(at, at + needle), haystack_id="random"))
    return ProbeSet(tuple(probes), name="random grid")


def _model(stage: Stage, longest: int) -> torch.nn.Module:
    """Random weights, made on the device. A RoPE base as models of this context have it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hq, hkv, dim = heads(stage)
    config = LlamaConfig(
        vocab_size=stage.size(128256, 199),
        hidden_size=hq * dim,
        intermediate_size=stage.size(14336, 96),
        num_hidden_layers=stage.size(32, 2),
        num_attention_heads=hq,
        num_key_value_heads=hkv,
        max_position_embeddings=longest + 1024,
        rope_parameters={"rope_type": "default", "rope_theta": 8e6},
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(stage.dtype)
    try:
        with stage.device:
            return LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def _plain(
    stage: Stage, model: HuggingFaceModel, ids: np.ndarray, chunk: int, layers: int | None = None
) -> PrefixCache:
    """Prefill in chunks and return the cache. `layers`: only so many, to let the backends see every length once."""
    whole = model.model.model.layers
    if layers is not None:
        model.model.model.layers = whole[:layers]
    try:
        cache = PrefixCache(len(ids))
        for start in range(0, len(ids), chunk):
            tokens = torch.from_numpy(ids[start : start + chunk].astype(np.int64)).to(model.device)[None]
            positions = torch.arange(start, start + tokens.shape[1], device=model.device)[None]
            last = torch.tensor([tokens.shape[1] - 1], device=model.device)
            with running(PrefixPass(cache)), torch.no_grad():
                model.forward(tokens, positions, cache, last)
            cache.length += tokens.shape[1]
        return cache
    finally:
        model.model.model.layers = whole


def _prefilled(model: HuggingFaceModel, ids: np.ndarray) -> PrefixCache:
    return _plain(Stage(toy=model.device.type == "cpu"), model, ids, len(ids))


def _suffixes(model: HuggingFaceModel, probes: ProbeSet, cache: PrefixCache) -> None:
    engine = Engine(model, probes)
    for prefix in plan(probes, "grafted").prefixes:
        for _ in engine.branch(prefix, cache):
            pass


def _ratio(a: list[int], b: list[int]) -> float:
    return a[0] / b[0] if b[0] else 1.0
