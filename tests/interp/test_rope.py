"""Scaled RoPE as published: how long a model may be probed, and that beyond its old length it is scored as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from builders import random_grid
from headscope.interp.copying.run import copy_profile
from headscope.interp.model.adapt import adapt
from headscope.interp.model.loading import load_model
from headscope.interp.scoring import score_heads
from tiny_models import build
from tiny_run import tiny_tokenizer

FACTORS = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}


def published(folder: Path, family: str = "llama", **changes: object) -> Path:
    """A folder whose config.json says what people write into theirs, and nothing of what transformers adds to it."""
    build(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name in ("rope_parameters", "rope_theta", "rope_scaling"):
        config.pop(name, None)
    path.write_text(json.dumps(config | {"rope_theta": 1e4} | changes))
    return folder


@pytest.mark.parametrize(
    ("positions", "rope", "context"),
    [
        (128, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        (128, {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 128}, 320),
        (160, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),  # Qwen3: 40960
        (512, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),  # counted already
        (1024, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 1024),  # raised by hand
        (128, {"type": "yarn", "factor": 4.0}, 512),  # transformers takes 128 for the original
        (128, {"type": "linear", "factor": 8.0}, 1024),
        (128, {"rope_type": "linear", "factor": 8}, 1024),
        (512, {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        (128, {"type": "dynamic", "factor": 2.0}, 256),
        (1024, {"rope_type": "llama3", **LLAMA3}, 1024),
        (1024, {"rope_type": "longrope", "original_max_position_embeddings": 128, "factor": 8.0, **FACTORS}, 1024),
        (1024, {"type": "su", "original_max_position_embeddings": 128, "factor": 8.0, **FACTORS}, 1024),
        (128, {"rope_type": "default"}, 128),
        (128, None, 128),
    ],
)
def test_the_longest_sequence(tmp_path: Path, positions: int, rope: dict | None, context: int):
    old = published(tmp_path / "old", max_position_embeddings=positions, rope_scaling=rope)
    assert adapt(load_model(old, device="cpu").model).context == context
    new = dict(rope or {"rope_type": "default"}, rope_theta=1e4)
    new["rope_type"] = new.pop("type", new.get("rope_type"))
    path = published(tmp_path / "new", max_position_embeddings=positions, rope_parameters=new)
    assert adapt(load_model(path, device="cpu").model).context == context


def test_factors_by_layer_type_and_in_a_nested_text_config():
    from transformers import AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 1e4}
    kinds = {"full_attention": yarn, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    layers = ["sliding_attention", "full_attention"] * 2
    model = build("gemma2", max_position_embeddings=128, layer_types=layers)
    model.config.rope_parameters = kinds
    assert adapt(model).context == 512
    # Gemma 3's published factor 8 is in its 131072 already.
    linear = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    gemma3 = build("gemma3_text", rope_parameters={**kinds, "full_attention": linear})
    assert adapt(gemma3).context == 4096
    text = build("llama", max_position_embeddings=128, rope_parameters=dict(yarn)).config
    eyes = CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
    config = AutoConfig.for_model("llava", text_config=text, vision_config=eyes, image_token_index=3)
    assert adapt(AutoModelForImageTextToText.from_config(config).eval()).context == 512


@pytest.mark.parametrize(
    "rope",
    [
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {"type": "linear", "factor": 4.0},
        {"type": "su", "factor": 4.0, "original_max_position_embeddings": 64, **FACTORS},
    ],
    ids=lambda rope: rope["type"],
)
def test_beyond_max_position_embeddings_as_by_the_models_own_attention(tmp_path: Path, rope: dict):
    positions = 256 if rope["type"] == "su" else 64
    loaded = load_model(published(tmp_path, max_position_embeddings=positions, rope_scaling=rope), device="cpu")
    probes = random_grid(lengths=(100, 250), depths=(0.3,))
    scores = score_heads(loaded, probes, sharing="exact")
    eager = load_model(tmp_path, device="cpu").model
    eager.set_attn_implementation("eager")
    for probe, nll in zip(probes, scores.nll, strict=True):
        ids = torch.tensor(probe.input_ids, dtype=torch.long)
        with torch.no_grad():
            logits = eager(ids[None]).logits[0, probe.prompt_len - 1 : -1]
        own = torch.nn.functional.cross_entropy(logits, ids[probe.prompt_len :])
        assert nll == pytest.approx(own.item(), abs=1e-4)
    assert (scores.provenance["sharing"] == "alone") == (rope["type"] == "su")


def test_beyond_the_scaled_length_is_refused(tmp_path: Path):
    rope = {"type": "linear", "factor": 3.0}
    loaded = load_model(published(tmp_path, max_position_embeddings=64, rope_scaling=rope), device="cpu")
    with pytest.raises(ValueError, match="200 tokens and .* is made for 192 .max_position_embeddings and RoPE scaling"):
        score_heads(loaded, random_grid(lengths=(200,), depths=(0.5,)))
    with pytest.raises(ValueError, match="holds 193 and .* is made for 192"):
        copy_profile(loaded, list(range(3, 196)))
    assert copy_profile(loaded, list(range(3, 195))).n_tokens == 192
