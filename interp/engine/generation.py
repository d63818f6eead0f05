"""The published count of Wu et al. (arXiv 2404.15574): hits while the model answers by itself, gated by success."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...probes import Probe, rouge_words
from ..estimators import wu_count
from ..model import PrefixCache, running
from .engine import Engine
from .passes import PrefixPass
from .plan import Suffix, plan

MAX_NEW_TOKENS = 50
GATE = 0.5  # ROUGE-1 recall of the needle's words in the generated answer must exceed it


def generated_counts(engine: Engine, tokenizer: Any) -> np.ndarray:
    """Let the model answer every probe greedily, and count hits on its own tokens.

    Decoding stops at a line end, at the model's end-of-text token, or after `MAX_NEW_TOKENS`. What the heads did while
    decoding is read off one teacher-forced pass over the model's own answer, which is the same computation.

    Args:
        engine: inside the model's routing, on a model whose probes can share prefills.
        tokenizer: of the model; decodes answers for the gate.

    Returns:
        float32 [n_probes, n_layers, n_heads]; NaN for probes whose answer fails the gate.
    """
    planned = plan(engine.probes, "exact")
    cache = PrefixCache(
        planned.capacity + max(len(t.ids) for prefix in planned.prefixes for t in prefix.suffixes) + MAX_NEW_TOKENS
    )
    newline = tokenizer.encode("\n", add_special_tokens=False)
    stops = engine.model.ends | set(newline[-1:])
    counts: dict[int, np.ndarray] = {}
    for prefix in planned.prefixes:
        engine.prefill(prefix, cache)
        for suffix in prefix.suffixes:
            probe = engine.probes[suffix.probe]
            answer = _decode(engine, suffix, cache, stops)
            spoken = _with_answer(probe, answer)
            own = plan([spoken], "exact").prefixes[0].suffixes
            found = Engine(engine.model, [spoken], chunk=engine.chunk).run_suffixes(own, cache)[0]
            score = wu_count(spoken, found)
            counts[suffix.probe] = score if _passes(probe, answer, tokenizer) else np.full_like(score, np.nan)
    return np.stack([counts[i] for i in range(len(engine.probes))])


def _decode(engine: Engine, suffix: Suffix, cache: PrefixCache, stops: set[int]) -> np.ndarray:
    """Greedy answer [<= MAX_NEW_TOKENS] to one suffix's question. The prefix's keys that it overwrites are put back."""
    model, start = engine.model, suffix.context_len
    ids = suffix.ids[: len(suffix.ids) - suffix.n_answer + 1]
    end = start + len(ids) + MAX_NEW_TOKENS
    buffers = [*cache.keys.values(), *cache.values.values()]
    saved = [buffer[:, :, start:end].clone() for buffer in buffers]
    length, cache.length = cache.length, start
    answer: list[int] = []
    tokens = torch.from_numpy(ids.astype(np.int64))[None].to(model.device)
    while len(answer) < MAX_NEW_TOKENS:
        rows = tokens.shape[1]
        positions = torch.arange(cache.length, cache.length + rows, device=model.device)[None]
        with running(PrefixPass(cache)):
            logits = model.forward(tokens, positions, cache, torch.tensor([rows - 1], device=model.device))
        cache.length += rows
        answer.append(int(logits[0].argmax()))
        if answer[-1] in stops:
            break
        tokens = torch.tensor([[answer[-1]]], device=model.device)
    cache.length = length
    for buffer, kept in zip(buffers, saved, strict=True):
        buffer[:, :, start:end] = kept
    return np.array(answer, np.int32)


def _with_answer(probe: Probe, answer: np.ndarray) -> Probe:
    return replace(
        probe,
        input_ids=np.concatenate([probe.input_ids[: probe.prompt_len], answer]),
        sources=np.full((len(answer), 1), -1, np.int32),
        token_class=("format",) * len(answer),
        alignment="none",
    )


def _passes(probe: Probe, answer: np.ndarray, tokenizer: Any) -> bool:
    """ROUGE-1 recall of the needle's words in the answer, with multiplicity, above the gate."""
    needle = Counter(rouge_words(tokenizer.decode(probe.input_ids[probe.needle_mask])))
    overlap = needle & Counter(rouge_words(tokenizer.decode(answer)))
    return overlap.total() > GATE * needle.total()
