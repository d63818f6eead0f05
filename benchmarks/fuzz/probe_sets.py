"""Hostile probe sets (.npz): damaged archives, odd arrays and manifests, and everything that reads a set."""

from __future__ import annotations

import functools
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

import headscope as hs

from .bytes_of import MUTATORS
from .canary import Canaries
from .cases import Action
from .results_files import no_file


@functools.cache
def tokenizer() -> Any:
    """A byte-level tokenizer that can write any text, trained in a moment."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet: Any = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    bpe.train_from_iterator([__doc__ or ""], trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>"], **alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>")


def bases(folder: Path) -> list[Path]:
    folder.mkdir()
    hs.probes.build("grid", tokenizer(), lengths=[384], depths=2, needles=1, seed=0).save(folder / "probes.npz")
    return [folder / "probes.npz"]


def _read(base: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(base) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(arrays.pop("manifest").tobytes()), arrays


def _write(path: Path, manifest: Any, arrays: dict[str, Any]) -> None:
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    np.savez_compressed(path, manifest=np.frombuffer(text, np.uint8), **arrays)


_VALUES: tuple[Any, ...] = (
    *(None, 0, -1, 2**31, 2**70, 1.5, 1e308, "", "x", "\x1b]0;evil\x07", "\u202eevil", "a" * 10**6, [], [[]], {}, True),
    *([1, 2], [[0, 1, "needle"]], [[0, 10**9, "needle", 0]], ["novel"] * 10**5, "../../x", {"a": {"b": []}}, "\ud800"),
)


def odd_manifest(path: Path, base: Path, rng: random.Random) -> None:
    manifest, arrays = _read(base)
    where: Any = manifest if rng.random() < 0.3 else rng.choice(manifest["probes"])
    name = rng.choice([*where, "more"])
    if rng.random() < 0.2:
        where.pop(name, None)
    else:
        where[name] = rng.choice(_VALUES)
    _write(path, manifest, arrays)


def odd_json(path: Path, base: Path, rng: random.Random) -> None:
    manifest, arrays = _read(base)
    text = json.dumps(manifest).encode()
    odd = (
        b"",
        b"3",
        b"null",
        b"[" * 10**6,
        b'{"probes":' * 10**5,
        b"\xff\xfe",
        text[:-5],
        text + text,
        b" " * 10**8 + text,
    )
    _write(path, rng.choice(odd), arrays)


def odd_arrays(path: Path, base: Path, rng: random.Random) -> None:
    manifest, arrays = _read(base)
    name = rng.choice((*arrays, "more"))
    there = arrays.get("input_ids")
    odd: tuple[Any, ...] = (
        *(np.zeros(0, "<i4"), np.zeros((2, 2), "<i4"), np.array(3), np.zeros(5, "U3"), np.zeros(5, complex)),
        *(np.zeros(5, [("a", "i4")]), there.astype("f8") + 0.5, -there, there.astype("i8") + 2**40, there.astype("S4")),
        *(np.array([{"a": 1}], object), np.array([None] * 3, object), there[:-1], np.tile(there, 50), there.view("V4")),
    )
    if rng.random() < 0.1:
        arrays.pop(name, None)
    else:
        arrays[name] = rng.choice(odd)
    _write(path, manifest, arrays)


def _header(shape: str, dtype: str = "<i4", version: int = 1) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


def archive(path: Path, base: Path, rng: random.Random) -> None:
    """What a zip file can be beside what numpy writes: a bomb, sizes that are not there, other paths, doubles."""
    with zipfile.ZipFile(base) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    at = rng.randrange(len(members))
    name, content = members[at]
    shapes = ("(1000000000000,)", "(-1,)", "(2,) * 3", "(0,)", "(1" + ",1" * 500 + ")", "(5000000000,)", "('x',)", "()")
    change = rng.choice(
        ("bomb", "bomb", "declared", "declared", "path", "double", "raw", "dtype", "long header", "nested")
    )
    if change == "bomb":
        size = rng.choice((10**8, 2 * 10**9))
        members[at] = (name, b"")
    elif change == "declared":
        members[at] = (name, _header(rng.choice(shapes)) + content[128:])
    elif change == "path":
        members[at] = (
            rng.choice(("../" + name, "/" + name, "C:\\" + name, "\x1b[2J.npy", name[:-4], "a/" * 2000 + name)),
            content,
        )
    elif change == "double":
        members.append(members[at])
    elif change == "raw":
        members[at] = (name, rng.choice((b"", b"x", b"\x93NUMPY", rng.randbytes(300), content[:200])))
    elif change == "dtype":
        members[at] = (
            name,
            _header("(10,)", rng.choice(("|O", "<U1000000000", "|V0", "|S99999999", "x", "<i4,<i4"))) + content[128:],
        )
    elif change == "long header":
        members[at] = (name, _header("(" + "1," * 10**5 + ")", version=2) + content[128:])
    else:
        members[at] = (name, _header("(" * 5000 + ")" * 5000, version=2) + content[128:])
    kind = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if change == "bomb" else kind, compresslevel=1) as new:
        for member, data in members:
            if change == "bomb" and member == name and not data:
                with new.open(name, "w", force_zip64=True) as file:
                    file.write(_header(f"({size // 4},)"))
                    for _ in range(size // 10**7):
                        file.write(bytes(10**7))
            else:
                new.writestr(member, data)


CHANGES = (odd_manifest, odd_manifest, odd_json, odd_arrays, archive, archive)


def make(path: Path, base: Path, rng: random.Random, canaries: Canaries) -> str:
    kind = rng.random()
    if kind < 0.02:
        return "no file: " + no_file(path, rng, canaries)
    if kind < 0.5:
        data, change = bytearray(base.read_bytes()), rng.choice(MUTATORS)
        change(data, rng)
        path.write_bytes(data)
        return f"bytes: {change.__name__}"
    altered = rng.choice(CHANGES)
    altered(path, base, rng)
    return f"structure: {altered.__name__}"


def _load(path: Path, out: Path) -> None:
    hs.probes.ProbeSet.load(path).save(out / "again.npz")


def _verify(path: Path, out: Path) -> None:
    hs.probes.ProbeSet.load(path).verify(tokenizer())


def _show(path: Path, out: Path) -> None:
    from headscope.probes import show

    probes = hs.probes.ProbeSet.load(path)
    probes.summary()
    for probe in probes:
        show(probe, tokenizer())


ACTIONS: dict[str, Action] = {"load": _load, "verify": _verify, "show": _show}
IN_TURN = False


def prepare(path: Path, folder: Path) -> None:
    """Import what the actions need."""
    for action in ACTIONS.values():
        action(path, folder)
