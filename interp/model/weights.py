"""The weight files of a checkpoint: which ones they are, whether they are whole, and the hash of what they hold.

Nothing here builds a model or imports torch; names, sizes, headers and bytes are enough.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import formats
from .gguf_header import check_gguf
from .reading import ModelError, check_file, check_texts, check_weights, first_line, named_in, read_json
from .sizes import Held, check_config, check_counts, elements

_CAUSAL = ("CausalLM", "LMHeadModel", "ForConditionalGeneration")
LARGEST_HEADER = 10**8  # bytes, as the safetensors library has it
# Bits of a number; of other types, which a later version may have, the library itself knows.
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16}
_BITS |= {"U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64}


@dataclass(frozen=True)
class Weights:
    kind: str  # "safetensors" | "gguf" | "pickle"
    files: tuple[Path, ...]


def folder_weights(folder: Path, allow_pickle: bool) -> Weights:
    """The weight files of a folder, after all checks that need only names, sizes and headers."""
    config = read_json(folder / "config.json", f"{folder} has no config.json; {_what_is_in(folder)}")
    if "model_type" not in config and (what := formats.what_it_is(folder)):
        raise ModelError(f"{folder}: {what}")  # trainers call their own settings config.json as well
    check_texts(folder)
    check_config(config, folder / "config.json")
    _check_causal(config, folder)
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = [folder / "model.safetensors"]
    elif index.is_file():
        files = _named_in(index)
    else:
        pickles = _pickles(folder)
        if pickles and allow_pickle:
            for file in pickles:
                check_weights(file, folder)
            found = Weights("pickle", tuple(pickles))
            check_counts(config, folder / "config.json", held(found, config))
            return found
        if pickles:
            raise ModelError(
                f"{folder} holds only pickled weights ({pickles[0].name}), which can run code when opened;"
                " save the model again with save_pretrained, or pass allow_pickle=True if you trust it"
            )
        raise ModelError(f"{folder} has a config.json but no model.safetensors; {_what_is_in(folder)}")
    for file in files:
        check_weights(file, folder)
    found = Weights("safetensors", tuple(files))
    check_counts(config, folder / "config.json", held(found, config))
    return found


def held(weights: Weights, config: Mapping[str, Any]) -> Held:
    """How much the weight files hold, by their headers. Raises ModelError for a damaged one."""
    size = sum(file.stat().st_size for file in weights.files)
    if weights.kind != "safetensors":
        return Held(size, size, size)
    headers = [safetensors_header(file)[0] for file in weights.files]
    packed = config.get("quantization_config") is not None
    return Held(sum(map(len, headers)), 8 * size if packed else elements(headers), size)


def _named_in(index: Path) -> list[Path]:
    """The files that an index of shards names, all of them there."""
    folder = index.parent
    names = sorted(set(named_in(index).values()))
    lacking = [name for name in names if not os.path.exists(folder / name)]
    if not lacking and names:
        return [folder / name for name in names]
    others = [name for name in formats.names_in(folder) if name != index.name]
    if len(lacking) == len(names) and (what := formats.described(others, folder)):
        raise ModelError(f"{folder}: none of the files that {index.name} names are there; {what}")
    more = f" and {len(lacking) - 1} more are" if len(lacking) > 1 else " is"
    first = folder / lacking[0] if lacking else f"a list of files in {index.name}"
    raise ModelError(f"{first}{more} missing though the index names it; copy or download what is missing")


def _pickles(folder: Path) -> list[Path]:
    single = folder / "pytorch_model.bin"
    return [single] if single.is_file() else sorted(folder.glob("pytorch_model-*-of-*.bin"))


def gguf_weights(path: Path) -> Weights:
    check_file(path)
    if what := formats.split_gguf((file.name for file in path.parent.glob("*.gguf")), path.parent, path.name):
        raise ModelError(f"{path}: {what}")
    missing = [package for package in ("gguf", "accelerate") if importlib.util.find_spec(package) is None]
    if missing:
        raise ModelError(f"{path.name}: reading GGUF needs {' and '.join(missing)}; pip install {' '.join(missing)}")
    _refuse_pointer(path)
    check_gguf(path)
    return Weights("gguf", (path,))


def _refuse_pointer(path: Path) -> None:
    """A clone without git-lfs holds a few lines of text in place of every large file."""
    with path.open("rb") as file:
        if file.read(24) == b"version https://git-lfs.":
            raise ModelError(f"{path} is a pointer of Git LFS, not the file itself; git -C {path.parent} lfs pull")


def _what_is_in(folder: Path) -> str:
    """The end of a message about a folder that is not what was expected."""
    ggufs = sorted(folder.glob("*.gguf"), key=lambda path: ("mmproj" in path.name, path.name))
    if ggufs and not formats.split_gguf([ggufs[0].name], folder):
        return f"to load the GGUF file in it, give {ggufs[0]}"
    if what := formats.what_it_is(folder):
        return what
    steps = sorted(entry.parent.name for entry in folder.glob("*/config.json"))
    if steps:
        return f"give one of the folders inside it, such as {folder / steps[-1]}"
    names = sorted(entry.name for entry in folder.iterdir())
    held = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "nothing"
    return f"give a folder written by save_pretrained (this one holds {held})"


def _check_causal(config: dict[str, Any], folder: Path) -> None:
    architectures = config.get("architectures") or []
    remote = "AutoModelForCausalLM" in (config.get("auto_map") or {})
    known = not architectures or remote or any(part in name for name in architectures for part in _CAUSAL)
    if known and not config.get("is_encoder_decoder"):
        return
    what = ", ".join(architectures) or config.get("model_type", "unknown")
    raise ModelError(
        f"{folder} is a {what}, not a causal language model; give a decoder-only one (LlamaForCausalLM, ...)"
    )


def safetensors_header(file: Path) -> tuple[dict[str, Any], int]:
    """name -> {dtype, shape, data_offsets} and where the data begins; the tensors fill the file, and no more."""
    again = "copy or download it again"
    try:
        check_file(file)
        _refuse_pointer(file)
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= size - 8:
                raise ModelError(f"{file} is cut short or no safetensors file ({size} bytes); {again}")
            if length > LARGEST_HEADER:
                raise ModelError(
                    f"{file} has a header of {length:,} bytes, of which {LARGEST_HEADER:,} are read; {again}"
                )
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        extents = [_extent(entry) for entry in header.values()]
    except FileNotFoundError as error:
        raise ModelError(f"{file} is missing though the index names it; {again}") from error
    except OSError as error:
        raise ModelError(f"{file} cannot be read ({first_line(error)}); check its permissions") from error
    except ModelError:
        raise
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise ModelError(f"{file} has a damaged safetensors header; {again}") from error
    ends = [extent for extent in extents if extent is not None]
    if len(ends) < len(extents):
        raise ModelError(f"{file} has a damaged safetensors header; {again}")
    expected = 8 + length + max((last for _, last in ends), default=0)
    if size != expected:
        raise ModelError(f"{file} is {size} bytes, its header promises {expected}: cut short or damaged; {again}")
    if sum(last - first for first, last in ends) != size - 8 - length:
        raise ModelError(f"{file} has a damaged safetensors header: tensors lie in each other, or apart; {again}")
    return header, 8 + length


def _extent(entry: dict[str, Any]) -> tuple[int, int] | None:
    """First and last byte of a tensor; None where its entry is not sound."""
    shape, (first, last) = entry["shape"], entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, first, last)) or last < first:
        return None
    bits = _BITS.get(entry["dtype"])
    return (first, last) if bits is None or math.prod(shape) * bits == 8 * (last - first) else None


def fingerprint(weights: Weights) -> str:
    """sha256 of the weights: tensors are hashed in parallel (hashlib releases the GIL), combined in name order."""
    if weights.kind == "gguf":
        return f"gguf:{_file_digest(weights.files[0]).hex()}"
    total = hashlib.sha256()
    if weights.kind == "pickle":
        for file in weights.files:
            total.update(_file_digest(file))
        return f"pickle:{total.hexdigest()}"
    with ExitStack() as stack:
        jobs: dict[str, Callable[[], bytes]] = {}
        for file in weights.files:
            header, start = safetensors_header(file)
            stream = stack.enter_context(file.open("rb"))
            data = memoryview(stack.enter_context(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)))
            stack.callback(data.release)
            for name, entry in header.items():
                first, last = entry["data_offsets"]
                label = f"{name}|{entry['dtype']}|{entry['shape']}|".encode()
                jobs[name] = functools.partial(_digest, label, data, start + first, start + last)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for digest in pool.map(lambda name: jobs[name](), sorted(jobs)):
                total.update(digest)
    return f"safetensors:{total.hexdigest()}"


def _file_digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _digest(label: bytes, data: memoryview, first: int, last: int) -> bytes:
    digest = hashlib.sha256(label)
    with data[first:last] as part:
        digest.update(part)
    return digest.digest()
