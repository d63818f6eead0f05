"""What is written into an HDF5 file: put together in memory, and for a file that is there in the gate's helper.

Scores and what stands beside them go to the helper as text: arrays in numpy's own format without pickle, the rest as
JSON.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

from ...errors import HeadscopeError
from ..ablation import Ablation, HeadSet
from ..finetuned import SftProbe
from ..perplexity import Perplexity
from ..results import CHANCE_COLUMNS, HeadScores
from ..tasks import Answers
from . import perplexities, schema
from .beside import KINDS, Beside
from .netcdf import LIBVER, create, create_bare, extend, row, write_row
from .schema import StoreError
from .structure import one_line


@contextmanager
def in_memory(path: Path, mode: str) -> Iterator[h5py.File]:
    """The HDF5 file at `path` ("r+"), or a new one ("w"), in memory; it is written there when the block ends well.

    The library itself is kept from writing: on a full disk it may crash the process, a training run for instance.
    """
    order = {"track_order": True} if mode == "w" else {}
    # Nobody else knows of the file, so it needs no lock of HDF5's.
    with h5py.File(path, mode, driver="core", backing_store=False, libver=LIBVER, locking=False, **order) as file:
        try:
            yield file
            file.flush()
            image = file.id.get_file_image()
        except (HeadscopeError, OSError):
            raise
        except Exception as error:  # what the file there holds is not to be added to
            told = one_line(error) or type(error).__name__
            raise StoreError(f"the file that is there takes no more: {told}; write to another file") from error
    path.write_bytes(image)


def add(file: h5py.File, scores: HeadScores, step: int, tokens: float, beside: Beside = Beside()) -> None:  # noqa: B008
    """One more checkpoint, the first of an empty file or one that fits into it."""
    if not len(file):
        create(file, scores)
    extend(file, [name for name in scores.estimators if name not in schema.estimators_of(file)])
    write_row(file, row(_with_chance_of(file, scores), step, tokens))
    for name, found in beside.there().items():
        KINDS[name].keeper.put(file, len(file["checkpoint"]) - 1, found)


def add_bare(file: h5py.File, perplexity: Perplexity, step: int, tokens: float) -> None:
    """One more checkpoint of a file of perplexities alone, the first of an empty one or one that fits into it."""
    if not len(file):
        create_bare(file, perplexity.model_id)
    write_row(file, {"checkpoint": step, "tokens_seen": tokens})
    perplexities.put(file, len(file["checkpoint"]) - 1, perplexity)


def _with_chance_of(file: h5py.File, scores: HeadScores) -> HeadScores:
    """The scores with the chance that the file knows: none in one of schema 1.0, which is continued as it is.

    It follows from the probes, and those are the same: scores from such a file may also be added to a newer one.
    """
    held = {name: file[f"probes/{name}"][:] for name in CHANCE_COLUMNS if name in file["probes"]}
    others = {name: values for name, values in scores.probes.items() if name not in CHANCE_COLUMNS}
    return replace(scores, probes=others | held)


def grow(path: Path, packed: str, step: int, tokens: float, beside: Mapping[str, str]) -> None:
    """One more checkpoint in the file that is there, with what it has beside its scores."""
    with in_memory(path, "r+") as file:
        more = {name: unpack(KINDS[name].of, found) for name, found in beside.items()}
        add(file, unpack(HeadScores, packed), step, tokens, Beside(**more))


def add_to(path: Path, name: str, packed: str, number: int) -> None:
    """What a checkpoint that is there has beside its scores: the one that has this number in the file."""
    with in_memory(path, "r+") as file:
        KINDS[name].keeper.put(file, number, unpack(KINDS[name].of, packed))


def grow_bare(path: Path, packed: str, step: int, tokens: float) -> None:
    """One more checkpoint in the file of perplexities alone that is there."""
    with in_memory(path, "r+") as file:
        add_bare(file, unpack(Perplexity, packed), step, tokens)


def shrink(path: Path, n: int) -> None:
    """The first n checkpoints only."""
    with in_memory(path, "r+") as file:
        for dataset in schema.datasets(file).values():
            if schema.along_checkpoints(dataset):
                dataset.resize(n, axis=0)


CHANGES: dict[str, Callable[..., None]] = {"grow": grow, "add_to": add_to, "grow_bare": grow_bare, "shrink": shrink}
"""What can be done to a file, by the name that the helper is told."""


Packed = TypeVar("Packed", HeadScores, Answers, Ablation, SftProbe, Perplexity)


# fields that are dictionaries of arrays
_TABLES = ("per_probe", "probes", "said", "measured", "before", "after", "cost")


def pack(found: HeadScores | Answers | Ablation | SftProbe | Perplexity) -> str:
    """`unpack` of it is the same, but for an answer's scores, which are packed by themselves."""
    arrays: dict[str, np.ndarray] = {}
    rest: dict[str, Any] = {}
    for field in fields(found):
        value = getattr(found, field.name)
        if field.name in _TABLES:
            rest[field.name] = {key: array.tolist() if array.dtype == object else None for key, array in value.items()}
            named = {f"{field.name}.{i}": array for i, array in enumerate(value.values())}
            arrays |= {name: array for name, array in named.items() if array.dtype != object}
        elif isinstance(value, np.ndarray):
            arrays[field.name] = value
        elif field.name == "sets":
            rest["sets"] = [[one.kind, one.k, one.draw, one.heads, one.score] for one in value]
        elif field.name != "scores":
            rest[field.name] = value
    image = BytesIO()
    np.savez(image, allow_pickle=False, rest=np.frombuffer(json.dumps(rest).encode(), np.uint8), **arrays)
    return b64encode(image.getvalue()).decode()


def unpack(kind: type[Packed], packed: str) -> Packed:
    """What `pack` was given."""
    with np.load(BytesIO(b64decode(packed)), allow_pickle=False) as arrays:
        given = json.loads(arrays["rest"].tobytes())
        for name in _TABLES:
            items = enumerate(given.get(name, {}).items())
            held = {
                key: arrays[f"{name}.{i}"] if texts is None else np.array(texts, object) for i, (key, texts) in items
            }
            given |= {name: held} if name in given else {}
        if "sets" in given:
            given["sets"] = [
                HeadSet(kind, k, draw, tuple((layer, head) for layer, head in heads), score)
                for kind, k, draw, heads, score in given["sets"]
            ]
        whole = {name: arrays[name] for name in arrays.files if name != "rest" and "." not in name}
        return kind(**given, **whole)
