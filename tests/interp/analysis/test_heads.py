"""Which heads changed: exact p by hand, false discoveries under control, births and deaths as they were made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headscope.interp.analysis.heads import changes, life
from made_up_trajectory import BORN, DYING, GROWING, STEADY, make_trajectory
from made_up_worlds import worlds


def paired(differences: np.ndarray, needle: np.ndarray | None = None):
    """Two checkpoints of one layer, from differences [P, H] about 0.5."""
    d = np.asarray(differences, np.float32)
    both = np.stack([0.5 - d / 2, 0.5 + d / 2])[:, :, None]
    return worlds.trajectory(both, np.arange(len(d)) if needle is None else needle, np.array([1e9, 2e9]))


def test_p_by_hand():
    found = changes(paired([[0.1, 0.1, 0], [0.2, 0.1, 0], [0.3, 0.1, 0], [0.1, -0.1, 0]]))
    assert found.exact and found.n_clusters == 4 and found.smallest_p == 1 / 8
    np.testing.assert_allclose(found.difference, [[0.175, 0.05, 0]], atol=1e-6)
    # all of one sign: 2 patterns of 16; three of four equal steps: |sum| >= 0.2 in 10 of 16; no change at all: 1
    np.testing.assert_allclose(found.p, [[1 / 8, 10 / 16, 1]])
    assert (found.tested, found.fewest) == (0, 0) and not found.changed.any()


def test_probes_of_a_needle_flip_together():
    d = np.full((12, 1), 0.1)
    assert changes(paired(d)).p[0, 0] == pytest.approx(2 / 2**12)
    assert changes(paired(d, np.repeat(np.arange(3), 4))).p[0, 0] == pytest.approx(2 / 2**3)


def test_many_needles_use_random_flips_with_a_valid_p():
    rng = np.random.default_rng(0)
    found = changes(paired(np.c_[np.full(30, 0.1), 0.1 * rng.normal(size=30)]))
    assert not found.exact and found.p[0, 0] == found.smallest_p == 1 / 65536
    assert found.p[0, 1] > 0.01
    assert changes(paired(np.full((30, 1), 0.1)), seed=3).p[0, 0] == 1 / 65536


def test_the_made_up_run():
    run = make_trajectory(needles=14)
    found = changes(run)
    for head, sign in ((GROWING, 1), (BORN, 1), (DYING, -1)):
        assert found.changed[head] and np.sign(found.difference[head]) == sign
    assert not found.changed[STEADY]
    np.testing.assert_allclose(found.difference, run.maps[-1] - run.maps[0], atol=1e-6)
    assert found.steps == (0, 3500)
    back = changes(run, -1, 0)
    np.testing.assert_array_equal(back.p, found.p)
    np.testing.assert_allclose(back.difference, -found.difference)
    loud = changes(run, sum_above=0.1)
    assert loud.tested == 4 and (loud.q[loud.q < 1] <= found.q[loud.q < 1]).all()


def test_order_and_names_do_not_matter():
    run = make_trajectory(2, needles=10)
    order = np.random.default_rng(0).permutation(run.scores.shape[1])
    renamed = np.array([f"n{(7 * i) % 10}" for i in run.needles])
    mixed = replace(
        run,
        scores=run.scores[:, order],
        nll={name: values[:, order] for name, values in run.nll.items()},
        exact_match=run.exact_match[:, order],
        probes={name: values[order] for name, values in (run.probes | {"needle_id": renamed}).items()},
    )
    np.testing.assert_allclose(changes(mixed).p, changes(run).p)


def test_unobservable_heads_and_unpaired_probes():
    d = np.full((10, 3), 0.1)
    run = paired(d)
    scores = run.scores.copy()
    scores[:, :, 0, 1] = np.nan
    scores[0, :4, 0, 2] = np.nan  # seen at the second checkpoint only
    found = changes(replace(run, scores=scores))
    assert np.isnan([found.difference[0, 1], found.p[0, 1], found.q[0, 1]]).all() and not found.changed[0, 1]
    assert found.p[0, 2] == pytest.approx(2 / 2**6)
    assert found.tested == 2


def test_too_few_needles_name_nobody():
    for needles in (1, 2, 5):
        found = changes(paired(np.full((needles, 50), 0.3)))
        assert not found.changed.any() and found.fewest == 0
    six = changes(paired(np.full((6, 50), 0.3)))
    assert six.changed.all() and six.fewest == 32  # p is at least 1/32: 32 of 50 heads must move together
    alone = np.zeros((6, 50))
    alone[:, 0] = 0.3
    assert changes(paired(alone)).changed.sum() == 1  # the 49 that stand still are no tests


@pytest.mark.parametrize("changed", [0.0, 0.3])
def test_false_discoveries(changed: float):
    """At most 5 % wrong among the named; 60 draws of 128 heads have a standard error of about 2 % at most."""
    rng = np.random.default_rng(1)
    wrong, hit = [], []
    for _ in range(60):
        run, true = worlds.pair(rng, heads=128, needles=12, cells=4, changed=changed, effect=0.45, skewed=False)
        named = changes(run).changed.ravel()
        wrong.append((named & ~true).sum() / max(named.sum(), 1))
        hit.append((named & true).sum() / max(true.sum(), 1))
    assert np.mean(wrong) <= 0.09
    assert changed == 0 or np.mean(hit) > 0.4  # a few needles carry most of a weak head, and flips know it


def test_births_deaths_and_ranks():
    run = make_trajectory()
    found = life(run)
    assert len(found.births) == len(found.deaths) == 8 and found.births[0] == found.deaths[0] == []
    assert [head for heads in found.births for head in heads] == [BORN]
    assert [head for heads in found.deaths for head in heads] == [DYING]
    np.testing.assert_array_equal(found.alive, run.maps > 0.1)
    assert found.ranks.shape == run.maps.shape
    assert found.ranks[-1][GROWING] == 1 and found.ranks[0][STEADY] == 1
    assert life(run, 0.9).births == [[]] * 8


def test_ranks_with_ties_and_unobservable_heads():
    scores = np.array([[[[0.5, 0.0, 0.0, np.nan]]], [[[0.5, 0.7, 0.0, np.nan]]]], np.float32)
    found = life(worlds.trajectory(scores, np.zeros(1), np.array([1.0, 2.0])))
    np.testing.assert_array_equal(found.ranks[:, 0], [[1, 2.5, 2.5, np.nan], [2, 1, 3, np.nan]])
    assert found.births == [[], [(0, 1)]] and not found.alive[:, 0, 3].any()


def test_wrong_arguments():
    run = make_trajectory(3, needles=2)
    for wrong, message in (
        (lambda: changes(run, 1, -2), "the same checkpoint"),
        (lambda: changes(run, 0, 3), "checkpoint must be a position"),
        (lambda: changes(run, level=5), "level must lie between 0 and 1"),
        (lambda: changes(make_trajectory(1, needles=2)), "the same checkpoint"),
        (lambda: life(run, np.inf), "threshold must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
