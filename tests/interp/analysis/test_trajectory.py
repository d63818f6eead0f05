"""A trajectory checks its shapes, leaves unobservable heads NaN, and reads every results file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headscope.interp.analysis.evolution import panel
from headscope.interp.analysis.trajectory import Trajectory, read_trajectory
from headscope.interp.analysis.verdicts import judge
from headscope.interp.store.results_file import StoreError, read_scores
from made_up_trajectory import in_stages, make_trajectory
from made_up_worlds import worlds

GOLDEN = Path(__file__).parents[2] / "golden" / "store-1.0.h5"


def test_maps_leave_out_what_is_not_observable():
    scores = np.array([[[[0.2, np.nan]], [[0.4, np.nan]], [[np.nan, np.nan]]]] * 2, np.float32)
    maps = worlds.trajectory(scores, np.arange(3), np.array([1e9, 2e9])).maps
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps[:, 0, 0], 0.3, rtol=1e-6)
    assert np.isnan(maps[:, 0, 1]).all()


def test_needles_and_progress():
    run = make_trajectory(3, needles=2, lengths=(1024,), depths=(0.0, 1.0))
    assert run.n_checkpoints == 3
    assert run.needles.tolist() == [0, 1, 0, 1]
    assert run.progress_name == "tokens seen"
    np.testing.assert_array_equal(run.progress, run.tokens)
    for tokens in (np.array([0.0, np.nan, 2.0]), np.array([0.0, 2.0, 1.0])):
        unknown = replace(run, tokens=tokens)
        assert unknown.progress_name == "optimizer steps"
        np.testing.assert_array_equal(unknown.progress, run.steps)


def test_stages():
    plain = make_trajectory(4, needles=2)
    assert plain.stage_spans == [("", 0, 3)] and plain.last_stage() is plain and plain.name(1) == "step 500"
    run = in_stages(make_trajectory(7, needles=2), short=3, long=4)
    assert run.stage_spans == [("short", 0, 2), ("long", 3, 6)]
    assert [run.name(c) for c in (2, 3)] == ["short step 1000", "long step 500"]
    last = run.last_stage()
    assert last.steps.tolist() == [500, 1000, 1500, 2000] and (last.tokens == last.steps * 4.2e6).all()
    np.testing.assert_array_equal(last.scores, run.scores[3:])
    np.testing.assert_array_equal(last.nll["nll"], run.nll["nll"][3:])
    goes_on = replace(run, own_steps=run.steps).last_stage()
    assert goes_on.steps.tolist() == last.steps.tolist(), "also where its own steps go on from the stage before"
    with pytest.raises(ValueError, match=r"own_steps must have the shape \(7,\)"):
        replace(run, own_steps=run.steps[:3])


def wrong(run: Trajectory) -> dict[str, tuple[dict, str]]:
    short = {name: values[:-1] if name == "depth" else values for name, values in run.probes.items()}
    return {
        "three axes": ({"scores": run.scores[0]}, r"scores must be \[checkpoint, probe, layer, head\]"),
        "no checkpoint": ({"scores": run.scores[:0]}, "at least one checkpoint"),
        "no probe": ({"scores": run.scores[:, :0]}, "at least one checkpoint and one probe"),
        "steps too short": ({"steps": run.steps[:-1]}, "steps must have the shape"),
        "tokens too short": ({"tokens": run.tokens[:-1]}, "tokens must have the shape"),
        "matches of another shape": ({"exact_match": run.exact_match.T}, "exact_match must have the shape"),
        "a class of NLL is missing": ({"nll": {"nll": run.nll["nll"]}}, r"nll\['nll_novel'\] must have the shape"),
        "a column is short": ({"probes": short}, r"probes\['depth'\] must have the shape"),
        "a column is missing": ({"probes": {}}, r"probes\['id'\] must have the shape"),
        "steps that stand still": ({"steps": np.zeros_like(run.steps)}, "steps must increase"),
        "steps that go back": ({"steps": run.steps[::-1]}, "steps must increase"),
    }


@pytest.mark.parametrize("case", wrong(make_trajectory(3, needles=2)))
def test_wrong_shapes_are_named(case: str):
    run = make_trajectory(3, needles=2)
    changed, message = wrong(run)[case]
    with pytest.raises(ValueError, match=message):
        replace(run, **changed)


def test_the_golden_file():
    run = read_trajectory(GOLDEN)
    assert run.about["estimator"] == "retrieval"
    for i, step in enumerate(run.steps):
        scores = read_scores(GOLDEN, checkpoint=int(step))
        np.testing.assert_array_equal(run.maps[i], scores.retrieval)
        np.testing.assert_array_equal(run.nll["nll_novel"][i], scores.nll_novel)
        np.testing.assert_array_equal(run.exact_match[i], scores.exact_match)
    assert run.probes["needle_id"].tolist() == scores.probes["needle_id"].tolist()
    other = read_trajectory(GOLDEN, "wu_count")
    np.testing.assert_array_equal(other.maps[-1], scores["wu_count"])
    # few checkpoints and needles: everything is computed, nothing is claimed
    assert np.isnan(panel(run).n_heads.low).all()
    assert [verdict.answer for verdict in judge(run)] == ["insufficient"] * 4


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(StoreError, match="no estimator 'nonsense'; it has .*retrieval"):
        read_trajectory(GOLDEN, "nonsense")
    with pytest.raises((StoreError, OSError)):
        read_trajectory(tmp_path / "nowhere.h5")


def test_no_claim_from_files_without_matches():
    run = make_trajectory(8)
    unknown = replace(run, exact_match=np.full_like(run.exact_match, np.nan))
    assert np.isnan(panel(unknown).niah_score.estimate).all()
    assert panel(unknown).niah_score.n == 0
