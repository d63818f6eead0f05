"""The panel against plain loops and small cases by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from headscope.interp.analysis.cells import depth_groups, token_groups
from headscope.interp.analysis.evolution import (
    by_depth,
    distance_by_interference,
    grid,
    head_count_change,
    head_counts,
    heads_mean,
    log_fit,
    panel,
)
from made_up_trajectory import BORN, DYING, GROWING, STEADY, make_trajectory
from made_up_worlds import worlds


def tiny(scores: list) -> object:
    """A trajectory from mean scores [C][H], one layer, one probe for each of twelve needles, all alike."""
    array = np.repeat(np.array(scores, np.float32)[:, None, None], 12, axis=1)
    return worlds.trajectory(array, np.arange(12), np.arange(1, len(scores) + 1) * 1e9)


def test_the_panel_of_a_made_up_run():
    run = make_trajectory()
    found = panel(run)
    assert sorted(found.initial_heads) == sorted([GROWING, STEADY, DYING])
    assert found.n_heads.estimate.tolist() == (run.maps > 0.1).sum(axis=(1, 2)).tolist()
    maps = run.maps
    first = [np.mean([maps[c][place] for place in found.initial_heads]) for c in range(8)]
    np.testing.assert_allclose(found.initial_mean.estimate, first, rtol=1e-5)
    assert (found.initial_mean.low < first).all() and (first < found.initial_mean.high).all()
    assert (found.initial_mean.high - found.initial_mean.low < 0.15).all()
    for c in range(7):
        a, b = maps[c].ravel(), maps[c + 1].ravel()
        assert found.spearman[c] == pytest.approx(stats.spearmanr(a, b).statistic)
        tops = [set(np.argsort(-m, kind="stable")[: found.top].tolist()) for m in (a, b)]
        assert found.overlap[c] == len(tops[0] & tops[1])
    np.testing.assert_allclose(found.niah_score.estimate, run.exact_match.mean(axis=1))
    assert set(found.nll) == {"nll", "nll_novel", "nll_echo", "nll_first"}
    np.testing.assert_allclose(found.nll["nll_first"].estimate, run.nll["nll_first"].mean(axis=1))
    assert found.niah_score.n == 72 and found.niah_score.n_clusters == 12


def test_the_threshold_is_strict_and_top_is_capped():
    run = tiny([[0.1, 0.25, 0.5], [0.25, 0.0, 0.5]])
    found = panel(run)
    assert found.n_heads.estimate.tolist() == [2, 2] and found.initial_heads == [(0, 1), (0, 2)]
    assert found.top == 1 and found.overlap.tolist() == [1]  # half the heads: all would always agree
    assert panel(run, top=100).top == 3 and panel(run, top=100).overlap.tolist() == [3]
    assert panel(run, top=2).overlap.tolist() == [1]
    assert found.spearman == pytest.approx([-0.5 + 1.0])
    np.testing.assert_allclose(found.initial_mean.estimate, [0.375, 0.25])


def test_ties_and_constants():
    run = tiny([[0.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.25, 0.5], [0.0, 0.0, 0.0, 0.0]])
    found = panel(run)
    assert found.spearman[0] == pytest.approx(stats.spearmanr([0, 0, 0, 5], [0, 0, 2, 5]).statistic)
    assert np.isnan(found.spearman[1])
    assert panel(run, top=2).overlap.tolist() == [1, 0]  # equal scores stand in (layer, head) order


def test_one_checkpoint_and_no_initial_head():
    found = panel(tiny([[0.0, 0.05]]))
    assert found.overlap.shape == found.spearman.shape == (0,)
    assert found.initial_heads == [] and np.isnan(found.initial_mean.estimate).all()
    assert found.n_heads.estimate.tolist() == [0]


def test_unobservable_heads_are_nobodys_zero():
    run = make_trajectory(3)
    scores = run.scores.copy()
    scores[:, :, 3] = np.nan  # a whole layer, STEADY in it
    scores[:, run.probes["length"] == 4096, 2] = np.nan
    blind = replace(run, scores=scores)
    found = panel(blind)
    assert STEADY not in found.initial_heads and GROWING in found.initial_heads
    seen = blind.scores[:, run.probes["length"] == 1024]
    growing = seen[:, :, *GROWING].mean(axis=1)
    dying = blind.scores[:, :, *DYING].mean(axis=1)
    np.testing.assert_allclose(found.initial_mean.estimate, (growing + dying) / 2, rtol=1e-5)
    assert panel(blind, top=100).top == 5 * 8
    assert not np.isnan(found.spearman).any()


def test_intervals_of_scores_stay_within_0_and_1_and_are_whole():
    run = make_trajectory(3, needles=12)
    scores = run.scores.copy()
    scores[:, :, 0, 0] = np.where(run.needles < 7, 1.0, 0.5)  # five needles differ, then one, then none
    scores[1:, run.needles < 11, 0, 0] = 1.0
    scores[2, :, 0, 0] = 1.0
    found = heads_mean(replace(run, scores=scores), [(0, 0)])
    assert 0.5 < found.low[0] < found.estimate[0] < found.high[0] <= 1.0
    assert np.isnan(found.low[1:]).all() and np.isnan(found.high[1:]).all()


def test_the_number_of_heads_is_counted_in_every_resample():
    run = make_trajectory(2, needles=20)
    scores = run.scores.copy()
    near = np.where(run.needles < 12, 0.02, 0.3)  # mean 0.13, mostly above 0.1, not in all resamples
    scores[1, :, 0, 0] = near
    found = head_counts(replace(run, scores=scores))
    assert found.low[1] < found.estimate[1] <= found.high[1]
    assert found.low[0] == found.estimate[0] == found.high[0]
    change = head_count_change(replace(run, scores=scores))
    assert change.estimate == found.estimate[1] - found.estimate[0]
    assert change.low <= change.estimate <= change.high


def test_order_of_probes_does_not_matter():
    run = make_trajectory(3)
    order = np.random.default_rng(0).permutation(run.scores.shape[1])
    mixed = replace(
        run,
        scores=run.scores[:, order],
        nll={name: values[:, order] for name, values in run.nll.items()},
        exact_match=run.exact_match[:, order],
        probes={name: values[order] for name, values in run.probes.items()},
    )
    a, b = panel(run), panel(mixed)
    np.testing.assert_allclose(b.initial_mean.low, a.initial_mean.low, rtol=1e-6)
    np.testing.assert_array_equal(b.n_heads.high, a.n_heads.high)
    np.testing.assert_allclose(grid(mixed).values, grid(run).values, rtol=1e-6)


def test_grids_by_hand():
    run = make_trajectory(2)
    nll = {**run.nll, "nll_novel": run.nll["nll_novel"].copy()}
    lost = (run.probes["length"] == 1024) & (run.probes["depth"] == 0.5) & (run.needles < 5)
    nll["nll_novel"][1, lost] = np.nan
    found = grid(replace(run, nll=nll), "nll_novel")
    assert found.lengths.tolist() == [1024, 4096] and found.depths.tolist() == [0, 0.5, 1]
    assert found.counts.tolist() == [[12, 12], [7, 12], [12, 12]]
    for i, depth in enumerate(found.depths):
        for j, length in enumerate(found.lengths):
            cell = (run.probes["length"] == length) & (run.probes["depth"] == depth)
            assert found.values[i, j] == pytest.approx(np.nanmean(nll["nll_novel"][1, cell]))
    far = distance_by_interference(run, "exact_match", 0)
    assert far.values.shape == far.counts.shape == (len(far.interferences), len(far.distances))
    assert far.counts.sum() == 72 and np.isnan(far.values[far.counts == 0]).all()
    curve = by_depth(run, "nll")
    np.testing.assert_allclose(
        curve.mean.estimate, [run.nll["nll"][1, run.probes["depth"] == d].mean() for d in (0, 0.5, 1)]
    )
    assert curve.mean.n == 24 and not np.isnan(curve.mean.low).any()


def test_groups():
    groups, index = token_groups(np.array([1020, 1024, 4096, 4090]))
    assert groups.tolist() == [1024, 4096] and index.tolist() == [0, 0, 1, 1]
    groups, index = token_groups(np.arange(0, 4000, 37))
    assert groups[0] == 0 and set(groups[1:]) == {32, 64, 128, 256, 512, 1024, 2048}
    assert (groups[index] <= np.arange(0, 4000, 37)).all()
    groups, index = depth_groups(np.linspace(0, 1, 100))
    assert groups.tolist() == pytest.approx([i / 10 for i in range(10)]) and len(index) == 100


def test_log_fit_recovers_the_line():
    run = make_trajectory(6)
    nll = (5 - 0.2 * np.log(np.maximum(run.tokens, 1)))[:, None] + 0.1 * run.needles
    found = log_fit(replace(run, nll={**run.nll, "nll": nll}))
    assert found.n == 5 and np.isnan(found.fitted[0])  # the first has seen no tokens
    assert found.a.estimate == pytest.approx(-0.2) and found.b.estimate == pytest.approx(5 + 0.1 * run.needles.mean())
    assert found.r_squared == pytest.approx(1) and found.residual == pytest.approx(0, abs=1e-9)
    assert found.b.low < found.b.estimate < found.b.high
    for tokens in (np.full(6, np.nan), np.r_[0, 0, 0, 0, 1.0, 2.0]):
        few = log_fit(replace(run, tokens=tokens))
        assert few.n < 3 and np.isnan(few.a.estimate) and np.isnan(few.fitted).all()


def test_wrong_arguments():
    run = make_trajectory(2)
    for wrong, message in (
        (lambda: panel(run, top=0), "top must be at least 1"),
        (lambda: panel(run, threshold=np.nan), "threshold must be a finite number"),
        (lambda: grid(run, "ppl"), "value must be one of nll, .*got 'ppl'"),
        (lambda: grid(run, "nll", 2), "checkpoint must be a position from -2 to 1"),
        (lambda: heads_mean(run, [(6, 0)]), r"no head \(6, 0\); the model has 6 layers of 8 heads"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_a_long_run_of_a_large_model_takes_seconds():
    run = make_trajectory(40, layers=32, heads=32, needles=50)
    found = panel(run)  # about one second on a free core; where it is minutes, the time limit of a test tells
    assert BORN not in found.initial_heads
