"""Quantised checkpoints: read where transformers can, and otherwise one line with what to install."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import random_grid
from headscope.interp.model import quantisation
from headscope.interp.model.loading import ModelError, load_model
from headscope.interp.scoring import score_heads
from tiny_models import build
from tiny_run import tiny_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build("llama").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def quantise(folder: Path, **config: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))


def refused(folder: Path, **kwargs: object) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(folder, device="cpu", **kwargs)
    message = str(caught.value)
    assert "\n" not in message and "download" not in message
    return message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes; pip install 'bitsandbytes>=0.46.1'"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes; pip install 'bitsandbytes>=0.46.1'"),
        ({"quant_method": "gptq", "bits": 4}, "GPTQ; pip install gptqmodel optimum"),
        ({"quant_method": "awq", "bits": 4}, "AWQ; pip install gptqmodel"),
        ({"quant_method": "torchao"}, "torchao; pip install 'torchao>="),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "pip install 'compressed-tensors>="),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto; pip install optimum-quanto"),
        ({"quant_method": "aqlm"}, "AQLM; pip install 'aqlm[gpu,cpu]'"),
        ({"quant_method": "auto-round"}, "AutoRound; pip install 'auto-round>="),
        ({"quant_method": "quark"}, "Quark; pip install amd-quark"),
        ({"quant_method": "hqq"}, "HQQ, which needs pip install 'hqq>=0.2.1' and a transformers that reads it"),
        ({"quant_method": "vptq"}, "VPTQ, which cannot run on a CPU; use a GPU (and pip install 'vptq>="),
        (
            {"quant_method": "fbgemm_fp8"},
            "FP8 (fbgemm), which cannot run on a CPU; use a GPU (and pip install fbgemm-gpu)",
        ),
        ({"quant_method": "eetq"}, "EETQ, which cannot run on a CPU; use a GPU"),
        ({"quant_method": "exl2", "bits": 4.0}, "exl2, which transformers"),
        ({"quant_method": "modelopt"}, "modelopt, which transformers"),
    ],
    ids=lambda value: value.get("quant_method", "unnamed") if isinstance(value, dict) else "",
)
def test_what_is_missing_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch, config: dict, words: str):
    monkeypatch.setattr(quantisation, "_installed", lambda requirement: requirement == "accelerate")
    quantise(saved, **config)
    message = refused(saved)
    assert words in message and message.endswith("quantised in another way")


def test_mlx(saved: Path):
    quantise(saved, group_size=64, bits=4)
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization": {"group_size": 64, "bits": 4}}))
    assert "quantised for MLX" in (message := refused(saved)) and "mlx_lm convert" in message


def test_an_installed_package_is_asked_for_its_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.45.0")
    assert not quantisation._installed("bitsandbytes>=0.46.1")
    assert quantisation._installed("bitsandbytes>=0.44") and quantisation._installed("aqlm[gpu,cpu]")


def test_the_table_is_that_of_transformers():
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.base import HfQuantizer

    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZER_MAPPING}
    # A GGUF file is no folder; checkpoints in NVFP4 are refused by transformers itself.
    assert set(quantisation.METHODS) == known - {"gguf", "nvfp4"}
    unread = AUTO_QUANTIZER_MAPPING["hqq"].get_quantize_ops is HfQuantizer.get_quantize_ops
    assert unread == quantisation.METHODS["hqq"].unread


def test_a_fine_grained_fp8_checkpoint_is_its_dequantised_self_on_a_cpu(saved: Path, tmp_path_factory):
    plain, packed = {}, {}
    for name, value in load_file(saved / "model.safetensors").items():
        plain[name] = packed[name] = value
        if "proj.weight" in name:
            rows, columns = value.shape
            blocks = value.view(rows // 16, 16, columns // 16, 16)
            scale = blocks.abs().amax((1, 3)) / 448
            small = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            packed[name], packed[f"{name}_scale_inv"] = small.view(rows, columns), scale
            plain[name] = (small.float() * scale[:, None, :, None]).view(rows, columns)
    reference = build("llama")
    reference.load_state_dict(plain)
    save_file(packed, saved / "model.safetensors", metadata={"format": "pt"})
    quantise(saved, quant_method="fp8", weight_block_size=[16, 16], activation_scheme="dynamic")
    loaded = load_model(saved, device="cpu")
    assert loaded.fingerprint.startswith("safetensors:") and loaded.signature is None
    probes = random_grid(lengths=(100,), depths=(0.5,))
    assert score_heads(loaded, probes).nll == pytest.approx(score_heads(reference, probes).nll, abs=0.05)
    values = load_file(saved / "model.safetensors")
    values["model.layers.0.self_attn.q_proj.weight_scale_inv"][0, 0] = float("nan")
    save_file(values, saved / "model.safetensors", metadata={"format": "pt"})
    assert "holds NaN weights" in refused(saved)
