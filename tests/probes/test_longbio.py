"""LongBio's levels: right answers, one of each, in any order of people; and what its own code does wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import kstest

from headscope import probes as hp
from headscope.probes.seeds import rng
from headscope.probes.suite import TOGETHER, Draw
from headscope.probes.suites.longbio import LEVELS, MOST_RIVALS, SUITE, people
from headscope.probes.tokens import squash


def passage(task: str, seed: int = 0, turn: int = 0, n: int = 30, density: float = 1.0):
    shared = rng(seed, "context")
    draw = Draw(rng(seed, turn), shared, turn, 4096, {"density": density}, None)
    return SUITE.tasks[task].draw(draw).make(n)


def context(made) -> str:
    return "".join(piece.text for piece in made.pieces)


def answer(made) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in made.answer).strip()


def ages(made) -> dict[str, int]:
    return {name: int(age) for name, age in re.findall(r"The age of ([\w ]+) is (\d+)\.", context(made))}


def asked(made) -> list[str]:
    names = "|".join(sorted({name for name, _ in re.findall(r"of ((\w+ ){2}\w+) is", context(made))}, key=len))
    return re.findall(names, made.question)


def test_lists_are_of_our_own_words_and_none_is_in_another() -> None:
    for pool, least in ((people.TOWNS, 1000), (people.HOBBIES, 250), (people.SUBJECTS, 250)):
        spelt = sorted(map(squash, pool))
        assert len(set(spelt)) == len(pool) >= least
        assert not any(a != b and a in b for a in spelt for b in spelt if a[0] == b[0] and a[1] == b[1])
    wording = squash(" ".join((*people.PLAIN.values(), *people.OTHER_WORDS.values(), *people.FIRST, *people.LAST)))
    assert not any(squash(value) in wording for pool in (people.TOWNS, people.HOBBIES) for value in pool)


@pytest.mark.parametrize("task", LEVELS)
def test_the_answer_follows_from_the_needles_and_from_nothing_else(task) -> None:
    for seed in range(12):
        made = passage(task, seed, turn=seed % TOGETHER)
        needles = {piece.group: piece.text for piece in made.pieces if piece.role == "needle"}
        level, gold = LEVELS[task], answer(made)
        assert made.task.golds == (gold,)
        everything = f"{made.before}{context(made)}{made.question}{made.answer_prefix}"
        if level.ages:
            told, names = ages(made), asked(made)
            assert len(told) == 30
            if task == "calculation":
                assert int(gold) == told[names[0]] - told[names[1]] > 0
            elif task == "twodiff":
                years = int(re.search(r"exactly (\d+) years", made.question)[1])
                older, younger = gold.split("; ")
                pairs = [(a, b) for a in told for b in told if told[a] - told[b] == years]
                assert pairs == [(older, younger)], "no other two differ by as much"
            else:
                ranked = gold.split("; ")
                assert sorted(ranked) == sorted(names) and len(ranked) == level.size
                assert len({told[name] for name in ranked}) == level.size, "no ties"
                assert ranked == sorted(ranked, key=lambda name: -told[name])
        elif task == "idk":
            assert gold == "not known" and list(needles) == [0]
            label = re.search(r"What is the (.+) of", made.question)[1]
            assert f"The {label} of" not in needles[0] and f"The {label} of" in context(made)
        else:
            parts = [part for part in made.answer if not isinstance(part, str)]
            values = [part for part in parts if not part.text.startswith(" [")]
            assert len(values) == (1 if "hop" in task else level.size)
            for part in values:
                assert needles[part.group].count(part.text) == everything.count(part.text.strip()) == 1
            assert made.value == (values[0].text.strip() if len(values) == 1 else "")
            for part in set(parts) - set(values):
                lines = context(made).split("\n")
                (line,) = [line for line in lines if line.startswith(f"Biography{part.text}:")]
                assert values[part.group - level.size].text in line, "the number is that of the biography"


def test_hops_go_both_ways_and_lead_to_the_value() -> None:
    forwards = []
    for seed in range(20):
        made = passage("multihop_5", seed)
        text = context(made)
        (name,) = asked(made)
        places, label = [], re.search(r"What is the (.+) of", made.question)[1]
        while hop := re.search(rf"The {label} of {name} is the same as ([\w ]+)'s\.", text):
            places.append(hop.start())
            name = hop[1]
        end = text.index(f"The {label} of {name} is {answer(made)}.")
        assert len(places) == 4
        forwards += [a < b for a, b in zip(places, [*places[1:], end], strict=True)]
    assert 0.3 < np.mean(forwards) < 0.7


def test_four_items_ask_different_people_in_one_context() -> None:
    for task in LEVELS:
        four = [passage(task, turn=turn) for turn in range(TOGETHER)]
        if "citation" not in task:
            assert len({(one.before, context(one)) for one in four}) == 1, task
        assert len({one.question for one in four}) == len({one.needle_id for one in four}) == TOGETHER
        assert context(passage(task, seed=1)) != context(four[0])


def test_whoever_is_asked_about_stands_anywhere() -> None:
    depths = []
    for seed in range(500):
        made = passage("standard", seed, turn=seed % TOGETHER, n=12)
        text = context(made)
        needle = next(piece.text for piece in made.pieces if piece.role == "needle")
        depths.append(text.index(needle) / (len(text) - len(needle)))
    assert kstest(depths, "uniform").pvalue > 0.01


def test_examples_are_about_other_people_and_values() -> None:
    for task, level in LEVELS.items():
        made = passage(task)
        assert made.before.count("Question:") == (2 if level.examples else 0)
        names = set(re.findall(r"of ((?:\w+ ){2}\w+) is", made.before))
        assert not any(name in context(made) for name in names)


def test_density_is_the_share_of_others_who_keep_what_is_asked_about(gpt2_like) -> None:
    made = {density: passage("standard", n=400, density=density) for density in (1.0, 0.5, 0.0)}
    label = re.search(r"What is the (.+) of", made[1.0].question)[1]
    told = {density: context(one).count(f"The {label} of ") - 1 for density, one in made.items()}
    assert told[1.0] == 399 and told[0.0] == 0 and 160 < told[0.5] < 240
    assert made[0.0].task.rivals == ()
    with pytest.raises(hp.ProbeError, match="density is 2; use one of 1.0"):
        hp.build("longbio", gpt2_like, density=2)


def test_rivals_are_wrong_answers_of_the_context() -> None:
    for task in LEVELS:
        made = passage(task, n=200)
        rivals = made.task.rivals
        assert len(set(rivals)) == len(rivals) <= MOST_RIVALS
        assert bool(rivals) == (not LEVELS[task].ages)
        assert all(rival in context(made) and rival not in answer(made) for rival in rivals)


def test_as_many_people_as_a_long_context_has_room_for() -> None:
    """700 biographies are 64K tokens; values repeat only among people who are not asked about."""
    for task in ("standard", "multi_standard_5", "multihop_5", "twodiff"):
        assert context(passage(task, n=700)).count("\n") == 699


def test_nothing_hangs_on_a_marker_or_on_what_ran_before(gpt2_like) -> None:
    one = hp.build("longbio", gpt2_like, tasks=["standard", "idk"], lengths=[1024], items=2)
    alone = hp.build("longbio", gpt2_like, tasks=["idk"], lengths=[1024], items=2)
    assert [probe.hash for probe in one[2:]] == [probe.hash for probe in alone]
    for probe in one:
        assert gpt2_like.decode(probe.answer_ids).strip() == probe.answer_text == probe.task.golds[0], "nothing cut off"
