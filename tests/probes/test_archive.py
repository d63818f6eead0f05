"""Saved probe sets: what comes back, and what a broken file says."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from full_disk import room_for
from headscope.probes import Probe, ProbeError, ProbeSet
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
