"""Heads above a null of their own: what accident gives, who is named, and who is not."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import headscope as hs
from benchmark_modules import benchmark
from headscope.errors import UnknownEstimatorError
from headscope.interp.analysis import read_trajectory
from headscope.interp.estimators import ESTIMATORS
from headscope.interp.estimators.dealt import DEALS
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.levels import above_null, null_p
from headscope.interp.report import evolve
from headscope.interp.scoring import score_heads
from headscope.interp.store import validate
from headscope.probes import Probe
from made_scores import make_scores
from planted import build_planted, planted_probes

MADE_UP = benchmark("null")


def evidence(keys: Any, visible: bool = True) -> ProbeEvidence:
    """Of one layer; keys: [n_heads, n_answer]."""
    key = np.array(keys, np.int32)[None]
    nothing = np.zeros(key.shape[-1])
    return ProbeEvidence(key, np.ones(key.shape, np.float32), {}, np.full(key.shape[:2], visible), nothing, nothing > 1)


def test_accident_is_the_score_over_all_orders_of_the_answer() -> None:
    """Against all 720, for heads that look at one place, at all, outside, and at a token that is there twice."""
    needle = [7, 8, 9, 7, 10, 11]
    ids = [1, 2, *needle, 3, *needle]
    probe = Probe.from_ids(ids, prompt_len=9, needles=[(2, 8)])
    heads = [[2] * 6, [2, 3, 4, 5, 6, 7], [0] * 6, [2, 5, 2, 5, 0, 0], [7, 6, 5, 4, 3, 2], [2, 0, 0, 4, 4, 4]]
    exact = []
    for order in permutations(needle):
        hits = [
            {key for key, token in zip(head, order, strict=True) if 2 <= key < 8 and ids[key] == token}
            for head in heads
        ]
        exact.append([len(hit) / 6 for hit in hits])
    mean, sd = (ESTIMATORS[name](probe, evidence(heads))[0] for name in ("dealt_mean", "dealt_sd"))
    error = 4 * np.std(exact, axis=0) / DEALS**0.5
    assert (np.abs(mean - np.mean(exact, axis=0)) <= error + 1e-6).all()
    np.testing.assert_allclose(sd, np.std(exact, axis=0), rtol=0.25, atol=1e-6)
    again = Probe.from_ids([5, 5, *ids], prompt_len=11, needles=[(4, 10)])  # the same needle elsewhere: the same deals
    moved = [[key + 2 for key in head] for head in heads]
    np.testing.assert_array_equal(ESTIMATORS["dealt_mean"](again, evidence(moved))[0], mean)


def test_what_cannot_be_told_is_nan_or_names_nobody() -> None:
    probe = Probe.from_ids([1, 2, 7, 3, 7], prompt_len=4, needles=[(2, 3)])
    one = evidence([[2], [0]])
    assert ESTIMATORS["dealt_mean"](probe, one)[0].tolist() == [1, 0], "a single token has one order"
    assert ESTIMATORS["dealt_sd"](probe, one)[0].tolist() == [0, 0]
    assert np.isnan(ESTIMATORS["dealt_mean"](probe, evidence([[2], [0]], visible=False))).all()
    scores = np.array([[[1, 0, np.nan]], [[1, 0, np.nan]]], np.float32)
    p = null_p(scores, scores, 0 * scores, np.array(["a", "b"]))
    np.testing.assert_array_equal(p, [[1, 1, np.nan]])
    assert not above_null(p, 0.05).any() and not above_null(np.full((1, 3), np.nan), 0.05).any()
    with pytest.raises(UnknownEstimatorError, match="dealt_mean"):
        make_scores().null_p()


@pytest.mark.parametrize("fixed", [False, True])
def test_p_is_never_smaller_than_it_says(fixed: bool) -> None:
    rng = np.random.default_rng(1)
    p = np.concatenate([MADE_UP.p_of_made_up_heads(rng, (4, 3, 20, rate), fixed=fixed) for rate in (0.2, 1.0)])
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 2.6 * (level / len(p)) ** 0.5


def test_heads_that_copy_now_and_then_are_found_among_those_that_only_look() -> None:
    p = MADE_UP.p_of_made_up_heads(np.random.default_rng(2), (6, 3, 20, 0.3), copying=MADE_UP.COPYING)
    named = above_null(p, 0.05)
    assert named[: MADE_UP.COPYING].mean() > 0.9 and named[MADE_UP.COPYING :].sum() <= 3


def test_planted_heads_are_above_their_null_and_no_others() -> None:
    scores = score_heads(build_planted({(1, 2): 1.0, (2, 1): 1.0}), planted_probes(), estimators=list(MADE_UP.NAMES))
    assert scores.heads_above_null() == [(1, 2), (2, 1)]
    assert scores.null_p()[1, 2] < 1e-6


def test_a_file_counts_them_where_they_were_measured(tmp_path: Path) -> None:
    path, late = tmp_path / "run.h5", tmp_path / "late.h5"
    probes, model = planted_probes(), build_planted({(1, 2): 1.0, (2, 1): 1.0})
    plain = score_heads(model, probes)
    told = score_heads(model, probes, estimators=list(MADE_UP.NAMES))
    for scores, step in ((plain, 0), (told, 100)):
        scores.save(path, checkpoint=step)
    told.save(late, checkpoint=100)
    with hs.open(path) as ds:
        assert ds.n_heads_above_null.values.tolist() == [-1, 2] and ds.attrs["schema_version"] == "1.4"
    assert read_trajectory(path).above_null.tolist() == [-1, 2]
    words = [evolve(path).plain_words(checkpoint) for checkpoint in range(2)]
    assert "null" not in words[0] and words[1].endswith("Above a null of their own at q < 0.05: 2.")
    assert validate(path) == [] and validate(late) == []
    with h5py.File(late, "r+") as file:
        file["n_heads_above_null"][0] = 3
    assert validate(late) == ["checkpoint 100: n_heads_above_null is 3, but 2 heads are above a null of their own"]
    with h5py.File(late, "r+") as file:
        del file["n_heads_above_null"]
    assert validate(late) == [], "a file from before they were counted"
    told.save(late, checkpoint=200)
    assert validate(late) == []


def test_random_models_have_none() -> None:
    assert [MADE_UP.random_model(seed) for seed in range(3)] == [[], [], []]


def test_reliability_by_halves_of_the_needles() -> None:
    scores = make_scores(n_probes=12)
    spread = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    alike = {"retrieval": np.broadcast_to(spread, (12, 3, 4)).copy()}
    noise = {"retrieval": np.random.default_rng(0).random((12, 3, 4)).astype(np.float32)}
    made = [make_scores(n_probes=12, per_probe=maps) for maps in (alike, noise)]
    assert made[0].reliability() == pytest.approx(1) and abs(made[1].reliability()) < 0.7
    assert -1 <= scores.reliability() <= 1
    assert np.isnan(make_scores(n_probes=1).reliability())
