"""A file whose checkpoints were measured with other estimators: NaN where one was not, never 0, and nothing lost."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import headscope as hs
from headscope.interp.store import StoreError, datasets, validate
from headscope.interp.store.schema import dims
from headscope.interp.sweep.same import differences
from made_scores import assert_same, make_scores

MEASURED = {0: ("retrieval", "wu_count"), 10: ("retrieval",), 20: ("retrieval", "depth_first", "wu_count")}
ALL = ("retrieval", "wu_count", "depth_first")


@pytest.fixture(scope="module")
def scores() -> dict[int, hs.HeadScores]:
    return {step: make_scores(step, estimators=names) for step, names in MEASURED.items()}


@pytest.fixture
def run(scores: dict[int, hs.HeadScores], tmp_path: Path) -> Path:
    for step, each in scores.items():
        each.save(tmp_path / "run.h5", checkpoint=step)
    return tmp_path / "run.h5"


@pytest.mark.filterwarnings("error")
def test_what_was_not_measured_is_nan(run: Path, scores: dict[int, hs.HeadScores]) -> None:
    assert validate(run) == []
    with hs.open(run, group="probes") as detail:
        maps = hs.open(run)
        assert maps.attrs["estimators"].split() == list(ALL)
        for step, names in MEASURED.items():
            back = hs.read_scores(run, step)
            assert back.estimators == ALL
            for name in ALL:
                for values in (maps[name], maps[f"{name}_stderr"], detail[name]):
                    assert values.dtype == np.float32
                    assert name in names or np.isnan(values.sel(checkpoint=step)).all()
                if name in names:
                    np.testing.assert_array_equal(maps[name].sel(checkpoint=step), scores[step][name])
                    np.testing.assert_array_equal(detail[name].sel(checkpoint=step), scores[step].per_probe[name])
            assert_same(replace(back, per_probe={name: back.per_probe[name] for name in names}), scores[step])
        assert {"depth", "length"} <= set(detail["depth_first"].coords)


def test_a_new_estimator_gets_what_one_from_the_start_has(run: Path, tmp_path: Path) -> None:
    make_scores(0, estimators=ALL).save(tmp_path / "whole.h5", checkpoint=0)
    with h5py.File(run) as mixed, h5py.File(tmp_path / "whole.h5") as whole:
        wanted = datasets(whole)
        for path, item in datasets(mixed).items():
            assert dims(item) == dims(wanted[path]) and item.chunks == wanted[path].chunks, path
            for name in (name for name in item.attrs if not name.endswith("_LIST")):
                np.testing.assert_array_equal(item.attrs[name], wanted[path].attrs[name], err_msg=f"{path} {name}")


def test_merged_in_any_way_it_is_the_same_file(run: Path, scores: dict[int, hs.HeadScores], tmp_path: Path) -> None:
    files = []
    for step, each in reversed(scores.items()):
        files.append(tmp_path / f"{step}.h5")
        each.save(files[-1], checkpoint=step)
    hs.merge(files, tmp_path / "merged.h5")
    assert differences(tmp_path / "merged.h5", run) == []
    hs.merge([tmp_path / "merged.h5"], tmp_path / "again.h5")
    # a file is read with the estimators that it has, in their order
    assert differences(tmp_path / "again.h5", run) == []


def test_netcdf4_reads_it_and_goes_on(run: Path) -> None:
    netcdf4 = pytest.importorskip("netCDF4")
    with netcdf4.Dataset(run, "a") as nc:
        assert nc["depth_first"].dimensions == ("checkpoint", "layer", "head")
        assert nc["probes/depth_first"].dimensions == ("checkpoint", "probe", "layer", "head")
        assert nc["depth_first"][:2].mask.all() and not nc["depth_first"][2].mask.all()
        nc["checkpoint"][3] = 30
        assert nc["wu_count"][3].mask.all()


def test_tables_leave_cells_empty(run: Path, tmp_path: Path) -> None:
    hs.export(run, "csv", tmp_path / "run.csv")
    table = pd.read_csv(tmp_path / "run.csv").set_index("checkpoint")
    seen = table["retrieval"].notna()
    assert seen.sum() == 33, "one head of twelve is nowhere observable"
    for name, steps in {"depth_first": [0, 10], "wu_count": [10]}.items():
        pd.testing.assert_series_equal(table[name].notna(), seen & ~seen.index.isin(steps), check_names=False)
        assert table.loc[steps, f"{name}_stderr"].isna().all()


def test_an_analysis_takes_the_checkpoints_that_were_measured(run: Path) -> None:
    assert hs.analysis.read_trajectory(run).steps.tolist() == [0, 10, 20]
    counts = hs.analysis.read_trajectory(run, "wu_count")
    assert counts.steps.tolist() == [0, 20] and counts.nll["nll"].shape == (2, 6)
    assert not np.isnan(counts.scores).all(axis=(1, 2, 3)).any()
    assert hs.analysis.read_trajectory(run, "depth_first").steps.tolist() == [20]
    assert hs.plot.head_count(hs.plot.evolve(run), Figure().add_subplot()).has_data()
    assert hs.plot.head_map(hs.plot.evolve(counts), Figure().add_subplot()).has_data()


def test_measured_but_nowhere_observable_is_not_left_out(tmp_path: Path) -> None:
    """No answer passed the gate: told by provenance, where numbers alone do not tell."""
    made = make_scores(0, estimators=("retrieval", "wu_count"))
    failed = {**made.per_probe, "wu_count": np.full_like(made.per_probe["wu_count"], np.nan)}
    told = {**made.provenance, "estimators": list(failed)}
    replace(made, per_probe=failed, provenance=told).save(tmp_path / "run.h5", checkpoint=0)
    make_scores(1, estimators=("retrieval", "wu_count")).save(tmp_path / "run.h5", checkpoint=1)
    make_scores(2, estimators=("retrieval",)).save(tmp_path / "run.h5", checkpoint=2)
    assert hs.analysis.read_trajectory(tmp_path / "run.h5", "wu_count").steps.tolist() == [0, 1]


def test_a_name_that_the_file_has_for_something_else_is_refused(run: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken.h5"
    shutil.copy(run, taken)
    with h5py.File(taken, "r+") as file:
        file["ruler"] = np.float32(3)
    before = taken.read_bytes()
    with pytest.raises(StoreError, match="ruler names an estimator here and something else in the file"):
        make_scores(30, estimators=("retrieval", "ruler")).save(taken, checkpoint=30)
    assert taken.read_bytes() == before
