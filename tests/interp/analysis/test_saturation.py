"""Plateaus by equivalence only, the deceptive kind on known truth, bends from eight checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from headscope.interp.analysis.saturation import Plateau, deceptive_saturation, plateau
from made_up_trajectory import make_trajectory
from made_up_worlds import worlds

PROGRESS = np.linspace(0.5, 1, 8) * 1e11
RNG = np.random.default_rng(0)


def of_curve(progress: np.ndarray, log_nll: np.ndarray, margin: float, window: int | None = None) -> Plateau:
    """Of a run whose probes all have the same NLL: only the scatter of its checkpoints is to be told."""
    run = make_trajectory(len(progress), lengths=(1024,), depths=(0.5,))
    nll = np.broadcast_to(np.exp(log_nll)[:, None], run.exact_match.shape)
    return plateau(replace(run, tokens=progress, nll=dict.fromkeys(run.nll, nll)), "nll", margin=margin, window=window)


def test_the_slope_of_a_curve_by_hand():
    y = 3 + 0.2 * np.log2(PROGRESS) + 0.01 * RNG.normal(size=8)
    found = of_curve(PROGRESS, y, margin=0.05)
    line = stats.linregress(np.log2(PROGRESS), y)
    half = stats.t.ppf(0.95, 6) * line.stderr
    assert found.slope == pytest.approx(line.slope)
    assert found.interval == pytest.approx((line.slope - half, line.slope + half))
    assert found.verdict == "still moving" and (found.n, found.n_clusters) == (8, 12)


def test_equivalence_not_absence_of_proof():
    flat, noisy = 0.5 + 0.001 * RNG.normal(size=8), 0.5 + 0.1 * RNG.normal(size=8)
    assert of_curve(PROGRESS, flat, margin=0.05).verdict == "plateau"
    assert of_curve(PROGRESS, noisy, margin=0.05).verdict == "insufficient"
    assert "too noisy" in of_curve(PROGRESS, noisy, margin=0.05).words
    # a slope beyond doubt, but below what matters
    assert of_curve(PROGRESS, 0.01 * np.log2(PROGRESS), margin=0.05).verdict == "plateau"
    assert of_curve(PROGRESS, 0.01 * np.log2(PROGRESS), margin=0.005).verdict == "still moving"


def test_too_few_checkpoints():
    for n in (1, 2, 5):
        found = of_curve(PROGRESS[:n], np.ones(n), margin=0.1)
        assert found.verdict == "insufficient" and np.isnan(found.interval).all() and found.n == n
    zero = of_curve(np.r_[0, PROGRESS[:5]], np.ones(6), margin=0.1)
    assert zero.n == 5  # progress 0 has no place on a scale of doublings


def test_the_window_is_the_last_doubling():
    progress = np.arange(1, 21) * 1e9
    curve = np.where(progress < 10e9, progress / 1e10, 1.0)
    found = of_curve(progress, curve, margin=0.05)
    assert found.window == (10e9, 20e9) and found.n == 11 and found.verdict == "plateau"
    assert of_curve(progress, curve, margin=0.05, window=20).verdict == "still moving"
    sparse = of_curve(2.0 ** np.arange(9), np.ones(9), margin=0.05)
    assert sparse.n == 6


def test_the_slope_of_matches_and_nll():
    run = worlds.run(np.random.default_rng(1), checkpoints=8, needles=40, nll_slope=-0.3)
    x = np.log2(run.progress)
    score, loss = plateau(run), plateau(run, "nll_novel")
    assert score.slope == pytest.approx(np.polyfit(x, run.exact_match.mean(axis=1), 1)[0])
    assert loss.slope == pytest.approx(np.polyfit(x, np.log(run.nll["nll_novel"].mean(axis=1, dtype=float)), 1)[0])
    assert score.verdict == "plateau" and loss.verdict == "still moving" and loss.relative
    assert loss.interval[0] < -0.3 < loss.interval[1]
    assert (score.n, score.n_clusters) == (8, 40)


def test_what_all_probes_share_is_not_averaged_away():
    """The jitter of checkpoints is common to all needles; an interval over needles alone would miss it."""
    inside, widths = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        run = worlds.run(rng, checkpoints=8, needles=40, nll_jitter=0.1, nll_noise=0.02)
        found = plateau(run, "nll")
        inside.append(found.interval[0] < 0 < found.interval[1])
        widths.append(found.interval[1] - found.interval[0])
    assert 0.83 <= np.mean(inside) <= 0.97  # 90 %; three standard errors are 6 %
    assert np.median(widths) > 0.2


def test_no_turn_of_any_answer_is_not_certainty():
    run = worlds.run(np.random.default_rng(2), checkpoints=8, needles=12, cells=1)
    level = replace(run, exact_match=np.ones_like(run.exact_match))
    found = plateau(level)
    assert found.slope == 0 and found.interval[1] > 0.1 and found.verdict == "insufficient"
    many = worlds.run(np.random.default_rng(2), checkpoints=8, needles=60, cells=6)
    assert plateau(replace(many, exact_match=np.ones_like(many.exact_match))).verdict == "plateau"


def test_deceptive_saturation_when_true_and_when_not():
    """600 draws on one core take seconds; benchmarks/statistics.py has the larger table."""
    noisy = {"flips": 0.6, "score_jitter": 0.05, "nll_noise": 0.6, "nll_jitter": 0.15}
    cases = {
        "true": ({"nll_slope": -0.2}, 0.9, 1),
        "both level": ({}, 0, 0.05),
        "both moving": ({"nll_slope": -0.2, "score_slope": 0.15, "level": 0.85}, 0, 0.05),
        "both noisy": (noisy, 0, 0.05),
    }
    for name, (world, least, most) in cases.items():
        rng = np.random.default_rng(3)
        found = [deceptive_saturation(worlds.run(rng, checkpoints=8, needles=48, **world)) for _ in range(150)]
        share = np.mean([one.verdict == "deceptive" for one in found])
        assert least <= share <= most, name
        if name == "both noisy":
            assert np.mean([one.verdict == "insufficient" for one in found]) > 0.5


def test_the_evidence_comes_along():
    run = worlds.run(np.random.default_rng(4), checkpoints=8, needles=48, nll_slope=-0.2)
    found = deceptive_saturation(run)
    assert found.verdict == "deceptive"
    assert found.score.verdict == "plateau" and found.nll.interval[1] < -0.05
    assert found.mean_score == pytest.approx(run.exact_match.mean(), abs=1e-6)
    for piece in ("level at", "exact_match", "nll_novel", "48 needles", "8 checkpoints"):
        assert piece in found.words


def test_the_same_probes():
    run = worlds.run(np.random.default_rng(5), checkpoints=8, needles=40, nll_slope=-0.2)
    nll = run.nll["nll_novel"].copy()
    nll[:, run.needles >= 30] = np.nan
    found = deceptive_saturation(replace(run, nll={**run.nll, "nll_novel": nll}))
    assert found.score.n_clusters == found.nll.n_clusters == 30
    kept = run.exact_match[:, run.needles < 30].mean(axis=1)
    assert found.score.slope == pytest.approx(np.polyfit(np.log2(run.progress), kept, 1)[0], abs=1e-6)


def test_when_nothing_can_be_said():
    few = worlds.run(np.random.default_rng(6), checkpoints=8, needles=6, nll_slope=-0.5)
    assert deceptive_saturation(few).verdict == "insufficient" and "6 needles" in deceptive_saturation(few).words
    short = worlds.run(np.random.default_rng(6), checkpoints=5, needles=48, nll_slope=-0.5)
    assert deceptive_saturation(short).verdict == "insufficient" and "5 usable" in deceptive_saturation(short).words
    run = worlds.run(np.random.default_rng(6), checkpoints=8, needles=60, nll_slope=-0.5)
    floor = deceptive_saturation(replace(run, exact_match=np.zeros_like(run.exact_match)))
    assert floor.verdict == "insufficient" and "not taken off" in floor.words
    unknown = deceptive_saturation(replace(run, exact_match=np.full_like(run.exact_match, np.nan)))
    assert unknown.verdict == "insufficient" and np.isnan(unknown.mean_score)
    zero = replace(run, nll=dict.fromkeys(run.nll, np.zeros_like(run.exact_match)))
    assert deceptive_saturation(zero).verdict == "insufficient"


def test_wrong_arguments():
    run = make_trajectory(3, needles=2)
    for wrong, message in (
        (lambda: plateau(run, "ppl"), "value must be one of"),
        (lambda: plateau(run, margin=0), "margin must be a positive number"),
        (lambda: plateau(run, window=2), "window must be at least 3"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()
