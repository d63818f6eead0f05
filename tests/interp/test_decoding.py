"""Answers decoded beside a shared prefix are those of transformers' generate, whatever else is decoded with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from builders import random_grid
from headscope.interp.engine import Decoded, decode, longest_answered, plan
from headscope.interp.engine.engine import Engine
from headscope.interp.model.adapt import adapt
from headscope.probes import Codec
from tiny_models import FAMILIES, LENGTH_DEPENDENT, LINEAR, build

GRID = random_grid(lengths=(60, 121), depths=(0.0, 0.5, 1.0))


@pytest.fixture(scope="module")
def codec() -> Codec:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(199)}, unk_token="w0"))
    return Codec(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0"))


def answers(
    model: Any, probes: Any, sharing: str, codec: Codec, rows: int = 4096, **how: Any
) -> dict[int, list[Decoded]]:
    adapted = adapt(model)
    planned = None if sharing == "alone" else plan(probes, sharing)
    with adapted.routed(longest_answered(adapted.context, probes, codec)):
        engine = Engine(adapted, probes, chunk=48, suffix_rows=rows)
        return dict(decode(engine, planned, codec=codec, **how))


def generated(model: Any, probe: Any, steps: int, cached: bool = True) -> tuple[list[int], Any]:
    """transformers' answer, and its logits."""
    adapt(model).reset_dynamic_rope()
    ids = torch.from_numpy(probe.input_ids[: probe.prompt_len].astype(np.int64))[None]
    how = {"output_logits": True, "return_dict_in_generate": True, "pad_token_id": 0, "use_cache": cached}
    out = model.generate(ids, do_sample=False, max_new_tokens=steps, **how)
    return out.sequences[0, probe.prompt_len :].tolist(), torch.stack(out.logits)[:, 0]


def assert_generates(model: Any, probe: Any, answer: Decoded, cached: bool = True) -> None:
    ids, logits = generated(model, probe, probe.n_answer + 8, cached)
    ended = ids[-1] == 2
    expected = ids[:-1] if ended else ids
    for step, (ours, theirs) in enumerate(zip(answer.ids.tolist(), expected, strict=False)):
        if ours != theirs:
            assert abs(float(logits[step, ours] - logits[step, theirs])) < 1e-3, "no tie"
            return
    assert answer.end == ("eos" if ended else "length")
    logprob = logits.float().log_softmax(-1)[torch.arange(len(ids)), ids].sum()
    assert answer.logprob == pytest.approx(float(logprob), abs=1e-3)


@pytest.mark.parametrize("family", [*FAMILIES, *LENGTH_DEPENDENT, *LINEAR])
def test_greedy_answers_are_those_of_generate(family: str, codec: Codec) -> None:
    model = build(family)
    sharing = "exact" if family in FAMILIES else "alone"
    found = answers(model, GRID, sharing, codec)
    assert sorted(found) == list(range(len(GRID)))
    for i, probe in enumerate(GRID):
        # LongRoPE's keys change with the length: Phi's generate starts over then, Llama's keeps keys that are wrong
        assert_generates(model, probe, found[i][0], cached=family != "llama_longrope")
