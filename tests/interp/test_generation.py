"""The published count: the model answers by itself, and its heads are counted while it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from builders import random_grid
from headscope.interp.engine import generation
from headscope.interp.scoring import score_heads
from headscope.probes import Probe, ProbeSet
from tiny_models import build

GRID = random_grid(lengths=(60, 121), depths=(0.0, 0.7))


@pytest.fixture
def tokenizer() -> Any:
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(199)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")


def by_hand(model: Any, probe: Any, steps: int) -> tuple[list[int], np.ndarray]:
    """Greedy decoding with materialised attention, from scratch at every step, and Wu's count."""
    model.set_attn_implementation("eager")
    ids, counts = list(probe.input_ids[: probe.prompt_len]), np.zeros((4, 8))
    for _ in range(steps):
        with torch.no_grad():
            out = model(torch.tensor(np.array(ids, np.int64))[None], output_attentions=True)
        token = int(out.logits[0, -1].argmax())
        for layer, maps in enumerate(out.attentions):
            for head in range(8):
                key = int(maps[0, head, -1].argmax())
                for start, end in probe.needle_spans:
                    if start <= key < end and ids[key] == token:
                        counts[layer, head] += 1 / (end - start)
        ids.append(token)
        if token == model.generation_config.eos_token_id:
            break
    return ids[probe.prompt_len :], counts


def test_generated_counts_equal_step_by_step_decoding(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "MAX_NEW_TOKENS", 6)
    monkeypatch.setattr(generation, "GATE", -1.0)
    model = build("llama")
    scores = score_heads(model, GRID, generate=True, tokenizer=tokenizer)
    for i, probe in enumerate(GRID):
        _, counts = by_hand(build("llama"), probe, 6)
        np.testing.assert_allclose(scores.per_probe["wu_count_generated"][i], counts, atol=1e-6)
    np.testing.assert_array_equal(scores.nll, score_heads(model, GRID).nll)


def test_answers_that_fail_the_gate_are_nan(tokenizer: Any) -> None:
    """A random model does not repeat the needle, so no probe passes, and none counts as zero."""
    scores = score_heads(build("llama"), GRID, generate=True, tokenizer=tokenizer)
    assert np.isnan(scores.per_probe["wu_count_generated"]).all()


def test_the_gate_is_recall_of_the_needles_words(tokenizer: Any) -> None:
    probe = GRID[0]
    ((start, end),) = probe.needle_spans
    needle = probe.input_ids[start:end]
    half = len(needle) // 2
    assert generation._passes(probe, needle, tokenizer)
    assert generation._passes(probe, needle[: half + 1], tokenizer)
    assert not generation._passes(probe, needle[:half], tokenizer)
    assert not generation._passes(probe, np.repeat(needle[:1], 50), tokenizer)


@pytest.mark.parametrize(
    "sentence",
    ["лучшее место города это старый мост", "最 好 的 事 是 在 公 园", "το καλύτερο είναι ένα παλιό γεφύρι"],
)
def test_the_gate_reads_every_script(sentence: str) -> None:
    spoken = sentence.split()
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["?", *spoken])}, unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="?")
    n = len(spoken)
    ids = np.array([0, *range(1, n + 1), 0, *range(1, n + 1)])
    probe = Probe.from_ids(ids, prompt_len=n + 2, needles=[(1, n + 1)])
    most, few = n // 2 + 1, n // 2
    assert generation._passes(probe, ids[1 : most + 1], tokenizer)
    assert not generation._passes(probe, ids[1 : few + 1], tokenizer)


def test_a_model_that_runs_alone_is_refused_for_generation(tokenizer: Any) -> None:
    """Models whose state cannot be shared say so instead of giving something else."""
    with pytest.raises(ValueError, match="generate=True"):
        score_heads(build("llama_dynamic"), ProbeSet([GRID[0]]), generate=True, tokenizer=tokenizer)
