"""What is written into an HDF5 file: put together in memory, and for a file that is there in the gate's helper.

Scores and what goes with them go to the helper as text: arrays in numpy's own format without pickle, the rest as JSON.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
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
from ..results import CHANCE_COLUMNS, HeadScores
from ..tasks import Answers
from . import ablations, schema, sft_probes
from .answers import put
from .netcdf import LIBVER, create, extend, row, write_row
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


def add(
    file: h5py.File,
    scores: HeadScores,
    step: int,
    tokens: float,
    answers: Answers | None = None,
    ablation: Ablation | None = None,
    sft: SftProbe | None = None,
) -> None:
    """One more checkpoint, the first of an empty file or one that fits into it."""
    if not len(file):
        create(file, scores)
    extend(file, [name for name in scores.estimators if name not in schema.estimators_of(file)])
    write_row(file, row(_with_chance_of(file, scores), step, tokens))
    if answers is not None:
        put(file, len(file["checkpoint"]) - 1, answers)
    if ablation is not None:
        ablations.put(file, len(file["checkpoint"]) - 1, ablation)
    if sft is not None:
        sft_probes.put(file, len(file["checkpoint"]) - 1, sft)


def _with_chance_of(file: h5py.File, scores: HeadScores) -> HeadScores:
    """The scores with the chance that the file knows: none in one of schema 1.0, which is continued as it is.

    It follows from the probes, and those are the same: scores from such a file may also be added to a newer one.
    """
    held = {name: file[f"probes/{name}"][:] for name in CHANCE_COLUMNS if name in file["probes"]}
    others = {name: values for name, values in scores.probes.items() if name not in CHANCE_COLUMNS}
    return replace(scores, probes=others | held)


def grow(
    path: Path, packed: str, step: int, tokens: float, answers: str | None, ablation: str | None, sft: str | None
) -> None:
    """One more checkpoint in the file that is there, with its answers, ablation and SFT probe where it has them."""
    with in_memory(path, "r+") as file:
        said = None if answers is None else unpack(Answers, answers)
        changed = None if ablation is None else unpack(Ablation, ablation)
        tuned = None if sft is None else unpack(SftProbe, sft)
        add(file, unpack(HeadScores, packed), step, tokens, said, changed, tuned)


def answer(path: Path, packed: str, number: int) -> None:
    """Answers of a checkpoint that is there, the one that has this number in the file."""
    with in_memory(path, "r+") as file:
        put(file, number, unpack(Answers, packed))


def ablate(path: Path, packed: str, number: int) -> None:
    """The ablation of a checkpoint that is there, the one that has this number in the file."""
    with in_memory(path, "r+") as file:
        ablations.put(file, number, unpack(Ablation, packed))


def finetune(path: Path, packed: str, number: int) -> None:
    """The SFT probe of a checkpoint that is there, the one that has this number in the file."""
    with in_memory(path, "r+") as file:
        sft_probes.put(file, number, unpack(SftProbe, packed))


def shrink(path: Path, n: int) -> None:
    """The first n checkpoints only."""
    with in_memory(path, "r+") as file:
        for dataset in schema.datasets(file).values():
            if schema.along_checkpoints(dataset):
                dataset.resize(n, axis=0)


CHANGES: dict[str, Callable[..., None]] = {
    "grow": grow, "answer": answer, "ablate": ablate, "finetune": finetune, "shrink": shrink,
}  # fmt: skip
"""What can be done to a file, by the name that the helper is told."""


Packed = TypeVar("Packed", HeadScores, Answers, Ablation, SftProbe)


# fields that are dictionaries of arrays
_TABLES = ("per_probe", "probes", "said", "measured", "before", "after", "cost")


def pack(found: HeadScores | Answers | Ablation | SftProbe) -> str:
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
