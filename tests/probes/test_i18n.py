"""Needles in nine languages: their texts, their haystacks, and what is refused."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kstest

from headscope import probes as hp
from headscope.errors import HeadscopeError
from headscope.probes import ProbeError, build
from headscope.probes.errors import PoolTooSmall
from headscope.probes.haystack import Haystack
from headscope.probes.seeds import rng
from headscope.probes.suite import Draw, Text
from headscope.probes.suites.i18n import LANGUAGES, SUITE, own_haystack, wording
from headscope.probes.tokens import Codec, squash


def text(given: Haystack, tokenizer: object, n: int, seed: int = 0) -> list[str]:
    return Text(given, seed, Codec(tokenizer)).sentences(n)


@pytest.mark.parametrize("name", ["llama3_like", "sentencepiece_like"])
def test_every_task_in_every_language(name, request) -> None:
    tokenizer = request.getfixturevalue(name)
    probes = build("i18n", tokenizer, lengths=[1024], items=1)
    probes.verify(tokenizer)
    assert [probe.variant for probe in probes] == list(SUITE.tasks)
    for probe in probes:
        assert probe.copyable and probe.task.length == 1024
        said = tokenizer.decode(probe.input_ids[: probe.prompt_len])
        assert probe.task.golds == (probe.value,) and said.count(probe.value) == 1
        solid = probe.variant[:2] in ("zh", "ja")  # there an answer begins without a blank
        answer = tokenizer.decode(probe.input_ids)[len(said) :]
        assert answer == probe.answer_text if solid else answer == f" {probe.answer_text}"


@pytest.mark.parametrize("code", LANGUAGES)
def test_the_texts_of_a_language(code: str, llama3_like) -> None:
    words = wording(code)
    needles = words["sentence"]["needles"]
    assert needles.keys() == wording("en")["sentence"]["needles"].keys() and len(needles) == 12
    assert len(set(words["number"]["keys"])) == 12
    haystack = [] if code == "en" else text(own_haystack(code), llama3_like, 400)
    assert code == "en" or len(set(haystack)) == 400
    told = squash("".join(haystack))
    for item in needles.values():
        assert item["needle"].count(item["value"]) == 1
        assert squash(item["value"]) not in squash(item["question"]) and squash(item["value"]) not in told
        assert sum(squash(item["value"]) in squash(other["needle"]) for other in needles.values()) == 1
    for one in (str(words), *haystack):
        assert one == unicodedata.normalize("NFC", one)
    assert not any(character.isdigit() for character in told)


def test_an_own_haystack_is_named_so_and_follows_the_seed(llama3_like) -> None:
    given = own_haystack("de")
    assert given.name == "own-de"
    assert text(given, llama3_like, 50) == text(given, llama3_like, 50) != text(given, llama3_like, 50, seed=1)


def test_any_depth_is_as_likely_as_any_other(llama3_like) -> None:
    found = Text(own_haystack("fr"), 0, Codec(llama3_like))
    places = []
    for seed in range(500):
        own = rng(seed, "depth")
        passage = SUITE.tasks["fr_number"].draw(Draw(own, own, 0, 0, {}, found)).make(99)
        places.append(passage.pieces[0].text.count(".") + np.random.default_rng(seed).random())
    assert kstest(np.array(places) / 100, "uniform").pvalue > 0.01


@pytest.mark.parametrize("task", ["hi_number", "hi_sentence"])
def test_neither_end_of_a_short_context_is_favoured(task: str, llama3_like) -> None:
    """Needles of half a sentence and of one and a half, among four sentences: as often first as last."""
    found = Text(own_haystack("hi"), 0, Codec(llama3_like))
    firsts, lasts, places = 0, 0, []
    for seed in range(1000):
        own = rng(seed, "depth")
        before, needle, after = SUITE.tasks[task].draw(Draw(own, own, seed % 12, 0, {}, found)).make(4).pieces
        firsts, lasts = firsts + (not before.text), lasts + (not after.text)
        at = len(before.text) + np.random.default_rng(seed).random() * len(needle.text)
        places.append(at / len(before.text + needle.text + after.text))
    assert abs(firsts - lasts) < 3 * np.sqrt(firsts + lasts)
    coarse = 0.03  # half of a sentence in excess of a needle, as a share of the context: no border lies in it
    assert kstest(places, "uniform").statistic < coarse + 1.63 / np.sqrt(1000)


def test_a_needle_is_the_same_at_every_length_and_lies_in_plain_haystack(llama3_like) -> None:
    probes = build("i18n", llama3_like, tasks=["es_number", "zh_sentence"], lengths=[700, 1000], items=3)
    for task in ("es_number", "zh_sentence"):
        short, long = ([p for p in probes if p.variant == task and p.task.length == n] for n in (700, 1000))
        assert [p.needle_id for p in short] == [p.needle_id for p in long]
        assert len({p.needle_id for p in short}) == 3 and len({p.depth for p in short + long}) > 3
        assert sum(p.graft is not None for p in short + long) >= 4
    probes.verify(llama3_like)  # also that contexts without their needles are prefixes of each other


def test_your_folder_has_a_folder_or_a_file_for_each_language(tmp_path: Path, llama3_like) -> None:
    (tmp_path / "de").mkdir()
    (tmp_path / "de" / "a.txt").write_text("\n".join(f"Satz {i} von mir." for i in range(300)), encoding="utf-8")
    (tmp_path / "ja.txt").write_text("".join(f"これは{i}番の文です。" for i in range(300)), encoding="utf-8")
    probes = build("i18n", llama3_like, tasks=["de_number", "ja_sentence"], lengths=[600], items=1, haystack=tmp_path)
    probes.verify(llama3_like)
    assert "von mir." in llama3_like.decode(probes[0].input_ids)
    assert "番の文です。" in llama3_like.decode(probes[1].input_ids)
    for tasks, given, message in (
        (["fr_number"], tmp_path, r"has no fr \(French\); it has de, ja: add fr/ or fr.txt"),
        (["fr_number", "de_number"], tmp_path / "de", r"is one text for de, fr; give a folder with .* \(de/, fr.txt\)"),
        (["fr_number", "de_number"], "noise", "is one text for de, fr"),
    ):
        with pytest.raises(ProbeError, match=message):
            build("i18n", llama3_like, tasks=tasks, lengths=[600], items=1, haystack=given)
    one = build("i18n", llama3_like, tasks=["de_sentence"], lengths=[600], items=1, haystack=tmp_path / "de")
    assert "von mir." in llama3_like.decode(one[0].input_ids)


def test_what_cannot_be_built_is_one_line(llama3_like, words_only) -> None:
    with pytest.raises(PoolTooSmall, match="de_sentence has 12 different needles"):
        build("i18n", llama3_like, tasks=["de_sentence"], lengths=[600], items=13)
    with pytest.raises(HeadscopeError, match="'own-hi' has no line that .* use a tokenizer that knows its script"):
        build("i18n", words_only, tasks=["hi_number"], lengths=[600], items=1)
    own = Haystack("latin", lambda seed: ["Snow fell again. " * 20 + f"{i}" for i in range(200)])
    with pytest.raises(ProbeError, match="has no token for '.*'; use a tokenizer"):
        build("i18n", words_only, tasks=["ru_number"], lengths=[600], items=1, haystack=own)


def test_a_context_of_one_sentence_has_no_inside_for_a_needle(llama3_like) -> None:
    with pytest.raises(HeadscopeError, match=r"260 tokens are too few; at least \d+ are needed"):
        build("i18n", llama3_like, tasks=["hi_sentence"], lengths=[260], items=1)


def test_in_a_chat_the_frame_stays_in_the_language(llama3_like) -> None:
    probes = build("i18n", llama3_like, tasks=["zh_number", "ru_sentence"], lengths=[700], items=1, chat=True)
    probes.verify(llama3_like)
    for probe, label in zip(probes, ("答案：", "Ответ:"), strict=True):
        assert f"<|bot|>\n{label}" in llama3_like.decode(probe.input_ids)


def test_tasks_are_listed() -> None:
    assert list(hp.list_tasks("i18n")) == list(SUITE.tasks) and len(SUITE.tasks) == 18
