"""Intervals over needles: by hand, under relabelling, at the edges, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from headscope.interp.analysis.bootstrap import (
    MIN_NEEDLES,
    clustered_interval,
    needle_sums,
    needle_weights,
    resampled_interval,
)
from headscope.interp.results import needle_stderr
from made_up_worlds import worlds

RNG = np.random.default_rng(7)
NEEDLES = np.repeat(np.arange(20), 5)
VALUES = np.clip(0.4 + 0.2 * RNG.normal(size=20)[NEEDLES] + 0.1 * RNG.normal(size=100), 0, 1)


def test_sums_by_hand():
    sums, counts = needle_sums(np.array([1.0, 2.0, np.nan, 4.0]), np.array(["b", "a", "a", "b"]))
    assert sums.tolist() == [2.0, 5.0]
    assert counts.tolist() == [1.0, 2.0]


def test_the_interval_surrounds_the_mean_at_the_clusters_scale():
    found = clustered_interval(VALUES, NEEDLES)
    assert found.estimate == pytest.approx(VALUES.mean())
    assert (found.n, found.n_clusters, found.level) == (100, 20, 0.95)
    error = float(needle_stderr(VALUES[:, None], NEEDLES)[0])
    assert 1.8 * error < found.estimate - found.low < 2.8 * error  # t with 19 degrees of freedom: 2.09
    assert 1.8 * error < found.high - found.estimate < 2.8 * error
    apart = clustered_interval(VALUES, np.arange(100))  # probes as if independent: far too narrow
    assert apart.high - apart.low < 0.6 * (found.high - found.low)
    wide = clustered_interval(VALUES, NEEDLES, level=0.99)
    assert wide.low < found.low < found.high < wide.high


def test_order_of_probes_and_names_of_needles_do_not_matter():
    found = clustered_interval(VALUES, NEEDLES)
    order = RNG.permutation(100)
    shuffled = clustered_interval(VALUES[order], NEEDLES[order])
    np.testing.assert_allclose([shuffled.low, shuffled.high], [found.low, found.high], rtol=1e-9)
    renamed = clustered_interval(VALUES, RNG.permutation(20)[NEEDLES])  # other resamples: equal up to their luck
    np.testing.assert_allclose([renamed.low, renamed.high], [found.low, found.high], atol=0.02)


def test_a_curve_is_its_checkpoints_one_by_one():
    curve = clustered_interval(np.stack([VALUES, 1 - VALUES]), NEEDLES, bounds=(0, 1))
    for i, values in enumerate((VALUES, 1 - VALUES)):
        one = clustered_interval(values, NEEDLES, bounds=(0, 1))
        assert (curve.estimate[i], curve.low[i], curve.high[i]) == pytest.approx((one.estimate, one.low, one.high))


def test_missing_values_are_left_out_and_not_counted():
    values = np.stack([VALUES, VALUES, np.full(100, np.nan)])
    values[1, NEEDLES < 3] = np.nan
    found = clustered_interval(values, NEEDLES, bounds=(0, 1))
    kept = clustered_interval(VALUES[NEEDLES >= 3], NEEDLES[NEEDLES >= 3], bounds=(0, 1))
    assert found.estimate[1] == pytest.approx(kept.estimate)
    assert (found.low[1], found.high[1]) == pytest.approx((kept.low, kept.high), abs=0.02)
    assert np.isnan([found.estimate[2], found.low[2], found.high[2]]).all()
    assert (found.n, found.n_clusters) == (85, 17)


@pytest.mark.parametrize("needles", [1, 2, MIN_NEEDLES - 1])
def test_few_needles_give_no_interval(needles: int):
    found = clustered_interval(np.linspace(0, 1, 3 * needles), np.repeat(np.arange(needles), 3), bounds=(0, 1))
    assert found.estimate == pytest.approx(0.5)
    assert np.isnan([found.low, found.high]).all()
    assert found.n_clusters == needles
    counted = resampled_interval(np.array(3), np.array([2, 3, 4]), n=3 * needles, n_clusters=needles)
    assert np.isnan([counted.low, counted.high]).all()


def test_agreement_of_all_needles_is_not_certainty():
    needles = np.repeat(np.arange(24), 4)
    right = clustered_interval(np.ones(96), needles, bounds=(0, 1))
    assert (right.low, right.high) == pytest.approx((0.025 ** (1 / 24), 1.0))  # Clopper and Pearson, 24 of 24
    wrong = clustered_interval(np.zeros(96), needles, bounds=(0, 1))
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 24)))
    level = clustered_interval(np.full(96, 0.5), needles, bounds=(0, 1))
    assert level.low < 0.35 and level.high > 0.65
    assert np.isnan(clustered_interval(np.full(96, 0.5), needles).low)
    nearly = clustered_interval(np.r_[0.0, np.ones(95)], needles, bounds=(0, 1))
    assert 0.8 < nearly.low < right.low + 0.02 and nearly.high <= 1


def test_bounds_hold():
    values = np.exp(2 * RNG.normal(size=12))
    found = clustered_interval(values, np.arange(12), bounds=(0, np.inf))
    assert 0 <= found.low < found.estimate < found.high
    with pytest.raises(ValueError, match="outside of the bounds"):
        clustered_interval(values, np.arange(12), bounds=(0, 1))


def test_one_needle_that_differs_gives_no_half_interval():
    values = np.r_[0.4, np.zeros(11)]
    for bounds in (None, (0, np.inf)):
        found = clustered_interval(values, np.arange(12), bounds=bounds)
        assert np.isnan([found.low, found.high]).all()
    found = clustered_interval(values, np.arange(12), bounds=(0, 1))
    assert 0 <= found.low < found.estimate < found.high < 0.5


def test_a_long_tail_moves_the_upper_end_only():
    values = np.exp(RNG.normal(size=24))
    known, open_ended = (clustered_interval(values, np.arange(24), bounds=(0, top)) for top in (1e6, np.inf))
    assert open_ended.low == known.low and open_ended.high > known.high
    quarter = clustered_interval(values, np.arange(24), bounds=(0, 1e6), level=0.975)
    assert open_ended.high == quarter.high


def test_wrong_arguments():
    with pytest.raises(ValueError, match="one label for each"):
        clustered_interval(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="empty"):
        clustered_interval(np.zeros(0), np.zeros(0))
    for level in (0, 1, 95):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            clustered_interval(VALUES, NEEDLES, level=level)
    with pytest.raises(ValueError, match="level"):
        resampled_interval(np.array(1), np.zeros(9), n=9, n_clusters=20, level=2)


def test_resamples_draw_as_many_needles_as_there_are():
    weights = needle_weights(15, draws=50)
    assert weights.shape == (50, 15)
    assert (weights.sum(axis=1) == 15).all() and (weights >= 0).all()
    np.testing.assert_array_equal(weights, needle_weights(15, draws=50))
    assert (weights != needle_weights(15, draws=50, seed=1)).any()


@pytest.mark.parametrize("name", ["score near 0", "score near 1", "NLL", "NLL, heavy tail", "exact match, 70 %"])
def test_coverage(name: str):
    """95 % intervals for skewed, bounded, clustered values; three standard errors of 1500 draws are 1.7 %."""
    sampler, bounds = worlds.VALUES[name]
    rng = np.random.default_rng(3)
    mean = worlds.truth(sampler, rng)
    values = sampler(rng, (1500, 16, 4)).reshape(1500, -1)
    found = clustered_interval(values, np.repeat(np.arange(16), 4), bounds=bounds)
    share = ((found.low <= mean) & (mean <= found.high)).mean()
    assert 0.915 <= share <= 0.985
