"""The regression watch: what it says of two measurements, and how often it is wrong in a whole run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headscope.interp.analysis.drop_alarm import RATE, Regression, Watch
from headscope.interp.scoring import score_heads

NEEDLES = np.arange(24) // 2  # 12 needles, two probes each
HEADS = 20


def made_up(rng: np.random.Generator, measurements: int, drift: float = 0.12) -> np.ndarray:
    """Scores [T, P, 1, H], true means constant: needle effects, and noise that drifts from one to the next."""
    mean = np.where(np.arange(HEADS) < 8, rng.uniform(0.2, 0.7, HEADS), 0.01)
    needle = rng.normal(0, 0.15, (12, HEADS))[NEEDLES]
    noise = rng.normal(0, drift, (measurements, len(NEEDLES), HEADS))
    for t in range(1, measurements):
        noise[t] = 0.8 * noise[t - 1] + 0.6 * noise[t]
    return (mean * (1 + needle + noise)).clip(0, 1)[:, :, None]


def compared(before: Any, after: Any, needles: np.ndarray = NEEDLES, **options: float) -> Regression:
    """Two measurements and no more."""
    watch = Watch(needles, planned=2, **options)  # type: ignore[arg-type]
    watch.add(0, before)
    found = watch.add(1, after)
    assert found is not None
    return found


def test_a_fall_is_found_and_told() -> None:
    before, after = made_up(np.random.default_rng(0), 2)
    found = compared(before, after * 0.5)
    assert found.fell and found.p < 1e-4
    assert found.interval[0] < found.drop < found.interval[1]
    assert found.drop == pytest.approx(found.reference - found.current)
    assert (found.n_probes, found.n_needles) == (24, 12)
    assert "fell by more than 10%" in found.words and "12 needles" in found.words


def test_no_fall_within_the_margin() -> None:
    before, _ = made_up(np.random.default_rng(1), 2)
    assert not compared(before, before * 0.95).fell
    assert compared(before, before * 0.95, margin=0.0).fell


def test_the_drop_is_that_of_the_leading_heads_of_the_other_half() -> None:
    """By hand: the even needles choose the heads for the odd ones, and the other way round."""
    before, after = made_up(np.random.default_rng(2), 2)
    found = compared(before, after)
    drops = np.zeros(24)
    for half in (0, 1):
        choosing = half == NEEDLES % 2
        means = before[choosing, 0].mean(axis=0)
        heads = [h for h in np.argsort(-means)[:10] if means[h] > 0.1]
        drops[~choosing] = (before - after)[~choosing][:, 0, heads].mean(axis=1)
    assert found.drop == pytest.approx(drops.mean())


@pytest.mark.parametrize(("needles", "words"), [(np.arange(24) // 4, "6 needles"), (np.zeros(24), "1 needles")])
def test_few_needles_are_no_evidence(needles: np.ndarray, words: str) -> None:
    before, after = made_up(np.random.default_rng(3), 2)
    found = compared(before, after * 0.1, needles)
    assert not found.fell and np.isnan(found.p) and "insufficient" in found.words


def test_nothing_to_lose_before_there_are_retrieval_heads() -> None:
    found = compared(np.full((24, 2, 3), 0.05), np.zeros((24, 2, 3)))
    assert not found.fell and "no retrieval heads yet" in found.words


def test_unobservable_heads_do_not_count() -> None:
    before, after = made_up(np.random.default_rng(4), 2)
    hidden = before.copy()
    hidden[:, 0, 12:] = np.nan
    found = compared(hidden, np.where(np.isnan(hidden), np.nan, after * 0.5))
    assert found == compared(before, after * 0.5)


def test_exactly_equal_drops_leave_no_doubt() -> None:
    """Without any spread there is no standard error to divide by."""
    before = np.full((24, 1, 4), 0.5)
    assert compared(before, before * 0.5).p < 1e-50
    assert compared(before, before).p == 1


def test_the_rate_is_spent_once_in_a_whole_run() -> None:
    watch = Watch(NEEDLES, planned=21)
    planned = [watch.alpha(test) for test in range(1, 21)]
    assert len(set(planned)) == 1
    late = [watch.alpha(test) for test in range(21, 5000)]
    assert 0 < late[-1] < late[0]
    assert 0.999 * RATE < sum(planned) + sum(late) <= RATE


def first_alarm(watch: Watch, run: np.ndarray) -> int | None:
    for t, scores in enumerate(run):
        found = watch.add(t, scores)
        if found is not None and found.fell:
            return t
    return None


@pytest.mark.parametrize("measurements", [20, 60])
def test_runs_without_a_change_rarely_alarm(measurements: int) -> None:
    """With no margin the null is exact. 120 runs: above 12 has a probability of 1 % at the stated 5 %."""
    alarms = sum(
        first_alarm(
            Watch(NEEDLES, planned=measurements, margin=0.0), made_up(np.random.default_rng([5, seed]), measurements)
        )
        is not None
        for seed in range(120)
    )
    assert alarms <= 12


def test_a_fall_in_a_run_is_noticed_at_once() -> None:
    """The reference is the best measurement, not the first: these heads only come back to where they began."""
    noticed = []
    for seed in range(30):
        run = made_up(np.random.default_rng([6, seed]), 20)
        run[:5] *= 0.5
        run[12:] *= 0.5
        noticed.append(first_alarm(Watch(NEEDLES, planned=20), run))
    assert noticed.count(12) >= 28


def test_the_first_measurement_has_no_reference() -> None:
    watch = Watch(NEEDLES, planned=3)
    first, second = made_up(np.random.default_rng(7), 2)
    assert watch.add(100, first) is None
    found = watch.add(200, second)
    assert isinstance(found, Regression) and found.steps == (100,)


def test_scores_of_a_model_are_accepted() -> None:
    from builders import random_grid
    from tiny_models import build

    scores = score_heads(build("llama"), random_grid())
    assert not compared(scores, scores, scores.probes["needle_id"]).fell
    with pytest.raises(ValueError, match="probes, the watch of"):
        compared(scores, score_heads(build("llama"), random_grid(depths=(0.5,))), scores.probes["needle_id"])


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda a: compared(a[0], a[0]), "n_probes, n_layers, n_heads"),
        (lambda a: compared(a, a, margin=1.0), "margin"),
        (lambda a: Watch(NEEDLES, planned=0), "planned"),
        (lambda a: Watch(NEEDLES, planned=3).add(0, a[:4]), "4 probes"),
    ],
)
def test_bad_arguments_are_named(work, message: str) -> None:  # noqa: ANN001
    with pytest.raises(ValueError, match=message):
        work(made_up(np.random.default_rng(8), 1)[0])


LENGTHS = np.tile([1024, 4096, 8192], 12)
AT_LENGTHS = np.repeat(np.arange(12), 3)


def at_three_lengths(seed: int, factors: tuple[float, float, float], nats: tuple[float, ...] = (0, 0, 0)) -> Any:
    """Scores [P, 1, H] and NLL [P] of 12 needles at three lengths: the same probes, new noise for every seed."""
    needle, rng = np.random.default_rng(0), np.random.default_rng([9, seed])
    mean = np.where(np.arange(HEADS) < 8, 0.6, 0.01) * (1 + needle.normal(0, 0.15, (12, HEADS)))[AT_LENGTHS]
    scores = mean * np.tile(factors, 12)[:, None] * (1 + rng.normal(0, 0.1, (36, HEADS)))
    nll = needle.gamma(2, 0.3, 12)[AT_LENGTHS] * np.exp(rng.normal(0, 0.05, 36)) + np.tile(nats, 12)
    return scores.clip(0, 1)[:, None], nll


def alarms(*measurements: Any, **options: Any) -> set[str]:
    watch = Watch(AT_LENGTHS, planned=20, lengths=LENGTHS, **options)
    for step, (scores, nll) in enumerate(measurements):
        watch.add(step, scores, nll)
    assert len({r.alpha_spent for r in watch.regressions}) == 1
    assert watch.regressions[0].alpha_spent * len(watch.watched) == pytest.approx(watch.alpha(1))
    return {r.what for r in watch.regressions if r.fell}


ALL = (1.0, 0.9, 0.8)
NLL = "the NLL of tokens that only the needle tells"
RATIO = "the leading heads' score at 8K over that at 1K"


@pytest.mark.parametrize(
    ("factors", "nats", "expected"),
    [
        (ALL, (0, 0, 0), set()),
        ((1.0, 0.9, 0.65), (0, 0, 0), {"the leading heads at 8K", RATIO}),
        ((1.0, 0.7, 0.8), (0, 0, 0), {"the leading heads at 4K"}),
        (ALL, (0.3, 0, 0), {f"{NLL} at 1K"}),
        (ALL, (0.3, 0.3, 0.3), {f"{NLL} at 1K", NLL}),
        (ALL, (0.08, 0.08, 0.08), set()),
        (ALL, (-0.1, -0.1, -0.1), set()),
        ((1.5, 0.9, 0.8), (0, 0, 0), set()),  # the shortest grows: nothing is lost
        ((1.5, 0.9, 0.75), (0, 0, 0), {RATIO}),  # it grows at the expense of the longest
    ],
)
def test_what_fell_is_told_apart(factors: Any, nats: Any, expected: set[str]) -> None:
    assert alarms(at_three_lengths(0, ALL), at_three_lengths(1, factors, nats)) == expected


def test_the_numbers_told_are_those_of_the_probes() -> None:
    before, after = at_three_lengths(0, ALL), at_three_lengths(1, (1.0, 0.9, 0.4), (0.3, 0, 0))
    watch = Watch(AT_LENGTHS, planned=5, lengths=LENGTHS)
    assert watch.add(0, *before) is None and watch.regressions == []
    first = watch.add(1, *after)
    told = {r.what: r for r in watch.regressions}
    assert first is watch.regressions[0] and list(told)[0] == "the leading heads" and len(told) == 7
    short, long = LENGTHS == 1024, LENGTHS == 8192
    nll = told[f"{NLL} at 1K"]
    assert (nll.reference, nll.current) == pytest.approx((before[1][short].mean(), after[1][short].mean()))
    assert nll.drop == pytest.approx(nll.current - nll.reference) and "rose by more than 0.105 nats" in nll.words
    heads = slice(0, 8)  # all that retrieve lead, by either half
    ratios = [s[long, 0, heads].mean() / s[short, 0, heads].mean() for s, _ in (before, after)]
    assert (told[RATIO].reference, told[RATIO].current) == pytest.approx(ratios)
    at_long = told["the leading heads at 8K"]
    assert at_long.current == pytest.approx(after[0][long, 0, heads].mean()) and at_long.n_probes == 12


def test_the_error_of_a_ratio_is_that_of_resampled_needles() -> None:
    before, after = at_three_lengths(0, ALL), at_three_lengths(1, (1.0, 0.9, 0.6))
    watch = Watch(AT_LENGTHS, planned=5, lengths=LENGTHS)
    watch.add(0, *before), watch.add(1, *after)
    (ratio,) = (r for r in watch.regressions if r.what == RATIO)
    by_needle = [scores.reshape(12, 3, HEADS)[..., :8].mean(axis=-1) for scores, _ in (before, after)]
    sums = np.stack([means[:, place] for means in by_needle for place in (2, 0)])
    rng = np.random.default_rng(0)
    drawn = sums[:, rng.integers(0, 12, (4000, 12))].mean(axis=2)
    error = float(np.std(drawn[0] / drawn[1] - drawn[2] / drawn[3])) * np.sqrt(12 / 11)
    assert (ratio.interval[1] - ratio.interval[0]) / 2 == pytest.approx(2.201 * error, rel=0.06)  # t, 11 degrees


def test_one_length_is_the_heads_and_the_nll() -> None:
    watch = Watch(NEEDLES, planned=3, lengths=np.full(24, 2048))
    assert [quantity.name for quantity in watch.watched] == ["the leading heads", NLL]
    before, after = made_up(np.random.default_rng(0), 2)
    watch.add(0, before), watch.add(1, after)
    assert "no token that only the needle tells" in watch.regressions[1].words and not watch.regressions[1].fell


def test_nothing_rings_in_runs_that_only_wander() -> None:
    """25 runs of 8 measurements with everything watched, without a margin: above 4 has a probability of .7 % at 5 %."""
    rang = 0
    for seed in range(25):
        watch = Watch(AT_LENGTHS, planned=8, lengths=LENGTHS, margin=0.0)
        for step in range(8):
            watch.add(step, *at_three_lengths(100 * seed + step, ALL))
            if any(r.fell for r in watch.regressions):
                rang += 1
                break
    assert rang <= 4


def test_few_needles_at_one_length_are_no_evidence() -> None:
    """The longest length holds the needles 0 and 1 only: what they lose is nobody's alarm but that of all lengths."""
    kept = (LENGTHS != 8192) | (AT_LENGTHS < 2)
    watch = Watch(AT_LENGTHS[kept], planned=20, lengths=LENGTHS[kept])
    for step, (scores, nll) in enumerate((at_three_lengths(0, ALL), at_three_lengths(1, (1.0, 0.9, 0.1)))):
        watch.add(step, scores[kept], nll[kept])
    told = {r.what: r for r in watch.regressions}
    assert not told[RATIO].fell and "fewer than 8 needles at one" in told[RATIO].words and np.isnan(told[RATIO].p)
    assert "insufficient: 2 needles" in told["the leading heads at 8K"].words
