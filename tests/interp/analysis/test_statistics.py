"""The paper's p values, small cases by hand, and verdicts that a common trend cannot buy."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from headscope.interp.analysis.statistics import benjamini_hochberg, correlate, holm, p_of_r, written_p
from headscope.interp.analysis.trends import components, log_progress, residuals, saturating_curves
from made_up_worlds import worlds

# Tables 3 and 4: NIAH score, NIAH perplexity, number of heads, initial heads with RULER, MRCR, LongBio; tables 6 and 7
R = [0.8552, 0.8927, 0.4977, -0.9115, -0.9231, -0.6283, 0.8243, 0.8326, 0.5715, 0.8956, 0.8469, 0.6210]
P = [0.0299, 0.0166, 0.3151, 0.0114, 0.0087, 0.1816, 0.0436, 0.0397, 0.2361, 0.0158, 0.0334, 0.1882]
TOKENS = np.array([0, 20, 50, 100, 150, 200]) * 1e9


def test_the_papers_twelve_p_values():
    np.testing.assert_allclose(p_of_r(np.array(R), 6), P, atol=1e-3)
    assert holm(p_of_r(np.array(R), 6)).min() > 0.10
    assert holm(np.array(P)).min() > 0.10


def test_the_worked_example_runs(capsys: pytest.CaptureFixture[str]):
    page = (Path(__file__).parents[3] / "docs" / "statistics.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict = {}
    exec(compile(block, "docs/statistics.md", "exec"), names)
    np.testing.assert_allclose(names["p"].ravel(), P, atol=1e-3)
    printed = capsys.readouterr().out
    assert "0.104" in printed and "insufficient" in printed
    assert f"r = {names['found'].pearson:.2f}" in block.splitlines()[-1]


def test_p_of_r():
    x, y = np.random.default_rng(0).normal(size=(2, 9))
    r, p = stats.pearsonr(x, y)
    assert p_of_r(r, 9) == pytest.approx(p)
    assert p_of_r(1.0, 5) == 0 and p_of_r(0.0, 5) == 1
    with pytest.raises(ValueError, match="r must lie between -1 and 1, got 1.5"):
        p_of_r(1.5, 6)
    with pytest.raises(ValueError, match="n must be at least 3"):
        p_of_r(0.5, 2)


def test_corrections_by_hand():
    p = np.array([[0.01, 0.04], [0.03, np.nan]])
    np.testing.assert_allclose(holm(p), [[0.03, 0.06], [0.06, np.nan]])
    np.testing.assert_allclose(benjamini_hochberg(p), [[0.03, 0.04], [0.04, np.nan]])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
    assert len(holm(np.array([]))) == len(benjamini_hochberg(np.array([]))) == 0
    for correct in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match="p must lie between 0 and 1"):
            correct(np.array([0.5, 1.5]))


def test_numbers_by_hand():
    x, y = np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 1.0, 4.0, 8.0])
    found = correlate(x, y, [1.0, 2.0, 4.0, 8.0])
    assert found.n == 4
    assert found.pearson == pytest.approx(stats.pearsonr(x, y).statistic)
    assert found.spearman == pytest.approx(0.8)
    assert found.p == pytest.approx(stats.pearsonr(x, y).pvalue)
    assert found.ci == pytest.approx(tuple(stats.pearsonr(x, y).confidence_interval()))
    reached = [abs(np.corrcoef(x, order)[0, 1]) >= abs(found.pearson) - 1e-9 for order in permutations(y)]
    assert found.p_permutation == pytest.approx(np.mean(reached)) and found.exact
    assert found.r_differences == pytest.approx(np.corrcoef(np.diff(x), np.diff(y))[0, 1])
    logs = np.log([1.0, 2.0, 4.0, 8.0])
    left = [v - np.polyval(np.polyfit(logs, v, 1), logs) for v in (x, y)]
    assert found.r_partial == pytest.approx(np.corrcoef(*left)[0, 1])
    every = [np.corrcoef(np.delete(x, i), np.delete(y, i))[0, 1] for i in range(4)]
    assert found.leave_one_out == pytest.approx((min(every), max(every)))
    assert found.verdict == "insufficient" and "n = 4" in found.words


def test_ties_have_their_mean_rank():
    x, y = [0, 0, 0, 1, 2.0], [1, 0, 2, 3, 3.0]
    assert correlate(x, y).spearman == pytest.approx(stats.spearmanr(x, y).statistic)


def test_order_of_checkpoints_does_not_matter():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 10)).cumsum(axis=1)
    tokens = np.arange(10.0)
    order = rng.permutation(10)
    a, b = correlate(x, y, tokens), correlate(x[order], y[order], tokens[order])
    assert a == b


def test_missing_values_are_left_out_and_counted():
    x = np.r_[np.nan, np.arange(9.0)] ** 2
    y = np.r_[5.0, np.nan, np.arange(8.0)]
    found = correlate(x, y, np.arange(10.0))
    assert found.n == 8
    assert found.pearson == pytest.approx(np.corrcoef(x[2:], y[2:])[0, 1])


@pytest.mark.parametrize(("x", "y"), [([1, 1, 1, 1], [1, 2, 3, 4]), ([1], [2]), ([], []), ([np.nan] * 3, [1, 2, 3])])
def test_nothing_to_correlate(x: list, y: list):
    found = correlate(x, y, np.arange(len(x)) * 1.0)
    assert found.verdict == "insufficient"
    assert np.isnan([found.pearson, found.p, found.p_permutation, found.p_saturating, *found.ci]).all()
    assert "does not vary" in found.words


def test_perfect_correlation():
    found = correlate(np.arange(9.0), 2 * np.arange(9.0), np.arange(9.0))
    assert found.pearson == pytest.approx(1) and found.verdict == "insufficient"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="same length"):
        correlate([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="tokens must have one entry"):
        correlate([1, 2, 3], [1, 2, 3], [1, 2])
    for tokens in ([1, 1, 2], [-1, 0, 1]):
        with pytest.raises(ValueError, match="distinct and not negative"):
            correlate([1, 2, 3], [1, 2, 3], tokens)


def test_six_checkpoints_are_never_enough_and_trends_are_recognised():
    """The paper's grid: unrelated saturating curves look strongly linked, and are not called so."""
    rng = np.random.default_rng(2)
    x, y = (worlds.curves("exponential", rng, TOKENS, 60) + 0.02 * worlds.jitter(rng, 60, 6) for _ in range(2))
    found = [correlate(a, b, TOKENS) for a, b in zip(x, y, strict=True)]
    assert np.mean([one.pearson > 0.8 for one in found]) > 0.7
    assert {one.verdict for one in found} == {"insufficient"}
    assert np.median([one.p_saturating for one in found]) > 0.2
    assert all(one.exact for one in found)


@pytest.mark.parametrize(("kind", "n"), [("exponential", 8), ("power", 20), ("S", 12)])
def test_unrelated_curves_are_rarely_called_linked(kind: str, n: int):
    """At most 5 % by design (about half of that in fact); 300 draws allow for three standard errors of 2.5 %."""
    rng = np.random.default_rng(n)
    progress = np.linspace(0, 2e11, n)
    x, y = (worlds.curves(kind, rng, progress, 300) + 0.03 * worlds.jitter(rng, 300, n) for _ in range(2))
    found = [correlate(a, b, progress) for a, b in zip(x, y, strict=True)]
    assert np.mean([one.p < 0.05 for one in found]) > 0.9  # the usual test calls nearly all of them
    assert np.mean([one.verdict == "supported" for one in found]) <= 0.05


def test_related_curves_are_found_from_twelve_checkpoints():
    rng = np.random.default_rng(4)
    progress = np.linspace(0, 2e11, 12)
    own = worlds.jitter(rng, 60, 12)
    x, y = (
        worlds.curves("exponential", rng, progress, 60) + 0.05 * own + 0.01 * rng.normal(size=(60, 12)) for _ in "xy"
    )
    verdicts = [correlate(a, b, progress).verdict for a, b in zip(x, y, strict=True)]
    assert np.mean([verdict == "supported" for verdict in verdicts]) > 0.9


def test_without_tokens_nothing_is_judged():
    rng = np.random.default_rng(5)
    found = correlate(rng.normal(size=12), rng.normal(size=12))
    assert found.verdict == "insufficient" and "without tokens" in found.words
    assert np.isnan([found.r_partial, found.p_saturating, found.p_detrended]).all() and not found.exact


def test_noise_around_a_flat_line_is_no_link():
    rng = np.random.default_rng(6)
    found = [correlate(*rng.normal(size=(2, 14)), np.arange(14.0)).verdict for _ in range(40)]
    assert found.count("not supported") >= 30


def test_trend_components_hold_the_family():
    progress = np.linspace(0, 1e11, 16)
    rows, left = components(progress)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-9)
    assert (np.diff(left) <= 1e-12).all() and left[8] < 0.003
    assert np.abs(residuals(saturating_curves(progress), rows[:10])).max() < 0.01
    shape = 3 + 5 * (1 - np.exp(-progress / 4e10))
    assert np.abs(residuals(shape, rows[:8])).max() < 5 * 0.01


def test_log_progress():
    np.testing.assert_allclose(log_progress([1, 2, 4]), np.log([1, 2, 4]))
    np.testing.assert_allclose(log_progress([0, 20, 50]), np.log([20, 40, 70]))


def test_written_p():
    assert [written_p(p) for p in (0.00001, 0.0123, 1.0)] == ["p < 0.001", "p = 0.012", "p = 1"]
