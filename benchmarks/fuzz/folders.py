"""Hostile checkpoint folders: configs, tokenizers, indices and safetensors headers with absurd content."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from .bytes_of import MUTATORS
from .canary import Canaries
from .cases import Action
from .probe_sets import tokenizer

_HUGE = (0, -1, 1, 10**7, 2**31, 2**63, 1.5, "8", None, [], [3], {}, True, float("nan"))
_ODD: tuple[Any, ...] = (
    *(
        3,
        None,
        [],
        [3],
        {},
        {"a": 1},
        "x",
        "\x1b]0;evil\x07",
        "\u202eevil",
        "../../x",
        "a" * 10**6,
        "%s{0}",
        ["\x9b31m"],
    ),
    *([[[]]], {"AutoModel": 3}, {"AutoModelForCausalLM": "evil.Evil"}, 1e308, True, "float99", "\ud800"),
)


def bases(folder: Path) -> list[Path]:
    """A tiny Llama in one file, and the same in three with an index."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer()), num_key_value_heads=2, **sizes))
    for name, size in (("whole", "1GB"), ("sharded", "20KB")):
        model.save_pretrained(folder / name, max_shard_size=size)
        tokenizer().save_pretrained(folder / name)
    return [folder / "sharded", folder / "whole"]


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _put(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def config(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    found = _json(folder / "config.json")
    names = [
        *found,
        *("architectures", "architectures", "auto_map", "quantization_config", "rope_scaling", "model_type", "dtype"),
        *(
            "torch_dtype",
            "text_config",
            "layer_types",
            "sliding_window",
            "attn_implementation",
            "head_dim",
            "tie_word_embeddings",
        ),
    ]
    for _ in range(rng.choice((1, 1, 2, 5))):
        name = rng.choice(names)
        found[name] = rng.choice((*_HUGE, *_ODD))
        if rng.random() < 0.1:
            found.pop(name)
    _put(folder / "config.json", found)


def size_of_model(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    found = _json(folder / "config.json")
    names = ("num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "num_attention_heads", "head_dim")
    found[rng.choice(names)] = rng.choice((10**4, 10**5, 10**6, 10**7, 10**9, 2**40))
    _put(folder / "config.json", found)


def odd_json(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    path = rng.choice(sorted(folder.glob("*.json")))
    text = path.read_bytes()
    odd = (
        b"",
        b"3",
        b"[]",
        b'"x"',
        b"null",
        b"[" * 10**5,
        b'{"a":' * 10**5,
        text[:-3],
        text + text,
        b"\xff\xfe" + text,
    )
    odd += (b"\xef\xbb\xbf" + text, text.replace(b":", b":[", 1), b"{}", b" " * 10**7 + text, b"1" * 10**5)
    path.write_bytes(rng.choice(odd))


def tokenizers(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    path = rng.choice((folder / "tokenizer_config.json", folder / "tokenizer.json"))
    found = _json(path)
    name = rng.choice([*found, "chat_template", "tokenizer_class", "model", "auto_map"])
    loop = "{% for i in range(10**9) %}x{% endfor %}"
    found[name] = rng.choice((*_ODD, loop, "{{ ''.__class__.__mro__ }}", "{% include '/etc/passwd' %}"))
    _put(path, found)


def index(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    path = folder / "model.safetensors.index.json"
    found = _json(path) if path.exists() else {"metadata": {}, "weight_map": {"lm_head.weight": "model.safetensors"}}
    weights = found["weight_map"]
    name = rng.choice(list(weights))
    outside = (
        str(canaries.text),
        os.path.relpath(canaries.text, folder),
        "../canaries/canary.txt",
        "/dev/zero",
        "/proc/self/mem",
    )
    odd = (
        *outside,
        *outside,
        "",
        ".",
        "nowhere.safetensors",
        3,
        None,
        [],
        "\x1b[2J.safetensors",
        "config.json",
        "a" * 10**5,
    )
    weights[name] = rng.choice(odd)
    if rng.random() < 0.2:
        found["weight_map"] = rng.choice(_ODD)
    if rng.random() < 0.2:
        found["metadata"] = rng.choice(_ODD)
    _put(path, found)


def header(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    path = rng.choice(sorted(folder.glob("*.safetensors")))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found, values = json.loads(data[8 : 8 + size]), data[8 + size :]
    name = rng.choice([name for name in found if name != "__metadata__"])
    kind = rng.randrange(6)
    if kind == 0:
        found[name][rng.choice(("dtype", "shape", "data_offsets"))] = rng.choice(
            (*_ODD, [2**62, 2], [0, 2**62], "F4", [-1, 5])
        )
    elif kind == 1:
        found[rng.choice(("\x1b[2Jx", "a" * 10**5, "more", "model.layers.99.x"))] = found[name]
    elif kind == 2:
        del found[name]
    elif kind == 3:
        found["__metadata__"] = rng.choice(_ODD)
    text = json.dumps(found).encode() if kind != 4 else rng.choice((b"[" * 10**5, b"", b"3", b"{", b"\xff" * 100))
    length = len(text) if kind != 5 else rng.choice((0, 1, 2**31, 2**63, len(data) * 2))
    path.write_bytes(length.to_bytes(8, "little") + text + values)


def sparse(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    """A tensor of many gigabytes that takes no room on the disk."""
    path = rng.choice(sorted(folder.glob("*.safetensors")))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found, values = json.loads(data[8 : 8 + size]), data[8 + size :]
    count = rng.choice((2 * 10**9, 2 * 10**10))
    name = rng.choice(("more", "model.embed_tokens.weight"))
    found[name] = {"dtype": "F32", "shape": [count // 4], "data_offsets": [len(values), len(values) + count]}
    text = json.dumps(found).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + values)
        file.truncate(8 + len(text) + len(values) + count)


def paths(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    """Links, pipes and folders in the place of files."""
    path = rng.choice(sorted(folder.iterdir()))
    path.unlink()
    kind = rng.randrange(6)
    if kind == 0:
        path.symlink_to(path.name)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        os.mkfifo(path)
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.write_bytes(b"")


def pickles(folder: Path, rng: random.Random, canaries: Canaries) -> None:
    """Pickled weights that would write a file, and code of the folder's own."""
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    if rng.random() < 0.5:
        evil = f"cposix\nsystem\n(S'touch {folder.parent}/evil'\ntR.".encode()
        (folder / "pytorch_model.bin").write_bytes(evil)
    else:
        (folder / "evil.py").write_text(f"open({str(folder.parent / 'evil')!r}, 'w')\n")
        found = _json(folder / "config.json")
        found |= {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}, "model_type": "evil"}
        _put(folder / "config.json", found)


CHANGES = (
    config,
    config,
    config,
    size_of_model,
    odd_json,
    tokenizers,
    index,
    index,
    header,
    header,
    sparse,
    paths,
    pickles,
)


def make(path: Path, base: Path, rng: random.Random, canaries: Canaries) -> str:
    shutil.copytree(base, path)
    if rng.random() < 0.2:
        victim, change = rng.choice(sorted(path.iterdir())), rng.choice(MUTATORS)
        data = bytearray(victim.read_bytes())
        change(data, rng)
        victim.write_bytes(data)
        return f"bytes: {change.__name__}"
    altered = rng.choice(CHANGES)
    altered(path, rng, canaries)
    return f"structure: {altered.__name__}"


def _load(path: Path, out: Path) -> None:
    from headscope.interp.model import load_model

    load_model(path)


def _tokenizer(path: Path, out: Path) -> None:
    from headscope.interp.model import load_tokenizer

    load_tokenizer(path)


ACTIONS: dict[str, Action] = {"load": _load, "tokenizer": _tokenizer}
IN_TURN = False


def prepare(path: Path, folder: Path) -> None:
    """Import what the actions need."""
    for action in ACTIONS.values():
        action(path, folder)
