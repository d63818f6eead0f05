"""What the families make, before any tokenizer sees it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from headscope.probes import ProbeError, build, families, induction, list_kinds
from headscope.probes.errors import LengthTooShort, PoolTooSmall
from headscope.probes.families import biography, keyvalue, needle
from headscope.probes.item import Item
from headscope.probes.tokens import Codec, squash


def all_items() -> list[Item]:
    return [
        *needle.items(len(needle.SENTENCES), 0),
        *keyvalue.items(20, 0, "number"),
        *keyvalue.items(20, 0, "number", "sentence"),
        *keyvalue.items(20, 0, "uuid"),
        *biography.items(30, 0),
        *biography.items(12, 0, distractors=3),
    ]


@pytest.mark.parametrize("item", all_items(), ids=lambda item: f"{item.variant} {item.key}")
def test_only_the_needle_gives_the_value_away(item: Item) -> None:
    value = squash(item.value)
    assert squash(item.needle).count(value) == 1
    assert value in squash(item.answer)
    assert value not in squash(f"{item.question} {item.answer_prefix}")
    assert all(value not in squash(sentence) for sentence in item.before + item.after)
    assert item.needle.endswith(".")
    assert item.question.endswith("?")
    assert item.answer.startswith(" ")
    assert not item.answer_prefix.endswith(" ")
    assert item.answer.strip() in item.needle


def test_there_are_many_sentences_and_no_value_is_shared() -> None:
    assert len(needle.SENTENCES) >= 24
    sentences = needle.items(len(needle.SENTENCES), 0)
    everything = [f"{item.needle} {item.question}" for item in sentences]
    for item in sentences:
        assert sum(item.value in text for text in everything) == 1, item.key
    assert len({item.needle_id for item in sentences}) == len(sentences)


@pytest.mark.parametrize("family", [needle, keyvalue, biography])
def test_the_same_seed_gives_the_same_first_items(family: Any) -> None:
    assert family.items(12, 7)[:5] == family.items(5, 7)
    assert family.items(5, 7) != family.items(5, 8)


def test_answer_modes_share_needles_and_clusters() -> None:
    for short, long in zip(keyvalue.items(5, 0), keyvalue.items(5, 0, "number", "sentence"), strict=True):
        assert (short.needle, short.needle_id) == (long.needle, long.needle_id)
        assert short.answer == f" {short.value}"
        assert long.answer == f" {long.needle}"


def test_values_look_as_promised() -> None:
    numbers, uuids = keyvalue.items(500, 0, "number"), keyvalue.items(500, 0, "uuid")
    assert all(re.fullmatch(r"[1-9]\d{6}", item.value) for item in numbers)
    assert all(re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", item.value) for item in uuids)
    for items in (numbers, uuids):
        assert len({item.value for item in items}) == len({item.key for item in items}) == 500


def test_no_rival_says_what_the_needle_says() -> None:
    """A town is a birthplace, a city, and a part of a university's name; in 40 seeds each of these meets another."""
    for item in (item for seed in range(40) for item in biography.items(12, seed, distractors=12)):
        assert item.value not in " ".join(item.before + item.after), item.key


def test_biographies_of_a_grid_stand_among_others(gpt2_like: Any) -> None:
    probes = build("grid", gpt2_like, kind="biography", distractors=3, lengths=[1200], depths=1, needles=4)
    probes.verify(gpt2_like)
    assert {probe.variant for probe in probes} == {"single-3-distractors"}
    assert max(sum(span.role == "distractor" for span in probe.spans) for probe in probes) == 3


def test_a_biography_can_stand_among_others() -> None:
    (item,) = biography.items(1, 0, distractors=4)
    assert len(item.rivals) == 4
    assert len(item.before) + len(item.after) + 1 == 5 * len(biography.ATTRIBUTES)
    assert all(rival in item.before + item.after for rival in item.rivals)
    asked = [item.key.split()[0] for item in biography.items(12, 0)]
    assert asked == list(biography.ATTRIBUTES) * 2


def test_pools_end_somewhere() -> None:
    with pytest.raises(PoolTooSmall, match="there are 30"):
        needle.items(31, 0)
    with pytest.raises(PoolTooSmall, match="different keys"):
        keyvalue.items(10**6, 0)
    with pytest.raises(PoolTooSmall, match="names"):
        biography.items(10**6, 0)


def test_induction_repeats_a_block_that_is_nowhere_else(tokenizer: Any) -> None:
    codec = Codec(tokenizer)
    made = induction.build(codec, n=3, lengths=[80, 200], depths=[0.0, 0.5, 1.0], seed=0, period=12)
    assert [len(row) for row in made] == [6, 6, 6]
    for row in made:
        for probe, (length, depth) in zip(row, [(n, d) for n in (80, 200) for d in (0.0, 0.5, 1.0)], strict=True):
            ids = probe.input_ids.tolist()
            ((start, end),) = probe.needle_spans
            block = ids[start:end]
            assert (probe.length, end - start, probe.n_answer) == (length, 12, 11)
            assert ids[probe.question_start :] == block
            assert ids[: len(codec.head)] == list(codec.head)
            assert len(set(block)) == 12
            assert all(ids.count(token) == 2 for token in block)
            assert probe.sources[:, 0].tolist() == list(range(start + 1, end))
            assert probe.depth == pytest.approx(depth, abs=0.01)
            assert probe.graft == (start, end)


def test_induction_uses_plain_words_only(llama3_like: Any) -> None:
    codec = Codec(llama3_like)
    ids = induction.safe_ids(codec, 0, 200)
    assert len(set(ids.tolist())) == 200
    assert all(re.fullmatch(r" [A-Za-z]{3,}", surface) for surface in codec.surfaces(ids.tolist()))


def test_induction_refuses_what_does_not_fit(llama3_like: Any) -> None:
    codec = Codec(llama3_like)
    with pytest.raises(LengthTooShort, match="at least 50"):
        induction.build(codec, n=1, lengths=[40], depths=[0.5], seed=0)
    with pytest.raises(PoolTooSmall, match="Ask for fewer needles"):
        induction.build(codec, n=1000, lengths=[100], depths=[0.5], seed=0)


RECIPES = """
from headscope.probes.errors import PoolTooSmall
from headscope.probes.item import Family, Item

DISHES = {"Orrin": "pickled plums", "Sabeth": "walnut dumplings", "Quenby": "saffron noodles"}


def items(n, seed, answer):
    if n > len(DISHES):
        raise PoolTooSmall(f"there are {len(DISHES)} cooks")
    return [
        Item(
            family="recipe",
            variant=answer,
            key=cook,
            needle=f"On Fridays the cook {cook} serves {dish}.",
            question=f"What does the cook {cook} serve on Fridays?",
            value=dish,
            answer=f" {dish}" if answer == "dish" else f" On Fridays the cook {cook} serves {dish}.",
        )
        for cook, dish in list(DISHES.items())[:n]
    ]


FAMILIES = [Family("recipe", items, answers=("dish", "whole"))]
"""


def test_one_file_is_a_family(gpt2_like: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file in probes/families/ is known to `build`, its errors and the command line. Here it lies beside."""
    (tmp_path / "recipes.py").write_text(RECIPES)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    assert list_kinds() == ["biography", "number", "uuid", "sentence", "recipe"]
    probes = build("grid", gpt2_like, lengths=[300], depths=2, needles=3, kind="recipe")
    probes.verify(gpt2_like)
    assert {(probe.family, probe.variant) for probe in probes} == {("recipe", "dish")}
    assert {probe.answer_text for probe in probes} == {"pickled plums", "walnut dumplings", "saffron noodles"}
    nested = build("grid_nested", gpt2_like, lengths=[700], depths=1, needles=1, kind="recipe", answer="whole")
    assert nested[0].answer_text == "On Fridays the cook Orrin serves pickled plums."
    with pytest.raises(ProbeError, match="'sentence', 'recipe'"):
        build("grid", gpt2_like, kind="recipes")
    with pytest.raises(ProbeError, match="answer='whole' is for kind='recipe'; leave it out for kind='uuid'"):
        build("grid", gpt2_like, kind="uuid", answer="whole")
    with pytest.raises(ProbeError, match="answer='value' is for kind='number' and kind='uuid'"):
        build("grid", gpt2_like, kind="recipe", answer="value")
    program = (
        "import sys; from headscope.probes import families; families.__path__.append(sys.argv.pop(1))\n"
        "from headscope.cli import main; main()"
    )
    command = [sys.executable, "-c", program, str(tmp_path), "probes", "show", "grid", "--tokenizer", "t"]
    run = subprocess.run([*command, "--kind", "poem"], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "recipe" in run.stderr


def test_no_two_files_offer_the_same_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zebra.py").write_text(RECIPES.replace('Family("recipe"', 'Family("uuid"'))
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match=r"zebra\.py offers the kind 'uuid'"):
        list_kinds()
