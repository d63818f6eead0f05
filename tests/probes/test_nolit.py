"""Needles without a word of the question."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.stats import kstest

from headscope import probes as hp
from headscope.probes.haystack import as_haystack
from headscope.probes.seeds import rng
from headscope.probes.suite import Draw, Text
from headscope.probes.suites.nolit import FUNCTION_WORDS, KNOWN, PLACES, SUITE
from headscope.probes.tokens import Codec


def stems(text: str) -> set[str]:
    """Content words without their endings; a place's words are its own."""
    words = set(re.findall(r"[a-z]+", text.lower())) - FUNCTION_WORDS
    return {re.sub(r"(ing|ed|es|s)$", "", word) for word in words}


def passages(task: str, codec: Codec, count: int, index: int = 0, sentences: int = 30):
    text = Text(as_haystack("noise"), 0, codec)
    for seed in range(count):
        draw = Draw(rng(seed, "own"), rng(seed, "shared"), 1024, {}, text, index)
        yield SUITE.tasks[task].draw(draw).make(sentences)


@pytest.mark.parametrize("task", list(SUITE.tasks))
def test_needle_and_question_share_a_word_only_in_the_control(gpt2_like, task) -> None:
    codec, asked = Codec(gpt2_like), set()
    for index in range(4):
        for passage in passages(task, codec, 40, index, sentences=4):
            (needle,) = (piece.text for piece in passage.pieces if piece.role == "needle")
            shared = stems(needle) & stems(passage.question + passage.answer_prefix)
            place = re.search(r"been to (.*)\?", passage.question)[1]
            assert shared == (stems(place) if task == "literal" else set())
            asked.add(place)
            landmarks = [each for each in PLACES if each.removeprefix("the ") in needle]
            assert [PLACES[each] for each in landmarks] == [place] and passage.task.golds[0] in needle
            others = [piece.text for piece in passage.pieces if piece.role == "distractor"]
            assert len(others) == 3 and not any(passage.task.golds[0] in text or place in text for text in others)
            assert not any(KNOWN.search(piece.text) for piece in passage.pieces if not piece.role)
    assert asked == set(PLACES.values())


def test_there_are_enough_pairs_and_no_city_has_two() -> None:
    assert len(PLACES) == len(set(PLACES.values())) >= 24


def test_inverted_is_the_same_with_the_landmark_first(gpt2_like) -> None:
    for one, other in zip(*(passages(task, Codec(gpt2_like), 5) for task in ("onehop", "inverted")), strict=True):
        texts = [next(piece.text for piece in each.pieces if piece.role == "needle") for each in (one, other)]
        assert stems(texts[0]) == stems(texts[1])
        name = one.task.golds[0]
        assert texts[0].strip().startswith(name) and texts[1].strip().endswith(f"{name}.")


def test_the_four_items_of_a_context_ask_for_its_four_people_anywhere(gpt2_like) -> None:
    built = list(hp.build("nolit", gpt2_like, tasks=["onehop"], lengths=[1024], items=4))
    start = min(probe.question_start for probe in built)
    assert all(np.array_equal(probe.input_ids[:start], built[0].input_ids[:start]) for probe in built)
    assert len({probe.value for probe in built}) == 4
    depths = []
    for seed, passage in enumerate(passages("onehop", Codec(gpt2_like), 500)):
        sizes = [len(piece.text) for piece in passage.pieces]
        at = [piece.role for piece in passage.pieces].index("needle")
        depths.append((sum(sizes[:at]) + sizes[at] * rng(seed, "within").random()) / sum(sizes))
    assert kstest(depths, "uniform").pvalue > 0.01
