"""config.json as people publish it: what only stands in the way is read over, what is wrong is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from headscope.interp.model.configs import readable
from headscope.interp.model.loading import ModelError, load_model
from tiny_models import build
from tiny_run import tiny_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "flash_attention_3"},
        {"attn_implementation": "kernels-community/flash-attn2"},
        {"attn_implementation": {"": "flash_attention_2"}},
        {"torch_dtype": "bf16"},
        {"dtype": "torch.float16"},
        {"dtype": "auto", "torch_dtype": "auto"},
        {"dtype": "float8_e4m3fn"},
        {"dtype": "int8"},
    ],
    ids=str,
)
def test_what_only_stands_in_the_way_is_read_over(saved: Path, changes: dict):
    edit(saved, **changes)
    model = load_model(saved, device="cpu").model
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, build("llama")(ids).logits)
    assert model.config._attn_implementation == "sdpa"


def test_attention_that_every_torch_has_is_obeyed(saved: Path):
    edit(saved, attn_implementation="eager")
    assert load_model(saved, device="cpu").model.config._attn_implementation == "eager"


def test_dtypes_by_their_usual_short_names_are_torchs(saved: Path):
    build("llama").to(torch.bfloat16).save_pretrained(saved)
    edit(saved, dtype="bf16")
    assert load_model(saved, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16


def test_only_what_is_in_the_way_changes():
    config = {
        "model_type": "llava",
        "text_config": {"dtype": "fp16", "attn_implementation": "flash_attention_2", "hidden_size": 8},
        "vision_config": {"torch_dtype": "torch.bfloat16"},
        "rope_scaling": {"type": "su", "short_factor": [1.0]},
        "rope_parameters": {"full_attention": {"rope_type": "su", "factor": 4.0}, "sliding_attention": None},
        "quantization_config": {"quant_method": "torchao", "dtype": "int4"},
    }
    before = json.dumps(config)
    assert readable(config) == {
        "model_type": "llava",
        "text_config": {"dtype": "float16", "hidden_size": 8},
        "vision_config": {"torch_dtype": "bfloat16"},
        "rope_scaling": {"type": "longrope", "short_factor": [1.0]},
        "rope_parameters": {"full_attention": {"rope_type": "longrope", "factor": 4.0}, "sliding_attention": None},
        "quantization_config": {"quant_method": "torchao", "dtype": "int4"},
    }
    assert json.dumps(config) == before
    plain = {"model_type": "llama", "dtype": "float32", "attn_implementation": "sdpa", "rope_parameters": None}
    assert readable(plain) == plain


def test_transformers_reads_configs_as_ever_afterwards(saved: Path):
    from transformers import AutoConfig

    edit(saved, attn_implementation="flash_attention_2")
    load_model(saved)
    assert AutoConfig.from_pretrained(saved)._attn_implementation == "flash_attention_2"


def test_an_unknown_rope_type_is_named(saved: Path):
    edit(saved, rope_parameters={"rope_type": "ntk-aware", "factor": 4.0, "rope_theta": 1e4})
    with pytest.raises(
        ModelError, match="RoPE of type 'ntk-aware', which transformers .* knows dynamic, linear"
    ) as caught:
        load_model(saved)
    assert "download" not in str(caught.value)


def test_files_that_are_whole_are_never_to_be_downloaded_again(saved: Path):
    edit(saved, hidden_act="no such thing")
    with pytest.raises(ModelError, match="could not be loaded .*its files are whole") as caught:
        load_model(saved)
    assert "download" not in str(caught.value) and "copy" not in str(caught.value)
