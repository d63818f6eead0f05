"""Loading: what comes in is what was saved, and everything that is wrong with it is one clear line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import random_grid
from headscope.interp.model.loading import ModelError, has_tokenizer, load_model, load_tokenizer
from headscope.interp.scoring import score_heads
from tiny_models import build
from tiny_run import tiny_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint folder; tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    build("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny-llama"))


@pytest.fixture
def empty_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No network, nothing downloaded before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield


def refused(match: str, *args, **kwargs) -> str:
    """Load, expect a ModelError of one line that matches, and return the line."""
    with pytest.raises(ModelError, match=match) as caught:
        load_model(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_weights(folder: Path, change) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def assert_same_model(a: torch.nn.Module, b: torch.nn.Module) -> None:
    """The same numbers bit for bit; results may round otherwise where the numbers lie otherwise in memory."""
    for ours, theirs in ((a.state_dict(), b.state_dict()), (dict(a.named_buffers()), dict(b.named_buffers()))):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(a(ids).logits, b(ids).logits, rtol=1e-4, atol=1e-3)


def test_folder_gives_the_saved_model_and_tokenizer(saved: Path):
    loaded = load_model(str(saved), device="cpu")
    assert_same_model(loaded.model, build("llama"))
    assert loaded.model_id == "tiny-llama" and loaded.revision is None
    assert loaded.tokenizer("w7 w9")["input_ids"] == [7, 9]
    assert not loaded.model.training and loaded.model.dtype == torch.float32
    assert loaded.fingerprint.startswith("safetensors:") and len(loaded.fingerprint) == len("safetensors:") + 64


@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss", "gemma2", "gpt2", "gpt_neox", "hunyuan_v1_moe"])
def test_other_ways_to_store_weights(family: str, tmp_path: Path):
    """Experts in one tensor, tied embeddings, other names: nothing is taken for missing, nothing is changed."""
    model = build(family)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, tokenizer=tiny_tokenizer(), device="cpu").model
    assert_same_model(loaded, model)


def test_loading_prints_nothing_and_restores_the_settings(saved: Path, capfd: pytest.CaptureFixture[str]):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    load_model(saved)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before


def test_auto_dtype_on_the_cpu_is_float32_and_others_are_obeyed(copy: Path):
    build("llama").to(torch.bfloat16).save_pretrained(copy)
    assert load_model(copy, device="cpu").model.dtype == torch.float32
    assert load_model(copy, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    assert load_model(copy, device="cpu", dtype=torch.float64).model.dtype == torch.float64
    refused("dtype: got 'fp7'", copy, dtype="fp7")
    refused("dtype: got 'int8'", copy, dtype="int8")


def test_device_is_checked(saved: Path):
    refused("device: got 'gpu'", saved, device="gpu")
    refused('torch sees [0-9]+ CUDA devices; use device="cpu"', saved, device="cuda:99")


def test_fingerprint_follows_the_weights_and_not_how_they_are_stored(saved: Path, copy: Path):
    first = load_model(saved).fingerprint
    build("llama").save_pretrained(copy, max_shard_size="100KB")
    (copy / "model.safetensors").unlink()
    assert len(list(copy.glob("model-*.safetensors"))) > 1
    assert load_model(copy).fingerprint == first
    build("llama", seed=1).save_pretrained(copy)
    assert load_model(copy).fingerprint != first
    # One bit of one weight.
    shutil.copy(saved / "model.safetensors", copy)
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        byte = file.read(1)
        file.seek(-4, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    assert load_model(copy).fingerprint != first


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2", "llama_dynamic", "qwen3_moe", "gpt_neox"])
def test_the_next_checkpoint_in_the_same_module_is_a_fresh_load_bit_for_bit(family: str, tmp_path: Path):
    for seed in (0, 1):
        build(family, seed=seed).save_pretrained(tmp_path / str(seed))
    first = load_model(tmp_path / "0", tokenizer=tiny_tokenizer(), device="cpu")
    module = first.model
    fresh = load_model(tmp_path / "1", tokenizer=tiny_tokenizer(), device="cpu")
    second = load_model(tmp_path / "1", tokenizer=tiny_tokenizer(), device="cpu", into=first)
    # Files whose names are not the module's own (experts apart, older names) are for transformers to convert.
    assert (second.model is module) == (family not in {"qwen3_moe", "gpt_neox"})
    assert (second.fingerprint, second.model_id, second.model.training) == (fresh.fingerprint, "1", False)
    assert_same_model(second.model, fresh.model)


def test_a_module_is_not_reused_where_more_than_values_differ(saved: Path, copy: Path):
    first = load_model(saved, device="cpu")
    edit_config(copy, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert load_model(copy, device="cpu", into=first).model is not first.model
    assert load_model(saved, device="cpu", dtype="bfloat16", into=first).model is not first.model
    build("llama").to(torch.bfloat16).save_pretrained(copy)
    assert load_model(copy, device="cpu", into=first).model is not first.model


def test_tied_and_untied_embeddings_in_the_same_module(tmp_path: Path):
    for seed in (0, 1):
        build("llama", seed=seed, tie_word_embeddings=True).save_pretrained(tmp_path / str(seed))
    first = load_model(tmp_path / "0", tokenizer=tiny_tokenizer(), device="cpu")
    second = load_model(tmp_path / "1", tokenizer=tiny_tokenizer(), device="cpu", into=first)
    assert second.model is first.model
    assert torch.equal(second.model.lm_head.weight, build("llama", seed=1).model.embed_tokens.weight)


def test_weights_are_refused_in_a_used_module_as_in_a_fresh_one(saved: Path, copy: Path):
    first = load_model(saved, device="cpu")
    rewrite_weights(copy, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    assert "model.norm.weight holds NaN" in refused("NaN", copy, device="cpu", into=first)
    rewrite_weights(copy, lambda tensors: tensors.pop("model.norm.weight"))
    refused("no weights for model.norm.weight", copy, device="cpu", into=first)
    os.truncate(copy / "model.safetensors", 1000)
    refused("cut short", copy, device="cpu", into=first)


def test_a_model_object_passes_through_untouched():
    model = build("llama").train()
    loaded = load_model(model)
    assert loaded.model is model and model.training
    assert (loaded.tokenizer, loaded.model_id, loaded.fingerprint) == (None, "LlamaForCausalLM", None)
    tokenizer = tiny_tokenizer()
    assert load_model(model, tokenizer=tokenizer).tokenizer is tokenizer


def test_neither_a_path_nor_an_object(saved: Path):
    refused("name: got int; give a folder", 42)
    refused("tokenizer: got int; give a tokenizer", saved, tokenizer=42)


def test_tokenizer_from_elsewhere(saved: Path, copy: Path, tmp_path: Path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    refused('has no tokenizer; pass tokenizer="<folder or hub id>"', copy)
    assert load_model(copy, tokenizer=saved).tokenizer("w5")["input_ids"] == [5]
    assert load_model(copy, tokenizer=str(saved)).tokenizer("w5")["input_ids"] == [5]
    given = tiny_tokenizer()
    assert load_model(copy, tokenizer=given).tokenizer is given
    assert load_model(build("llama"), tokenizer=saved).tokenizer("w5")["input_ids"] == [5]
    refused("tokenizer: no file or folder", copy, tokenizer=tmp_path / "nowhere" / "at-all")


def test_a_tokenizer_alone(saved: Path, tmp_path: Path):
    assert load_tokenizer(saved)("w5")["input_ids"] == [5]
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_damaged_tokenizer(copy: Path):
    (copy / "tokenizer.json").write_text("{")
    refused("the tokenizer in .* could not be loaded", copy)


def test_missing_path(tmp_path: Path):
    refused("no file or folder .*check the path", tmp_path / "nothing-here")
    refused("no file or folder", "model.gguf")
    refused("no file or folder", "./run/checkpoint-10")


def test_hub_id_without_network(empty_hub_cache: None):
    refused("'nobody/nothing'.*cannot be reached;.*give a local folder", "nobody/nothing")
    refused("'nobody/nothing' at revision 'v1'", "nobody/nothing@v1")
    refused("got 'v2', but model says @v1", "nobody/nothing@v1", revision="v2")


def test_hub_id_in_the_cache(saved: Path, empty_hub_cache: None, tmp_path: Path):
    """What an earlier download left is used, with the commit that the branch stood for."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(saved, repository / "snapshots" / commit)
    loaded = load_model("someone/tiny")
    assert (loaded.model_id, loaded.revision) == ("someone/tiny", commit)
    assert load_model(f"someone/tiny@{commit}").revision == commit
    assert loaded.fingerprint == load_model(saved).fingerprint


def test_a_model_that_reads_images_too_is_loaded_for_its_text(tmp_path: Path):
    from transformers import AutoConfig, AutoModelForImageTextToText, CLIPVisionConfig

    text = build("llama").config
    eyes = CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
    config = AutoConfig.for_model("llava", text_config=text, vision_config=eyes, image_token_index=3)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded.model).__name__ == "LlavaForConditionalGeneration"
    probes = random_grid(lengths=(100,), depths=(0.5,))
    scores, again = score_heads(loaded.model, probes), score_heads(model, probes)
    assert (scores.n_layers, scores.n_heads) == (4, 8)
    assert (scores.nll == again.nll).all()


def test_revision_is_for_hub_ids(saved: Path):
    refused("revision: 'main' given, but .* is on this disk", saved, revision="main")


def test_folder_without_config(tmp_path: Path):
    refused("no config.json.*holds nothing", tmp_path)
    (tmp_path / "notes.md").write_text("hello")
    refused("no config.json.*holds notes.md", tmp_path)
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / "config.json").write_text("{}")
    refused("give one of the folders inside it, such as .*step-2", tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    refused("an adapter: merge it", tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    refused("to load the GGUF file in it, give .*model.gguf", tmp_path)


def test_file_that_is_no_model(saved: Path):
    refused("a file but not a .gguf file; give the folder", saved / "model.safetensors")


def test_config_that_is_not_json(copy: Path):
    (copy / "config.json").write_text("{broken")
    refused("not valid JSON", copy)
    (copy / "config.json").write_text("[]")
    refused("a JSON list, not an object", copy)


def test_not_a_causal_language_model(copy: Path):
    edit_config(copy, architectures=["BertForMaskedLM"], model_type="bert")
    refused("is a BertForMaskedLM, not a causal language model", copy)
    edit_config(copy, architectures=["T5ForConditionalGeneration"], model_type="t5", is_encoder_decoder=True)
    refused("is a T5ForConditionalGeneration", copy)


def test_unknown_architecture(copy: Path):
    edit_config(copy, model_type="llama99", architectures=["Llama99ForCausalLM"])
    refused("an architecture that transformers .* does not know; pip install -U transformers", copy)


def test_code_in_the_checkpoint_is_not_run_unasked(copy: Path):
    edit_config(copy, model_type="own", architectures=["OwnForCausalLM"])
    edit_config(copy, auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"})
    (copy / "own.py").write_text(f"open({str(copy / 'ran')!r}, 'w')")
    refused("read that code, then pass trust_remote_code=True", copy)
    assert not (copy / "ran").exists()


def test_cut_short_safetensors(copy: Path):
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    refused("its header promises .*cut short or damaged; copy or download it again", copy)
    weights.write_bytes(whole[:100])
    refused("cut short", copy)
    weights.write_bytes(b"")
    refused("cut short", copy)
    weights.write_bytes(whole[:8] + b"?" * (len(whole) - 8))
    refused("damaged safetensors header", copy)
    weights.unlink()
    refused("no model.safetensors", copy)


def test_missing_shard(copy: Path):
    build("llama").save_pretrained(copy, max_shard_size="100KB")
    (copy / "model.safetensors").unlink()
    max(copy.glob("model-*.safetensors")).unlink()
    refused("missing though the index names it", copy)


def test_absent_weights_are_not_left_random(copy: Path):
    rewrite_weights(copy, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers.2" in name])
    refused("has no weights for .*layers.2.* and 8 more: they would be random", copy)


def test_wrong_shapes(copy: Path):
    edit_config(copy, intermediate_size=48)
    refused(r"down_proj.weight is \(64, 96\) in the weights, but config.json asks for \(64, 48\)", copy)


@pytest.mark.parametrize(("value", "word"), [("nan", "NaN"), ("inf", "infinite"), ("-inf", "infinite")])
def test_bad_weights(copy: Path, value: str, word: str):
    name = "model.layers.1.self_attn.k_proj.weight"
    rewrite_weights(copy, lambda tensors: tensors[name][3].fill_(float(value)))
    assert name in refused(f"{word} weights", copy)


def test_pickled_weights_only_when_asked_for(copy: Path):
    (copy / "model.safetensors").unlink()
    torch.save(build("llama").state_dict(), copy / "pytorch_model.bin")
    refused("only pickled weights .*allow_pickle=True", copy)
    loaded = load_model(copy, allow_pickle=True)
    assert loaded.fingerprint.startswith("pickle:")
    assert torch.equal(loaded.model.lm_head.weight, build("llama").lm_head.weight)


def test_damaged_gguf(tmp_path: Path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"not a model at all")
    refused("does not start like a GGUF file", path)
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    refused("could not be read as GGUF .*copy or download it again", path)


def test_gguf_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from importlib import util

    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name, *rest))
    refused("reading GGUF needs gguf; pip install gguf", path)


def test_a_gguf_file_that_was_cut_short(tmp_path: Path):
    import gguf

    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    writer = gguf.GGUFWriter(whole, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((16, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert len(gguf.GGUFReader(whole).tensors) == 1
    cut.write_bytes(whole.read_bytes()[:-1000])
    refused("could not be read as GGUF .*copy or download it again", cut)


def test_a_folder_with_only_tekken_json_has_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert not has_tokenizer(tmp_path)
    (tmp_path / "tekken.json").write_text("{}")
    assert has_tokenizer(tmp_path)
