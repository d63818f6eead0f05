"""Answers in the results file: written, read back, merged, kept by everything that rewrites a file, and checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import headscope as hs
from headscope.errors import StoreError
from headscope.interp.store import add_answers, append, find_beside, merge, read_answers, set_aside, validate
from headscope.interp.store.merging import refresh
from headscope.interp.tasks import Answers
from made_answers import assert_same_answers, make_answers, write_golden
from made_scores import with_chance

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_golden(tmp_path / "run.h5")
    return tmp_path / "run.h5"


def test_answers_come_back_and_only_where_there_are_some(run: Path) -> None:
    assert validate(run) == []
    assert_same_answers(read_answers(run), make_answers(1000))
    assert find_beside(run, 0).answers is None
    with pytest.raises(StoreError, match=r"no answers of checkpoint 0; it has those of 1000"):
        read_answers(run, 0)
    add_answers(run, make_answers(0), 0)
    assert_same_answers(read_answers(run, 0), make_answers(0))
    assert_same_answers(read_answers(run, 1000), make_answers(1000))
    assert validate(run) == []


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_file_from_before_takes_answers(tmp_path: Path, version: str) -> None:
    path = tmp_path / "old.h5"
    shutil.copy(GOLDEN / f"store-{version}.h5", path)
    with pytest.raises(StoreError, match="holds no answers"):
        read_answers(path)
    add_answers(path, make_answers(1000), 1000)
    assert validate(path) == []
    assert_same_answers(read_answers(path), make_answers(1000))
    with h5py.File(path) as file:
        assert file.attrs["schema_version"] == b"1.2"


def test_whatever_a_model_says_can_be_written(run: Path) -> None:
    odd = make_answers(0)
    odd.said["text"][0, :] = ["", "a\0b\ud800", "\u202e" * 3]
    add_answers(run, odd, 0)
    assert list(read_answers(run, 0).said["text"][0]) == ["", "a\ufffdb?", "\u202e" * 3]
    assert validate(run) == []


def test_xarray_and_netcdf_open_it(run: Path) -> None:
    found = hs.open(run, group="answers")
    assert found.text.dims == ("checkpoint", "item", "sample")
    assert found.text.sel(checkpoint=1000, item="item-0", sample=0).item() == make_answers(1000).text[0]
    assert found.text.sel(checkpoint=0, item="item-0", sample=0).item() == ""
    assert np.isnan(found.score.sel(checkpoint=0)).all()
    assert found.nll.dims == ("checkpoint", "item")
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(run) as file:
        assert file["answers/text"][1, 0, 0] == make_answers(1000).text[0]
        assert (file["answers/n_tokens"][0] == -1).all()


def test_they_survive_append_merge_refresh_and_set_aside(run: Path, tmp_path: Path) -> None:
    hs.merge(run, tmp_path / "merged.h5")
    append(run, with_chance(2000, n_probes=4, n_layers=2), 2000)
    append(run, with_chance(3000, n_probes=4, n_layers=2), 3000, answers=make_answers(3000))
    append(tmp_path / "later.h5", with_chance(4000, n_probes=4, n_layers=2), 4000, answers=make_answers(4000))
    merge([run, tmp_path / "later.h5"], run)
    assert find_beside(run, 2000).answers is None and validate(run) == []
    for step in (1000, 3000, 4000):
        assert_same_answers(read_answers(run, step), make_answers(step))
    assert_same_answers(read_answers(tmp_path / "merged.h5"), make_answers(1000))

    shard = tmp_path / "shard.h5"
    append(shard, with_chance(0, n_probes=4, n_layers=2), 0)
    refresh([shard], tmp_path / "refreshed.h5")
    add_answers(shard, make_answers(0), 0)
    refresh([shard], tmp_path / "refreshed.h5")
    assert_same_answers(read_answers(tmp_path / "refreshed.h5"), make_answers(0))

    apart = set_aside(run, 3000)
    assert_same_answers(read_answers(run), make_answers(1000))
    assert_same_answers(read_answers(apart), make_answers(4000))
    assert validate(run) == validate(apart) == []


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (lambda: make_answers(1, n_samples=0), r"its answers have samples=2, these samples=0"),
        (lambda: make_answers(1, probe_set_hash="0" * 32), r"to 'toy tasks' \(fedcba987654\), not to .*0000"),
    ],
)
def test_answers_that_do_not_fit_are_refused(run: Path, answers: Callable[[], Answers], message: str) -> None:
    before = run.read_bytes()
    scores = with_chance(2000, n_probes=4, n_layers=2)
    for put in (lambda: add_answers(run, answers(), 0), lambda: append(run, scores, 2000, answers=answers())):
        with pytest.raises(StoreError, match=message):
            put()
    append(run.with_name("other.h5"), scores, 2000, answers=answers())
    with pytest.raises(StoreError, match=r"its answers \(probes, samples\) are"):
        merge([run, run.with_name("other.h5")], run)
    assert run.read_bytes() == before
    with pytest.raises(StoreError, match=r"no checkpoint 7, .* it has 0, 1000: score it first"):
        add_answers(run, make_answers(7), 7)


def test_a_group_of_that_name_from_elsewhere_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    append(path, with_chance(0, n_probes=4, n_layers=2), 0)
    with h5py.File(path, "r+") as file:
        file.create_group("answers")["mine"] = np.arange(3)
        file["answers/mine"].make_scale("mine")
    assert validate(path) == [] and find_beside(path, 0).answers is None
    with pytest.raises(StoreError, match="a group 'answers' that is not headscope's"):
        add_answers(path, make_answers(0), 0)


SPOILED: list[tuple[str, Callable[[h5py.File], object], str]] = [
    ("score", lambda f: f["answers/score"].__setitem__((1, 0, 0), 1.5), "answers/score has values outside 0 to 1"),
    ("nan", lambda f: f["answers/score"].__setitem__((1, 0, 0), np.nan), "answers/score is NaN for an answer"),
    ("part", lambda f: f["answers/n_tokens"].__setitem__((1, 0, 0), -1), "1 of 12 answers are missing"),
    ("end", lambda f: f["answers/end"].__setitem__((1, 0, 0), 9), "answers/end has values that are none of eos"),
    ("rival", lambda f: f["answers/rival"].__setitem__((1, 0, 0), 2), "answers/rival names rivals that the item does"),
    ("golds", lambda f: f["answers/golds"].__setitem__(0, "7"), "answers/golds has '7' at item 0, which is no JSON"),
    ("sample", lambda f: f["answers/sample"].__setitem__(0, 5), "answers/sample does not count from 0 to 2"),
    ("gone", lambda f: f.__delitem__("answers/depth"), "the variable answers/depth is missing"),
    ("json", lambda f: f["answers/json"].__setitem__(1, "{"), "answers: provenance/json is not JSON"),
]


@pytest.mark.parametrize(("spoil", "problem"), [case[1:] for case in SPOILED], ids=[case[0] for case in SPOILED])
def test_the_validator_names_what_is_wrong(run: Path, spoil: Callable[[h5py.File], object], problem: str) -> None:
    with h5py.File(run, "r+") as file:
        spoil(file)
    assert any(problem in found for found in validate(run)), validate(run)


@pytest.mark.parametrize("case", ["golds", "rival", "end", "gone", "json"])
def test_what_is_none_is_not_shown(run: Path, case: str) -> None:
    with h5py.File(run, "r+") as file:
        next(spoil for name, spoil, _ in SPOILED if name == case)(file)
    with pytest.raises(StoreError):
        read_answers(run)
