"""Every metric against what its paper or its published code gives; and the defects of others, which ours has not."""

from __future__ import annotations

from difflib import SequenceMatcher
from random import Random

import numpy as np
import pytest

from headscope.interp.tasks import judge
from headscope.interp.tasks.metrics import SCORES, last_number, mrcr_chance, named
from headscope.probes import Task
from headscope.probes.task import METRICS


def task(metric: str, *golds: str, rivals: tuple[str, ...] = (), prefix: str = "") -> Task:
    return Task(metric, golds, max_new_tokens=32, rivals=rivals, prefix=prefix)


def test_every_metric_is_there() -> None:
    assert set(SCORES) == set(METRICS)


@pytest.mark.parametrize(
    ("metric", "golds", "text", "score"),
    [
        ("string_match_all", ("7421", "Blue"), "It is 7421, and BLUE.", 1.0),
        ("string_match_all", ("7421", "blue", "9", "x"), "7421 and blue", 0.5),
        ("string_match_all", ("7421",), "", 0.0),
        # lm-evaluation-harness: the mean over the golds, .5; RULER: the largest
        ("string_match_part", ("1066", "in 1066"), "1066", 1.0),
        ("string_match_part", ("1066", "in 1066"), "1067", 0.0),
        ("exact", ("7421",), " 7421.\n", 1.0),
        ("exact", ("San  Francisco",), "san\nfrancisco!", 1.0),
        ("exact", ("ﬁve",), "FIVE", 1.0),
        ("exact", ("7421",), "74 21", 0.0),
        ("exact", ("7421",), "The number is 7421", 0.0),
        ("exact", ("U.S.",), "U.S.", 1.0),
        ("exact", ("答案",), "答案。", 1.0),
        # LongBio without its marker: the last letter is not cut off
        ("longbio", ("1975-03-12",), "born on 1975-03-12", 1.0),
        ("longbio", ("Ada", "Bo"), "Bo and Ada", 0.0),
        ("longbio", ("Ada", "Bo"), "ada, then bo", 1.0),
        ("longbio", ("Ada", "Ada"), "Ada", 0.0),
        ("last_number", ("42",), "12 + 30 = 42.", 1.0),
        ("last_number", ("42",), "42, that is 12 + 30", 0.0),
        ("last_number", ("1234",), "$1,234.0", 1.0),
        ("last_number", ("-3",), "it is -3", 1.0),
        ("last_number", ("3",), "2020-3", 1.0),
        ("last_number", ("3",), "none", 0.0),
        ("last_number", ("42",), "٤٢", 1.0),
    ],
)
def test_scores(metric: str, golds: tuple[str, ...], text: str, score: float) -> None:
    assert judge(task(metric, *golds), text).score == score


def test_numbers() -> None:
    told = {
        "1,234,567.50 x": "1234567.5",
        "1975-03-12": "12",
        "a-5": "5",
        "v1.2": "1.2",
        "1,23": "23",
        "9" * 5000: "9" * 5000,
    }
    for text, number in told.items():
        assert last_number(text) is not None and str(last_number(text)).rstrip("0") == number.rstrip("0"), text


def test_a_list_of_everything_is_not_perfect() -> None:
    asked = task("string_match_all", "ABCDE", "FGHIJ", rivals=("KLMNO", "PQRST", "UVWXY"))
    everything = judge(asked, "ABCDE FGHIJ KLMNO PQRST UVWXY")
    assert (everything.score, everything.precision, everything.rival) == (1.0, 0.4, 0)
    assert judge(asked, "abcde fghij").precision == 1.0
    wrong = judge(asked, "UVWXY, then PQRST")
    assert (wrong.score, wrong.precision, wrong.rival) == (0.0, 0.0, 2), "the one that was said first"
    nothing = judge(asked, "I do not know")
    assert np.isnan(nothing.precision) and nothing.rival == -1


def test_what_is_part_of_a_longer_one_is_not_named() -> None:
    assert named("Paris Hilton", ["Paris", "Paris Hilton"]) == {1: 0}
    assert named("Paris and PARIS HILTON", ["Paris", "Paris Hilton"]) == {1: 10, 0: 0}
    asked = task("string_match_part", "12345", rivals=("2345",))
    assert judge(asked, "12345").rival == -1 and judge(asked, "2345").rival == 0


def test_which_rival_in_the_other_metrics() -> None:
    assert judge(task("exact", "Rome", rivals=("Oslo", "Bern")), "Bern").rival == 1
    assert judge(task("longbio", "Rome", rivals=("Oslo", "Bern")), "in Oslo").rival == 0
    ages = task("last_number", "42", rivals=("41", "1,043"))
    assert [judge(ages, text).rival for text in ("42", "it is 1043", "41.0", "7", "")] == [-1, 1, 0, -1, -1]


# MRCR


def replies(n: int, seed: int = 0, words: int = 150) -> tuple[str, ...]:
    """Texts of their own, as of a model: about 900 letters each."""
    rng = Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2000)]
    return tuple(" ".join(rng.choices(vocabulary, k=words)) for _ in range(n))


def of_mrcr(n: int, seed: int = 0) -> Task:
    right, *siblings = replies(n, seed)
    return task("mrcr", "AbC123" + right, rivals=tuple(siblings), prefix="AbC123")


def test_mrcr_is_the_published_grader() -> None:
    """OpenAI's `grade`, but for blanks before the prefix, on responses of every kind."""

    def grade(response: str, answer: str, random_string_to_prepend: str) -> float:
        if not response.startswith(random_string_to_prepend):
            return 0
        response = response.removeprefix(random_string_to_prepend)
        answer = answer.removeprefix(random_string_to_prepend)
        return float(SequenceMatcher(None, response, answer).ratio())

    asked = of_mrcr(2)
    gold = asked.golds[0]
    said = [
        gold,
        gold[:400],
        gold[:3] + gold[4:],
        gold.removeprefix(asked.prefix),
        asked.prefix + asked.rivals[0],
        "",
        "x",
    ]
    said += [asked.prefix, asked.prefix + gold]
    for text in said:
        assert judge(asked, text).score == grade(text, gold, asked.prefix)
        assert judge(asked, " \n" + text).score == grade(text, gold, asked.prefix)
    assert judge(asked, gold).score == judge(asked, gold).above_chance == 1.0


def test_mrcr_takes_response_before_answer_and_autojunk() -> None:
    asked = of_mrcr(2)
    response, answer = asked.rivals[0], asked.golds[0].removeprefix(asked.prefix)
    found = judge(asked, asked.prefix + response).score
    assert found == SequenceMatcher(None, response, answer).ratio()
    assert found < SequenceMatcher(None, response, answer, autojunk=False).ratio() / 2


def test_half_an_answer_has_two_thirds() -> None:
    """Which is why `Answers.end` tells those that the limit cut off."""
    asked = of_mrcr(2)
    body = asked.golds[0].removeprefix(asked.prefix)
    assert judge(asked, asked.prefix + body[: len(body) // 2]).score == pytest.approx(2 / 3, abs=0.01)


@pytest.mark.parametrize(("n", "floor"), [(2, 0.51), (4, 0.27), (8, 0.15)])
def test_the_noise_floor_is_that_of_a_random_reply(n: int, floor: float) -> None:
    asked = of_mrcr(n)
    drawn = [judge(asked, asked.prefix + reply) for reply in (asked.golds[0].removeprefix(asked.prefix), *asked.rivals)]
    assert mrcr_chance(asked) == pytest.approx(np.mean([each.score for each in drawn]))
    assert mrcr_chance(asked) == pytest.approx(floor, abs=0.03)
    assert np.mean([each.above_chance for each in drawn]) == pytest.approx(0, abs=1e-12)


def test_which_sibling_an_mrcr_reply_is() -> None:
    asked = of_mrcr(4)
    for i, reply in enumerate(asked.rivals):
        assert judge(asked, asked.prefix + reply[:700]).rival == i
        assert judge(asked, reply).rival == i, "also without the prefix, which costs the score"
    assert judge(asked, asked.golds[0]).rival == -1
    assert judge(asked, asked.prefix + replies(1, seed=9)[0]).rival == -1
    alone = task("mrcr", "xyz", prefix="")
    assert np.isnan(judge(alone, "xyz").above_chance), "without siblings there is no chance to be above of"
