"""The answers of a run, in words that carry their numbers and claim nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headscope.interp.analysis.downstream import read_downstream
from headscope.interp.analysis.verdicts import Verdict, judge
from made_up_trajectory import make_trajectory
from made_up_worlds import worlds


def answers(run, **options) -> dict[str, Verdict]:
    names = ("growing", "which", "improving", "sure", "downstream")
    return dict(zip(names, judge(run, **options), strict=False))


def plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    return all(map(plain, value)) if isinstance(value, list) else type(value) in (str, int, float, bool)


def test_the_made_up_run():
    found = answers(make_trajectory(12, needles=24, seed=2))
    assert found["which"].answer == "2 up, 1 down"
    for piece in ("L2H1", "L4H0", "L1H5", "New above 0.1: L4H0", "New below 0.1: L1H5", "24 needles"):
        assert piece in found["which"].words
    assert found["which"].numbers["born"] == ["L4H0"] and found["which"].numbers["died"] == ["L1H5"]
    assert found["growing"].answer == "some heads are, their number not clearly"
    assert found["growing"].numbers["change"] == 0
    assert found["improving"].answer == "still improving"
    assert found["sure"].answer == "every test can be done" and "144 probes of 24 needles" in found["sure"].words
    assert all(plain(verdict.numbers) for verdict in found.values())


def test_heads_that_really_become_more():
    run = make_trajectory(8, needles=24)
    scores = run.scores.copy()
    scores[-1, :, 5, :] = np.clip(scores[-1, :, 5, :] + 0.4, 0, 1)
    assert answers(replace(run, scores=scores))["growing"].answer == "yes"
    assert answers(replace(run, scores=scores[::-1]))["growing"].answer == "no, they become fewer"
    still = replace(run, scores=np.repeat(run.scores[:1], 8, axis=0))
    found = answers(still)
    assert found["growing"].answer == "not clearly" and "does not show that nothing changes" in found["growing"].words
    assert found["which"].answer in ("none that can be named", "insufficient")


def test_seeming_saturated_saturated_and_worse():
    rng = np.random.default_rng(0)
    make = {"checkpoints": 10, "needles": 60}
    deceptive = answers(worlds.run(rng, **make, nll_slope=-0.3))["improving"]
    assert deceptive.answer == "only seeming saturated" and "margin 0.05" in deceptive.words
    assert deceptive.numbers["deceptive_saturation"] == "deceptive"
    assert answers(worlds.run(rng, **make, nll_jitter=0.002))["improving"].answer == "saturated on these probes"
    worse = worlds.run(rng, **make, nll_slope=0.3, score_slope=-0.2, level=0.8)
    assert answers(worse)["improving"].answer == "getting worse"
    mixed = worlds.run(rng, **make, nll_slope=0.3, score_slope=0.2, level=0.8)
    assert answers(mixed)["improving"].answer == "mixed"


def test_no_slope_goes_over_the_border_of_a_stage():
    rng = np.random.default_rng(0)
    level = worlds.run(rng, checkpoints=10, needles=60, nll_jitter=0.002)
    fell = {name: np.concatenate([values * 8, values]) for name, values in level.nll.items()}
    both = replace(
        level,
        steps=np.arange(1, 21) * 1000,
        tokens=np.full(20, np.nan),
        scores=np.concatenate([level.scores * 0, level.scores]),
        exact_match=np.concatenate([level.exact_match * 0, level.exact_match]),
        nll=fell,
    )
    assert answers(both)["improving"].answer == "mixed" or "still" in answers(both)["improving"].answer
    own = np.tile(level.steps, 2)
    staged = answers(replace(both, stages=np.repeat(["short", "long"], 10), own_steps=own))
    within = staged["improving"]
    alone = answers(replace(level, tokens=both.tokens[:10]))["improving"]
    assert within.answer == alone.answer == "saturated on these probes"
    assert within.words.startswith("Judged within the last stage, long (10 checkpoints)")
    assert within.numbers["stage"] == "long" and within.numbers["checkpoints"] <= 10
    ends = staged["growing"].numbers["stage_ends"]
    assert [text.split(":")[0] for text in ends] == [f"short step {own[-1]}", f"long step {own[-1]}"]
    assert f"From short step {own[0]} to long step {own[-1]}" in staged["growing"].words
    few = replace(both, stages=np.repeat(["short", "long"], [16, 4]), own_steps=np.array([*own[:16], 1, 2, 3, 4]))
    assert answers(few)["improving"].answer == "insufficient"
    assert "a plateau needs 6 checkpoints in the last stage, long," in answers(few)["sure"].words


@pytest.mark.parametrize(("checkpoints", "needles"), [(1, 12), (3, 2), (12, 3), (1, 1)])
def test_too_little_is_said_to_be_too_little(checkpoints: int, needles: int):
    found = answers(make_trajectory(checkpoints, needles=needles))
    assert [verdict.answer for verdict in found.values()] == ["insufficient"] * 4
    assert str(needles) in found["sure"].words or checkpoints == 1


def test_only_the_whole_answers_nll_is_known():
    run = make_trajectory(12, needles=24)
    nll = dict.fromkeys(run.nll, np.full_like(run.exact_match, np.nan)) | {"nll": run.nll["nll"]}
    assert answers(replace(run, nll=nll))["improving"].answer == "still improving"


def test_downstream_scores(tmp_path):
    path = tmp_path / "scores.csv"
    run = make_trajectory(14, needles=24)
    rng = np.random.default_rng(1)
    path.write_text("step,RULER\n" + "".join(f"{s},{60 + i + rng.normal()}\n" for i, s in enumerate(run.steps)))
    found = answers(run, downstream=read_downstream(path))["downstream"]
    assert found.answer in ("no link beyond a common trend", "insufficient")
    assert "RULER (n = 14)" in found.words and "unrelated saturating curves" in found.words
    item = found.numbers["NIAH score / RULER"]
    assert item["n"] == 14 and {"r", "p_permutation", "p_holm", "p_saturating", "verdict", "words"} <= set(item)

    # a benchmark whose every jolt is a jolt of the heads
    nudge = 0.1 * rng.normal(size=14)
    scores = np.clip(run.scores + nudge[:, None, None, None] * (run.scores > 0.2), 0, 1)
    jolted = replace(run, scores=scores)
    path.write_text("step,RULER\n" + "".join(f"{s},{60 + 50 * j}\n" for s, j in zip(run.steps, nudge, strict=True)))
    linked = answers(jolted, downstream=read_downstream(path))["downstream"]
    assert "beyond a common trend" in linked.answer and linked.answer.startswith("1 of 4")
    assert "mean score of the initial heads and RULER" in linked.words
