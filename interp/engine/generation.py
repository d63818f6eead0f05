"""The published count of Wu et al. (arXiv 2404.15574): hits while the model answers by itself, gated by success."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from ...probes import Codec, Probe, rouge_words
from ..estimators import count_hits
from ..model import PrefixCache
from .decoding import decode_beside, prompt_of
from .engine import Engine
from .plan import plan
from .writing import Asked, Budget

MAX_NEW_TOKENS = 50
GATE = 0.5  # ROUGE-1 recall of the needle's words in the generated answer must exceed it


def line(probe: Probe) -> Budget:
    """Decoding stops at a line end, at the model's end-of-text token, or after `MAX_NEW_TOKENS`."""
    return Budget(MAX_NEW_TOKENS, ("\n",))


def generated_counts(engine: Engine, codec: Codec) -> np.ndarray:
    """Let the model answer every probe greedily to the end of a `line`, and count hits on its own tokens.

    What the heads did while decoding is read off one teacher-forced pass over the model's own answer, which is the same
    computation.

    Args:
        engine: inside the model's routing, on a model whose probes can share prefills.
        codec: of the model's tokenizer; decodes answers for the gate.

    Returns:
        float32 [n_probes, n_layers, n_heads]; NaN for probes whose answer fails the gate.
    """
    planned = plan(engine.probes, "exact")
    asked = Asked(codec, engine.model.ends, engine.model.context, budget=line)
    cache = PrefixCache(planned.capacity)
    counts: dict[int, np.ndarray] = {}
    for prefix in planned.prefixes:
        engine.prefill(prefix, cache)
        prompts = [prompt_of(suffix) for suffix in prefix.suffixes]
        for i, (answer,) in decode_beside(engine, prompts, cache, asked):
            probe = engine.probes[i]
            spoken = _with_answer(probe, answer.ids if len(answer.ids) else probe.answer_ids)
            own = plan([spoken], "exact").prefixes[0].suffixes
            found = Engine(engine.model, [spoken], chunk=engine.chunk).run_suffixes(own, cache)[0]
            score = count_hits(spoken, found) * bool(len(answer.ids))
            counts[i] = score if _passes(probe, answer.ids, codec.tokenizer) else np.full_like(score, np.nan)
    return np.stack([counts[i] for i in range(len(engine.probes))])


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
