"""Texts of other languages under tokenizers of other kinds: a small form of `python -m benchmarks.languages`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import ByT5Tokenizer

from benchmark_modules import benchmark
from headscope.probes import build
from headscope.probes.errors import HaystackTooShort
from headscope.probes.haystack import Haystack
from headscope.probes.stream import tokenise
from headscope.probes.tokens import Codec

LANGUAGES = benchmark("language_texts").LANGUAGES
languages = benchmark("languages")


@pytest.fixture(scope="module")
def trained() -> Any:
    return languages.unigram()


@pytest.mark.parametrize("language", ["zh", "th", "ur"])
@pytest.mark.parametrize("kind", ["bytes", "unigram"])
def test_probes_are_built_and_verified_near_their_depth(language: str, kind: str, trained: Any) -> None:
    tokenizer = ByT5Tokenizer() if kind == "bytes" else trained
    rows = languages.outcomes(LANGUAGES[language], tokenizer, 1024)
    assert len(rows) == 9
    assert {row["outcome"] for row in rows} == {"built"}, rows
    assert max(row["worst"] for row in rows) <= 0.02


def test_a_needle_stands_between_chinese_sentences(llama3_like: Any) -> None:
    text = languages.haystacks(LANGUAGES["zh"])["paragraphs"]
    own = Haystack("own", lambda seed: [text])
    probes = build("grid", llama3_like, lengths=[3000], depths=[0.3, 0.6], needles=2, haystack=own)
    probes.verify(llama3_like)
    for probe in probes:
        assert probe.graft is not None
        assert llama3_like.decode(probe.input_ids[: probe.graft[0]]).endswith(("。", "？"))
        assert probe.alignment == "exact"


def test_no_character_is_cut_in_two() -> None:
    codec = Codec(ByT5Tokenizer())
    own = Haystack("own", lambda seed: [languages.haystacks(LANGUAGES["th"])["endless"]])
    stream = tokenise(codec, own, 3000, 0)
    places = np.concatenate(list(stream.places.values()))
    assert len(places) > 100
    for at in places[places > 0][:200]:
        assert codec.decode(stream.ids[:at]) + codec.decode(stream.ids[at:]) == stream.text


def test_byte_tokens_have_every_set(tmp_path: Any) -> None:
    tokenizer = ByT5Tokenizer()
    for name, given in (("smoke", {}), ("heads", {"needles": 3}), ("monitor", {"needles": 2}), ("grid_nested", {})):
        probes = build(name, tokenizer, lengths=[2048], depths=3, **given)  # type: ignore[arg-type]
        probes.verify(tokenizer)
        assert "novel" in probes[0].token_class


def test_characters_that_several_tokens_share_are_one_piece() -> None:
    codec = Codec(ByT5Tokenizer())
    ids = codec.encode("aé日b")
    assert codec.characters(ids) == [(0, "a"), (1, "é"), (3, "日"), (6, "b")]
    assert codec.mute(codec.encode("日。")) == [False] * 3 + [True] * 3


def test_lines_that_are_left_out_are_counted(words_only: Any) -> None:
    own = Haystack("own", lambda seed: ["☃ snow.\n" * 3 + "☃ snows.\n"])
    with pytest.raises(HaystackTooShort, match=r"2 lines with special tokens or unknown characters are left out"):
        tokenise(Codec(words_only), own, 50, 0)
