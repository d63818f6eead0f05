"""Ablations in the results file: written, read back, merged, kept by everything that rewrites a file, and checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import headscope as hs
from headscope.errors import StoreError
from headscope.interp.store import add_ablation, append, find_beside, merge, read_ablation, set_aside, validate
from headscope.interp.store.merging import refresh
from made_ablations import assert_same_ablation, make_ablation
from made_scores import with_chance

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copy(GOLDEN / "store-1.3.h5", tmp_path / "run.h5"))


def test_an_ablation_comes_back_and_only_where_there_is_one(run: Path) -> None:
    assert validate(run) == []
    assert_same_ablation(hs.Ablation.load(run), make_ablation(1000))
    assert find_beside(run, 0).ablation is None
    with pytest.raises(StoreError, match=r"no ablation of checkpoint 0; it has those of 1000"):
        read_ablation(run, 0)
    fewer = make_ablation(0)
    gone = [i for i, one in enumerate(fewer.sets) if (one.kind, one.draw) != ("mass_matched", 2)]
    fewer = make_ablation(
        0,
        sets=[fewer.sets[i] for i in gone],
        measured={name: values[gone] for name, values in fewer.measured.items()},
    )
    fewer.save(run)  # a control that this checkpoint does not have
    assert_same_ablation(read_ablation(run, 0), fewer)
    assert_same_ablation(read_ablation(run, 1000), make_ablation(1000))
    assert validate(run) == []


def test_the_only_one_gives_way_to_another_and_others_do_not(run: Path) -> None:
    other = make_ablation(1000, mode="mean", rows=("question", "answer"))
    add_ablation(run, other, 1000)
    assert_same_ablation(read_ablation(run), other)
    before = run.read_bytes()
    for misfit, words in (
        (make_ablation(0), "have mode 'mean', this one 'zero'"),
        (make_ablation(0, mode="mean", rows=other.rows, needles=3), "are measured on other probes"),
        (make_ablation(0, mode="mean", rows=other.rows, sets=[*other.sets[:-1], other.sets[0]]), "other sets of heads"),
    ):
        if words.startswith("other"):
            changed = [*other.sets[:-1], hs.Ablation.load(run).sets[1].__class__("one", 1, 7, ((0, 0),))]
            misfit = make_ablation(0, mode="mean", rows=other.rows, sets=changed)
        with pytest.raises(StoreError, match=words):
            add_ablation(run, misfit, 0)
    with pytest.raises(StoreError, match=r"no checkpoint 7, .* it has 0, 1000: score it first"):
        add_ablation(run, other, 7)
    assert run.read_bytes() == before


def test_a_file_from_before_takes_one_and_the_golden_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    shutil.copy(GOLDEN / "store-1.0.h5", path)
    with pytest.raises(StoreError, match="holds no ablation"):
        read_ablation(path)
    add_ablation(path, make_ablation(1000), 1000)
    assert validate(path) == []
    with h5py.File(path) as file:
        assert file.attrs["schema_version"] == b"1.3"
    assert_same_ablation(read_ablation(GOLDEN / "store-1.3.h5"), make_ablation(1000))


def test_xarray_and_netcdf_open_it(run: Path) -> None:
    found = hs.open(run, group="ablation")
    assert found.nll.dims == ("checkpoint", "set", "ablated")
    assert found.set_head.dims == ("checkpoint", "set", "slot")
    assert np.isnan(found.nll.sel(checkpoint=0)).all()
    assert found.kind.values[1] == "top"
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(run) as file:
        assert file["ablation/set_layer"][1, 1].tolist() == [1, -1]


def test_it_survives_append_merge_refresh_and_set_aside(run: Path, tmp_path: Path) -> None:
    append(run, with_chance(3000, n_probes=4, n_layers=2), 3000, ablation=make_ablation(3000))
    append(tmp_path / "later.h5", with_chance(4000, n_probes=4, n_layers=2), 4000, ablation=make_ablation(4000))
    merge([run, tmp_path / "later.h5"], run)
    assert find_beside(run, 0).ablation is None and validate(run) == []
    for step in (1000, 3000, 4000):
        assert_same_ablation(read_ablation(run, step), make_ablation(step))
    append(tmp_path / "other.h5", with_chance(5000, n_probes=4, n_layers=2), 5000, ablation=make_ablation(mode="mean"))
    with pytest.raises(StoreError, match=r"its ablation \(mode, rows, unit, probes, sets\) is mean, answer, head"):
        merge([run, tmp_path / "other.h5"], run)

    shards = [tmp_path / f"step-{step}.h5" for step in (0, 1000)]
    for step, shard in zip((0, 1000), shards, strict=True):
        append(shard, with_chance(step, n_probes=4, n_layers=2), step)
    refresh(shards[1:], tmp_path / "swept.h5")
    add_ablation(tmp_path / "swept.h5", make_ablation(1000), 1000)
    refresh(shards, tmp_path / "swept.h5")  # all of it is written anew: a checkpoint goes before
    assert_same_ablation(read_ablation(tmp_path / "swept.h5"), make_ablation(1000))

    apart = set_aside(run, 3000)
    assert_same_ablation(read_ablation(run), make_ablation(1000))
    assert_same_ablation(read_ablation(apart), make_ablation(4000))
    assert validate(run) == validate(apart) == []


def test_a_group_of_that_name_from_elsewhere_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    append(path, with_chance(0, n_probes=4, n_layers=2), 0)
    with h5py.File(path, "r+") as file:
        file.create_group("ablation")["mine"] = np.arange(3)
        file["ablation/mine"].make_scale("mine")
    assert validate(path) == [] and find_beside(path, 0).ablation is None
    with pytest.raises(StoreError, match="a group 'ablation' that is not headscope's"):
        add_ablation(path, make_ablation(0), 0)


SPOILED: list[tuple[str, Callable[[h5py.File], object], str]] = [
    ("nll", lambda f: f["ablation/nll"].__setitem__((1, 0, 0), -1), "ablation/nll has values outside 0 to inf"),
    ("match", lambda f: f["ablation/exact_match"].__setitem__((1, 0, 0), 2), "exact_match has values outside 0 to 1"),
    ("kind", lambda f: f["ablation/kind"].__setitem__(1, "best"), "ablation/kind holds 'best', which is none of"),
    ("none", lambda f: f["ablation/kind"].__setitem__(0, "top"), "does not begin with 'none'"),
    ("head", lambda f: f["ablation/set_head"].__setitem__((1, 1, 0), -1), "name other numbers of heads"),
    ("layer", lambda f: f["ablation/set_layer"].__setitem__((1, 1, 0), 9), "a head that the model does not have"),
    ("set", lambda f: f["ablation/set"].__setitem__(0, 5), "ablation/set does not count from 0"),
    ("gone", lambda f: f.__delitem__("ablation/depth"), "the variable ablation/depth is missing"),
    ("mode", lambda f: f["ablation"].attrs.__setitem__("mode", b"half"), "the mode of /ablation is 'half'"),
    ("json", lambda f: f["ablation/json"].__setitem__(1, "{"), "ablation: provenance/json is not JSON"),
]


@pytest.mark.parametrize(("spoil", "problem"), [case[1:] for case in SPOILED], ids=[case[0] for case in SPOILED])
def test_the_validator_names_what_is_wrong(run: Path, spoil: Callable[[h5py.File], object], problem: str) -> None:
    with h5py.File(run, "r+") as file:
        spoil(file)
    assert any(problem in found for found in validate(run)), validate(run)


@pytest.mark.parametrize("case", ["nll", "kind", "none", "head", "gone", "mode", "json"])
def test_what_is_none_is_not_shown(run: Path, case: str) -> None:
    with h5py.File(run, "r+") as file:
        next(spoil for name, spoil, _ in SPOILED if name == case)(file)
    with pytest.raises(StoreError):
        read_ablation(run)
