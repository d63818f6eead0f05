"""What a folder is that holds no model transformers could load, and the one command that makes one of it.

Trainers leave checkpoints in formats of their own. Only names are looked at, and the small JSON beside an adapter.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .reading import ModelError, read_json

_DEPTH = 3  # folders below the given one that are looked into
_MOST = 2000  # names that are looked at


@dataclass(frozen=True)
class _Format:
    """files: patterns, one of which a file's path in the folder matches, part by part. what: what the folder is.

    remedy: what stands in braces is told by `_places`. in_place: the command makes a model of the folder itself, once a
    config.json lies in it.
    """

    files: tuple[str, ...]
    what: str
    remedy: str
    in_place: bool = False


# A state dict may be the model's alone, or hold it beside the optimizer's.
_DCP = (
    'merge it: python -c "import torch, safetensors.torch as s; from torch.distributed.checkpoint.format_utils import '
    "dcp_to_torch_save as d; d('{raw_p}', '{raw}/whole.pt'); t = torch.load('{raw}/whole.pt', weights_only=True); "
    "t = t.get('app', t); t = t.get('model', t); "
    "s.save_file({{k: v.clone() for k, v in t.items() if hasattr(v, 'clone')}}, '{raw}/model.safetensors', "
    "{{'format': 'pt'}})\""
)

_FORMATS = (
    _Format(
        ("*.gguf-split-*", "*.gguf.part*", "*.gguf.[0-9]*"),
        "a GGUF file cut into pieces",
        "join them: cat {gguf}?* > {gguf}, and give that file",
    ),
    _Format(
        ("pytorch_model_fsdp_*/*",),
        "FSDP shards (SHARDED_STATE_DICT)",
        "merge them: accelerate merge-weights {p} {d}",
        in_place=True,
    ),
    _Format(
        ("pytorch_model_fsdp.bin",),
        "a full FSDP state dict, pickled",
        "rename it: mv {f} {d}/pytorch_model.bin, and pass allow_pickle=True",
        in_place=True,
    ),
    _Format(
        ("zero_to_fp32.py",),
        "DeepSpeed ZeRO shards",
        "merge them: python {f} {d} {d} --safe_serialization",
        in_place=True,
    ),
    _Format(
        ("*/*zero_pp_rank_*", "*/mp_rank_*_model_states.pt"),
        "DeepSpeed ZeRO shards",
        "merge them: python -m deepspeed.utils.zero_to_fp32 {d} {d} --safe_serialization",
        in_place=True,
    ),
    _Format(
        ("*zero_pp_rank_*", "mp_rank_*_model_states.pt"),
        "DeepSpeed ZeRO shards",
        "merge them: python -m deepspeed.utils.zero_to_fp32 {above} {d} --safe_serialization -t {name}",
        in_place=True,
    ),
    _Format(
        ("model_world_size_*_rank_*.pt", "actor/model_world_size_*_rank_*.pt"),
        "FSDP shards of verl",
        "merge them: python -m verl.model_merger merge --backend fsdp --local_dir {p} --target_dir {out}",
    ),
    _Format(
        ("model_and_optim/*",),
        "a checkpoint of OLMo-core",
        "convert it, in a checkout of OLMo-core: python src/examples/huggingface/convert_checkpoint_to_hf.py "
        "--checkpoint-input-path {d} --huggingface-output-dir {out} --max-sequence-length LENGTH",
    ),
    _Format(
        ("*.nemo", "context/model.yaml", "context/io.json", "model_weights/*"),
        "a NeMo checkpoint",
        'convert it, where NeMo is installed: python -c "from pathlib import Path; from nemo.collections import llm; '
        "llm.export_ckpt(path=Path('{raw}'), target='hf', output_path=Path('{raw_out}'))\"",
    ),
    _Format(
        ("latest_checkpointed_iteration.txt", "mp_rank_*/*.pt", "*/mp_rank_*/*.pt", "common.pt", "*/common.pt"),
        "a Megatron checkpoint",
        "convert it, in a checkout of Megatron-Bridge: python examples/conversion/convert_checkpoints.py export "
        "--hf-model BASE_MODEL --megatron-path {megatron} --hf-path {out}",
    ),
    _Format(
        ("*.distcp", ".metadata"),
        "a distributed checkpoint of torch (DCP)",
        _DCP + " (torchtitan names weights otherwise: its scripts/checkpoint_conversion/convert_to_hf.py)",
        in_place=True,
    ),
    _Format(
        ("*/*.distcp",),
        "a distributed checkpoint of torch (DCP)",
        _DCP,
        in_place=True,
    ),
    _Format(
        ("consolidated*.safetensors",),
        "a model in Mistral's own format",
        "give the repository's Hugging Face files (model*.safetensors, config.json), or convert it, in a checkout of "
        "transformers: python src/transformers/models/mistral/convert_mistral_weights_to_hf.py {d} {out}",
    ),
    _Format(
        ("consolidated.*.pth",),
        "a model in Meta's own format",
        "give the repository's Hugging Face files (model*.safetensors, config.json), or convert it, in a checkout of "
        "transformers: python src/transformers/models/llama/convert_llama_weights_to_hf.py --input_dir {d} "
        "--output_dir {out} --model_size SIZE --llama_version VERSION",
    ),
    _Format(
        ("hf_model_*.pt",),
        "pickled weights of torchtune",
        'save them as safetensors: python -c "import glob, torch, safetensors.torch as s; t = {{}}; '
        "[t.update(torch.load(f, 'cpu', weights_only=True)) for f in glob.glob('{raw}/hf_model_*.pt')]; "
        "s.save_file({{k: v.clone() for k, v in t.items()}}, '{raw}/model.safetensors', {{'format': 'pt'}})\"",
        in_place=True,
    ),
    _Format(
        ("meta_model_*.pt",),
        "weights of torchtune in Meta's layout",
        "save the checkpoint with torchtune's FullModelHFCheckpointer",
    ),
    _Format(
        ("lit_model*.pth",),
        "a LitGPT checkpoint",
        "convert it: litgpt convert_from_litgpt {d} {out} && mv {out}/model.pth {d}/pytorch_model.bin, and pass "
        "allow_pickle=True",
        in_place=True,
    ),
    _Format(
        ("ep*-ba*-rank*.pt", "latest-rank*.pt"),
        "a Composer checkpoint",
        "convert it, in a checkout of llm-foundry: python scripts/inference/convert_composer_to_hf.py "
        "--composer_path {f} --hf_output_path {out}",
    ),
    _Format(
        ("flax_model*.msgpack",),
        "Flax weights",
        "convert them, with 'transformers<5' and flax installed: python -c \"from transformers import "
        "AutoModelForCausalLM as M; M.from_pretrained('{raw}', from_flax=True).save_pretrained('{raw}')\"",
        in_place=True,
    ),
    _Format(
        ("tf_model*.h5",),
        "TensorFlow weights",
        "convert them, with 'transformers<5' and tensorflow installed: python -c \"from transformers import "
        "AutoModelForCausalLM as M; M.from_pretrained('{raw}', from_tf=True).save_pretrained('{raw}')\"",
        in_place=True,
    ),
    _Format(
        ("_CHECKPOINT_METADATA", "*/_CHECKPOINT_METADATA", "ocdbt.process_*", "*/ocdbt.process_*", "*/*/ocdbt.*"),
        "an Orbax checkpoint of JAX",
        "export it as a Hugging Face model with the trainer's own converter (MaxText: to_huggingface)",
    ),
    _Format(
        ("*.onnx", "onnx/*.onnx"),
        "an ONNX export",
        "it cannot be turned back; give the model that it was made from{base}",
    ),
    _Format(
        ("openvino_model.*",),
        "an OpenVINO export",
        "it cannot be turned back; give the model that it was made from{base}",
    ),
    _Format(
        ("mlc-chat-config.json", "params_shard_*.bin", "rank*.engine", "*.mlpackage/*", "*.tflite", "*.task"),
        "a model compiled for one runtime",
        "it cannot be turned back; give the model that it was made from{base}",
    ),
    _Format(
        ("model_index.json", "diffusion_pytorch_model*"),
        "a diffusers pipeline, not a language model",
        "give a causal language model",
    ),
)

_USUAL = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
)
_STATE = ("optimizer*", "optimizer*/*", "scheduler.*", "rng_state*.pth", "random_states_*.pkl", "trainer_state.json")
_PICKLES = ("*.pt", "*.pth", "*.ckpt", "*.bin", "*.pkl")
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")


def what_it_is(folder: Path) -> str | None:
    """What a folder is that cannot be loaded, and what makes a model of it, as "X; do this"; None: nothing known."""
    return described(names_in(folder), folder)


def names_in(folder: Path) -> list[str]:
    """Paths of the files in a folder and some folders below it, relative and with slashes, in order."""
    found: list[str] = []
    for place, below, files in os.walk(folder):
        part = Path(place).relative_to(folder)
        if len(part.parts) >= _DEPTH:
            below.clear()
        below.sort()
        found += [(part / file).as_posix() for file in files]
        if len(found) > _MOST:
            break
    return sorted(found)


def described(names: Collection[str], folder: Path) -> str | None:
    """`what_it_is` for file names; only an adapter_config.json and a config.json are read from the folder itself."""
    if parts := split_gguf(names, folder):
        return parts
    if _first(names, ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")):
        return _adapter(folder)
    if whole := _first(names, _USUAL):
        if "config.json" not in names:
            return _without_config(whole, folder)
        if whole == "model.safetensors":
            return None  # whatever lies beside it has been converted already
        if whole.startswith("pytorch_model"):
            return (
                f"it holds only pickled weights ({whole}), which can run code; pass allow_pickle=True if you trust them"
            )
    weights = [name for name in names if not name.startswith("optimizer")]
    for each in _FORMATS:
        if found := _first(weights, each.files):
            remedy = each.remedy.format(**_places(folder, found))
            beside = _beside(names, folder) if each.in_place else ""
            return f"it holds {each.what}; {remedy}{beside}"
    return _safetensors(names, folder) or _leftovers(names)


def _places(folder: Path, found: str) -> dict[str, str]:
    """Paths for a remedy, quoted for a shell (those named raw are not): d the folder, f the file found, p its folder,
    out a folder that is not there yet, megatron one iteration; base: what the folder's config says it was made from.
    """
    file = folder / found
    iteration = max(folder.glob("iter_*"), default=folder)
    made_from = _json(folder / "config.json").get("_name_or_path")
    return {
        "d": shlex.quote(str(folder)),
        "f": shlex.quote(str(file)),
        "p": shlex.quote(str(file.parent)),
        "raw_p": str(file.parent),
        "out": shlex.quote(f"{folder}-hf"),
        "raw": str(folder),
        "raw_out": f"{folder}-hf",
        "name": shlex.quote(folder.name),
        "above": shlex.quote(str(folder.parent)),
        "megatron": shlex.quote(str(iteration)),
        "gguf": shlex.quote(str(file).partition(".gguf")[0] + ".gguf"),
        "base": f" ({made_from})" if made_from else "",
    }


def _beside(names: Collection[str], folder: Path) -> str:
    if "config.json" in names:
        return ""
    return f"; then put config.json and the tokenizer of the model that was trained into {shlex.quote(str(folder))}"


def _adapter(folder: Path) -> str:
    config = _json(folder / "adapter_config.json")
    base = config.get("base_model_name_or_path")
    kind = f" ({config['peft_type']})" if "peft_type" in config else ""
    into = f"its base model ({base})" if base else "its base model"
    merged = f"{folder}-merged"
    return (
        f'it holds an adapter{kind}: merge it into {into}: python -c "import peft, transformers; '
        f"d, out = '{folder}', '{merged}'; "
        "peft.AutoPeftModelForCausalLM.from_pretrained(d).merge_and_unload().save_pretrained(out); "
        f"transformers.AutoTokenizer.from_pretrained('{base or 'BASE_MODEL'}').save_pretrained(out)\", and give that"
    )


def split_gguf(names: Iterable[str], folder: Path, given: str | None = None) -> str | None:
    """About GGUF files in parts (x-00001-of-00003.gguf): of those that belong to `given`, else of the first ones."""
    parts = [(match, name) for name in names if (match := _PART.fullmatch(name)) and match[4] == ".gguf"]
    mine = None if given is None else _PART.fullmatch(given)
    if given is not None:
        parts = [(match, name) for match, name in parts if mine and (match[1], match[3]) == (mine[1], mine[3])]
    if not parts:
        return None
    stem, _, total, _ = parts[0][0].groups()
    wanted = [f"{stem}-{i:05d}-of-{total}.gguf" for i in range(1, int(total) + 1)]
    there = {name for _, name in parts}
    lacking = [name for name in wanted if name not in there]
    begin = f"it holds a GGUF file split into {int(total)} parts"
    if mine:
        begin = f"it is part {int(mine[2])} of {int(total)} of a split GGUF file"
    if lacking:
        begin += f", and {_few(lacking)} not there: get the missing parts first"
    first, whole = (shlex.quote(str(folder / name)) for name in (wanted[0], f"{stem}.gguf"))
    return f"{begin}; merge them: llama-gguf-split --merge {first} {whole} (llama.cpp), and give {whole}"


def _safetensors(names: Collection[str], folder: Path) -> str | None:
    """Weights that lie there, without what tells how to read them."""
    files = [name for name in names if fnmatchcase(name, "*.safetensors") and "/" not in name]
    if not files or "model.safetensors.index.json" in names:
        return None
    d = shlex.quote(str(folder))
    if "config.json" not in names:
        return _without_config(files[0], folder)
    if len(files) == 1 and not _PART.fullmatch(files[0]):
        file = shlex.quote(str(folder / files[0]))
        return f"its weights have another name; rename them: mv {file} {d}/model.safetensors"
    if lacking := missing_parts(files):
        return f"it lacks {_few(lacking)}; copy or download what is missing"
    return (
        'its weights are in parts and model.safetensors.index.json is missing; write it: python -c "import glob, json, '
        f"os; from safetensors import safe_open; os.chdir('{folder}'); m = {{k: f for f in glob.glob('*.safetensors') "
        "for k in safe_open(f, 'pt').keys()}; json.dump({'metadata': {}, 'weight_map': m}, "
        "open('model.safetensors.index.json', 'w'))\""
    )


def _without_config(weights: str, folder: Path) -> str:
    return (
        f"it holds weights ({weights}) but no config.json, as accelerate's save_state leaves them; put config.json and "
        f"the tokenizer of the model that was trained into {shlex.quote(str(folder))}"
    )


def missing_parts(files: Iterable[str]) -> list[str]:
    """The files x-0000i-of-0000n that the names of others promise."""
    parts = [match for name in files if (match := _PART.fullmatch(name))]
    wanted = {f"{m[1]}-{i:05d}-of-{m[3]}{m[4]}" for m in parts for i in range(1, int(m[3]) + 1)}
    return sorted(wanted - {m[0] for m in parts})


def _leftovers(names: Collection[str]) -> str | None:
    pickles = [name for name in names if any(fnmatchcase(name, pattern) for pattern in _PICKLES)]
    weights = [name for name in pickles if not _first([name], _STATE) and name != "training_args.bin"]
    if usual := [name for name in weights if fnmatchcase(name, "pytorch_model*.bin")]:
        return (
            f"it holds only pickled weights ({usual[0]}), which can run code; pass allow_pickle=True if you trust them"
        )
    if weights:
        return (
            f"it holds pickled files of a layout of their own ({_few(weights)}); load them with the code that wrote "
            "them, and write a folder with save_pretrained"
        )
    if state := _first(names, _STATE):
        return f"it holds the state of a trainer ({state}) but no weights; give a checkpoint that was saved with them"
    return None


def _first(names: Iterable[str], patterns: Iterable[str]) -> str | None:
    listed = list(names)
    return next((name for pattern in patterns for name in listed if _matches(name, pattern)), None)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _json(path: Path) -> dict[str, object]:
    try:
        return read_json(path, "")
    except ModelError:
        return {}
