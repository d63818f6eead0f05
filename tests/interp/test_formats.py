"""Folders as trainers leave them: the message says what the folder is, and its command makes a model of it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from headscope.interp.model.loading import ModelError, load_model
from headscope.interp.sweep.checkpoints import CheckpointError, find_checkpoints
from tiny_models import build
from tiny_run import tiny_tokenizer


def made(folder: Path, *files: str, config: bool = False) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
    if config:
        build("llama").config.save_pretrained(folder)
    return folder


def refused(path: Path, **kwargs: object) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(path, tokenizer=tiny_tokenizer(), device="cpu", **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def python_in(message: str) -> str:
    """The code of the command in a message, as a shell hands it to Python."""
    words = shlex.split(message[message.index("python -c") :])
    return words[2].rstrip(",")


def assert_is_the_model(folder: Path) -> None:
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        loaded = load_model(folder, tokenizer=tiny_tokenizer(), device="cpu").model
        assert torch.equal(loaded(ids).logits, build("llama")(ids).logits)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0/.metadata", "optimizer_0/__0_0.distcp"],
            [
                "FSDP shards",
                "accelerate merge-weights {d}/pytorch_model_fsdp_0 {d};",
                "put config.json and the tokenizer",
            ],
        ),
        (["pytorch_model_fsdp.bin", "optimizer.bin"], ["FSDP", "mv {d}/pytorch_model_fsdp.bin {d}/pytorch_model.bin"]),
        (
            ["global_step30/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "latest", "zero_to_fp32.py"],
            ["DeepSpeed ZeRO shards", "python {d}/zero_to_fp32.py {d} {d} --safe_serialization"],
        ),
        (
            ["global_step30/zero_pp_rank_0_mp_rank_00_model_states.pt", "latest"],
            ["DeepSpeed ZeRO shards", "python -m deepspeed.utils.zero_to_fp32 {d} {d} --safe_serialization"],
        ),
        (
            ["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"],
            ["DeepSpeed ZeRO shards", "zero_to_fp32 {p} {d} --safe_serialization -t {n}"],
        ),
        (["__0_0.distcp", "__1_0.distcp", ".metadata"], ["DCP", "dcp_to_torch_save", "convert_to_hf.py"]),
        (["model/__0_0.distcp", "model/.metadata"], ["DCP", "d('{d}/model',"]),
        (["model_and_optim/__0_0.distcp", "train/rank0.pt"], ["OLMo-core", "--checkpoint-input-path {d}"]),
        (["model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"], ["verl", "verl.model_merger merge"]),
        (
            ["latest_checkpointed_iteration.txt", "iter_0000500/mp_rank_00/model_optim_rng.pt"],
            ["Megatron", "convert_checkpoints.py export", "--megatron-path {d}/iter_0000500"],
        ),
        (["common.pt", "metadata.json", "__0_0.distcp"], ["Megatron", "--megatron-path {d} "]),
        (["context/model.yaml", "weights/__0_0.distcp", "weights/common.pt"], ["NeMo", "export_ckpt(path=Path('{d}')"]),
        (
            ["consolidated.safetensors", "params.json", "tekken.json"],
            ["Mistral's own", "convert_mistral_weights_to_hf"],
        ),
        (["consolidated.00.pth", "params.json", "tokenizer.model"], ["Meta's own", "convert_llama_weights_to_hf"]),
        (["hf_model_0001_1.pt", "recipe_state.pt"], ["torchtune", "safetensors"]),
        (["lit_model.pth", "model_config.yaml"], ["LitGPT", "litgpt convert_from_litgpt {d} {d}-hf"]),
        (["ep0-ba1000-rank0.pt"], ["Composer", "--composer_path {d}/ep0-ba1000-rank0.pt"]),
        (["flax_model.msgpack"], ["Flax", "from_flax=True"]),
        (["tf_model.h5"], ["TensorFlow", "from_tf=True"]),
        (["default/_CHECKPOINT_METADATA", "default/ocdbt.process_0/d/x"], ["Orbax"]),
        (["onnx/model.onnx", "tokenizer.json"], ["ONNX", "cannot be turned back"]),
        (["openvino_model.xml", "openvino_model.bin"], ["OpenVINO", "cannot be turned back"]),
        (["adapter_model.safetensors"], ["an adapter: merge it", "BASE_MODEL"]),
        (["optimizer.pt", "scheduler.pt", "trainer_state.json"], ["state of a trainer (optimizer.pt) but no weights"]),
        (["optimizer.bin", "random_states_0.pkl"], ["state of a trainer (optimizer.bin) but no weights"]),
        (["optimizer_0/.metadata", "optimizer_0/__0_0.distcp"], ["state of a trainer", "no weights"]),
        (["model.safetensors", "optimizer.bin", "random_states_0.pkl"], ["no config.json, as accelerate's save_state"]),
        (["weights-step3.pt"], ["pickled files of a layout of their own (weights-step3.pt)", "save_pretrained"]),
        (["smol.gguf-split-a", "smol.gguf-split-b"], ["cut into pieces", "cat {d}/smol.gguf?* > {d}/smol.gguf"]),
    ],
    ids=lambda value: value[0] if "." in value[0] else "",
)
def test_what_it_is_and_the_command(tmp_path: Path, files: list[str], words: list[str]):
    folder = made(tmp_path / "runs" / "last", *files)
    message = refused(folder)
    for each in words:
        assert each.format(d=folder, p=folder.parent, n=folder.name) in message
    made(folder, config=True)
    if files[0] != "model.safetensors":
        again = refused(folder)
        assert words[0] in again and "put config.json" not in again


def test_paths_with_spaces_are_quoted(tmp_path: Path):
    folder = made(tmp_path / "my run", "pytorch_model_fsdp_0/.metadata")
    words = shlex.split(refused(folder).partition("merge them: ")[2].partition(";")[0])
    assert words == ["accelerate", "merge-weights", str(folder / "pytorch_model_fsdp_0"), str(folder)]


def test_the_command_for_fsdp_shards(tmp_path: Path):
    from accelerate.utils import merge_fsdp_weights
    from torch.distributed import checkpoint

    checkpoint.save({"model": build("llama").state_dict()}, checkpoint_id=tmp_path / "pytorch_model_fsdp_0")
    words = shlex.split(refused(tmp_path).partition("accelerate merge-weights ")[2].partition(";")[0])
    merge_fsdp_weights(*words)
    assert "no config.json, as accelerate's save_state leaves them" in refused(tmp_path)
    made(tmp_path, config=True)
    assert_is_the_model(tmp_path)


@pytest.mark.parametrize("layout", ["flat", "model", "app"])
def test_the_command_for_a_distributed_checkpoint(tmp_path: Path, layout: str):
    from torch.distributed import checkpoint

    weights = build("llama").state_dict()
    beside = {"model": weights, "optimizer": {"exp_avg": torch.ones(3)}, "step": 7}
    state = {"flat": weights, "model": beside, "app": {"app": beside}}[layout]
    checkpoint.save(state, checkpoint_id=made(tmp_path / "step-1000", config=True))
    exec(python_in(refused(tmp_path / "step-1000")), {})
    assert_is_the_model(tmp_path / "step-1000")


def test_the_command_for_torchtunes_pickles(tmp_path: Path):
    weights = build("llama").state_dict()
    names = list(weights)
    torch.save({name: weights[name] for name in names[:9]}, tmp_path / "hf_model_0001_0.pt")
    torch.save({name: weights[name] for name in names[9:]}, tmp_path / "hf_model_0002_0.pt")
    exec(python_in(refused(made(tmp_path, config=True))), {})
    assert_is_the_model(tmp_path)


def test_the_command_for_shards_without_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    build("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    monkeypatch.chdir(tmp_path.parent)
    message = refused(tmp_path)
    assert "model.safetensors.index.json is missing" in message
    exec(python_in(message), {})
    assert_is_the_model(tmp_path)


def test_the_command_for_an_adapter(tmp_path: Path):
    import peft

    base = tmp_path / "base"
    build("llama").save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(build("llama"), settings)
    folder = tmp_path / "checkpoint-30"
    model.save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(base)}))
    message = refused(folder)
    assert f"an adapter (LORA): merge it into its base model ({base})" in message
    exec(python_in(message), {})
    merged = load_model(tmp_path / "checkpoint-30-merged", device="cpu")
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(merged.model(ids).logits, model.eval()(input_ids=ids).logits, atol=1e-3, rtol=1e-3)


def test_missing_shards_are_named(tmp_path: Path):
    build("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    shards[1].unlink()
    assert f"{shards[1]} is missing though the index names it" in refused(tmp_path)
    shards[2].unlink()
    assert f"{shards[1]} and 1 more are missing though the index names it" in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert f"lacks {shards[1].name}, {shards[2].name}; copy or download what is missing" in refused(tmp_path)


def test_an_index_beside_shards_of_another_format(tmp_path: Path):
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    folder = made(tmp_path, "zero_to_fp32.py", config=True)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "none of the files that model.safetensors.index.json names are there; it holds DeepSpeed" in refused(folder)


def test_weights_of_another_name(tmp_path: Path):
    build("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    command = refused(tmp_path).partition("rename them: mv ")[2]
    shutil.move(*shlex.split(command))
    assert_is_the_model(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_pointers_of_git_lfs(tmp_path: Path, name: str):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    given = tmp_path / name if name.endswith("gguf") else made(tmp_path, config=True)
    assert f"pointer of Git LFS, not the file itself; git -C {tmp_path} lfs pull" in refused(given)


def test_split_gguf(tmp_path: Path):
    for i in (1, 3):
        made(tmp_path, f"big-Q4_K_M-0000{i}-of-00003.gguf")
    made(tmp_path, "other-00001-of-00002.gguf")
    first, whole = tmp_path / "big-Q4_K_M-00001-of-00003.gguf", tmp_path / "big-Q4_K_M.gguf"
    for i in (1, 3):
        message = refused(tmp_path / f"big-Q4_K_M-0000{i}-of-00003.gguf")
        assert f"it is part {i} of 3 of a split GGUF file, and big-Q4_K_M-00002-of-00003.gguf not there" in message
        assert f"llama-gguf-split --merge {first} {whole} " in message
    made(tmp_path, "big-Q4_K_M-00002-of-00003.gguf")
    assert "not there" not in refused(tmp_path / "big-Q4_K_M-00002-of-00003.gguf")
    assert "a GGUF file split into 3 parts; merge them" in refused(tmp_path)


def test_a_part_of_a_gguf_file_under_another_name(tmp_path: Path):
    import gguf
    import numpy as np

    path = tmp_path / "renamed.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint16("split.count", 4)
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match="one of the 4 parts of a split GGUF file; merge them: llama-gguf-split"):
        load_model(path)


def test_files_of_other_formats(tmp_path: Path):
    assert "not a .gguf file; it holds a NeMo checkpoint" in refused(made(tmp_path, "m.nemo") / "m.nemo")
    assert re.search("not a .gguf file; give the folder", refused(made(tmp_path, "m.safetensors") / "m.safetensors"))


def test_a_sweep_names_every_checkpoint_with_its_reason(tmp_path: Path):
    run = tmp_path / "run"
    made(run / "checkpoint-5", "pytorch_model_fsdp_0/.metadata", "trainer_state.json")
    made(run / "checkpoint-10", "global_step10/zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_to_fp32.py", "latest")
    for step in (5, 10):
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    found = find_checkpoints(run)
    assert [each.step for each in found] == [5, 10]
    assert "FSDP" in refused(Path(found[0].source)) and "DeepSpeed" in refused(Path(found[1].source))
    alone = find_checkpoints(run / "checkpoint-10")
    assert [each.source for each in alone] == [str(run / "checkpoint-10")], "not the states inside it"
    made(tmp_path / "tuned" / "epoch_0", "hf_model_0001_0.pt")
    for given in (tmp_path / "tuned", tmp_path / "tuned" / "epoch_0"):
        with pytest.raises(
            CheckpointError, match="can be read; .*epoch_0: it holds pickled weights of torchtune; save"
        ):
            find_checkpoints(given)
