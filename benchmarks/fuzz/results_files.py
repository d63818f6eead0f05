"""Hostile results files: what can be done to one with bytes and with h5py, and everything that reads one."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import headscope as hs
from headscope.interp.results import HeadScores
from headscope.interp.store import StoreError, append, gate, validate, write

from .bytes_of import MUTATORS, behind_checksums
from .canary import Canaries
from .cases import Action, SmallHelper

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"

Change = Callable[[h5py.File, random.Random, Canaries], None]

_LAYERS, _HEADS, _PROBES = 2, 2, 4
_OTHER = "other.h5"  # to be merged with


def made_scores(step: int, *, stages: bool = False, chance: bool = True) -> HeadScores:
    """Scores by arithmetic, small, as a results file holds them."""
    values = ((np.arange(_PROBES * _LAYERS * _HEADS) * 37 + step) % 101 / 101).astype(np.float32)
    detail = values.reshape(_PROBES, _LAYERS, _HEADS)
    detail[0, 1, 1] = np.nan
    order = np.arange(_PROBES)
    sweep = {"run": "ckpts", "checkpoint": f"step{step}", "dtype": "float32", "stamp": {}}
    told = {"stage": "long", "step_in_stage": step, "tokens_in_stage": step * 1e6}
    columns: dict[str, Any] = {
        "id": np.array([f"probe-{i}" for i in order]),
        "family": np.full(_PROBES, "sentence"),
        "variant": np.array(["", "ünï ✓"])[order % 2],
        "needle_id": np.array([f"needle-{i % 2}" for i in order]),
        **dict.fromkeys(("seed", "length", "distance", "interference", "n_answer"), 100 + order),
        "depth": order / _PROBES,
        "depth_nominal": order / _PROBES,
    }
    columns |= {"chance": np.full(_PROBES, 0.2), "chance_sd": np.full(_PROBES, 0.1)} if chance else {}
    return HeadScores(
        model_id="toy/model",
        n_layers=_LAYERS,
        n_heads=_HEADS,
        n_kv_heads=1,
        per_probe={"retrieval": detail, "wu_count": detail * 2},
        nll=values[:_PROBES],
        nll_novel=values[:_PROBES],
        nll_echo=np.full(_PROBES, np.nan, np.float32),
        nll_first=values[:_PROBES],
        exact_match=values[:_PROBES] < 0.5,
        probes=columns,
        probe_set_name="toy",
        probe_set_hash="ab" * 16,
        provenance={"device": "cpu", "versions": {"torch": "2"}, "sweep": sweep | (told if stages else {})},
    )


def bases(folder: Path) -> list[Path]:
    """Files to begin with: two checkpoints, the same of stages, of schema 1.0, and in HDF5's oldest format; one with
    answers, one with an ablation."""
    folder.mkdir()
    steps = (0, 1000)
    write(folder / "run.h5", [(step, step * 1e6, made_scores(step)) for step in steps])
    write(folder / "stages.h5", [(step, None, made_scores(step, stages=True)) for step in steps])
    write(folder / "older.h5", [(step, None, made_scores(step, chance=False)) for step in steps])
    with h5py.File(folder / "run.h5") as old, h5py.File(folder / "format.h5", "w", libver="earliest") as new:
        _copy(old, new)
    for version, name in (("1.2", "with-answers"), ("1.3", "with-ablation")):
        shutil.copy(GOLDEN / f"store-{version}.h5", folder / f"{name}.h5")
    write(folder.parent / _OTHER, [(9000, None, made_scores(9000))])
    return sorted(folder.glob("*.h5"))


def _copy(old: h5py.File, new: h5py.File) -> None:
    """The same content in another format of HDF5; a copy by the library keeps the old one's."""
    made = {}

    def visit(path: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            same = {"maxshape": item.maxshape, "chunks": item.chunks, "compression": item.compression}
            made[path] = new.create_dataset(path, data=item[()], dtype=item.dtype, **same)
            if item.is_scale:
                made[path].make_scale(path.rpartition("/")[2])
        else:
            new.create_group(path)
        for name, value in item.attrs.items():
            if name not in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME"):
                new[path].attrs[name] = value

    new.attrs.update(old.attrs)
    old.visititems(visit)
    for path, item in made.items():
        for axis, scales in enumerate(old[path].dims):
            for scale in scales.values():
                item.dims[axis].attach_scale(made[scale.name.lstrip("/")])


# Changes with h5py


def _variables(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda path, item: found.append(path) if isinstance(item, h5py.Dataset) else None)
    return found


def _one(file: h5py.File, rng: random.Random) -> str:
    return rng.choice(_variables(file))


_REF = h5py.ref_dtype
_DTYPES: tuple[Any, ...] = (
    *("i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "S1", "S10", "?", ">f8", ">i4"),
    *(h5py.string_dtype(), h5py.string_dtype("ascii"), h5py.string_dtype("utf-8", 7), _REF, h5py.regionref_dtype),
    *(h5py.vlen_dtype("i4"), h5py.vlen_dtype(h5py.vlen_dtype("f4")), h5py.enum_dtype({"a": 1, "b": 2}, basetype="i4")),
    *(h5py.opaque_dtype(np.dtype("datetime64[s]")), np.dtype([("a", "i4"), ("b", "f8")]), np.dtype(("f4", (3,)))),
    *(np.dtype([("r", _REF), ("t", h5py.string_dtype())]), np.dtype("V5")),
)
_SHAPES: tuple[tuple[int, ...], ...] = (
    (), (0,), (1,), (3,), (4,), (1000,), (3, 4), (3, 2, 2), (3, 4, 2, 2), (0, 4), (2, 2, 3), (3, 4, 2, 2, 1), (1,) * 20,
)  # fmt: skip


def _remake(file: h5py.File, path: str, shape: tuple[int, ...] | None, *, scales: bool = True, **options: Any) -> None:
    """A variable anew, with its scales where there is an axis for them."""
    old = file[path]
    axes = [] if old.is_scale else [axis[0] if len(axis) else None for axis in old.dims]
    shape, was_scale = old.shape if shape is None else shape, old.is_scale
    options.setdefault("dtype", old.dtype)
    del file[path]
    new = file.create_dataset(path, shape, **options)
    if was_scale and len(shape) == 1 and scales:
        new.make_scale(path.rpartition("/")[2])
    for axis, scale in enumerate(axes[: len(shape)] if scales else []):
        if scale is not None and scale.id.valid:
            new.dims[axis].attach_scale(scale)


def other_type(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    _remake(file, _one(file, rng), None, dtype=rng.choice(_DTYPES), scales=rng.random() < 0.7)


def other_shape(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    _remake(file, _one(file, rng), rng.choice(_SHAPES), scales=rng.random() < 0.7)


def other_both(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    for _ in range(rng.choice((1, 2, 5))):
        _remake(file, _one(file, rng), rng.choice(_SHAPES), dtype=rng.choice(_DTYPES))


def no_value(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    path = _one(file, rng)
    del file[path]
    file[path] = h5py.Empty(rng.choice(("f4", "i4", h5py.string_dtype())))


def missing(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    del file[rng.choice([*_variables(file), "probes", "provenance"])]


def group_there(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    path = _one(file, rng)
    del file[path]
    file.create_group(path)


def huge(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """Sizes that are declared and not there, in chunks, in one piece, or in all variables of an axis."""
    path, size = _one(file, rng), rng.choice((10**6, 10**8, 2**31, 2**40, 2**62))
    rank = max(1, file[path].ndim)
    shape = (1,) * (rank - 1) + (size,) if rng.random() < 0.5 else (size,) + (1,) * (rank - 1)
    chunks = rng.choice((None, (1,) * (rank - 1) + (4096,), tuple(min(n, 2**20) for n in shape)))
    chunks = chunks or (None if size <= 2**31 else (1,) * rank)  # in one piece the library itself would fail
    if rng.random() < 0.3:
        axis = rng.choice(("checkpoint", "layer", "head", "probes/probe"))
        for other in _variables(file):
            names = [scale.name.lstrip("/") for dim in file[other].dims for scale in dim.values()]
            if other == axis or axis in names:
                there = file[other].shape
                new = tuple(size if n == axis else m for n, m in zip(names or [axis], there, strict=True))
                _remake(file, other, new, chunks=tuple(min(n, 64) for n in new), scales=False)
        return
    _remake(file, path, shape, chunks=chunks, compression=rng.choice((None, "gzip")) if chunks else None)


def bomb(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """Zeros that gzip has made small."""
    path = rng.choice(("probes/retrieval", "probes/nll", "retrieval"))
    size = rng.choice((2**20, 2**24, 2**25))
    _remake(file, path, (1,) * (file[path].ndim - 1) + (size,), compression="gzip", chunks=None)
    file[path][...] = 0


def long_text(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    path = rng.choice([path for path in _variables(file) if h5py.check_string_dtype(file[path].dtype)])
    file[path][0] = rng.choice(("x", "\u2603", "[")) * rng.choice((10**4, 10**6, 10**7))


def odd_text(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    odd = ("\x1b]0;evil\x07", "\x9b31m", "\u202eevil", "a\nb", "\r", "<script>", "", " ", "../../x", "\u200b", "%s{0}")
    path = rng.choice([path for path in _variables(file) if h5py.check_string_dtype(file[path].dtype)])
    if rng.random() < 0.3:
        file[path][0] = b"\xff\xfe\x80"
    elif rng.random() < 0.5:
        name = rng.choice([*file.attrs, "title"])
        file.attrs[name] = rng.choice(odd)
    else:
        file[path][...] = rng.choice(odd)


def odd_json(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    odd: tuple[Any, ...] = (
        *("[]", "3", "null", '"text"', "", "{", "[" * 10**5, '{"a":' * 10**5, "NaN", '{"sweep": 3}', "1" * 5000),
        *('{"sweep": []}', '{"sweep": {"stage": 3}}', '{"sweep": {"run": null, "checkpoint": [1], "label": {}}}'),
        *('{"versions": 3, "device": [], "check_sharing": "x", "kernels": 7}', '{"created_at": {"a": 1}, "dtype": []}'),
        *(json.dumps({"k" * 200: ["v" * 1000] * 200}), '{"a": 1, "a": 2}', '{"\\u0000": "\\ud800"}', '{"x": 1e999}'),
    )
    text = rng.choice(odd)
    rows = range(len(file["checkpoint"])) if rng.random() < 0.5 else [0]
    for row in rows:
        file["provenance/json"][row] = text


def odd_numbers(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    for _ in range(rng.choice((1, 1, 3, 10))):
        item = file[rng.choice([path for path in _variables(file) if file[path].dtype.kind in "if"])]
        if item.dtype.kind == "i":
            value: float = rng.choice(
                (0, -1, 1, 2, 7, *(int(getattr(np.iinfo(item.dtype), end)) for end in ("min", "max")))
            )
        else:
            value = rng.choice((0.0, -0.0, -1.0, 2.0, 1e-45, 3e38, np.inf, -np.inf, np.nan))
        if rng.random() < 0.4 or not item.shape:
            item[...] = value
        else:
            item[tuple(rng.randrange(n) for n in item.shape)] = value


def other_count(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    count = rng.choice((0, 0, 1, 2, 4, 40))
    for path in _variables(file):
        item = file[path]
        grows = item.maxshape[:1] == (None,)
        if grows and rng.random() < rng.choice((1, 1, 0.9, 0.1)):
            item.resize(count, axis=0)


def attribute(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """An attribute of a name that matters, of a kind that it never has."""
    names = (
        *("DIMENSION_LIST", "DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME", "_FillValue", "units", "scale_factor"),
        *("add_offset", "coordinates", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_NCProperties", "calendar", "dtype"),
        *("missing_value", "flag_values", "ancillary_variables", "DIMENSION_LABELS", "_Unsigned", "valid_min"),
    )
    items = [file, *(file[path] for path in _variables(file)), file["probes"], file["provenance"]]
    for _ in range(rng.choice((1, 1, 2, 4))):
        item = rng.choice(items)
        name = rng.choice([*item.attrs, *names] if rng.random() < 0.5 else names)
        _set_attribute(file, item, name, rng)


def _set_attribute(file: h5py.File, item: Any, name: str, rng: random.Random) -> None:
    target = file[_one(file, rng)]
    vlen_ref, pair = h5py.vlen_dtype(_REF), np.dtype([("dataset", _REF), ("dimension", "i4")])
    one = np.empty(1, object)
    one[0] = np.array([target.ref], _REF)
    none = np.empty(rng.choice((1, 2, 3, 4)), object)
    none[:] = [np.array([h5py.Reference()] * rng.choice((1, 2)), _REF) for _ in none]
    back = np.array([(target.ref, rng.choice((0, 1, 99, -1)))] * rng.choice((1, 3)), pair)
    values: list[tuple[Any, dict[str, Any]]] = [
        *((value, {}) for value in ("text", "DIMENSION_SCALE", "", "days since 0000-99-99", "\x1b[2J", "a b c " * 100)),
        *((value, {}) for value in (0, -1, 2**63 - 1, 1e300, np.nan, np.arange(5), np.zeros((3, 3)), True)),
        *((value, {}) for value in (target.ref, file.ref, h5py.Empty("f4"), h5py.Empty("S1"), np.zeros(60000, "u1"))),
        *((value, {}) for value in (["a", "b"], [b"\xff\xfe"], np.bytes_(b"\xff"), np.zeros(0), [""])),
        *((one, {"dtype": vlen_ref}), (none, {"dtype": vlen_ref}), (back, {"dtype": pair})),
        (np.array([(target.ref, 1.5)], [("dataset", _REF), ("dimension", "f8")]), {}),
        (np.array([(1, 2)], [("dataset", "i8"), ("dimension", "i4")]), {}),
        (target.regionref[...] if target.shape and target.size else "x", {}),
        (np.array([1, 2], h5py.enum_dtype({"a": 1, "b": 2})), {}),
    ]
    value, options = rng.choice(values)
    if name in item.attrs:
        del item.attrs[name]
    item.attrs.create(name, value, **options)


def text_attribute(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """A root attribute with other words than it may have."""
    odd = (
        "",
        " ",
        "retrieval",
        "retrieval retrieval",
        "wu_count",
        "probes",
        ". ..",
        "/",
        "a" * 60000,
        "1",
        "-1.0",
        "x.y",
    )
    odd += ("99.0", "headscope-copy-profile", "provenance/json", "retrieval\x00x", "é", "nan", "1e400")
    name = rng.choice(
        ("estimators", "estimators", "schema_version", "schema_name", "n_kv_heads", "created_at", "model_id")
    )
    value: Any = rng.choice((*odd, 0, -3, 2**31, 1.5, np.nan, np.inf, np.arange(3)))
    file.attrs[name] = value


def links(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """Every kind of link, to the file itself, to nothing, and to files outside."""
    path = rng.choice([_one(file, rng), "probes", "provenance", "more", "probes/more"])
    if path in file:
        del file[path]
    file[path] = rng.choice(
        (
            h5py.SoftLink("/checkpoint"),
            h5py.SoftLink(f"/{path}"),
            h5py.SoftLink("/nowhere"),
            h5py.SoftLink("/"),
            h5py.ExternalLink(str(canaries.hdf5), "/text"),
            h5py.ExternalLink(str(canaries.hdf5), "/"),
            h5py.ExternalLink(os.path.relpath(canaries.hdf5), "/numbers"),
            h5py.ExternalLink("/dev/zero", "/"),
            h5py.ExternalLink(file.filename, "/"),
        )
    )


def cycles(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """Groups in themselves, one variable under two names, and groups in groups in groups."""
    kind = rng.randrange(4)
    if kind == 0:
        file["probes/again"] = file["/"]
    elif kind == 1:
        file["provenance/more"] = file["probes"]
    elif kind == 2:
        file["other"] = file[_one(file, rng)]
    else:
        group = file["/"]
        for _ in range(rng.choice((5, 100, 2000))):
            group = group.create_group("g")


def elsewhere(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """Values in other files: external storage and virtual datasets."""
    path = _one(file, rng)
    old = file[path]
    shape, dtype = old.shape, old.dtype
    del file[path]
    if rng.random() < 0.5:
        dtype = np.dtype("S64") if h5py.check_string_dtype(dtype) else dtype
        place = rng.choice((str(canaries.text), os.path.relpath(canaries.text), "/dev/zero", "/proc/self/environ"))
        file.create_dataset(path, shape, dtype, external=[(place, 0, h5py.h5f.UNLIMITED)])
        return
    source = rng.choice((str(canaries.hdf5), os.path.relpath(canaries.hdf5), ".", "canary-%b.h5"))
    name = "text" if h5py.check_string_dtype(dtype) else "numbers"
    layout = h5py.VirtualLayout(shape, dtype, maxshape=(None, *shape[1:]))
    layout[(slice(0, 1), *[slice(0, 1)] * (len(shape) - 1))] = h5py.VirtualSource(source, name, (1,) * len(shape))
    file.create_virtual_dataset(path, layout)


def names(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    odd = (
        "\x1b]0;title\x07",
        "\x9b31m",
        "a\nb",
        "\u202eevil",
        "\u200b",
        " ",
        "..",
        "x" * 300,
        "é",
        "<script>",
        "%n",
        "x" * 60000,
    )
    odd += ("retrieval ", "Retrieval", "checkpoint.", "{}", "\udcff")
    name, where = rng.choice(odd), rng.choice(("", "probes/", "provenance/"))
    with_scale = rng.random() < 0.5
    if rng.random() < 0.3:
        (file[where] if where else file).attrs[name] = 1
        return
    made = file.create_dataset(where + name, (len(file["checkpoint"]),), "f4", maxshape=(None,), chunks=(8,))
    if with_scale:
        made.dims[0].attach_scale(file["checkpoint"])


def filters(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """Filters that are not the schema's, and chunks that do not hold what they should."""
    path = rng.choice([path for path in _variables(file) if file[path].dtype.kind == "f" and file[path].ndim > 1])
    kind = rng.randrange(3)
    if kind == 0:
        values = file[path][...]
        _remake(file, path, None, **rng.choice(({"compression": "lzf"}, {"scaleoffset": 2}, {"compression": 1}, {})))
        file[path][...] = values
        return
    if kind == 1:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk(file[path].chunks or file[path].shape)
        created.set_filter(rng.choice((305, 32000, 32001, 32015, 40000)), h5py.h5z.FLAG_OPTIONAL, (1, 2))
        space, kind_of = file[path].id.get_space(), file[path].id.get_type()
        del file[path]
        h5py.h5d.create(file.id, path.encode(), kind_of, space, created)
        return
    item = file[path]
    if item.chunks and all(item.shape):
        raw = rng.choice((b"", b"x", rng.randbytes(100), bytes(10**6)))
        item.id.write_direct_chunk((0,) * item.ndim, raw, rng.choice((0, 1, 7, 0xFFFFFFFF)))


def many(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    if rng.random() < 0.5:
        for number in range(rng.choice((100, 1500))):
            file["retrieval"].attrs[f"a{number}"] = number
    else:
        for number in range(rng.choice((100, 500))):
            file.create_group(f"g{number}")


def shuffled(file: h5py.File, rng: random.Random, canaries: Canaries) -> None:
    """Variables under each other's names, and scales that are others'."""
    a, b = _one(file, rng), _one(file, rng)
    if a != b:
        file.move(a, "tmp")
        file.move(b, a)
        file.move("tmp", b)
    if rng.random() < 0.5:
        item = file[_one(file, rng)]
        scale = file[rng.choice(("checkpoint", "layer", "head", "probes/probe"))]
        if not item.is_scale and item.ndim:
            item.dims[rng.randrange(item.ndim)].attach_scale(scale)


CHANGES: tuple[Change, ...] = (
    *(other_type, other_shape, other_both, no_value, missing, group_there, huge, huge, bomb, long_text, odd_text),
    *(odd_json, odd_numbers, odd_numbers, other_count, attribute, attribute, attribute, text_attribute, links),
    *(cycles, elsewhere, names, filters, many, shuffled),
)


def no_file(path: Path, rng: random.Random, canaries: Canaries) -> str:
    """What is no file, or none of HDF5."""
    kind = rng.choice(("empty", "text", "noise", "signature", "pipe", "folder", "device", "loop", "nowhere", "canary"))
    if kind in ("empty", "text", "noise", "signature"):
        start = b"\x89HDF\r\n\x1a\n"
        made = {"empty": b"", "text": b"step,score\n", "noise": rng.randbytes(4096), "signature": start + bytes(2000)}
        path.write_bytes(made[kind])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        to = {"device": "/dev/zero", "loop": path.name, "nowhere": "/nowhere/x", "canary": "/proc/self/mem"}
        path.symlink_to(to[kind])
    return kind


def make(path: Path, base: Path, rng: random.Random, canaries: Canaries) -> str:
    """A hostile file at `path`; what was done."""
    kind = rng.random()
    if kind < 0.01:
        return "no file: " + no_file(path, rng, canaries)
    return damage(path, base, rng) if kind < 0.5 else alter(path, base, rng, canaries)


def damage(path: Path, base: Path, rng: random.Random) -> str:
    """Other bytes."""
    data = bytearray(base.read_bytes())
    change = behind_checksums if rng.random() < 0.3 else rng.choice(MUTATORS)
    change(data, rng)
    path.write_bytes(data)
    return f"bytes: {change.__name__}"


def alter(path: Path, base: Path, rng: random.Random, canaries: Canaries) -> str:
    """Another structure."""
    shutil.copy(base, path)
    done = rng.sample(CHANGES, rng.choice((1, 1, 1, 2)))
    for each in done:
        image = path.read_bytes()
        try:
            with h5py.File(path, "r+") as file:
                each(file, rng, canaries)
        except Exception:  # some changes exclude each other
            path.write_bytes(image)
    return "structure: " + done[0].__name__


# What reads a results file


@functools.cache
def _headscope() -> Any:
    """The command line, put together once."""
    import typer

    from headscope.cli import app

    return typer.main.get_command(app)


def _command(*arguments: object) -> None:
    _headscope()([str(argument) for argument in arguments], prog_name="headscope")


def _validate(path: Path, out: Path) -> None:
    _command("validate", path)


def _report(path: Path, out: Path) -> None:
    _command("report", path, "-o", out / "report.html")


def _export(path: Path, out: Path) -> None:
    _command("export", path, "--format", "csv", "-o", out / "heads.csv")


def _merge(path: Path, out: Path) -> None:
    other = path.parent.parent / _OTHER
    _command("merge", path, other, "-o", out / "merged.h5")


def _append(path: Path, out: Path) -> None:
    copy = out / "appended.h5"
    if path.is_file():
        with path.open("rb") as file:
            if path.stat().st_size:
                copy.write_bytes(file.read())
        readable = not any("not read" in line for line in validate(path))  # what append does not touch it does not mend
        append(copy, made_scores(2**30), 2**30)
        if readable and (problems := [line for line in validate(copy) if "not read" in line]):
            raise AssertionError(f"append has made a file that cannot be read: {problems}")
    else:
        append(path, made_scores(2**30), 2**30, timeout=0)


def _open(path: Path, out: Path) -> None:
    hs.open(path)


def _open_probes(path: Path, out: Path) -> None:
    scores = hs.open(path, group="probes")
    try:
        scores.load()
    except OSError as error:  # a part that is damaged is told where it is read, the others can be
        raise StoreError(f"{path}: {error}") from error
    finally:
        scores.close()


ACTIONS: dict[str, Action] = {
    "validate": _validate,
    "open": _open,
    "open probes": _open_probes,
    "export": _export,
    "merge": _merge,
    "append": _append,
    "report": _report,
}


def actions(number: int) -> dict[str, Action]:
    """Those of one case: all of them for every case would take four times as long."""
    first, *others = ACTIONS
    return {name: ACTIONS[name] for name in (first, others[number % len(others)])}


def prepare(path: Path, folder: Path) -> None:
    """Import what the actions need."""
    import contextlib

    gate._Helper = SmallHelper  # type: ignore[misc,assignment]
    for action in ACTIONS.values():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            action(path, folder)
    gate._end()
