"""The header of a GGUF file, held against the file's size before the gguf package follows it: that one believes counts.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

from .reading import ModelError, check_file, first_line

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MOST_DIMENSIONS = 4
_DEEPEST = 4  # arrays of arrays
# Ends of the names of what decides how large the model is. Layers are bounded by the tensors, the others by the largest
# dimension of one of them.
_LAYERS = (".block_count", ".nextn_predict_layers")
_SIZES = (".embedding_length", ".feed_forward_length", ".vocab_size", ".head_count", ".head_count_kv", ".expert_count")


class _Damaged(Exception):
    """The text says what about the header is impossible."""


def check_gguf(path: Path) -> None:
    """Raise ModelError where the header of a GGUF file promises what the file does not hold."""
    try:
        size = check_file(path).st_size
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"{path} does not start like a GGUF file; download it again, or give the right file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _Walk(data, size).check()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({first_line(error)}); check its permissions") from error
    except (_Damaged, struct.error, OverflowError) as error:
        reason = str(error) if isinstance(error, _Damaged) else "it is cut short"
        raise ModelError(f"{path} could not be read as GGUF ({reason}); copy or download it again") from error


class _Walk:
    """Goes through the header as its counts say, and nowhere else."""

    def __init__(self, data: mmap.mmap, size: int):
        self.data, self.size, self.at = data, size, 4
        self.order = "<"
        self.found: dict[str, Any] = {}

    def check(self) -> None:
        version = self.number("I")
        if version & 0xFFFF == 0:
            self.order, version = ">", struct.unpack(">I", struct.pack("<I", version))[0]
        tensors, keys = self.number("Q"), self.number("Q")
        if tensors * 24 + keys * 12 > self.size:
            raise _Damaged(f"it promises {tensors:,} tensors and {keys:,} entries in {self.size:,} bytes")
        for _ in range(keys):
            name = self.text()
            self.found[name] = self.value(self.number("I"))
        shapes = [self.tensor() for _ in range(tensors)]
        alignment = self.found.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**16:
            raise _Damaged("its alignment is no size")
        start = -(-self.at // alignment) * alignment
        end = start + max((offset + size for _, offset, size in shapes), default=0)
        if shapes and end > self.size:
            raise _Damaged(f"it is {self.size:,} bytes, its header promises {end:,}: cut short")
        self.sizes([shape for shape, *_ in shapes])

    def sizes(self, shapes: list[tuple[int, ...]]) -> None:
        """The numbers that decide how large the model is, against the tensors."""
        largest = max((dimension for shape in shapes for dimension in shape), default=0)
        for name, value in self.found.items():
            most = len(shapes) if name.endswith(_LAYERS) else largest if name.endswith(_SIZES) else None
            if most is None:
                continue
            for each in value if isinstance(value, list) else [value]:
                if type(each) is not int or not 0 <= each <= max(most, 1000):
                    raise _Damaged(f"{name[:60]} is {str(each)[:40]}, and its tensors allow {most:,}")

    def tensor(self) -> tuple[tuple[int, ...], int, int]:
        """Shape, offset and size in bytes of the next tensor."""
        from gguf import GGML_QUANT_SIZES

        name, dimensions = self.text(), self.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise _Damaged(f"tensor {name[:60]} has {dimensions:,} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        kind, offset = self.number("I"), self.number("Q")
        count = 1
        for dimension in shape:
            count *= dimension
        block, size = _quant_sizes(GGML_QUANT_SIZES).get(kind, (0, 0))
        if not block:
            raise _Damaged(f"tensor {name[:60]} is of an unknown type, {kind}")
        return shape, offset, count // block * size

    def value(self, kind: int, depth: int = 0) -> Any:
        """The next value; of an array of numbers that are not sizes, nothing."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            if depth >= _DEEPEST:
                raise _Damaged("it has arrays in arrays in arrays")
            if inner in _SCALARS:
                at = self.at
                self.skip(count * struct.calcsize("=" + _SCALARS[inner]))
                if count > 2**16:
                    return None
                return list(struct.unpack_from(f"{self.order}{count}{_SCALARS[inner]}", self.data, at))
            if count * 8 > self.size:
                raise _Damaged(f"an array of {count:,} values in {self.size:,} bytes")
            for _ in range(count):
                if inner == _STRING:  # hundreds of thousands, of a vocabulary
                    self.skip(self.number("Q"))
                else:
                    self.value(inner, depth + 1)
            return None
        if kind not in _SCALARS:
            raise _Damaged(f"a value of the unknown type {kind}")
        return self.number(_SCALARS[kind])

    def text(self) -> str:
        length = self.number("Q")
        at = self.at
        self.skip(length)
        return self.data[at : self.at].decode(errors="replace")

    def number(self, kind: str) -> Any:
        at = self.at
        self.skip(struct.calcsize("=" + kind))
        return struct.unpack_from(self.order + kind, self.data, at)[0]

    def skip(self, count: int) -> None:
        if count > self.size - self.at:
            raise _Damaged("a value is larger than the file")
        self.at += count


def _quant_sizes(known: Any) -> dict[int, tuple[int, int]]:
    return {int(kind): sizes for kind, sizes in known.items()}
