"""RULER's tasks: the published wording, what is a needle, and the mistakes of the published code that are not ours."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy import stats

from headscope import probes as hp
from headscope.probes.errors import LengthTooShort, PoolTooSmall
from headscope.probes.haystack import Haystack
from headscope.probes.passage import Passage
from headscope.probes.seeds import rng
from headscope.probes.suite import TOGETHER, Draw, Text
from headscope.probes.suites.ruler import SUITE
from headscope.probes.suites.ruler_words import WORDS
from headscope.probes.tokens import Codec

ONE_GOLD = ["niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"]
ONE_GOLD += ["qa_1_own"]
PLAIN = {"compat": "", "qa_file": None}


@pytest.fixture(scope="module")
def text(gpt2_like: Any) -> Text:
    sentences = " ".join(f"The {n}th house of the street {'has a garden' * (n % 3)} and a door." for n in range(400))
    return Text(Haystack("street", lambda seed: [sentences]), 0, Codec(gpt2_like))


def draws(task: str, text: Text, n: int, length: int = 1024, **options: Any) -> list[Any]:
    """Items of n seeds, before any tokenizer sees them."""
    made = SUITE.tasks[task].draw
    return [
        made(Draw(rng(seed, task), rng(seed, task, "shared"), seed % TOGETHER, length, {**PLAIN, **options}, text))
        for seed in range(n)
    ]


def context(passage: Passage) -> str:
    return "".join(piece.text for piece in passage.pieces)


def where(passage: Passage) -> list[tuple[int, int]]:
    """Where needles start and end, in letters of the context."""
    ends = np.cumsum([len(piece.text) for piece in passage.pieces]).tolist()
    both = zip([0, *ends], ends, passage.pieces, strict=False)
    return [(first, last) for first, last, piece in both if piece.role == "needle"]


LINES = ("niah_multikey_2", "niah_multikey_3", "qa_1_own")  # needles beside needles


def depth(passage: Passage, letter: float | None) -> float:
    """Where the one needle starts, or its letter at such a share of it."""
    ((first, last),) = where(passage)
    total = len(context(passage))
    return first / (total - (last - first)) if letter is None else (first + letter * (last - first)) / total


@pytest.mark.parametrize(("task", "compat"), [*((task, "") for task in ONE_GOLD), ("niah_single_2", "ruler")])
def test_the_gold_lies_anywhere(task: str, compat: str, text: Text) -> None:
    """Published qa_1 and qa_2 have it at one depth in all samples with as many documents."""
    made = [item.make(12 if task in LINES else 24) for item in draws(task, text, 500, compat=compat)]
    letters = rng(0, "letters").random(500) if task in LINES else [None] * 500
    found = [depth(passage, letter) for passage, letter in zip(made, letters, strict=True)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize("task", list(SUITE.tasks))
def test_items_differ_in_where_their_needles_are(task: str, text: Text) -> None:
    """Published texts of one length have the words of cwe and fwe, and four needles, in the same slots each time."""
    made = [item.make(64) for item in draws(task, text, 24)]
    slots = [tuple(context(passage)[:first].count(" ") for first, _ in where(passage)) for passage in made]
    ids = {passage.needle_id for passage in made}
    assert len(ids) == 24
    assert len(set(slots)) > 12


@pytest.mark.parametrize("task", ["niah_single_1", "niah_single_2", "niah_multikey_2", "vt"])
def test_a_needle_can_be_first_and_last(task: str, text: Text) -> None:
    last = {bool(item.make(8).pieces[-1].role) for item in draws(task, text, 200)}
    first = {bool(item.make(8).pieces[0].text and item.make(8).pieces[0].role) for item in draws(task, text, 200)}
    assert {True} <= last and {True} <= first


def test_four_needles_come_in_every_order(text: Text) -> None:
    orders = {
        tuple(piece.group for piece in item.make(40).pieces if piece.role == "needle")
        for item in draws("niah_multiquery", text, 400)
    }
    assert len(orders) == 24


@pytest.mark.parametrize("task", ["niah_multikey_1", "niah_multikey_2", "niah_multikey_3", "niah_multiquery"])
def test_no_key_and_no_value_is_there_twice(task: str, text: Text) -> None:
    for item in draws(task, text, 20):
        lines = re.findall(r"for (\S+) is: (\S+)\.", context(item.make(120)))
        assert len(lines) >= 4
        assert all(Counter(names).most_common(1)[0][1] == 1 for names in zip(*lines, strict=True))


def test_items_in_a_row_ask_one_context_for_different_keys(gpt2_like: Any) -> None:
    for task in ("niah_multikey_2", "niah_multikey_3", "qa_1_own", "qa_2_own"):
        built = hp.build("ruler", gpt2_like, tasks=[task], lengths=[1024], items=2 * TOGETHER)
        n = min(probe.question_start for probe in built) - 40
        shared = [len({tuple(probe.input_ids[:n].tolist()) for probe in part}) for part in (built[:4], built[4:])]
        assert shared == [1, 1] if task != "qa_2_own" else max(shared) <= 2
        assert len({probe.needle_id for probe in built}) == 8
        assert not np.array_equal(built[0].input_ids[:n], built[4].input_ids[:n])


def test_single_needles_share_their_haystack(tokenizer: Any) -> None:
    built = hp.build("ruler", tokenizer, tasks=["niah_single_1", "niah_single_2"], lengths=[400, 512], items=3)
    built.verify(tokenizer)
    for part in (built[:6], built[6:]):
        part = [probe for probe in part if probe.graft or probe.depth < 1]  # behind it all it may be fused with the end
        assert all(probe.graft for probe in part) and len({probe.haystack_id for probe in part}) == 1
        plain = [np.r_[p.input_ids[: p.graft[0]], p.input_ids[p.graft[1] : p.question_start]] for p in part]
        longest = max(plain, key=len)
        assert all(np.array_equal(longest[: len(each)], each) for each in plain)


def test_sets_of_different_seeds_can_be_put_together(gpt2_like: Any) -> None:
    """Their haystacks may begin with the same sentence."""
    text = "The river was high and cold that day, and nobody could ever cross it. "
    street = Haystack("street", lambda seed: [text + " ".join(f"House {n + seed} is green." for n in range(200))])
    sets = [
        hp.build("ruler", gpt2_like, tasks=["niah_single_2"], lengths=[400], items=1, haystack=street, seed=seed)
        for seed in range(3)
    ]
    hp.ProbeSet(tuple(probe for each in sets for probe in each)).verify(gpt2_like)


@pytest.mark.parametrize("length", [1024, 4096, 32768])
def test_no_word_of_the_example_is_in_the_list(length: int, text: Text) -> None:
    assert not [(word, other) for word in WORDS for other in WORDS if word != other and word in other]
    for item in draws("cwe", text, 12, length):
        passage = item.make(700 if length > 4096 else 60)
        shown = set(re.findall(r"\d+\. (\S+)", passage.before))
        listed = Counter(re.findall(r"\d+\. (\S+)", context(passage)))
        assert not shown & {part for word in listed for part in (word, *word.split("-"))}
        golds = passage.task.golds
        often, seldom = (30, 3) if length >= 4096 else (6, 1)
        assert {word: n for word, n in listed.items() if n == often} == dict.fromkeys(golds, often)
        assert {n for word, n in listed.items() if word not in golds} == {seldom}
        assert set(passage.task.rivals) == set(listed) - set(golds)
        needles = Counter(piece.text.strip() for piece in passage.pieces if piece.role == "needle")
        assert needles == dict.fromkeys(golds, often)


def test_frequent_words_are_the_three_most_frequent(text: Text) -> None:
    for n in (60, 333, 4000):
        for item in draws("fwe", text, 5, 8192):
            passage = item.make(n)
            ranked = Counter(context(passage).split()).most_common()
            assert [word for word, _ in ranked[:4]] == ["...", *passage.task.golds]
            assert ranked[3][1] > ranked[4][1]


def test_a_chain_is_one_chain(text: Text) -> None:
    for item in draws("vt", text, 40):
        passage = item.make(6)
        statements = [piece.text.strip() for piece in passage.pieces if piece.role == "needle"]
        names = passage.task.golds
        value = re.search(r"assigned the value (\d+) in", passage.question)[1]  # type: ignore[index]
        assert statements == [f"VAR {names[0]} = {value}"] + [
            f"VAR {name} = VAR {before}" for before, name in zip(names, names[1:], strict=False)
        ]
        assert [piece.group for piece in passage.pieces if piece.role == "needle"] == [0, 1, 2, 3, 4]
        assert not any(rival in name for rival in passage.task.rivals for name in names)
        assert value not in passage.before


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("compat", ["", "ruler"])
def test_wording_is_as_published(gpt2_like: Any, chat: bool, compat: str) -> None:
    tasks = ["niah_single_1", "niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1_own"]
    built = hp.build("ruler", gpt2_like, tasks=tasks, lengths=[1600], items=1, chat=chat, compat=compat)
    head = "You are a helpful reader"
    system = hp.build("ruler", gpt2_like, tasks=tasks[:1], lengths=[400], items=1, chat=True, system=head)[0]
    assert "are a helpful" in gpt2_like.decode(system.input_ids)  # "are" -> "is" in the task's own words alone
    said = {
        probe.variant.removesuffix("-chat"): gpt2_like.decode(probe.input_ids[: probe.prompt_len]) for probe in built
    }
    for probe in built:
        assert (probe.input_ids == gpt2_like.bos_token_id).sum() == 1 and probe.input_ids[0] == gpt2_like.bos_token_id
        assert not said[probe.variant.removesuffix("-chat")].endswith(" ")
        assert probe.task.max_new_tokens == {"vt": 30, "cwe": 120, "fwe": 50, "qa_1_own": 32}.get(
            probe.variant.removesuffix("-chat"), 128
        )
        if compat:
            assert probe.prompt_len + probe.task.max_new_tokens <= 1600
    for task, pattern in WORDING.items():
        assert re.search(pattern.replace(" TURN ", r"\s*(?:<\S+\s*)*" if chat else " "), said[task], re.S), said[task]


WORDING = {
    "niah_single_1": r"A special magic number is hidden within the following text\. Make sure to memorize it\. I "
    r"will quiz you about the number afterwards\.\nThe grass is green\. .*\nOne of the special "
    r"magic numbers for (\S+) is: \d{7}\.\n.*\nWhat is the special magic number for \1 "
    r"mentioned in the provided text\? TURN The special magic number for \1 mentioned in the "
    r"provided text is$",
    "niah_multivalue": r"Some special magic numbers are hidden within the following text\. Make sure to memorize "
    r"it\. I will quiz you about the numbers afterwards\.\n.*\nWhat are all the special magic "
    r"numbers for (\S+) mentioned in the provided text\? TURN The special magic numbers for \1 "
    r"mentioned in the provided text are$",
    "niah_multiquery": r"\nWhat are all the special magic numbers for (\S+, \S+, \S+, and \S+) mentioned in the "
    r"provided text\? TURN The special magic numbers for \1 mentioned in the provided text are$",
    "vt": r"Memorize and track the chain\(s\) of variable assignment hidden in the following "
    r"text\.\n\n.*\nQuestion: Find all variables that are assigned the value (\d{5}) in the "
    r"text above\. Answer: According to the chain\(s\) of variable assignment in the text "
    r"above, 5 variables are assigned the value \1, they are:( [A-Z]{3}){5}\n\nMemorize "
    r".*\nQuestion: Find all variables that are assigned the value (\d{5}) in the text above\. "
    r"TURN Answer: According to the chain\(s\) of variable assignment in the text above, 5 "
    r"variables are assigned the value \3, they are:$",
    "cwe": r"Below is a numbered list of words\. In these words, some appear more often than others\. "
    r"Memorize the ones that appear most often\.\n1\. \S+ 2\. .*\nQuestion: What are the 10 "
    r"most common words in the above list\? Answer: The top 10 words that appear most often in "
    r"the list are: 1\. .* 10\. \S+\nBelow is .*\nQuestion: What are the 10 most common words "
    r"in the above list\? TURN Answer: The top 10 words that appear most often in the list are:$",
    "fwe": r"Read the following coded text and track the frequency of each coded word\. Find the three "
    r"most frequently appeared coded words\. [a-z. ]*\nQuestion: Do not provide any "
    r"explanation\. Please ignore the dots '\.\.\.\.'\. What are the three most frequently "
    r"appeared words in the above coded text\? TURN Answer: According to the coded text above, "
    r"the three most frequently appeared words are:$",
    "qa_1_own": r"Answer the question based on the given documents\. Only give me the answer and do not "
    r"output any other words\.\n\nThe following are given documents\.\n\nDocument "
    r"1:\n.*\n\nDocument 2:\n.*\n\nAnswer the question based on the given documents\. Only give "
    r"me the answer and do not output any other words\.\n\nQuestion: [^\n]*\? TURN Answer:$",
}


def test_answers_lie_in_their_own_needles(gpt2_like: Any) -> None:
    """Every part of an answer that is copied comes from the needle of its group."""
    built = hp.build("ruler", gpt2_like, tasks=["niah_multivalue", "vt", "qa_2_own"], lengths=[1024], items=3)
    for probe in built:
        groups = {span.group for span in probe.spans if span.role == "needle"}
        answer = gpt2_like.decode(probe.answer_ids)
        if probe.variant == "qa_2_own":
            (span,) = (span for span in probe.spans if span.group == 0)
            held = probe.sources[probe.sources >= 0]
            assert groups == {0, 1} and held.min() >= span.start and held.max() < span.end
        else:
            assert len(groups) == len(probe.task.golds)
            assert [answer.index(gold) for gold in probe.task.golds] == sorted(map(answer.index, probe.task.golds))
        for group in groups if probe.variant != "qa_2_own" else ():
            (span,) = (span for span in probe.spans if span.group == group)
            assert probe.task.golds[group] in gpt2_like.decode(probe.input_ids[span.start : span.end]) or (
                probe.variant == "niah_multivalue"
            )


def test_what_is_too_short_says_what_is_needed(gpt2_like: Any) -> None:
    for task in SUITE.tasks:
        with pytest.raises(LengthTooShort, match=r"60 tokens are too few; at least \d+ are needed") as told:
            hp.build("ruler", gpt2_like, tasks=[task], lengths=[60], items=1)
        needed = int(re.search(r"at least (\d+)", str(told.value))[1])  # type: ignore[index]
        if task not in ("cwe", "fwe"):  # whose words depend on the length
            hp.build("ruler", gpt2_like, tasks=[task], lengths=[needed + 40], items=1)


def test_a_haystack_that_ends_is_told_and_one_that_just_suffices_is_used(gpt2_like: Any) -> None:
    short = Haystack("short", lambda seed: ["The river was high. Nobody could cross it. We waited for a week.\n"] * 1)
    with pytest.raises(hp.ProbeError, match="'short' has 3 sentences"):
        hp.build("ruler", gpt2_like, tasks=["niah_single_2"], lengths=[600], items=1, haystack=short)
    words = " ".join(f"House {n} is number {n}." for n in range(90))
    enough = Haystack("street", lambda seed: [words])
    (probe,) = hp.build("ruler", gpt2_like, tasks=["niah_single_2"], lengths=[400], items=1, haystack=enough)
    assert 370 < probe.length <= 400


def test_more_words_than_there_are_are_told(text: Text) -> None:
    (item,) = draws("cwe", text, 1)
    with pytest.raises(PoolTooSmall, match="different words"):
        item.make(50_000)
