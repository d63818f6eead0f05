"""Twins of probes: as long, as exact, and without what they are to be without."""

from __future__ import annotations

import numpy as np
import pytest

from headscope import probes as hp
from headscope.probes.tokens import squash

TASKS = ["standard", "citation_1", "multihop_2"]


@pytest.fixture
def probes(tokenizer) -> hp.ProbeSet:
    text = hp.Probe.from_text(
        tokenizer,
        context="The cat sat on the mat. The dog lay in the sun.\n" * 40,
        needle="The code of the door is 41-77-x.",
        question="What is the code?",
        answer="41-77-x",
    )
    built = hp.build("grid", tokenizer, lengths=[500], depths=3, needles=1)
    suite = hp.build("longbio", tokenizer, lengths=[1024], items=1, tasks=TASKS)
    chat = bool(tokenizer.chat_template)
    chats = hp.build("grid", tokenizer, lengths=[500], depths=1, needles=1, seed=1, chat=True) if chat else ()
    return hp.ProbeSet((text, *built, *suite, *chats))


@pytest.mark.parametrize("kind", ["no_needle", "counterfactual"])
def test_a_twin_is_as_long_and_everything_but_the_needle_is_where_it_was(tokenizer, probes, kind) -> None:
    twins = probes.twins(tokenizer, kind)
    twins.verify(tokenizer)
    for probe, twin in zip(probes, twins, strict=True):
        assert twin.id == f"{probe.id}/{kind}" and twin.needle_id == probe.needle_id and twin.spans == probe.spans
        assert twin.length == probe.length and (twin.prompt_len, twin.graft) == (probe.prompt_len, probe.graft)
        changed = twin.input_ids != probe.input_ids
        assert changed.any() and not changed[: probe.prompt_len][~probe.needle_mask[: probe.prompt_len]].any()
        prompt = squash(tokenizer.decode(twin.input_ids[: twin.prompt_len]))
        assert squash(probe.value) not in prompt
        if kind == "no_needle":
            assert not twin.copyable and (twin.answer_text, twin.token_class) == (probe.answer_text, probe.token_class)
            assert not changed[probe.prompt_len :].any()
        else:
            assert twin.alignment == probe.alignment and prompt.count(squash(twin.value)) == 1
            assert twin.value in twin.answer_text
            assert twin.needle_text == probe.needle_text.replace(probe.value, twin.value)
            assert twin.task is None or twin.task.golds == (twin.answer_text,)


def test_a_short_twin_keeps_needle_question_and_answer(tokenizer, probes) -> None:
    twins = probes.twins(tokenizer, "short")
    twins.verify(tokenizer)
    for probe, twin in zip(probes, twins, strict=True):
        rest = twin.length - twin.question_start
        assert np.array_equal(twin.input_ids[twin.question_start :], probe.input_ids[probe.question_start :])
        assert len(twin.needle_spans) == len(probe.needle_spans) and twin.token_class == probe.token_class
        assert twin.length < probe.length and twin.question_start < (700 if probe.task else 400)
        assert np.array_equal(twin.sources >= 0, probe.sources >= 0) and rest == probe.length - probe.question_start
        for start, end in twin.needle_spans:
            assert twin.input_ids[start:end].tobytes() in probe.input_ids.tobytes()
        if probe.task is None:
            head = tokenizer.decode(twin.input_ids[: twin.question_start])
            assert squash(head) != squash(tokenizer.decode(probe.input_ids[: probe.question_start]))


def test_a_value_has_a_twin_of_its_own_form(gpt2_like) -> None:
    built = hp.build("longbio", gpt2_like, lengths=[1024], items=8, tasks=["standard"])
    twins = built.twins(gpt2_like, "counterfactual")
    assert twins.hash == built.twins(gpt2_like, "counterfactual").hash
    for probe, twin in zip(built, twins, strict=True):
        assert len(probe.value.split()) == len(twin.value.split())
        if probe.value.startswith(("19", "20")):
            _, month, day = twin.value.split("-")
            assert 1 <= int(month) <= 12 and 1 <= int(day) <= 28
        if "University" in probe.value:
            assert twin.value.endswith(" University")


def test_what_has_no_twin_is_one_line(gpt2_like) -> None:
    ids = hp.Probe.from_ids(np.arange(20) % 7 + 5, prompt_len=16, needles=[(3, 7)])
    rank, several = hp.build("longbio", gpt2_like, lengths=[1024], items=1, tasks=["rank_2", "multi_standard_2"])
    for probe, kind, message in (
        (ids, "no_needle", "without texts has no twin"),
        (rank, "counter", "use one of no_needle, counterfactual, short"),
        (rank, "counterfactual", "no value stands in this needle alone"),
        (several, "counterfactual", "no value stands in this needle alone"),
        ("grid", "short", "probe is a str; give a Probe"),
    ):
        with pytest.raises(hp.ProbeError, match=message):
            hp.twin(probe, gpt2_like, kind)
    for kind in ("no_needle", "short"):
        hp.ProbeSet((rank, several)).twins(gpt2_like, kind).verify(gpt2_like)
