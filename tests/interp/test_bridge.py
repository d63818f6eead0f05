"""A TransformerBridge scores as the Hugging Face model that it wraps, and its hooks are part of the computation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import random_grid
from headscope import copy_profile
from headscope.interp.causal import NeedleOnly, Zero, run_sets
from headscope.interp.copying.profile import COUNTS
from headscope.interp.engine import Engine, decode, longest_answered, plan
from headscope.interp.model.adapt import adapt
from headscope.interp.model.attention import CaptureError
from headscope.interp.perplexity import perplexity
from headscope.interp.scoring import score_heads
from headscope.probes import Codec
from tiny_models import VOCAB, build

pytest.importorskip("transformer_lens")
GRID = random_grid()
FAMILIES = ("llama", "qwen3", "mistral", "gemma3_text", "gpt_oss", "gpt2")


def bridge(family: str, folder: Path) -> Any:
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    names = {"bos_token": "w1", "eos_token": "w2", "pad_token": "w0", "unk_token": "w0"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(folder)
    model = build(family)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return TransformerBridge.boot_transformers(str(folder), hf_model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_bridge_agrees_with_hugging_face(family: str, tmp_path: Path) -> None:
    ours = score_heads(bridge(family, tmp_path), GRID, estimators=["all"])
    theirs = score_heads(build(family), GRID, estimators=["all"])
    assert np.isfinite(ours["locos"]).any() and np.isfinite(ours["copy_score"]).all()
    for name in theirs.per_probe:
        np.testing.assert_allclose(ours.per_probe[name], theirs.per_probe[name], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.nll, theirs.nll, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_copy_profiles_of_a_bridge_agree_with_hugging_face(family: str, tmp_path: Path) -> None:
    text = np.random.default_rng(0).integers(3, 43, 120)
    ours, theirs = copy_profile(bridge(family, tmp_path), text), copy_profile(build(family), text)
    for name in COUNTS:
        a, b = getattr(ours, name), getattr(theirs, name)
        assert np.abs(a - b).sum() <= 0.002 * b.sum(), name  # keys that tie to rounding
    assert theirs.copies.any()


def test_the_loss_of_a_bridge_is_hugging_faces(tmp_path: Path) -> None:
    wrapped = bridge("gpt_oss", tmp_path)
    texts = [" ".join(f"w{n}" for n in row) for row in np.random.default_rng(0).integers(3, 190, (2, 90))]
    ours, theirs = (
        perplexity(model, texts, wrapped.tokenizer, lengths=[16, 80]) for model in (wrapped, build("gpt_oss"))
    )
    np.testing.assert_allclose(ours.nll, theirs.nll, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.tail_nll, theirs.tail_nll, rtol=0, atol=1e-4)


def test_answers_of_a_bridge_are_hugging_faces(tmp_path: Path) -> None:
    wrapped, probes = bridge("gpt_oss", tmp_path), GRID[4:8]
    codec, found = Codec(wrapped.tokenizer), {}
    for model in (adapt(wrapped), adapt(build("gpt_oss"))):
        with model.routed(longest_answered(model.context, probes, codec)):
            planned = (plan(probes, "grafted"), range(len(probes)))
            found[model] = [dict(decode(Engine(model, probes), how, codec=codec, samples=1)) for how in planned]
    ours, theirs = found.values()
    for a, b in zip(ours, theirs, strict=True):
        assert [[x.ids.tolist() for x in a[i]] for i in range(4)] == [[x.ids.tolist() for x in b[i]] for i in range(4)]


def test_an_ablation_by_hook_is_measured_and_the_bridge_is_put_back(tmp_path: Path) -> None:
    model = bridge("llama", tmp_path)
    plain = score_heads(model, GRID)

    def ablate(z: Any, hook: Any) -> Any:
        z[:, :, 3] = 0
        return z

    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", ablate)]):
        ablated = score_heads(model, GRID)
    again = score_heads(model, GRID)
    assert np.abs(ablated.nll - plain.nll).max() > 1e-3
    np.testing.assert_array_equal(again.nll, plain.nll)
    assert all("forward" not in block.attn.__dict__ for block in model.blocks)


@pytest.mark.parametrize(
    ("family", "name"), [("llama", "hook_pattern"), ("llama", "hook_attn_scores"), ("gpt2", "hook_q")]
)
def test_a_hook_that_cannot_fire_is_refused(family: str, name: str, tmp_path: Path) -> None:
    model = bridge(family, tmp_path)
    with (
        model.hooks(fwd_hooks=[(f"blocks.0.attn.{name}", lambda value, hook: value * 0)]),
        pytest.raises(CaptureError, match="does not fire"),
    ):
        score_heads(model, GRID)


def test_heads_of_a_bridge_are_changed_like_hugging_faces(tmp_path: Path) -> None:
    probes, sets = GRID[4:6], [[], [(0, 1), (2, 3), (3, 0)]]
    found = []
    for model in (adapt(bridge("mistral", tmp_path)), adapt(build("mistral"))):
        with model.routed(121):
            engine = Engine(model, probes)
            for change in (Zero(), NeedleOnly(probes)):
                found.append(run_sets(engine, plan(probes, "exact"), probes, sets, change, ("answer",))[0])
    for ours, theirs in zip(found[:2], found[2:], strict=True):
        for key in theirs:
            np.testing.assert_allclose(ours[key].logprob, theirs[key].logprob, rtol=1e-3, atol=1e-4)
    assert np.abs(found[2][0, 0].logprob - found[2][1, 0].logprob).max() > 0.1
