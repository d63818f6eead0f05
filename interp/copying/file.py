"""The netCDF-4 file of a copy profile: one profile a file, written whole or not at all."""

from __future__ import annotations

import io
import json
from os import PathLike
from pathlib import Path

import h5py
import numpy as np

from ..store import COPY_PROFILE as NAME
from ..store import (
    LIBVER,
    StoreError,
    Variable,
    check_writable,
    create_variable,
    one_line,
    open_hdf5,
    set_attrs,
    target_path,
    text,
    write_file,
)
from .profile import COUNTS, HEADS, RATES, CopyProfile

VERSION = (1, 0)

_LONG_NAMES = {
    "rows": "rows counted: all but the last of the text; 0 where a layer has no attention",
    "self_rows": "rows whose argmax key is the row itself",
    "sink_rows": "rows whose argmax key is one of the first four positions",
    "copies": "rows whose argmax key, that far back, holds the next token",
    "echoes": "rows whose argmax key, that far back, holds the current token",
    "copy_possible": "rows that see the next token that far back",
    "echo_possible": "rows that see the current token that far back",
    "copies_by_position": "rows whose argmax key, before the row, holds the next token",
    "echoes_by_position": "rows whose argmax key, before the row, holds the current token",
    "copy_possible_by_position": "rows that see the next token before themselves",
    "echo_possible_by_position": "rows that see the current token before themselves",
    "copy_rate": "share of the rows that could copy the next token which do; NaN: none could",
    "echo_rate": "share of the rows that could echo the current token which do; NaN: none could",
    "self_rate": "share of rows whose argmax key is the row itself",
    "sink_rate": "share of rows whose argmax key is one of the first four positions",
}
_ONE = {"units": "1"}


def _attrs(name: str, dims: tuple[str, ...]) -> dict[str, str]:
    return {"long_name": _LONG_NAMES[name]} | _ONE | ({"coordinates": "kv_head"} if "head" in dims else {})


LAYOUT = [
    Variable("", "layer", ("layer",), "i4", {"long_name": "layer, counted from 0"} | _ONE),
    Variable("", "head", ("head",), "i4", {"long_name": "query head, counted from 0"} | _ONE),
    Variable("", "kv_head", ("head",), "i4", {"long_name": "key-value head that the query head reads"} | _ONE),
    Variable(
        "", "distance", ("distance",), "i4", {"long_name": "lowest distance of a bin, ending below its double"} | _ONE
    ),
    Variable("", "position", ("position",), "i4", {"long_name": "first row of a part of the text"} | _ONE),
    *(Variable("", name, dims, "i4", _attrs(name, dims)) for name, dims in COUNTS.items()),
    *(Variable("", name, HEADS, "f4", _attrs(name, HEADS)) for name in RATES),
]


def write(path: str | PathLike[str], profile: CopyProfile) -> None:
    """Write the file, in place of a profile that is there. Raises StoreError."""
    check_target(path)
    memory = io.BytesIO()
    with h5py.File(memory, "w", libver=LIBVER, track_order=True) as file:
        _fill(file, profile)
    write_file(path, memory.getvalue())


def check_target(path: str | PathLike[str]) -> None:
    """Raise StoreError when a profile cannot be written to `path`, or would take the place of something else."""
    check_writable(path, appends=False)
    target = target_path(path)
    if target.exists() and not _is_profile(target):
        raise StoreError(f"{path} is there and is no copy profile; choose another file, or delete it first")


def read(path: str | PathLike[str]) -> CopyProfile:
    """The profile in the file, exactly as it was written. Raises StoreError."""
    if not Path(path).exists():
        remedy = f"`headscope copy-profile MODEL --text FILE -o {path}` or profile.save() makes it"
        raise StoreError(f"{path} does not exist; {remedy}")
    if not _is_profile(Path(path)):
        raise StoreError(f"{path} is no copy profile (HDF5 with schema_name={NAME!r}); head scores open with hs.open()")
    try:
        with open_hdf5(Path(path)) as file:
            version = text(file, "schema_version")
            if int(version.split(".")[0]) > VERSION[0]:
                raise StoreError(f"{path} was written with schema {version}: upgrade with `pip install -U headscope`")
            return CopyProfile(
                model_id=text(file, "model_id"),
                n_tokens=_number(file, "n_tokens"),
                n_kv_heads=_number(file, "n_kv_heads"),
                text_hash=text(file, "text_hash"),
                **{name: file[name][:] for name in COUNTS},
                provenance=json.loads(text(file, "provenance")),
            )
    except StoreError:
        raise
    except Exception as error:  # whatever h5py and numpy make of damage
        told = one_line(error) or type(error).__name__
        raise StoreError(f"{path} is damaged or incomplete: {told}; make it again") from error


def _fill(file: h5py.File, profile: CopyProfile) -> None:
    from ... import __version__

    created = profile.provenance.get("created_at") or ""
    set_attrs(
        file,
        {
            "Conventions": "CF-1.11",
            "title": f"Copy profile of {profile.model_id} on a text of {profile.n_tokens} tokens",
            "history": f"{created} created by headscope {__version__}".strip(),
            "schema_name": NAME,
            "schema_version": ".".join(map(str, VERSION)),
            "model_id": profile.model_id,
            "n_tokens": np.int32(profile.n_tokens),
            "n_kv_heads": np.int32(profile.n_kv_heads),
            "text_hash": profile.text_hash,
            "creation_library": "headscope",
            "creation_library_version": __version__,
            "creation_library_language": "Python",
            "provenance": json.dumps(profile.provenance, ensure_ascii=False),
        },
    )
    dataset = profile.to_xarray()
    sizes = {str(name): size for name, size in dataset.sizes.items()}
    scales: dict[str, h5py.Dataset] = {}
    for variable in LAYOUT:
        item = create_variable(file, variable, sizes)
        if variable.dims == (variable.name,):
            item.make_scale(variable.name)
            scales[variable.name] = item
        else:
            for axis, name in enumerate(variable.dims):
                item.dims[axis].attach_scale(scales[name])
        item[...] = dataset[variable.name].values


def _is_profile(path: Path) -> bool:
    """Raises StoreError for HDF5 that cannot be read."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return "schema_name" in file.attrs and text(file, "schema_name") == NAME


def _number(file: h5py.File, name: str) -> int:
    return int(np.ravel(file.attrs[name])[0])
