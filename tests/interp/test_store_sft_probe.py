"""SFT probes in the results file: written, read back, merged, kept by everything that rewrites a file, and checked."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import headscope as hs
from headscope.errors import ArgumentError, StoreError
from headscope.interp.store import (
    Beside,
    add_sft_probe,
    all_sft_probes,
    append,
    find_beside,
    merge,
    read_sft_probe,
    set_aside,
    validate,
    write,
)
from headscope.interp.store.merging import refresh
from made_scores import with_chance
from made_sft_probes import assert_same_sft_probe, make_sft_probe

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checkpoints from before there were SFT probes, the second with one."""
    path = Path(shutil.copy(GOLDEN / "store-1.3.h5", tmp_path / "run.h5"))
    with pytest.raises(StoreError, match="holds no SFT probe; `headscope sft-probe MODEL -o"):
        hs.SftProbe.load(path)
    make_sft_probe(1000).save(path, checkpoint=1000)
    return path


def test_it_comes_back_and_only_where_there_is_one(run: Path) -> None:
    assert validate(run) == [] and h5py.File(run).attrs["schema_version"] == b"1.4"
    assert_same_sft_probe(hs.SftProbe.load(run), make_sft_probe(1000))
    assert find_beside(run, 0).sft_probe is None and find_beside(run, 1000).ablation is not None
    with pytest.raises(StoreError, match="no SFT probe of checkpoint 0; it has those of 1000"):
        read_sft_probe(run, 0)
    add_sft_probe(run, make_sft_probe(0), 0)
    assert validate(run) == [] and [*all_sft_probes(run)] == [0, 1]
    for step in (0, 1000):
        assert_same_sft_probe(read_sft_probe(run, step), make_sft_probe(step))


def test_what_was_not_measured_is_missing_and_whatever_is_said_is_kept(run: Path) -> None:
    odd = make_sft_probe(1000)
    odd.before["nll"][0] = odd.before["exact_match"][0] = odd.after["exact_match"][1, 2] = np.nan
    odd.after["text"][0, :2] = ["a\0b\ud800", ""]
    add_sft_probe(run, odd, 1000)
    assert validate(run) == []
    odd.after["text"][0, 0] = "a\ufffdb?"
    assert_same_sft_probe(read_sft_probe(run), odd)


def test_others_are_refused_and_one_alone_is_replaced(run: Path) -> None:
    other = make_sft_probe(1000, seeds=(0, 1, 2), recipe_hash="ba9876543210")
    add_sft_probe(run, other, 1000)
    assert_same_sft_probe(read_sft_probe(run), other)
    before = run.read_bytes()
    for misfit, told in (
        (make_sft_probe(0, seeds=(0, 1, 2)), "have recipe hash 'ba9876543210', this one '0123456789ab'"),
        (make_sft_probe(0, recipe_hash="ba9876543210"), r"have seeds \[0, 1, 2\], this one \[0, 1\]"),
        (make_sft_probe(0, seeds=(0, 1, 2), recipe_hash="ba9876543210", probe_set_hash="0" * 32), "have task set hash"),
    ):
        with pytest.raises(StoreError, match=told):
            add_sft_probe(run, misfit, 0)
    with pytest.raises(StoreError, match="no checkpoint 7, which the SFT probe would go with"):
        add_sft_probe(run, other, 7)
    assert run.read_bytes() == before


def test_xarray_opens_it(run: Path) -> None:
    found = hs.open(run, group="sft_probe")
    assert found.score.dims == ("checkpoint", "sft_seed", "sft_item") and found.loss.dims[-1] == "sft_step"
    assert (
        found.text.sel(checkpoint=1000, sft_seed=1, sft_item="item-0").item()
        == make_sft_probe(1000).after["text"][1, 0]
    )
    assert np.isnan(found.score.sel(checkpoint=0)).all() and (found.exact_match.sel(checkpoint=0) == -1).all()
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(run) as file:
        np.testing.assert_array_equal(file["sft_probe/loss"][1], make_sft_probe(1000).loss)


def test_it_survives_append_merge_refresh_and_set_aside(run: Path, tmp_path: Path) -> None:
    hs.merge(run, tmp_path / "merged.h5")
    append(run, with_chance(3000, n_probes=4, n_layers=2), 3000, sft_probe=make_sft_probe(3000))
    append(tmp_path / "later.h5", with_chance(4000, n_probes=4, n_layers=2), 4000, sft_probe=make_sft_probe(4000))
    merge([run, tmp_path / "later.h5"], run)
    assert find_beside(run, 0).sft_probe is None and validate(run) == []
    for path, step in ((tmp_path / "merged.h5", 1000), (run, 1000), (run, 3000), (run, 4000)):
        assert_same_sft_probe(read_sft_probe(path, step), make_sft_probe(step))
    other = make_sft_probe(5000, recipe_hash="ba9876543210")
    append(tmp_path / "other.h5", with_chance(5000, n_probes=4, n_layers=2), 5000, sft_probe=other)
    with pytest.raises(StoreError, match=r"its SFT probe \(recipe, seeds, probes\) is ba9876543210, 0 1"):
        merge([run, tmp_path / "other.h5"], tmp_path / "both.h5")

    shards = [tmp_path / f"step-{step}.h5" for step in (1, 2)]
    for path, step in zip(shards, (1, 2), strict=True):
        beside = Beside(sft_probe=make_sft_probe(step))
        write(path, [(step, None, with_chance(step, n_probes=4, n_layers=2), beside)])
    refresh(shards[:1], tmp_path / "swept.h5")
    refresh(shards, tmp_path / "swept.h5")
    assert [*all_sft_probes(tmp_path / "swept.h5")] == [0, 1] and validate(tmp_path / "swept.h5") == []
    for path, step in zip(shards, (1, 2), strict=True):  # what was added to the output stays, however it is made anew
        write(path, [(step, None, with_chance(step, n_probes=4, n_layers=2))])
    write(tmp_path / "late.h5", [(2, None, with_chance(2, n_probes=4, n_layers=2))])
    add_sft_probe(tmp_path / "late.h5", make_sft_probe(2), 2)
    refresh(shards, tmp_path / "late.h5")
    assert_same_sft_probe(read_sft_probe(tmp_path / "late.h5", 2), make_sft_probe(2))
    assert find_beside(tmp_path / "late.h5", 1).sft_probe is None
    apart = set_aside(run, 4000)
    assert_same_sft_probe(read_sft_probe(apart), make_sft_probe(4000))
    assert_same_sft_probe(read_sft_probe(run), make_sft_probe(3000))


def test_a_group_of_that_name_that_is_not_ours_stays(tmp_path: Path) -> None:
    path = Path(shutil.copy(GOLDEN / "store-1.3.h5", tmp_path / "run.h5"))
    with h5py.File(path, "r+") as file:
        file.create_group("sft_probe")["mine"] = np.arange(3)
        file["sft_probe/mine"].make_scale("mine")
    assert validate(path) == [] and find_beside(path, 0).sft_probe is None
    with pytest.raises(StoreError, match="a group 'sft_probe' that is not headscope's"):
        add_sft_probe(path, make_sft_probe(0), 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: f["sft_probe/nll"].__setitem__((1, 0, 0), -1), "sft_probe/nll has values outside 0 to inf"),
        (lambda f: f["sft_probe/before_score"].__setitem__((1, 0), 2), "before_score has values outside 0 to 1"),
        (lambda f: f["sft_probe/loss"].__setitem__((1, 0, 0), np.inf), "sft_probe/loss has values outside"),
        (lambda f: f["sft_probe/exact_match"].__setitem__((1, 0, 0), 2), "exact_match has values other than -1, 0"),
        (lambda f: f["sft_probe/end"].__setitem__((1, 0, 0), 9), "sft_probe/end has values that are none of eos"),
        (lambda f: f["sft_probe/n_tokens"].__setitem__((1, 0, 0), -1), "sft_probe/n_tokens has negative values"),
        (lambda f: f["sft_probe/sft_seed"].__setitem__(1, 0), "sft_probe/sft_seed holds a seed twice"),
        (lambda f: f["sft_probe/sft_step"].__setitem__(0, 7), "sft_probe/sft_step does not count from 0 to 4"),
        (lambda f: f.__delitem__("sft_probe/text"), "the variable sft_probe/text is missing"),
        (lambda f: f["sft_probe"].attrs.__setitem__("recipe", b"[]"), "the recipe of /sft_probe is no JSON object"),
        (lambda f: f["sft_probe/json"].__setitem__(1, "{"), "sft_probe: provenance/json is not JSON"),
    ],
)
def test_validate_tells_what_is_wrong(run: Path, change: Callable[[h5py.File], None], told: str) -> None:
    with h5py.File(run, "r+") as file:
        change(file)
    assert any(told in problem for problem in validate(run)), validate(run)


def test_what_does_not_fit_together_is_refused() -> None:
    for change, told in (
        ({"seeds": ()}, "at least one item and one seed"),
        ({"loss": np.zeros(3)}, r"loss must have the shape \(2, steps\)"),
        ({"before": {"score": np.zeros(4)}}, "before lacks nll, exact_match"),
        ({"seeds": (0, 1, 2)}, r"after\['text'\] must have the shape \(3, 4\)"),
    ):
        with pytest.raises(ArgumentError, match=told):
            make_sft_probe(0, **change) if "seeds" not in change else hs.SftProbe(
                **{**{k: getattr(make_sft_probe(0), k) for k in hs.SftProbe.__dataclass_fields__}, **change}
            )
    with pytest.raises(ArgumentError, match="measure must be one of score, nll, exact_match"):
        make_sft_probe(0).change("loss")
