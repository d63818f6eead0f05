"""What is asked of the hub, by its own client against a hub on this machine: one format, each tensor once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from headscope.interp.hub import hub_name
from headscope.interp.loading import ModelError, load_model, load_tokenizer
from headscope.interp.sweep.checkpoints import find_checkpoints
from headscope.interp.sweep.shards import stamp
from local_hub import COMMIT, local_hub
from tiny_models import build
from tiny_run import tiny_tokenizer


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository as people publish them: shards, Mistral's own file beside them, other formats, checkpoints."""
    folder = tmp_path / "repository"
    build("llama").save_pretrained(folder, max_shard_size="100KB")
    tiny_tokenizer().save_pretrained(folder)
    for name in ("consolidated.safetensors", "model.fp16.safetensors", "adapter_model.safetensors", "tiny.Q4_0.gguf"):
        (folder / name).write_bytes(b"weights of another kind")
    for name in ("pytorch_model.bin", "training_args.bin", "original/consolidated.00.pth", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"weights of another kind")
    build("llama", seed=1).save_pretrained(folder / "checkpoint-20")
    tiny_tokenizer().save_pretrained(folder / "checkpoint-20")
    build("llama", seed=2).save_pretrained(folder / "ckpts" / "step-40")
    return folder


@pytest.fixture
def hub(repository: Path, tmp_path: Path) -> Iterator[list[str]]:
    with local_hub({"org/name": repository}, tmp_path / "cache") as fetched:
        yield fetched


def weights(fetched: list[str]) -> list[str]:
    return sorted(name for name in fetched if not name.endswith((".json", ".jinja")))


def test_only_the_shards_that_the_index_names(hub: list[str], repository: Path):
    loaded = load_model("org/name")
    index = json.loads((repository / "model.safetensors.index.json").read_text())
    assert weights(hub) == sorted(set(index["weight_map"].values())) and len(weights(hub)) > 1
    assert (loaded.model_id, loaded.revision) == ("org/name", COMMIT)
    assert torch.equal(loaded.model.lm_head.weight, build("llama").lm_head.weight)


def test_shards_and_the_same_weights_in_one_file(hub: list[str], repository: Path):
    build("llama").save_pretrained(repository / "both")
    single = (repository / "both" / "model.safetensors").rename(repository / "model.safetensors")
    load_model("org/name")
    assert single.name not in hub and all(name.startswith("model-") for name in weights(hub))


def test_one_file(hub: list[str], repository: Path):
    for file in repository.glob("model*"):
        file.unlink()
    build("llama").save_pretrained(repository)
    load_model("org/name", allow_pickle=True)
    assert weights(hub) == ["model.safetensors"]


def test_pickles_only_where_asked_for_and_nothing_else_is_there(hub: list[str], repository: Path):
    for file in repository.glob("*model*.safetensors*"):
        file.unlink()
    (repository / "consolidated.safetensors").unlink()
    torch.save(build("llama").state_dict(), repository / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"org/name: .*pickled weights .pytorch_model.bin.*pass allow_pickle=True if"):
        load_model("org/name")
    assert weights(hub) == []
    load_model("org/name", allow_pickle=True)
    assert weights(hub) == ["pytorch_model.bin"]


def test_a_folder_in_a_repository(hub: list[str]):
    loaded = load_model("org/name/checkpoint-20")
    assert all(name.startswith("checkpoint-20/") for name in hub)
    assert (loaded.model_id, loaded.revision) == ("org/name/checkpoint-20", COMMIT)
    assert torch.equal(loaded.model.lm_head.weight, build("llama", seed=1).lm_head.weight)
    assert load_model("org/name/checkpoint-20@main").fingerprint == loaded.fingerprint
    assert load_model("org/name/checkpoint-20", revision="main").revision == COMMIT
    assert load_tokenizer("org/name/checkpoint-20@main")("w5")["input_ids"] == [5]
    deeper = load_model(f"org/name/ckpts/step-40@{COMMIT}", tokenizer="org/name")
    assert torch.equal(deeper.model.lm_head.weight, build("llama", seed=2).lm_head.weight)
    with pytest.raises(ModelError, match="has no tokenizer; pass tokenizer="):
        load_model("org/name/ckpts/step-40")
    with pytest.raises(ModelError, match="the repository org/name has no such folder"):
        load_model("org/name/checkpoint-30")


def test_folders_of_a_repository_are_checkpoints_of_a_sweep(hub: list[str]):
    found = find_checkpoints(["org/name/checkpoint-20", "org/name/ckpts/step-40@main"])
    assert [(each.step, each.source) for each in found] == [
        (20, "org/name/checkpoint-20"),
        (40, "org/name/ckpts/step-40@main"),
    ]
    assert [each.stage for each in found] == ["org/name", "org/name/ckpts"], "another folder is another run"
    beside = find_checkpoints(["org/name/ckpts/step-40", "org/name/ckpts/step-30"])
    assert [(each.step, each.stage) for each in beside] == [(30, ""), (40, "")]
    assert [stamp(each) for each in found] == [{"commit": COMMIT}] * 2


def test_names():
    assert hub_name("gpt2") == ("gpt2", "", None)
    assert hub_name("org/name@refs/pr/1") == ("org/name", "", "refs/pr/1")
    assert hub_name("org/name/a/b@v1") == ("org/name", "a/b", "v1")
    assert str(hub_name("org/name/a/b@v1")) == "org/name/a/b"
    for text in ("./org/name", "/org/name", "org/name/", "org name", "model.gguf", "org//name", "~/name", ""):
        assert hub_name(text) is None


def test_a_path_that_is_misspelt_is_not_looked_for_on_the_hub(
    hub: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no file or folder 'runs/a/checkpoint-10'; check the path"):
        load_model("runs/a/checkpoint-10")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["params.json", "consolidated.safetensors", "tekken.json"], "Mistral's own format"),
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter"),
        (["a.Q4_0.gguf", "a.Q8_0.gguf"], "hf download org/other a.Q4_0.gguf"),
        (["config.json", "onnx/model.onnx"], "an ONNX export"),
    ],
)
def test_repositories_of_other_formats(tmp_path: Path, files: list[str], words: str):
    for file in files:
        (tmp_path / "other" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "other" / file).write_text("{}")
    with local_hub({"org/other": tmp_path / "other"}, tmp_path / "cache") as fetched:
        with pytest.raises(ModelError, match="org/other") as caught:
            load_model("org/other", tokenizer=tiny_tokenizer())
        assert words in str(caught.value) and "snapshots" not in str(caught.value)
        with pytest.raises(
            ModelError, match="^tokenizer: org/other|has no tokenizer|the tokenizer in org/other"
        ) as caught:
            load_tokenizer("org/other")
        assert words in str(caught.value) or "tekken.json" in files
        assert not [name for name in fetched if not name.endswith(".json")]
