"""Saved probe sets: what comes back, and what a broken file says."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from full_disk import room_for
from headscope.probes import Probe, ProbeError, ProbeSet, archive
from headscope.probes.errors import HashMismatch, ProbeFileError


@pytest.fixture
def probes() -> ProbeSet:
    def one(id: str, n: int) -> Probe:
        ids = [0, *range(10, 10 + n), 5, 12, 13, 11]
        return Probe.from_ids(ids, prompt_len=len(ids) - 3, needles=[(1, 5)], id=id, distractors=[(6, 7)])

    return ProbeSet((one("short", 8), one("long, with ünicode", 300)), "mine")


def test_what_is_saved_comes_back(probes: ProbeSet, tmp_path: Path) -> None:
    path = tmp_path / "mine.probes"  # the name is kept as it is: no suffix is added
    probes.save(path)
    loaded = ProbeSet.load(path)
    assert (loaded.hash, loaded.name) == (probes.hash, "mine")
    for old, new in zip(probes, loaded, strict=True):
        assert new.scalars() == old.scalars()
        np.testing.assert_array_equal(new.input_ids, old.input_ids)
        np.testing.assert_array_equal(new.sources, old.sources)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.probes"]


def test_nothing_in_the_file_is_pickled(probes: ProbeSet, tmp_path: Path) -> None:
    probes.save(tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert {name: file[name].dtype.kind for name in file} == {"manifest": "u", "input_ids": "i", "sources": "i"}


def test_a_failed_save_leaves_the_old_file(probes: ProbeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.npz"
    probes.save(path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(ProbeFileError, match="no space"):
        probes.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_every_truncation_is_noticed(probes: ProbeSet, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    probes.save(path)
    whole = path.read_bytes()
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:end])
        with pytest.raises(ProbeFileError, match="not a complete saved probe set"):
            ProbeSet.load(path)


def test_every_flipped_byte_is_noticed_or_harmless(probes: ProbeSet, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    probes.save(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        path.write_bytes(bytes(broken))
        with contextlib.suppress(ProbeError):
            assert ProbeSet.load(path).hash == probes.hash  # a date in the zip directory, for example


def rewrite(path: Path, change) -> None:  # noqa: ANN001
    with np.load(path) as file:
        arrays = {name: file[name] for name in file}
    manifest = json.loads(arrays["manifest"].tobytes())
    change(manifest, arrays)
    arrays["manifest"] = np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def test_altered_content_is_a_hash_mismatch(probes: ProbeSet, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    probes.save(path)

    def other_haystack(_: dict, arrays: dict) -> None:
        arrays["input_ids"][8] += 1

    rewrite(path, other_haystack)
    with pytest.raises(HashMismatch, match=probes.hash):
        ProbeSet.load(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda manifest, _: manifest.update(format="something else"), "not written by ProbeSet.save"),
        (lambda manifest, _: manifest.update(version=99), "format version 99"),
        (lambda manifest, _: manifest["probes"][0].pop("depth"), "valid probe set"),
        (lambda manifest, _: manifest["probes"][0].update(prompt_len=10_000), "prompt_len is 10000"),
        (lambda manifest, _: manifest["probes"][0].update(length=10_000), "shorter than its manifest"),
        (lambda manifest, _: manifest["probes"][0].update(sources_shape=[-1, 1]), "valid probe set"),
        (lambda manifest, _: manifest["probes"][0].update(spans=[["a"]]), "valid probe set"),
        (lambda manifest, _: manifest.update(probes=7), "valid probe set"),
    ],
)
def test_foreign_and_broken_manifests_are_named(probes: ProbeSet, tmp_path: Path, change, says: str) -> None:  # noqa: ANN001
    path = tmp_path / "p.npz"
    probes.save(path)
    rewrite(path, change)
    with pytest.raises(ProbeFileError, match=says):
        ProbeSet.load(path)


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProbeFileError, match="There is no probe set at"):
        ProbeSet.load(tmp_path / "nowhere.npz")
    (tmp_path / "text.npz").write_text("hello")
    np.save(tmp_path / "array.npy", np.arange(3))
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    np.savez(tmp_path / "pickled.npz", manifest=np.array([{"a": 1}], dtype=object))
    for name in ("text.npz", "array.npy", "other.npz", "pickled.npz"):
        with pytest.raises(ProbeFileError, match=name):
            ProbeSet.load(tmp_path / name)


def test_where_it_cannot_be_written_it_says_why_and_leaves_what_was_there(probes: ProbeSet, tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    probes.save(path)
    before = path.read_bytes()
    for size in (10, 200, 900, len(before) - 30):
        with room_for(size), pytest.raises(ProbeFileError, match=r"cannot write .*mine\.npz: File too large"):
            probes.save(path)
    with pytest.raises(ProbeFileError, match="is a folder"):
        probes.save(tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def npy(dtype: str, shape: str, data: bytes, version: int = 1) -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text + data


def repack(path: Path, change, kind: int = zipfile.ZIP_DEFLATED) -> None:  # noqa: ANN001
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w", kind) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in change(members):
            new.writestr(name, content)


def with_array(name: str, content: bytes):  # noqa: ANN201
    return lambda members: [(each, content if each == f"{name}.npy" else old) for each, old in members]


@pytest.mark.parametrize(
    "change",
    [
        *(lambda members, n=name: [(n, members[0][1]), *members[1:]] for name in ("../manifest.npy", "/manifest.npy")),
        *(lambda members, n=name: [*members, (n, b"x")] for name in ("more.npy", "../x", "\x1b[2J.npy", "a/" * 500)),
        lambda members: [*members, members[0]],
        lambda members: members[:2],
        *(with_array("input_ids", npy("'<i4'", shape, bytes(40))) for shape in ("(10**12,)", "(-1,)", "(2, 5)", "()")),
        *(
            with_array("input_ids", npy("'<i4'", shape, bytes(40)))
            for shape in ("(5,)", "(10000000000,)", "('x',)", "3")
        ),
        *(
            with_array("sources", npy(dtype, "(10,)", bytes(40)))
            for dtype in ("'<f4'", "'>i4'", "'|V4'", "'|O'", "'<U1'")
        ),
        *(with_array("sources", npy(dtype, "(10,)", bytes(40))) for dtype in ("'<i8'", "'x'", "3", "[('a', '<i4')]")),
        with_array("manifest", npy("'|u1'", "(" + "1," * 10**5 + ")", b"", version=2)),
        with_array("manifest", npy("'|u1'", "(" * 3000 + ")" * 3000, b"", version=2)),
        *(with_array("manifest", content) for content in (b"", b"\x93NUMPY", b"x" * 200)),
        *(
            with_array("manifest", npy("'|u1'", f"({len(t)},)", t))
            for t in (b"[" * 10**5, b'{"a":' * 10**5, b"null", b"3")
        ),
    ],
)
def test_archives_of_other_makes_are_refused(probes: ProbeSet, tmp_path: Path, change) -> None:  # noqa: ANN001
    probes.save(tmp_path / "p.npz")
    repack(tmp_path / "p.npz", change)
    with pytest.raises(ProbeFileError) as caught:
        ProbeSet.load(tmp_path / "p.npz")
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(probes: ProbeSet, tmp_path: Path, kind: int) -> None:
    probes.save(tmp_path / "p.npz")
    repack(tmp_path / "p.npz", lambda members: members, kind)
    with pytest.raises(ProbeFileError, match="compressed as no"):
        ProbeSet.load(tmp_path / "p.npz")


@pytest.mark.parametrize("name", ["manifest", "input_ids", "sources"])
def test_a_bomb_is_refused_before_it_is_expanded(
    probes: ProbeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(archive, "FREE", 2**20)
    monkeypatch.setattr(archive, "MANIFEST_FREE", 2**20)
    path = tmp_path / "p.npz"
    probes.save(path)
    repack(path, with_array(name, npy("'<i4'", "(1000000,)", bytes(4 * 10**6))))
    tracemalloc.start()
    with pytest.raises(ProbeFileError, match=r"bytes expand to 4,0\d\d,\d\d\d, of which at most"):
        ProbeSet.load(path)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    # A directory that lies about the size: no more than it says is expanded.
    with zipfile.ZipFile(path) as held:
        size = held.getinfo(f"{name}.npy").file_size
    path.write_bytes(path.read_bytes().replace(size.to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(ProbeFileError, match="not a complete saved probe set"):
        ProbeSet.load(path)


def test_a_set_that_shrinks_like_a_bomb_is_saved_so_that_it_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "FREE", 0)
    ids = [0, *[7] * 20_000, 5, 12, 13, 7]
    same = ProbeSet([Probe.from_ids(ids, prompt_len=len(ids) - 1, needles=[(1, 5)], id=str(i)) for i in range(3)])
    same.save(tmp_path / "p.npz")
    assert ProbeSet.load(tmp_path / "p.npz").hash == same.hash


@pytest.mark.parametrize(
    "change",
    [
        *(lambda m, a, v=value: m.update(name=v) for value in (3, None, [])),
        *(lambda m, a, v=value: m.update(hash=v) for value in (3, None)),
        *(lambda m, a, v=value: m.update(probes=v) for value in ([], {}, None, [3], [[]], "x")),
        *(lambda m, a, v=value: m["probes"][0].update(length=v) for value in (-1, 1.5, None, "x", 2**70, True, [])),
        *(
            lambda m, a, v=value: m["probes"][0].update(sources_shape=v)
            for value in (3, [2**40, 2**40], [1.5, 1], [[]])
        ),
        *(lambda m, a, v=value: m["probes"][0].update(depth=v) for value in ("x", None, [], 1e999, "\x1b]0;a\x07")),
        *(
            lambda m, a, n=name: m["probes"][0].update({n: [3]})
            for name in ("id", "family", "token_class", "graft", "spans")
        ),
        lambda m, a: m["probes"][0].update(more=3),
        lambda m, a: a.update(input_ids=np.append(a["input_ids"], np.int32(3))),
    ],
)
def test_manifests_of_other_types_are_refused(probes: ProbeSet, tmp_path: Path, change) -> None:  # noqa: ANN001
    probes.save(tmp_path / "p.npz")
    rewrite(tmp_path / "p.npz", change)
    with pytest.raises(ProbeFileError) as caught:
        ProbeSet.load(tmp_path / "p.npz")
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
