"""HeadScores: means, clustered errors, rankings, checks and tables."""

import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import sem

import headscope as hs
from headscope.interp import packages
from headscope.interp.packages import MissingPackageError
from headscope.interp.results import HeadScore, HeadScores, UnknownEstimatorError
from made_scores import assert_same, make_scores

NAN = float("nan")


def one_head(values: list[float], needles: list[str]) -> HeadScores:
    """Scores of a model with a single head, one value a probe."""
    made = make_scores(n_probes=len(values), n_layers=1, n_heads=2, n_kv_heads=1)
    per_probe = {"retrieval": np.array([[[v, NAN]] for v in values], np.float32)}
    return make_scores(
        n_probes=len(values), n_layers=1, n_heads=2, n_kv_heads=1,
        per_probe=per_probe, probes={**made.probes, "needle_id": np.array(needles)},
    )  # fmt: skip


def maps(values: list[list[float]]) -> HeadScores:
    """Scores of one probe with the given map [layer, head]."""
    array = np.array([values], np.float32)
    shape = {"n_probes": 1, "n_layers": array.shape[1], "n_heads": array.shape[2], "n_kv_heads": 1}
    return make_scores(**shape, per_probe={"retrieval": array})


def test_a_head_is_called_by_layer_and_head() -> None:
    assert str(HeadScore(layer=18, head=6, score=0.91, stderr=0.02)) == "L18H6"


def test_the_mean_skips_probes_where_the_head_is_unobservable() -> None:
    scores = make_scores()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean = scores.retrieval
    assert mean.dtype == np.float32 and mean.shape == (3, 4)
    assert np.isnan(mean[0, 1]) and np.isnan(mean).sum() == 1
    assert mean[1, 1] == pytest.approx(scores.per_probe["retrieval"][1:, 1, 1].mean(dtype=np.float64))
    np.testing.assert_allclose(mean[2], scores.per_probe["retrieval"][:, 2].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(scores["retrieval"], mean)


def test_one_probe_a_needle_gives_the_usual_standard_error() -> None:
    values = [0.1, 0.4, 0.2, 0.9, 0.5]
    assert one_head(values, list("abcde")).stderr()[0, 0] == pytest.approx(sem(values), rel=1e-6)


def test_balanced_needles_give_the_standard_error_of_the_needle_means() -> None:
    values = [0.1, 0.3, 0.7, 0.9, 0.4, 0.2]
    found = one_head(values, ["a", "a", "b", "b", "c", "c"]).stderr()[0, 0]
    assert found == pytest.approx(sem([0.2, 0.8, 0.3]), rel=1e-6)


def test_repeating_probes_of_the_same_needles_adds_no_certainty() -> None:
    once, needles = [0.1, 0.4, 0.2, 0.9], ["a", "a", "b", "c"]
    thrice = one_head(once * 3, needles * 3).stderr()
    np.testing.assert_allclose(thrice, one_head(once, needles).stderr(), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.one_of(st.just(NAN), st.floats(0, 1, width=32)), st.sampled_from("abcd")), min_size=1))
def test_the_clustered_error_follows_its_formula(probes: list[tuple[float, str]]) -> None:
    """Against the sum written out, probe by probe, with unobservable probes and uneven needles."""
    seen = [(np.float64(np.float32(value)), needle) for value, needle in probes if not np.isnan(value)]
    sums = {needle: 0.0 for _, needle in seen}
    for value, needle in seen:
        sums[needle] += value - sum(v for v, _ in seen) / len(seen)
    found = one_head([value for value, _ in probes], [needle for _, needle in probes]).stderr()[0, 0]
    if len(sums) < 2:
        assert np.isnan(found)
    else:
        variance = len(sums) / (len(sums) - 1) * sum(s**2 for s in sums.values()) / len(seen) ** 2
        assert found == pytest.approx(variance**0.5, rel=1e-5, abs=1e-7)


def test_a_single_needle_has_no_standard_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(one_head([0.1, 0.9], ["a", "a"]).stderr()).all()


def test_top_sorts_by_score_then_place_and_leaves_out_the_unobservable() -> None:
    scores = maps([[0.5, NAN, 0.9], [0.9, 0.5, 0.1]])
    assert [str(head) for head in scores.top(4)] == ["L0H2", "L1H0", "L0H0", "L1H1"]
    assert len(scores.top(100)) == 5
    best = scores.top(1)[0]
    assert (best.layer, best.head, best.score) == (0, 2, pytest.approx(0.9)) and np.isnan(best.stderr)
    assert all(isinstance(value, int) for value in (best.layer, best.head))


def test_top_of_another_estimator() -> None:
    scores = make_scores()
    wanted = np.nanargmax(scores["wu_count"])
    assert scores.top(1, by="wu_count")[0].head == wanted % 4
    assert scores.top(1, "wu_count")[0].stderr == pytest.approx(scores.stderr("wu_count").flat[wanted])


@pytest.mark.parametrize("k", [0, -1])
def test_top_needs_at_least_one(k: int) -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        make_scores().top(k)


def test_a_retrieval_head_is_strictly_above_the_threshold() -> None:
    scores = maps([[0.1, 0.10001], [NAN, 0.8]])
    assert scores.retrieval_heads() == [(0, 1), (1, 1)]
    assert scores.retrieval_heads(0.5) == [(1, 1)]
    assert scores.retrieval_heads(0.9) == []


@pytest.mark.parametrize("kind", [ValueError, KeyError, UnknownEstimatorError])
def test_an_unknown_estimator_is_named_with_what_there_is(kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        make_scores()["wu-count"]
    assert str(caught.value) == "unknown estimator 'wu-count'. Did you mean 'wu_count'? Available: retrieval, wu_count"
    assert "wu_count" in make_scores() and "wu-count" not in make_scores()
    with pytest.raises(kind):
        make_scores().stderr("entropy")


def changed(**columns: object) -> dict[str, object]:
    return {"probes": {**make_scores().probes, **columns}}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"per_probe": {"retrieval": np.zeros((6, 4, 3), np.float32)}}, ValueError, r"\(6, 3, 4\).*got \(6, 4, 3\)"),
        ({"per_probe": {"retrieval": np.zeros((6, 3, 4), np.int64)}}, TypeError, "floating-point numbers, got int64"),
        ({"per_probe": {"wu_count": np.zeros((6, 3, 4), np.float32)}}, ValueError, "needs the estimator 'retrieval'"),
        ({"nll_first": np.zeros(5, np.float32)}, ValueError, r"nll_first must have the shape \(6,\)"),
        ({"nll": np.zeros(0, np.float32)}, ValueError, "at least one probe"),
        ({"exact_match": np.zeros(6, np.int8)}, TypeError, "exact_match must be boolean, got int8"),
        ({"exact_match": np.zeros(7, bool)}, ValueError, r"exact_match must have the shape \(6,\)"),
        ({"n_kv_heads": 3}, ValueError, "multiple of n_kv_heads, got 4 and 3"),
        ({"n_kv_heads": 0}, ValueError, "n_kv_heads must be at least 1"),
        ({"probes": {}}, ValueError, "lacks the column.*needle_id"),
        (changed(seed=np.zeros(6)), TypeError, r"probes\['seed'\] must hold integers, got float64"),
        (changed(family=np.zeros(6)), TypeError, r"probes\['family'\] must hold text"),
        (changed(depth=np.full(6, "half")), TypeError, r"probes\['depth'\] must hold numbers"),
        (changed(extra=np.zeros(6, bool)), TypeError, "must hold text or numbers, got bool"),
        (changed(length=np.arange(5)), ValueError, r"probes\['length'\] must have the shape \(6,\)"),
        (changed(seed=np.full(6, 2**63, np.uint64)), ValueError, "64 bits"),
        (changed(layer=np.arange(6)), ValueError, "'layer' cannot name"),
        (changed(retrieval=np.arange(6)), ValueError, "same name for an estimator and a probe column"),
        ({"provenance": {"model": {"dtype": object()}}}, TypeError, r"provenance\['model'\]\['dtype'\].*got object"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_scores(**changes)


@pytest.mark.parametrize("name", ["Retrieval", "a b", "retrieval_stderr", "probe_mass", "nll", ""])
def test_names_that_would_clash_in_a_file_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        make_scores(estimators=("retrieval", name))


def test_arrays_are_brought_to_their_dtypes_and_extra_columns_kept() -> None:
    made = make_scores()
    scores = make_scores(
        per_probe={"retrieval": made.per_probe["retrieval"].astype(np.float64)},
        probes={name: list(values) for name, values in made.probes.items()} | {"grafted": np.ones(6, np.int8)},
    )
    assert scores.per_probe["retrieval"].dtype == np.float32
    assert scores.probes["length"].dtype == scores.probes["grafted"].dtype == np.int64
    assert scores.probes["depth"].dtype == np.float64 and scores.probes["id"].dtype.kind == "U"


def test_provenance_is_kept_in_what_json_can_hold() -> None:
    given_ = {"n": np.int64(3), "gap": np.float32(0.5), "nothing": NAN, "pair": (1, 2), 7: True}
    assert make_scores(provenance=given_).provenance == {"n": 3, "gap": 0.5, "nothing": None, "pair": [1, 2], "7": True}


def test_scores_cannot_be_reassigned() -> None:
    with pytest.raises(FrozenInstanceError):
        make_scores().model_id = "another"  # type: ignore[misc]


def test_the_frame_has_one_row_a_head() -> None:
    scores = make_scores()
    frame = scores.to_dataframe()
    assert list(frame.columns) == [
        "layer", "head", "kv_head", "retrieval", "wu_count", "retrieval_stderr", "wu_count_stderr",
    ]  # fmt: skip
    assert len(frame) == 12 and list(frame.kv_head[:4]) == [0, 0, 1, 1]
    row = frame[(frame.layer == 2) & (frame["head"] == 3)].iloc[0]
    assert row.wu_count == scores["wu_count"][2, 3] and row.retrieval_stderr == scores.stderr()[2, 3]


def test_the_dataset_names_its_dimensions() -> None:
    scores = make_scores()
    ds = scores.to_xarray()
    assert dict(ds.sizes) == {"checkpoint": 1, "layer": 3, "head": 4}
    np.testing.assert_array_equal(ds.retrieval[0], scores.retrieval)
    np.testing.assert_array_equal(ds.wu_count_stderr[0], scores.stderr("wu_count"))
    detail = scores.to_xarray(group="probes").squeeze("checkpoint")
    assert detail.retrieval.dims == ("probe", "layer", "head")
    one = detail.sel(probe="sentence-4", layer=2, head=0)
    assert float(one.retrieval) == scores.per_probe["retrieval"][4, 2, 0]
    assert int(one.length) == 5120 and str(one.needle_id.item()) == "needle-1"
    assert detail.nll.groupby("needle_id").mean().sizes == {"needle_id": 3}
    with pytest.raises(ValueError, match="no group 'probe'; it has probes, provenance"):
        scores.to_xarray(group="probe")


@pytest.mark.parametrize("group", [None, "probes", "provenance"])
@pytest.mark.parametrize(("checkpoint", "tokens_seen"), [(0, None), (2000, 8.4e9)])
def test_the_dataset_is_what_the_file_gives(
    tmp_path: Path, group: str | None, checkpoint: int, tokens_seen: float | None
) -> None:
    made = make_scores(3)
    by_chance = {"chance": np.linspace(0.05, 0.2, 6), "chance_sd": np.full(6, 0.1)} if checkpoint else {}
    scores = make_scores(3, probes={**made.probes, **by_chance})
    scores.save(tmp_path / "run.h5", checkpoint=checkpoint, tokens_seen=tokens_seen)
    there = hs.open(tmp_path / "run.h5", group=group)
    here = scores.to_xarray(group=group, checkpoint=checkpoint, tokens_seen=tokens_seen)
    xr.testing.assert_identical(here, there.load())
    assert {name: item.dtype for name, item in here.variables.items()} == {
        name: item.dtype for name, item in there.variables.items()
    }
    there.close()


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(packages, "import_module", missing)
    with pytest.raises(MissingPackageError, match=r"to_dataframe\(\) needs the package pandas .*pip install 'pandas'"):
        make_scores().to_dataframe()


def test_the_same_scores_are_the_same() -> None:
    assert_same(make_scores(5), make_scores(5))
    with pytest.raises(AssertionError):
        assert_same(make_scores(5), make_scores(6))
