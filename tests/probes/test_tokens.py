"""What `Codec` says about a tokenizer, on tokenizers of every kind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headscope.probes import ProbeError, fingerprint
from headscope.probes.errors import NoChatTemplate
from headscope.probes.frame import chat, plain
from headscope.probes.tokens import Codec, squash

TEXT = " The parrot sat on the piano. It said 1234567.\nNobody was amused."


def test_the_opening_ids_are_found_by_encoding(gpt2_like: Any, without_bos: Any, sentencepiece_like: Any) -> None:
    assert Codec(gpt2_like).head == (gpt2_like.bos_token_id,)
    assert Codec(sentencepiece_like).head == (sentencepiece_like.bos_token_id,)
    assert Codec(without_bos).head == ()  # it has a bos_token, and does not use it


def test_encode_adds_nothing(tokenizer: Any) -> None:
    codec = Codec(tokenizer)
    assert not codec.special_ids.intersection(codec.encode(TEXT))
    assert squash(codec.decode(codec.encode(TEXT))) == squash(TEXT)


def test_a_piece_is_encoded_as_a_continuation(sentencepiece_like: Any) -> None:
    codec = Codec(sentencepiece_like)
    assert codec.decode(codec.encode("a") + codec.piece("\nQuestion")) == "a\nQuestion"
    assert codec.encode("a\nQuestion") == codec.encode("a") + codec.piece("\nQuestion")
    assert codec.encode("\nQuestion") != codec.piece("\nQuestion")  # alone, it gets a space in front


def test_surfaces_spell_the_text_with_its_spaces(gpt2_like: Any, llama3_like: Any, sentencepiece_like: Any) -> None:
    for tokenizer in (gpt2_like, llama3_like, sentencepiece_like):
        codec = Codec(tokenizer)
        assert "".join(codec.surfaces(codec.piece(TEXT))) == TEXT


def test_a_canonical_text_is_canonical_everywhere(tokenizer: Any) -> None:
    codec = Codec(tokenizer)
    ids = [*codec.head, *codec.piece(TEXT * 3)]
    assert all(codec.is_canonical(ids, at) for at in range(len(ids) + 1))


def test_a_text_of_nothing_but_bytes_is_canonical_everywhere(sentencepiece_like: Any) -> None:
    """No letter of it is in the vocabulary; a window of the check may begin inside of one."""
    codec = Codec(sentencepiece_like)
    ids = [*codec.head, *codec.piece(" जयपुर की जादुई संख्या 4096 है। Le collège." * 3)]
    assert all(codec.is_canonical(ids, at) for at in range(len(ids) + 1))


@pytest.mark.parametrize(
    ("name", "left", "right"),
    [
        ("llama3_like", " It sat.", "\nQuestion"),  # "." and newline are one token
        ("gpt2_like", " par", "rot sat"),
        ("sentencepiece_like", " par", "rot sat"),
        ("across_spaces", " It sat.", " The parrot"),
    ],
)
def test_a_join_the_tokenizer_would_not_make_is_noticed(
    name: str, left: str, right: str, request: pytest.FixtureRequest
) -> None:
    codec = Codec(request.getfixturevalue(name))
    before, after = codec.piece(TEXT + left), codec.piece(right)
    assert codec.piece(TEXT + left + right) != before + after
    assert not codec.is_canonical(before + after + codec.piece(TEXT), len(before))


def test_special_tokens_separate_what_they_stand_between(llama3_like: Any) -> None:
    codec = Codec(llama3_like)
    before, after = codec.piece(" It sat."), codec.encode("<|end|>\n")
    assert codec.is_canonical(before + after, len(before))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.text(st.sampled_from("ab. \n1Q日é🙂"), min_size=1, max_size=12), min_size=2, max_size=4))
def test_canonical_means_what_it_says(llama3_like: Any, parts: list[str]) -> None:
    """Short sequences fit into one window, so the check must agree with encoding the whole text."""
    codec = Codec(llama3_like)
    pieces = [codec.encode(part) for part in parts]
    ids = [token for piece in pieces for token in piece]
    joins = [sum(map(len, pieces[:i])) for i in range(1, len(pieces))]
    if len(ids) <= 32:
        assert all(codec.is_canonical(ids, join) for join in joins) == (codec.encode("".join(parts)) == ids)


def test_the_fingerprint_knows_tokenizers_apart(
    gpt2_like: Any, llama3_like: Any, without_bos: Any, sentencepiece_like: Any, words_only: Any
) -> None:
    given = [gpt2_like, llama3_like, without_bos, sentencepiece_like, words_only]
    assert len({fingerprint(tokenizer) for tokenizer in given}) == len(given)


def test_the_fingerprint_ignores_padding_and_truncation(gpt2_like: Any) -> None:
    before = fingerprint(gpt2_like)
    gpt2_like("a b c", truncation=True, max_length=2)
    gpt2_like.padding_side = "left"
    assert fingerprint(gpt2_like) == before
    assert before.startswith(f"{len(gpt2_like)}-")


def test_something_else_than_a_tokenizer_is_refused() -> None:
    with pytest.raises(ProbeError, match="give a Hugging Face tokenizer"):
        Codec("gpt2")


def test_a_chat_frame_has_one_bos_and_ends_in_the_assistants_turn(llama3_like: Any) -> None:
    codec = Codec(llama3_like)
    frame = chat(codec)
    assert codec.decode(frame.head) == "<s><|user|>\n"
    assert frame.ask("Why?") == "Question: Why?<|end|>\n<|bot|>\nAnswer:"
    assert plain(codec).ask("Why?", " Because") == "Question: Why?\nAnswer: Because"


def test_a_template_that_writes_no_bos_gets_it(gpt2_like: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2_like, "chat_template", "<|user|>{{ messages[0]['content'] }}<|end|>")
    codec = Codec(gpt2_like)
    assert chat(codec).head[:1] == codec.head


@pytest.mark.parametrize("template", [None, "no message at all", "{{ messages[0]['content'] * 2 }}"])
def test_a_template_that_cannot_be_used_is_refused(
    gpt2_like: Any, monkeypatch: pytest.MonkeyPatch, template: str | None
) -> None:
    monkeypatch.setattr(gpt2_like, "chat_template", template)
    with pytest.raises(NoChatTemplate, match="chat=False"):
        chat(Codec(gpt2_like))
