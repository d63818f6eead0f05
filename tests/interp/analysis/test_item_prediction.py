"""AUC of items before against success after: scipy's, with ties; clusters, families and permuted labels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from headscope.errors import ArgumentError
from headscope.interp.analysis import predict_from, predict_items
from made_answers import make_answers
from made_scores import make_scores


def test_it_is_scipys_statistic_with_ties_and_the_pairs_weighed_by_probability() -> None:
    rng = np.random.default_rng(0)
    before, success = rng.integers(0, 6, 60).astype(float), (rng.random(60) < 0.4).astype(float)
    found = predict_items(before, success, np.arange(60), permutations=0).pooled
    u = stats.mannwhitneyu(before[success == 1], before[success == 0]).statistic
    wins, losses = int(success.sum()), int((1 - success).sum())
    assert found.auc.estimate == pytest.approx(u / wins / losses) and found.pairs == wins * losses
    assert np.isnan(found.p)
    share = rng.random((3, 60)).round(2)
    p = share.mean(0)
    won = sum(
        p[i] * (1 - p[j]) * (0.5 if before[i] == before[j] else before[i] > before[j])
        for i in range(60)
        for j in range(60)
        if i != j
    )
    pairs = p.sum() * (1 - p).sum() - (p * (1 - p)).sum()
    assert predict_items(before, share, np.arange(60), permutations=0).pooled.auc.estimate == pytest.approx(won / pairs)


def test_the_difficulty_of_families_predicts_nothing_within_them() -> None:
    """An easy family with a low NLL and a hard one: pooled looks like prediction, within there is none."""
    rng = np.random.default_rng(1)
    family = np.repeat(["easy", "hard"], 120)
    before = rng.normal(size=240) + 2 * (family == "easy")
    success = (rng.random(240) < np.where(family == "easy", 0.85, 0.2)).astype(float)
    found = predict_items(before, success, np.arange(240), family, permutations=199)
    assert found.pooled.auc.low > 0.7 and found.pooled.p < 0.05
    assert found.within.auc.low < 0.5 < found.within.auc.high and found.within.p > 0.05
    assert list(found.families) == ["easy", "hard"]
    weighed = sum(each.auc.estimate * each.pairs for each in found.families.values()) / found.within.pairs
    assert found.within.auc.estimate == pytest.approx(weighed)
    real = predict_items(before, (before > np.where(family == "easy", 2, 0)) * 1.0, np.arange(240), family)
    assert real.within.auc.estimate == 1 and 0.9 < real.within.auc.low < 1 and real.within.p == 0.001


def test_permuted_labels_are_at_one_half_and_whole_needles_are_dealt() -> None:
    """24 needles that decide everything, eight items each: as items 192 would seem sure; p is of 24."""
    rng = np.random.default_rng(2)
    needle = np.repeat(np.arange(24), 8)
    ps, plain, permuted = [], [], []
    for _ in range(30):
        before, success = rng.normal(size=24)[needle], (rng.random(24) < 0.5)[needle].astype(float)
        found = predict_items(before, success, needle, permutations=59).within
        ps.append(found.p)
        permuted.append(found.permuted)
        plain.append(predict_items(before, success, np.arange(192), permutations=59).within.p)
    assert abs(np.mean(permuted) - 0.5) < 0.03
    assert np.mean(np.array(ps) <= 0.05) <= 0.14 < 0.25 < np.mean(np.array(plain) <= 0.05)


def test_too_little_is_said_to_be_too_little() -> None:
    few = predict_items(np.arange(20.0), np.arange(20) % 2.0, np.arange(20) % 5, permutations=9).pooled
    assert np.isfinite(few.auc.estimate) and np.isnan(few.auc.low) and few.n_needles == 5
    same = predict_items(np.arange(20.0), np.ones(20), np.arange(20)).pooled
    assert np.isnan([same.auc.estimate, same.auc.low, same.p]).all() and same.pairs == 0
    one = predict_items(np.arange(20.0), np.arange(20) == 3.0, np.arange(20)).pooled
    assert np.isfinite(one.auc.estimate) and np.isnan(one.auc.low), "one success is no sample of successes"
    unknown = predict_items(np.r_[np.nan, np.arange(19.0)], np.r_[1.0, np.nan, np.arange(18) % 2], np.arange(20))
    assert unknown.pooled.n == 18
    for success, words in ((np.full(4, 1.5), "must lie in"), (np.ones(3), "alike")):
        with pytest.raises(ArgumentError, match=words):
            predict_items(np.arange(4.0), success, np.arange(4))


def test_scores_before_and_answers_after() -> None:
    n = 48
    plain = make_scores(n_probes=n)
    probes = plain.probes | {
        "needle_id": np.arange(n).astype(str),
        "family": np.array(["one", "two"])[np.arange(n) % 2],
    }
    scores = make_scores(n_probes=n, probes=probes | {"variant": np.full(n, "")})
    after = make_answers(n_probes=n, probe_set_hash=scores.probe_set_hash)
    after.probes["id"] = scores.probes["id"][::-1].copy()
    after.said["score"][:, 0] = np.round(np.exp(-scores.nll[::-1]), 3)
    found = predict_from(scores, after, permutations=19, threshold=0.3)
    assert [each.name for each in found] == ["NLL of novel tokens", "NLL of the answer", "hits of the 10 leading heads"]
    assert found[0].within.auc.estimate == 1 and found[2].within.auc.estimate < 0.9
    assert list(found[0].families) == ["one", "two"]
    seeds = dict.fromkeys(scores.probes["id"][:30].tolist(), np.array([1.0, 0.0]))
    told = predict_from(scores, seeds, permutations=0, hold_length=True)[0]
    assert told.success == 0.5 and told.pooled.n == 30 and "one, 1024 tokens" in told.families
    with pytest.raises(ArgumentError, match="both must be of the same probes"):
        predict_from(scores, make_answers(n_probes=n))
    with pytest.raises(ArgumentError, match="no probe of the scores"):
        predict_from(scores, {"other": 1.0})
