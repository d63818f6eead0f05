"""Checkpoint folders that lie about themselves: one line, before anything is built, and nothing outside is opened."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headscope.interp.model import ModelError, load_model, load_tokenizer, loading, reading, sizes
from tiny_run import make_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def put(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder: Path, match: str = ".", load: Callable[[Path], Any] = load_model) -> str:
    with pytest.raises(ModelError, match=match) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 2100 and message.isprintable()
    return message


CONFIGS: list[dict[str, Any]] = [
    *({"architectures": value} for value in ([3], 3, {}, "LlamaForCausalLM", [["x"]], [None])),
    *({"auto_map": value} for value in (3, [3], "x", True)),
    *({"model_type": value} for value in (3, [], {"a": 1})),
    *({"text_config": value} for value in (3, [1], "x")),
    *({"rope_scaling": value} for value in (3, "linear", [1])),
    *({"quantization_config": value} for value in (3, "gptq", [1])),
    *({"hidden_size": value} for value in (-1, 1.5, "8", [], {}, True, 2**63, [3, "x"])),
    *({"num_hidden_layers": value} for value in (-1, 2.5, "2", float("nan"), float("inf"), 2**62)),
    *({"vocab_size": value} for value in (-5, None, "x")),
]


@pytest.mark.parametrize("changes", CONFIGS, ids=repr)
def test_odd_configs_are_one_line(folder: Path, changes: dict[str, Any]) -> None:
    put(folder / "config.json", **changes)
    refused(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num_hidden_layers", value) for value in (2000, 10**7, 2**39)),
        *((name, 10**7) for name in ("num_labels", "vocab_size", "intermediate_size", "hidden_size", "head_dim")),
        ("hidden_size", 2**39),
    ],
)
def test_a_model_of_another_size_than_its_weights_is_never_built(
    folder: Path, name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "FREE_ELEMENTS", 2**20)
    put(folder / "config.json", **{name: value})
    tracemalloc.start()
    refused(folder, "different models|could not be loaded")
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()


DEEP = "[" * 100_000 + "]" * 100_000
TEXTS = (b"", b"3", b"[]", b"null", DEEP.encode(), b'{"a":' * 50_000, b"\xff\xfe{}", b'{"a": ' + b"1" * 5000 + b"}")


@pytest.mark.parametrize("text", [*TEXTS, b'{"a": ' + DEEP[:100].encode() + DEEP[-100:].encode() + b"}"], ids=range(9))
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "generation_config.json"])
def test_json_that_is_none_or_too_deep_is_one_line(folder: Path, name: str, text: bytes) -> None:
    (folder / name).write_bytes(text)
    if "index" in name:
        (folder / "model.safetensors").unlink()
    refused(folder)


def test_what_is_too_large_is_not_read(folder: Path) -> None:
    for name, most in (("config.json", reading.LARGEST_JSON), ("tokenizer.json", reading.LARGEST_TEXT)):
        before = (folder / name).read_bytes()
        os.truncate(folder / name, most + 1)  # takes no room on the disk
        refused(folder, f"{name} has .* bytes, of which at most {most:,} are read")
        (folder / name).write_bytes(before)
    os.truncate(folder / "tokenizer.json", most + 1)
    refused(folder, "are read", load_tokenizer)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "loop"])
def test_what_is_no_file_is_not_opened(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    refused(folder)


def weight_map(folder: Path, file: Any) -> None:
    os.rename(folder / "model.safetensors", folder / "part.safetensors")
    tensors = ["model.embed_tokens.weight", "lm_head.weight"]
    whole = {"metadata": {}, "weight_map": {tensors[0]: "part.safetensors", tensors[1]: file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(whole))


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/etc/passwd", "a/../../x", "", ".", "..", "\x1b[2J", "a\0b", 3, None, [], {}]
)
def test_weights_that_an_index_names_elsewhere_are_refused(folder: Path, file: Any) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "x.safetensors")
    weight_map(folder, file)
    refused(folder, "names .* no file in its folder")


@pytest.mark.parametrize("value", [3, [], ["part.safetensors"], "x", None])
def test_a_weight_map_that_is_none_is_refused(folder: Path, value: Any) -> None:
    weight_map(folder, "x")
    put(folder / "model.safetensors.index.json", weight_map=value)
    refused(folder)


def test_links_to_weights_elsewhere_are_refused_and_those_of_the_hub_are_not(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    blobs = tmp_path / "models--org--name" / "blobs"
    snapshot = blobs.parent / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    os.rename(snapshot / file.name, blobs / "abcd")
    (snapshot / file.name).symlink_to("../../blobs/abcd")
    assert load_model(snapshot).fingerprint == load_model(folder).fingerprint

    os.rename(file, tmp_path / "other.safetensors")
    file.symlink_to("../other.safetensors")
    refused(folder, "is a link to .*other.safetensors, outside the folder.*cp --link")
    os.rename(tmp_path / "other.safetensors", folder / "own.safetensors")
    file.unlink()
    file.symlink_to("own.safetensors")
    assert load_model(folder).model is not None


def header(path: Path, change: Callable[[dict[str, Any], str], Any]) -> None:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    found = json.loads(data[8 : 8 + size])
    text = change(found, next(name for name in found if name != "__metadata__"))
    text = json.dumps(found).encode() if text is None else text
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])


HEADERS: list[Callable[[dict[str, Any], str], Any]] = [
    *(lambda h, n, v=value: h[n].update(shape=v) for value in (3, None, [-1], [2**62, 2], ["x"], [1.5], [True], {})),
    *(
        lambda h, n, v=value: h[n].update(data_offsets=v)
        for value in (3, [1], [5, 1], [-8, 0], [0, 2**62], ["a", "b"], None)
    ),
    *(lambda h, n, v=value: h[n].update(dtype=v) for value in (3, None, [], "F4x", "F64")),
    *(lambda h, n, v=value: h.update({n: v}) for value in (3, None, [], {}, "x")),
    *(lambda h, n, v=value: v for value in TEXTS[:7]),
    lambda h, n: h.update(more=dict(h[n])),
    lambda h, n: h.pop(n) and None,
]


@pytest.mark.parametrize("change", HEADERS, ids=range(len(HEADERS)))
def test_damaged_safetensors_headers_are_one_line(folder: Path, change: Callable[[dict[str, Any], str], Any]) -> None:
    header(folder / "model.safetensors", change)
    refused(folder)


@pytest.mark.parametrize("name", ["more", "model.embed_tokens.weight"])
def test_a_sparse_tensor_of_many_gigabytes_is_not_read(folder: Path, name: str) -> None:
    count = 20 * 10**9
    path = folder / "model.safetensors"
    size = path.stat().st_size

    def grow(found: dict[str, Any], _: str) -> None:
        end = max(entry["data_offsets"][1] for entry in found.values() if "data_offsets" in entry)
        found["more"] = {"dtype": "F32", "shape": [count // 4], "data_offsets": [end, end + count]}
        if name != "more":
            found["x"], found[name] = found[name], found.pop("more")

    header(path, grow)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + count)
    assert path.stat().st_size > size + count
    refused(folder, "they belong to different models|damaged")


def test_code_of_the_folder_is_never_run_and_never_asked_for(folder: Path, tmp_path: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'evil')!r}, 'w')\n")
    for changes in ({"auto_map": {"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.E"}, "model_type": "evil"},):
        put(folder / "config.json", **changes)
        put(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]}, tokenizer_class="T")
        refused(folder)
    assert not (tmp_path / "evil").exists()


def test_a_panic_of_a_library_is_an_error() -> None:
    class PanicException(BaseException):
        """As pyo3 raises it."""

    with pytest.raises(RuntimeError, match="index out of range"), loading._panics_are_errors():
        raise PanicException("index out of range")
