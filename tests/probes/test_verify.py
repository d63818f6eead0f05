"""`verify` must notice every way in which a probe can be wrong: each test breaks one thing."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from headscope.probes import Probe, ProbeError, ProbeSet, Span, build
from headscope.probes.errors import (
    AlignmentFailed,
    DoubleBOS,
    JoinNotCanonical,
    NeedleLeak,
    SpanNotFound,
    TokenizerMismatch,
)
from headscope.probes.tokens import Codec


@pytest.fixture
def probe(llama3_like: Any) -> Probe:
    return build("grid", llama3_like, lengths=[300], depths=[0.4], needles=1, kind="number")[0]


def shifted(probe: Probe, ids: np.ndarray, by: int) -> Probe:
    """The probe with `by` more ids somewhere before its needle."""
    assert probe.graft is not None
    return replace(
        probe,
        input_ids=ids,
        prompt_len=probe.prompt_len + by,
        question_start=probe.question_start + by,
        spans=tuple(Span(span.start + by, span.end + by, span.role) for span in probe.spans),
        sources=np.where(probe.sources < 0, -1, probe.sources + by),
        graft=(probe.graft[0] + by, probe.graft[1] + by),
    )


def broken(probe: Probe, at: int, *tokens: int) -> Probe:
    ids = probe.input_ids.copy()
    ids[at : at + len(tokens)] = tokens
    return replace(probe, input_ids=ids)


def check(probe: Probe, tokenizer: Any) -> None:
    ProbeSet((probe,)).verify(tokenizer)


def test_an_untouched_probe_passes(probe: Probe, llama3_like: Any) -> None:
    check(probe, llama3_like)


def test_another_tokenizer_is_named(probe: Probe, llama3_like: Any, gpt2_like: Any) -> None:
    ours, theirs = Codec(llama3_like).fingerprint, Codec(gpt2_like).fingerprint
    with pytest.raises(TokenizerMismatch, match=f"{ours}.*{theirs}"):
        check(probe, gpt2_like)


def test_ids_beyond_the_vocabulary_are_noticed(llama3_like: Any) -> None:
    bos = Codec(llama3_like).head
    with pytest.raises(TokenizerMismatch, match="has only"):
        check(Probe.from_ids([*bos, 5, 6, 999_999, 5], prompt_len=4, needles=[(1, 3)]), llama3_like)


@pytest.mark.parametrize("place", [0, 1, 40])
def test_a_second_bos_is_noticed(probe: Probe, llama3_like: Any, place: int) -> None:
    with pytest.raises(DoubleBOS, match="2 times, not once"):
        check(shifted(probe, np.insert(probe.input_ids, place, llama3_like.bos_token_id), 1), llama3_like)


def test_a_missing_bos_is_noticed(probe: Probe, llama3_like: Any) -> None:
    with pytest.raises(DoubleBOS, match="opens every sequence with"):
        check(shifted(probe, probe.input_ids[1:], -1), llama3_like)


def test_a_needle_that_says_something_else_is_noticed(probe: Probe, llama3_like: Any) -> None:
    start, end = probe.needle_spans[0]
    word = Codec(llama3_like).piece(" boat")[0]
    with pytest.raises(SpanNotFound, match="the needle's tokens say"):
        check(broken(probe, start + 1, word), llama3_like)
    with pytest.raises(SpanNotFound, match="the needle's tokens say"):
        check(replace(probe, spans=(Span(start + 2, end, "needle"),)), llama3_like)


def test_another_answer_text_is_noticed(probe: Probe, llama3_like: Any) -> None:
    with pytest.raises(AlignmentFailed, match="not '1234567'"):
        check(replace(probe, answer_text="1234567"), llama3_like)


def test_an_answer_that_needs_no_needle_is_noticed(probe: Probe, llama3_like: Any) -> None:
    with pytest.raises(AlignmentFailed, match="nothing needs the needle"):
        check(replace(probe, token_class=("echo",) * probe.n_answer), llama3_like)


def test_sources_outside_the_needle_are_noticed(probe: Probe, llama3_like: Any) -> None:
    ids = probe.input_ids.copy()
    ids[20] = probe.answer_ids[0]
    sources = probe.sources.copy()
    sources[0, 0] = 20
    with pytest.raises(AlignmentFailed, match="outside the needle"):
        check(replace(probe, input_ids=ids, sources=sources), llama3_like)


def test_special_tokens_in_the_context_are_noticed(probe: Probe, llama3_like: Any) -> None:
    with pytest.raises(ProbeError, match="special or unknown tokens"):
        check(broken(probe, 30, llama3_like.eos_token_id), llama3_like)


def test_a_join_that_is_not_canonical_is_noticed(probe: Probe, llama3_like: Any) -> None:
    period = Codec(llama3_like).piece(".")[0]  # before a newline it would be fused with it
    with pytest.raises(JoinNotCanonical, match="would cut"):
        check(broken(probe, probe.question_start - 1, period), llama3_like)


def test_a_leak_into_the_context_is_noticed(probe: Probe, llama3_like: Any) -> None:
    value = Codec(llama3_like).piece(f" {probe.value}")
    with pytest.raises(NeedleLeak, match="2 times, not once"):
        check(broken(probe, 30, *value), llama3_like)


def test_a_wrong_depth_is_noticed(probe: Probe, llama3_like: Any) -> None:
    with pytest.raises(SpanNotFound, match="more than 0.0.. from 1.0"):
        check(replace(probe, depth_nominal=1.0), llama3_like)


def test_contexts_that_do_not_share_the_haystack_they_name_are_noticed(llama3_like: Any) -> None:
    probes = build("grid", llama3_like, lengths=[300, 400], depths=[0.5], needles=1)
    word = Codec(llama3_like).piece(" boat")[0]
    with pytest.raises(SpanNotFound, match="no prefix of haystack"):
        ProbeSet((probes[0], broken(probes[1], 12, word))).verify(llama3_like)
    moved = replace(probes[0], graft=(probes[0].graft[0] - 3, probes[0].graft[1]))  # type: ignore[index]
    with pytest.raises(ProbeError):
        ProbeSet((moved, probes[1])).verify(llama3_like)


def test_probes_from_ids_are_checked_by_their_ids(llama3_like: Any) -> None:
    codec = Codec(llama3_like)
    words = codec.piece(" the boat came in. the boat came")
    ids = [*codec.head, *words]
    check(Probe.from_ids(ids, prompt_len=len(ids) - 1, needles=[(1, 4)]), llama3_like)
    with pytest.raises(DoubleBOS):
        check(Probe.from_ids(words, prompt_len=len(words) - 1, needles=[(1, 4)]), llama3_like)


@pytest.mark.parametrize("kind", ["sentence", "number", "biography"])
def test_short_sets_meet_their_depths_and_pass_their_own_check(kind: Any, gpt2_like: Any) -> None:
    for length in (220, 300, 410, 512):
        probes = build("grid", gpt2_like, lengths=[length], depths=9, needles=2, kind=kind, seed=length)
        probes.verify(gpt2_like)
        for probe in probes:
            start, end = probe.graft or (0, 0)
            limit = max(0.02, 8 / (probe.question_start - (end - start)))
            assert abs(probe.depth - probe.depth_nominal) <= limit


# Which tokenizers give the ids of probes that another one built


def again(tokenizer: Any, change: Any) -> Any:
    """The tokenizer with its JSON changed."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    change(content)
    backend = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


def swapped(first: str, second: str) -> Any:
    def change(content: Any) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]

    return change


def test_tokens_that_were_added_do_not_matter(probe: Probe, llama3_like: Any) -> None:
    chat = again(llama3_like, lambda content: None)
    chat.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    chat.add_tokens(["zzyzx"])
    assert Codec(chat).fingerprint != probe.tokenizer_fp
    check(probe, chat)
    check(replace(probe, vocabulary_fp=""), chat)  # saved before the field was there: by the fingerprint alone


def test_reserved_tokens_that_were_renamed_do_not_matter(probe: Probe, llama3_like: Any) -> None:
    def rename(content: Any) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["<|im_end|>"] = vocabulary.pop("<|bot|>")
        for token in content["added_tokens"]:
            token["content"] = token["content"].replace("<|bot|>", "<|im_end|>")

    check(probe, again(llama3_like, rename))
    with pytest.raises(TokenizerMismatch, match="--tokenizer BASE"):
        check(replace(probe, vocabulary_fp=""), again(llama3_like, rename))


def test_two_tokens_in_exchange_are_noticed(probe: Probe, llama3_like: Any) -> None:
    words = [" " + word for word in ("the", "of", "is")]
    in_use = [word for word in words if Codec(llama3_like).piece(word)[0] in probe.input_ids]
    for first, second in itertools.combinations(in_use, 2):
        other = again(llama3_like, swapped(first.replace(" ", "Ġ"), second.replace(" ", "Ġ")))
        assert len(other) == len(llama3_like)
        with pytest.raises(TokenizerMismatch, match="other tokens.*--tokenizer BASE"):
            check(probe, other)


def test_an_added_token_that_cuts_the_text_differently_is_noticed(probe: Probe, llama3_like: Any) -> None:
    start, end = probe.needle_spans[0]
    for first, last in ((start + 1, end), (start - 40, start - 20)):  # in the needle, in the haystack
        other = again(llama3_like, lambda content: None)
        other.add_tokens([" ".join(llama3_like.decode(probe.input_ids[first:last]).split()[1:3])])
        with pytest.raises(TokenizerMismatch, match="cuts the text differently"):
            check(probe, other)


def test_missing_merges_are_noticed(probe: Probe, llama3_like: Any) -> None:
    with pytest.raises(TokenizerMismatch, match="cuts the text differently"):
        check(
            probe, again(llama3_like, lambda content: content["model"].update(merges=content["model"]["merges"][:400]))
        )


def test_another_opening_is_noticed(probe: Probe, llama3_like: Any) -> None:
    with pytest.raises(TokenizerMismatch, match="cuts the text differently"):
        check(probe, again(llama3_like, lambda content: content.update(post_processor=None)))
