"""Heads, NLL and behaviour together: what seems level and is not, whichever level shows it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headscope.errors import ArgumentError
from headscope.interp.analysis import judge, levels_of, three_levels
from made_answers import make_answers
from made_up_trajectory import make_trajectory
from made_up_worlds import worlds

NLL, HEADS = {"nll_slope": -0.2}, {"head_slope": 0.15}


@pytest.mark.parametrize(
    ("world", "verdict", "moving"),
    [
        ({}, "not deceptive", ()),
        (NLL, "deceptive", ("NLL",)),
        (HEADS, "deceptive", ("heads",)),
        (NLL | HEADS, "deceptive", ("NLL", "heads")),
        (NLL | HEADS | {"score_slope": 0.15, "level": 0.85}, "not deceptive", ("NLL", "heads")),
        (NLL | {"level": 0.01}, "insufficient", ("NLL",)),
    ],
)
def test_the_verdict_is_the_worlds(world: dict[str, float], verdict: str, moving: tuple[str, ...]) -> None:
    run = worlds.run(np.random.default_rng(1), checkpoints=12, needles=48, **world)
    found = three_levels(run)
    assert (found.verdict, found.moving) == (verdict, moving), found.words
    assert found.heads is not None and found.heads.n == found.behaviour.n == 12
    assert "95% interval" in found.nll.words and "90% interval" in found.behaviour.words


def test_neither_by_the_margin_alone_nor_with_few_needles() -> None:
    rng = np.random.default_rng(2)
    edge = {"nll_slope": -0.05, "head_slope": 0.05}
    found = [three_levels(worlds.run(rng, checkpoints=8, needles=24, **edge)).verdict for _ in range(20)]
    assert found.count("deceptive") <= 3
    assert three_levels(worlds.run(rng, checkpoints=12, needles=8, **NLL)).verdict == "insufficient"


def test_answers_are_the_behaviour_where_every_checkpoint_has_some() -> None:
    run = make_trajectory(8)
    answers = {c: make_answers(c, n_probes=24) for c in range(8)}
    found = levels_of(run, answers)
    assert found.behaviour_name == "answers" and found.values["behaviour"].shape == (8, 24)
    np.testing.assert_array_equal(found.values["behaviour"][3], answers[3].score)
    assert set(found.values) == {"behaviour", "NLL", "heads"} and len(found.chosen) >= 3
    heads = np.stack([run.scores[:, :, layer, head] for layer, head in found.chosen], axis=-1)
    np.testing.assert_allclose(found.values["heads"], heads.mean(-1, dtype=np.float64))
    del answers[2]
    assert levels_of(run, answers).behaviour_name == "exact match"
    unseen = replace(run, scores=np.where(np.arange(6)[:, None] < 6, np.nan, run.scores).astype(np.float32))
    assert set(levels_of(unseen).values) == {"behaviour", "NLL"} and three_levels(unseen).heads is None
    other = make_answers(2, n_probes=24)
    other.probes["id"] = other.probes["id"][::-1].copy()
    with pytest.raises(ArgumentError, match="different items"):
        levels_of(run, answers | {2: other})


def test_judge_says_it_where_there_are_answers() -> None:
    run = make_trajectory(8)
    plain = judge(run)
    verdicts = judge(run, answers={c: make_answers(c, n_probes=24) for c in range(8)})
    (more,) = [each for each in verdicts if each.question not in {other.question for other in plain}]
    assert more.question == "Do behaviour, NLL and heads say the same?" and "heads_slope" in more.numbers
    assert more.answer in ("deceptive", "not deceptive", "insufficient")
