"""The best checkpoint without the luck that made it best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from command_line import fail, succeed
from headscope.errors import ArgumentError
from headscope.interp.analysis import choose_best, choose_checkpoint
from headscope.interp.store import append
from made_answers import make_answers
from made_scores import make_scores
from made_up_trajectory import make_trajectory


def test_the_naive_best_is_too_good_and_ours_is_not() -> None:
    """Twelve checkpoints that are all worth 0, and the best by luck."""
    rng, needle = np.random.default_rng(0), np.repeat(np.arange(24), 3)
    found = []
    for seed in range(30):
        noise = 0.3 * rng.normal(size=(12, 24))[:, needle] + 0.2 * rng.normal(size=(12, 72))
        found.append(choose_best(noise, needle, splits=20, seed=seed))
    naive, ours = (np.array(each) for each in zip(*((f.naive, f.value.estimate) for f in found), strict=True))
    assert naive.mean() > 0.09 and abs(ours.mean()) < 0.03
    assert np.mean([f.value.low <= 0 <= f.value.high for f in found]) >= 0.8
    assert all(f.optimism == pytest.approx(n - o) for f, n, o in zip(found, naive, ours, strict=True))
    assert max(f.stability for f in found) < 0.9 and np.mean([f.over_last.better == "b" for f in found]) <= 0.15


def test_a_checkpoint_that_is_best_is_chosen() -> None:
    rng, needle = np.random.default_rng(1), np.repeat(np.arange(16), 2)
    values = 0.05 * rng.normal(size=(5, 32)) + 0.3 * rng.normal(size=16)[needle]
    values[2] += 1
    up = choose_best(values, needle)
    assert (up.checkpoint, up.stability, up.step) == (2, 1.0, -1) and up.optimism == pytest.approx(0)
    assert up.value.estimate == pytest.approx(up.naive) and up.over_last.better == "b"
    assert "better than the last checkpoint by 1.0" in up.words
    down = choose_best(-values, needle, higher_is_better=False, steps=np.arange(5) * 100, measure="nll")
    assert (
        (down.checkpoint, down.step) == (2, 200)
        and down.over_last.better == "b"
        and "Best by nll: step 200" in down.words
    )
    last = choose_best(values[:3], needle)
    assert last.checkpoint == 2 and last.words.endswith("It is the last checkpoint.")


def test_of_a_run() -> None:
    run = make_trajectory(6)
    by = {measure: choose_checkpoint(run, measure, splits=20) for measure in ("nll_novel", "exact_match", "heads")}
    assert by["nll_novel"].step == run.steps[by["nll_novel"].checkpoint] and not by["nll_novel"].higher_is_better
    assert by["exact_match"].value.high <= 1
    answers = {c: make_answers(c, n_probes=24) for c in range(6)}
    for each in answers.values():
        each.probes["needle_id"] = np.arange(24).astype(str)
    assert choose_checkpoint(run, "answers", answers=answers, splits=5).measure == "answers"
    del answers[0]
    with pytest.raises(ArgumentError, match="not every checkpoint has answers"):
        choose_checkpoint(run, "answers", answers=answers)
    with pytest.raises(ArgumentError, match="by must be one of nll"):
        choose_checkpoint(run, "luck")
    with pytest.raises(ArgumentError, match="3 needles have a value at every checkpoint; 4"):
        choose_best(np.zeros((2, 3)), np.arange(3))
    with pytest.raises(ArgumentError, match="two checkpoints or more"):
        choose_best(np.zeros((1, 3)), np.arange(3))


def test_the_command(tmp_path: Path) -> None:
    for step in (0, 100, 200):
        probes = make_scores(step).probes | {"needle_id": np.arange(6).astype(str)}
        append(tmp_path / "run.h5", make_scores(step, probes=probes), step)
    text = succeed("best", tmp_path / "run.h5")
    assert text.startswith("Best by nll_novel: step") and "Halves of 6 needles chose:" in text
    assert "not every checkpoint has answers" in fail("best", tmp_path / "run.h5", "--by", "answers")
