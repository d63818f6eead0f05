"""What is not read: files that would crash the HDF5 library, lead elsewhere, or take memory and time without end."""

import os
import random
import signal
import subprocess
import sys
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

import headscope as hs
from benchmark_modules import benchmark
from headscope.errors import HeadscopeError
from headscope.interp.analysis import read_trajectory
from headscope.interp.report import evolve
from headscope.interp.store import (
    StoreError,
    append,
    gate,
    merge,
    open_hdf5,
    read_scores,
    set_aside,
    structure,
    validate,
    write_file,
)
from headscope.interp.store.partial import partial_file
from made_scores import assert_same, make_scores

cases, results_files = benchmark("fuzz.cases"), benchmark("fuzz.results_files")
canary, forks = benchmark("fuzz.canary"), benchmark("fuzz.forks")

REF = h5py.ref_dtype
HELPER = gate._Helper
Spoil = Callable[[h5py.File], object]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("written") / "run.h5"
    for step in (0, 1000):
        make_scores(step).save(path, checkpoint=step)
    return path.read_bytes()


@pytest.fixture(scope="module", autouse=True)
def small_helpers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Damage ends the helper, and every new one would import numpy and h5py again: these are forks of one that has."""
    if not hasattr(os, "fork"):
        yield
        return
    with closing(forks.Nursery(tmp_path_factory.mktemp("n") / "n", gate.serve)) as nursery:
        cases.SmallHelper.nursery = nursery
        with pytest.MonkeyPatch.context() as patch:
            gate._end()
            patch.setattr(gate, "_Helper", cases.SmallHelper)
            yield
            gate._end()


@pytest.fixture
def own_helper(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The helper as it is in use."""
    gate._end()
    monkeypatch.setattr(gate, "_Helper", HELPER)
    yield
    gate._end()


@pytest.fixture
def run(written: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "run.h5"
    path.write_bytes(written)
    return path


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> canary.Canaries:
    return canary.Canaries(tmp_path_factory.mktemp("outside") / "canaries")


def attribute(path: str, name: str, value: object, **options: object) -> Spoil:
    def spoil(file: h5py.File) -> None:
        file[path].attrs.pop(name, None)
        file[path].attrs.create(name, value, **options)

    return spoil


def instead(path: str, **options: object) -> Spoil:
    def spoil(file: h5py.File) -> None:
        file.pop(path, None)
        file.create_dataset(path, **options)

    return spoil


def put(path: str, value: object) -> Spoil:
    def spoil(file: h5py.File) -> None:
        file.pop(path, None)
        file[path] = value(file) if callable(value) else value

    return spoil


def deep(file: h5py.File) -> None:
    group = file
    for _ in range(30):
        group = group.create_group("g")


def of_unknown_filter(file: h5py.File) -> None:
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((4,))
    created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    h5py.h5d.create(file.id, b"more", h5py.h5t.NATIVE_FLOAT, h5py.h5s.create_simple((4,)), created)


def many_attributes(file: h5py.File) -> None:
    for number in range(structure.MOST_ATTRIBUTES + 1):
        file["wu_count"].attrs[f"a{number}"] = np.int8(0)


def long_text(file: h5py.File) -> None:
    file["probes/family"][0] = "\u2603" * 1_100_000


def one_long_text_of_many(file: h5py.File) -> None:
    file.create_dataset("texts", (2_000,), h5py.string_dtype())[0] = "x" * 500_000


def short_chunk(file: h5py.File) -> None:
    file["probes/retrieval"].id.write_direct_chunk((0, 0, 0, 0), with_checksum(zlib.compress(b"short")))


def short_chunk_of_no_filter(file: h5py.File) -> None:
    file["probes/retrieval"].id.write_direct_chunk((0, 0, 0, 0), b"short", 0b111)


def with_checksum(data: bytes) -> bytes:
    """Fletcher32 as HDF5 has it: of big-endian words of 16 bits, an odd byte last."""
    first = second = 0
    for at in range(0, len(data), 2):
        first = (first + int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")) % 65535
        second = (second + first) % 65535
    return data + (second << 16 | first).to_bytes(4, "little")


def no_text(file: h5py.File) -> None:
    file["provenance/device"][0] = b"\xff\xfe"


def scale_of_itself(file: h5py.File) -> None:
    one = np.empty(1, object)
    one[0] = np.array([file["head"].ref], REF)
    file["layer"].attrs.create("DIMENSION_LIST", one, dtype=h5py.vlen_dtype(REF))


def scale_that_is_none(file: h5py.File) -> None:
    lists = np.empty(3, object)
    lists[:] = [np.array([file[name].ref], REF) for name in ("checkpoint", "layer", "kv_head")]
    attribute("retrieval", "DIMENSION_LIST", lists, dtype=h5py.vlen_dtype(REF))(file)


def references(n: int) -> np.ndarray:
    found = np.empty(n, object)
    found[:] = [np.array([h5py.Reference()], REF)] * n
    return found


SPOILED: list[tuple[str, Spoil, str]] = [
    (
        "list of scales is text",
        attribute("retrieval", "DIMENSION_LIST", "x <script>"),
        "DIMENSION_LIST of retrieval is no",
    ),
    ("list of numbers", attribute("retrieval", "DIMENSION_LIST", np.arange(3)), "DIMENSION_LIST of retrieval is no"),
    (
        "list too short",
        attribute("retrieval", "DIMENSION_LIST", references(2), dtype=h5py.vlen_dtype(REF)),
        "is no list",
    ),
    (
        "empty references",
        attribute("retrieval", "DIMENSION_LIST", references(3), dtype=h5py.vlen_dtype(REF)),
        "axis 0 of",
    ),
    ("a scale that is none", scale_that_is_none, "axis 2 of retrieval has a dimension scale that is none"),
    ("a scale with scales", scale_of_itself, "layer is a dimension scale with dimension scales of its own"),
    ("users of a scale", attribute("layer", "REFERENCE_LIST", np.arange(4)), "REFERENCE_LIST of layer is no list"),
    ("class of another kind", attribute("layer", "CLASS", "DIMENSION_SCALE"), "CLASS of layer is no text of a fixed"),
    (
        "attribute of references",
        attribute("/", "more", references(2), dtype=h5py.vlen_dtype(REF)),
        "more of the file is",
    ),
    ("large attribute", attribute("wu_count", "more", np.zeros(60_000, "S20")), "more of wu_count declares 1.2 MB"),
    ("many attributes", many_attributes, "wu_count has more than 1,000 attributes"),
    (
        "soft link",
        put("provenance/dtype", h5py.SoftLink("/provenance/device")),
        "provenance/dtype is a link to another",
    ),
    ("link to nothing", put("more", h5py.SoftLink("/nowhere")), "more is a link to another place"),
    ("link to a file", put("more", h5py.ExternalLink("other.h5", "/x")), "more is a link to another place"),
    ("circle", put("probes/again", lambda file: file["/"]), "probes/again and / are one object under two names"),
    ("two names", put("more", lambda file: file["retrieval"]), "retrieval and more are one object under two names"),
    ("deep groups", deep, "groups lie within each other more than 8 deep"),
    (
        "huge, in chunks",
        instead("probes/nll", shape=(2, 2**31), dtype="f4", chunks=(1, 4096)),
        "probes/nll declares 17.2 GB",
    ),
    ("huge, in one piece", instead("retrieval", shape=(2**40,), dtype="f4"), "retrieval declares 4.4 TB in a file of"),
    ("huge chunk", instead("more", shape=(1,), maxshape=(None,), dtype="f8", chunks=(2**28,)), "more declares 2.1 GB"),
    ("references", instead("probes/seed", shape=(6,), dtype=REF), "probes/seed is of references, sequences or another"),
    ("sequences", instead("more", shape=(6,), dtype=h5py.vlen_dtype("f4")), "more is of references, sequences"),
    ("within others", instead("more", shape=(6,), dtype=[("a", REF), ("b", "f4")]), "more is of references, sequences"),
    ("no value", put("more", h5py.Empty("f4")), "more has no value at all"),
    (
        "lzf",
        instead("more", shape=(9,), dtype="f4", compression="lzf"),
        "more is compressed with lzf, which other readers",
    ),
    ("unknown filter", of_unknown_filter, "which other readers need a plugin for; use gzip"),
    ("escapes in a name", put("\x1b]0;title\x07\x9b31m", 1), r"has the name '\x1b]0;title\x07\x9b31m', which is not"),
    ("turned name", put("probes/\u202eevil", 1), r"has the name '\u202eevil', which is not plain text"),
    ("long name", put("x" * 300, 1), "which is not plain text of 1 to 255 letters"),
    ("long text", long_text, "probes/family holds a text of 1,100,000 letters; at most"),
    ("one long text of many", one_long_text_of_many, "texts declares 4.0 GB in a file of"),
    ("short chunk, plain", short_chunk_of_no_filter, "probes/retrieval has a part that gives other than the 288"),
    ("no UTF-8", no_text, "provenance/device holds a text that is not UTF-8"),
]


@pytest.mark.parametrize(("spoil", "words"), [each[1:] for each in SPOILED], ids=[each[0] for each in SPOILED])
def test_what_is_not_read_is_told_in_one_line(run: Path, spoil: Spoil, words: str) -> None:
    with h5py.File(run, "r+") as file:
        spoil(file)
    before = run.read_bytes()
    (line,) = validate(run)
    assert words in line and line.isprintable() and line.startswith(f"{run} is not read: ")
    with pytest.raises(StoreError, match="is not read"):
        append(run, make_scores(5000), 5000)
    assert run.read_bytes() == before


def test_a_chunk_that_gives_too_little_is_not_filled_up_from_memory(run: Path) -> None:
    """HDF5 hands out what lay there before. Adding a checkpoint does not read it, and leaves it as it is."""
    with h5py.File(run, "r+") as file:
        short_chunk(file)
    append(run, make_scores(5000), 5000)
    for read in (read_scores, evolve, lambda path: hs.open(path, group="probes")):
        with pytest.raises(StoreError, match="probes/retrieval has a part that gives other than the 288 bytes"):
            read(run)


@pytest.mark.parametrize("axis", [0, -1])
def test_a_dimension_is_as_long_as_its_longest_user_wherever_that_is(run: Path, axis: int) -> None:
    """xarray fills up all others to that, also those of the root for a variable in a group that is not opened."""
    with h5py.File(run, "r+") as file:
        file.create_dataset("more/long", (2**27,), "i1", maxshape=(None,), chunks=(4096,))
        file["more/long"].dims[0].attach_scale(file["checkpoint"])
        users = file["checkpoint"].attrs["REFERENCE_LIST"].astype([("dataset", REF), ("dimension", "i4")])
        users["dimension"][-1] = axis
        attribute("checkpoint", "REFERENCE_LIST", users)(file)
    for group in (None, "probes"):
        with pytest.raises(StoreError, match="declares .* in a file of"):
            hs.open(run, group=group)


def test_what_others_add_is_read_past(run: Path) -> None:
    with h5py.File(run, "r+") as file:
        file["table"] = np.zeros(3, [("a", "i4"), ("b", "S3"), ("c", "f8")])
        file["more/blob"] = np.void(b"bytes")
        file["more/empty"] = np.zeros((0, 3))
        file["probes"].attrs["more"] = ["a", "b"]
        file["more"].attrs["nothing"] = h5py.Empty("S1")
    assert_reads(run)
    append(run, make_scores(5000), 5000)
    assert any(line.startswith("more/empty has no dimension scale") for line in validate(run))


def assert_reads(path: Path) -> None:
    assert read_scores(path).n_probes == 6


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and devices")
def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "zero.h5").symlink_to("/dev/zero")
    (tmp_path / "loop.h5").symlink_to("loop.h5")
    for name in ("pipe.h5", "zero.h5", "loop.h5"):
        path = tmp_path / name
        for read in (validate, hs.open, hs.CopyProfile.load, open_hdf5, lambda path: append(path, make_scores(), 0)):
            try:
                found = read(path)
            except StoreError as error:
                found = [str(error)]
            assert len(found) == 1 and (name in found[0] or "/dev/zero" in found[0])


def test_a_path_that_is_too_long_is_told(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300)
    assert len(validate(path)) == 1
    for read in (
        hs.open,
        hs.CopyProfile.load,
        read_scores,
        hs.probes.ProbeSet.load,
        lambda p: merge([p], tmp_path / "m"),
    ):
        with pytest.raises(HeadscopeError):
            read(path)


OUTSIDE: dict[str, Callable[[h5py.File, canary.Canaries], object]] = {
    "external link": lambda file, c: put("provenance/dtype", h5py.ExternalLink(str(c.hdf5), "/text"))(file),
    "external link to a group": lambda file, c: put("more", h5py.ExternalLink(str(c.hdf5), "/"))(file),
    "relative link": lambda file, c: put(
        "more", h5py.ExternalLink(os.path.relpath(c.hdf5, Path(file.filename).parent), "/")
    )(file),
    "external storage": lambda file, c: instead(
        "probes/variant", shape=(6,), dtype="S64", external=[(str(c.text), 0, 384)]
    )(file),
    "external storage without end": lambda file, c: instead(
        "probes/depth", shape=(6,), dtype="f8", external=[(str(c.text), 0, h5py.h5f.UNLIMITED)]
    )(file),
    "virtual": lambda file, c: virtual(file, "provenance/model_id", c, (2,)),
    "virtual without end": lambda file, c: virtual(file, "checkpoint", c, (2,), maxshape=(None,)),
}


def virtual(file: h5py.File, path: str, canaries: canary.Canaries, shape: tuple[int, ...], **options: object) -> None:
    kind = h5py.string_dtype() if "provenance" in path else "f8"
    layout = h5py.VirtualLayout(shape, kind, **options)
    name = "text" if "provenance" in path else "numbers"
    layout[:] = h5py.VirtualSource(str(canaries.hdf5), name, shape)
    del file[path]
    file.create_virtual_dataset(path, layout)


@pytest.mark.parametrize("kind", OUTSIDE)
def test_no_file_outside_is_opened(run: Path, tmp_path: Path, canaries: canary.Canaries, kind: str) -> None:
    with h5py.File(run, "r+") as file:
        OUTSIDE[kind](file, canaries)
    canaries.touched()
    assert validate(run) != []
    readers: list[Callable[[Path], object]] = [
        hs.open,
        read_scores,
        read_trajectory,
        evolve,
        hs.CopyProfile.load,
        lambda path: merge([path], tmp_path / "m.h5"),
        lambda path: append(path, make_scores(5000), 5000),
        lambda path: set_aside(path, 0),
    ]
    for read in readers:
        try:
            found = read(run)
        except StoreError as error:
            assert "is not read" in str(error) or "no copy profile" in str(error)
        else:  # the root alone, where the link is in a group
            assert read is hs.open and canary.CONTENT.decode() not in str(found)
    assert canaries.touched() == []
    assert all(canary.CONTENT not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.usefixtures("own_helper")
def test_a_file_that_kills_the_helper_is_told_and_the_next_is_read(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    other.write_bytes(run.read_bytes())
    gate.start()
    helper = gate._helper
    assert helper is not None and helper.ready()
    helper._process.send_signal(signal.SIGSTOP)  # so that it is at the file, or before it, when it is killed
    threading.Timer(0.2, helper._process.send_signal, [signal.SIGSEGV]).start()
    threading.Timer(0.3, helper._process.send_signal, [signal.SIGCONT]).start()
    (line,) = validate(run)
    assert line.startswith(f"{run} is not read: it is damaged so that the HDF5 library crashes (SIGSEGV)")
    assert_reads(other)
    assert_reads(run)


@pytest.mark.skipif(os.name != "posix", reason="needs limits")
@pytest.mark.usefixtures("own_helper")
def test_the_helper_has_limits_of_time_and_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate._end()
    for limit, words in (("CPU_SECONDS = -1", "computes for more than"), ("MEMORY = 2**20", "is not read")):
        start = gate._START.replace(
            "from headscope", f"from headscope.interp.store import gate; gate.{limit}; from headscope"
        )
        with monkeypatch.context() as patch:
            patch.setattr(gate, "_START", start)
            assert words in validate(run)[0]
        gate._end()
    assert validate(run) == []


@pytest.mark.usefixtures("own_helper")
def test_a_helper_that_cannot_start_is_done_without(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate._end()
    monkeypatch.setattr(gate, "_START", "raise SystemExit(1)")
    gate._examined.clear()
    assert_reads(run)
    with h5py.File(run, "r+") as file:
        file["more"] = h5py.SoftLink("/")
    assert "more is a link to another place" in validate(run)[0]
    gate._end()


def test_a_file_is_examined_once_while_it_is_the_same(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = gate._ask
    monkeypatch.setattr(gate, "_ask", lambda *arguments: asked.append(arguments) or ask(*arguments))
    for _ in range(3):
        assert_reads(run)
        hs.open(run)
    assert [arguments[2] for arguments in asked] == ["values", "root"]
    append(run, make_scores(5000), 5000)
    hs.open(run)
    assert_reads(run)
    assert [arguments[2] for arguments in asked[2:]] == ["root", "values"]


def test_a_file_made_here_is_examined_once_its_bytes_are_others(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = gate._ask
    monkeypatch.setattr(gate, "_ask", lambda *arguments: asked.append(arguments[0]) or ask(*arguments))
    made = tmp_path / "made.h5"
    merge([run], made)
    asked.clear()
    assert_reads(made)
    assert asked == []
    gate._examined.clear()
    image, times = bytearray(made.read_bytes()), made.stat()
    image[-1] ^= 1
    made.write_bytes(image)  # of the same size in the same place, and with the same times
    os.utime(made, ns=(times.st_atime_ns, times.st_mtime_ns))
    validate(made)
    assert asked == [str(made)]


def test_a_child_has_a_helper_of_its_own(run: Path) -> None:
    gate.start()
    parents = gate._helper
    child = os.fork()
    if not child:
        gate._examined.clear()
        good = validate(run) == [] and gate._helper is not parents
        gate._end()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert gate._helper is parents and parents is not None and not parents.gone()


# What the schema does not have


MISFITS: list[tuple[Spoil, str]] = [
    (instead("probes/nll", shape=(2, 9), dtype="f4"), "probes/nll has 9 entries along probes/probe, which has 6"),
    (instead("retrieval", shape=(2, 3), dtype="f4"), "retrieval has 2 axes, not (checkpoint, layer, head)"),
    (instead("probes/length", shape=(6,), dtype="S4"), "probes/length does not hold integers"),
    (instead("probes/depth", shape=(6,), dtype="S4"), "probes/depth does not hold numbers"),
    (instead("provenance/json", shape=(2,), dtype="f4"), "provenance/json does not hold texts"),
    (instead("kv_head", shape=(2, 2), dtype="i4"), "kv_head has 2 axes, not (head)"),
]


@pytest.mark.parametrize(("spoil", "words"), MISFITS, ids=[words[:30] for _, words in MISFITS])
def test_variables_of_other_kinds_and_sizes_are_told(run: Path, tmp_path: Path, spoil: Spoil, words: str) -> None:
    with h5py.File(run, "r+") as file:
        spoil(file)
    for read in (read_scores, evolve, lambda path: merge([path], tmp_path / "m.h5")):
        with pytest.raises(StoreError) as told:
            read(run)
        assert words in str(told.value) and "validate" in str(told.value)


def test_infinite_scores_are_told(run: Path) -> None:
    with h5py.File(run, "r+") as file:
        file["probes/retrieval"][0, 0, 0, 0] = -np.inf
    with pytest.raises(StoreError, match="probes/retrieval holds infinite values"):
        evolve(run)


def test_what_cannot_grow_is_told_before_anything_is_written(run: Path) -> None:
    with h5py.File(run, "r+") as file:
        values, scales = file["probes/nll"][...], [dim[0] for dim in file["probes/nll"].dims]
        instead("probes/nll", data=values)(file)
        for dim, scale in zip(file["probes/nll"].dims, scales, strict=True):
            dim.attach_scale(scale)
    before = run.read_bytes()
    with pytest.raises(StoreError, match="probes/nll in .* cannot grow along checkpoint; write to another file"):
        append(run, make_scores(5000), 5000)
    assert run.read_bytes() == before


@pytest.mark.parametrize(
    "told",
    [
        "[]",
        "3",
        "null",
        "{",
        "[" * 10**5,
        '{"sweep": 3}',
        '{"sweep": {"run": 3}}',
        '{"sweep": {"stage": "a"}}',
        '{"x": "\\ud800"}',
    ],
)
def test_odd_provenance_is_told(run: Path, tmp_path: Path, told: str) -> None:
    with h5py.File(run, "r+") as file:
        file["provenance/json"][1] = told
    assert any("provenance/json" in line for line in validate(run))
    for read in (read_scores, evolve, lambda path: merge([path], tmp_path / "m.h5")):
        with pytest.raises(StoreError, match="damaged or incomplete: .*provenance/json"):
            read(run)


# Hostile files by the hundred: python -m benchmarks.fuzz


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_sample_of_hostile_files(tmp_path: Path, canaries: canary.Canaries) -> None:
    bases = results_files.bases(tmp_path / "bases")
    paths = [tmp_path / f"{number}.h5" for number in range(80)]

    def make() -> None:
        for number, path in enumerate(paths):
            rng = random.Random(number)
            base = rng.choice(bases)
            if number % 5:
                results_files.damage(path, base, rng)
            else:
                results_files.alter(path, base, rng, canaries)

    assert exit_code(make) == 0  # the library may crash where hostile files are made
    outcomes: Counter[str] = Counter()
    canaries.touched()
    for path in paths:
        try:
            read_scores(path)
            outcomes["read"] += 1
        except StoreError as error:
            outcomes["refused"] += 1
            assert str(error).isprintable()
    assert canaries.touched() == []
    assert min(outcomes["read"], outcomes["refused"]) > 12, outcomes


def hostile(number: int, folder: Path, canaries: canary.Canaries) -> Path:
    """The file of that case of `python -m benchmarks.fuzz --kind results --seed 2`."""
    folder.mkdir()
    base = random.Random(f"2/results/{number}/base").choice(results_files.bases(folder / "bases"))
    path = folder / base.name
    assert exit_code(lambda: results_files.make(path, base, random.Random(f"2/results/{number}"), canaries)) == 0
    return path


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_files_that_were_found_once(tmp_path: Path, canaries: canary.Canaries) -> None:
    """Whether they are taken or refused, in one line, is up to the HDF5 library's version."""
    grown = hostile(802, tmp_path / "802", canaries)  # crashed the library where a chunk was added
    content = grown.read_bytes()
    try:
        append(grown, results_files.made_scores(2**30), 2**30)
    except StoreError as error:
        assert str(error).isprintable() and grown.read_bytes() == content
    with suppress(StoreError):  # an add_offset of text, which xarray adds when values are read
        hs.open(hostile(2659, tmp_path / "2659", canaries), group="probes").load()
    with suppress(HeadscopeError):  # numbers of which some are no float
        assert len(evolve(hostile(677, tmp_path / "677", canaries)).levels)
    loop = tmp_path / "loop.h5"
    loop.symlink_to(loop)
    with pytest.raises(StoreError, match="does not exist"):
        merge([loop], tmp_path / "merged.h5")


def test_a_file_grows_in_the_helper_whose_end_is_one_line(run: Path) -> None:
    content = run.read_bytes()
    with pytest.raises(StoreError, match=r"takes no more: it is damaged so that the HDF5 library crashes"):
        gate.change(run, "what ends the helper")
    assert run.read_bytes() == content
    scores = make_scores(5000)
    append(run, scores, 5000)
    assert_same(read_scores(run), scores)


def exit_code(work: Callable[[], None]) -> int:
    """Of a child that does that work."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# Temporary files of killed writers

WRITER = """
import os, signal, sys
from headscope.interp.store import results_file
results_file.replace = lambda partial, target: os.kill(os.getpid(), signal.SIGKILL)
results_file.write_file(sys.argv[1], b"half")
"""


def test_what_a_killed_writer_left_is_cleared_by_the_next_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "heads.csv"
    killed = subprocess.run(
        [sys.executable, "-c", WRITER, str(target)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 1
    with partial_file(target) as at_work, partial_file(tmp_path / "heads.csv.more") as of_another:
        assert len(list(tmp_path.iterdir())) == 2
        write_file(target, b"whole")
        assert at_work.exists() and of_another.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["heads.csv"] and target.read_bytes() == b"whole"


def test_somebody_s_variable_with_one_dimension_twice_is_read_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    make_scores().save(path)
    with h5py.File(path, "r+") as file:
        probes = file["probes/probe"]
        n = len(probes)
        alike = file["probes"].create_dataset("likeness", data=np.eye(n, dtype=np.float32))
        for axis in (0, 1):
            alike.dims[axis].attach_scale(probes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert hs.open(path, group="probes")["likeness"].shape == (n, n)
