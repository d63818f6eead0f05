"""The built-in sets on every kind of tokenizer: layout, exactness, determinism, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headscope.interp.analysis.cells import token_groups
from headscope.probes import Probe, ProbeError, ProbeSet, build, list_sets
from headscope.probes.errors import (
    DepthOutOfRange,
    HaystackTooShort,
    JoinNotCanonical,
    LengthTooShort,
    NeedleLeak,
    NoChatTemplate,
    PoolTooSmall,
    UnknownSet,
)
from headscope.probes.haystack import Haystack, standard_library
from headscope.probes.sets import SETS
from headscope.probes.stream import tokenise
from headscope.probes.suites import known_suites
from headscope.probes.tokens import Codec, squash


def context_without_graft(probe: Probe) -> list[int]:
    assert probe.graft is not None
    start, end = probe.graft
    return [*probe.input_ids[:start].tolist(), *probe.input_ids[end : probe.question_start].tolist()]


@pytest.mark.parametrize("name", SETS)
def test_every_set_passes_its_own_verification(name: str, tokenizer: Any) -> None:
    apart = {"distances": [100, 300], "interferences": [200, 500]}
    probes = build(name, tokenizer, **apart if name == "interference" else {"lengths": [512, 900], "depths": 3})
    probes.verify(tokenizer)
    assert probes.name == name
    assert len({probe.id for probe in probes}) == len(probes)


@pytest.mark.parametrize("kind", ["sentence", "number", "uuid", "biography"])
def test_a_grid_is_exact(kind: Any, tokenizer: Any) -> None:
    """Exactly as long as asked, every needle in every cell, and one haystack under all of it."""
    lengths, depths = [400, 1000], [0.0, 0.3, 0.5, 1.0]
    probes = build("grid", tokenizer, lengths=lengths, depths=depths, needles=2, kind=kind)
    codec = Codec(tokenizer)
    stream = [*codec.head, *tokenise(codec, standard_library(), 1000, 0).ids.tolist()]
    cells = {(probe.needle_id, probe.length, probe.depth_nominal) for probe in probes}
    assert len(cells) == len(probes) == 16
    assert {length for _, length, _ in cells} == set(lengths)
    for probe in probes:
        context = context_without_graft(probe)
        assert context == stream[: len(context)]
        (start, end) = probe.needle_spans[0]
        assert squash(codec.decode(probe.input_ids[start:end])) == squash(probe.needle_text)
        assert "novel" in probe.token_class
        if probe.depth_nominal == 0.0:
            assert probe.graft is not None and probe.graft[0] == len(codec.head)
        if probe.depth_nominal == 1.0:
            assert probe.graft is not None and probe.graft[1] == probe.question_start


def test_needle_ids_are_the_same_at_every_depth_and_in_the_answer(tokenizer: Any) -> None:
    probes = build("grid", tokenizer, lengths=[400, 1000], depths=4, needles=2)
    assert {probe.alignment for probe in probes} == {"exact"}
    for needle_id in {probe.needle_id for probe in probes}:
        same = probes.subset(lambda probe, needle_id=needle_id: probe.needle_id == needle_id)  # type: ignore[misc]
        needles = {tuple(probe.input_ids[slice(*probe.needle_spans[0])].tolist()) for probe in same}
        answers = {tuple(probe.answer_ids.tolist()) for probe in same}
        assert len(needles) == 1
        assert needles == answers


def test_a_number_is_asked_for_alone_or_as_a_sentence(gpt2_like: Any) -> None:
    value, sentence = (
        build("grid", gpt2_like, lengths=[400], depths=1, needles=1, kind="number", answer=answer)[0]
        for answer in ("value", "sentence")
    )
    assert value.needle_text == sentence.needle_text
    assert value.answer_text == value.value
    assert sentence.answer_text == sentence.needle_text
    assert value.n_answer < sentence.n_answer
    assert "echo" not in value.token_class


def test_nested_contexts_are_prefixes_of_one_and_hold_whole_needles(tokenizer: Any) -> None:
    probes = build("grid_nested", tokenizer, lengths=[700, 1500], depths=[0.0, 0.2, 0.7], needles=2, kind="number")
    longest = max(probes, key=lambda probe: probe.question_start)
    assert {probe.length for probe in probes} == {700, 1500}
    assert len(probes.subset(lambda probe: probe.length == 1500)) == 6
    for probe in probes:
        context = probe.input_ids[: probe.question_start]
        np.testing.assert_array_equal(context, longest.input_ids[: len(context)])
        assert probe.graft is None
        assert probe.variant == "number-nested"
        rivals = [span for span in probe.spans if span.role == "distractor"]
        text = squash(Codec(tokenizer).decode(context))
        assert len(rivals) + 1 == text.count(squash("special magic numbers for"))
        assert text.count(squash(probe.value)) == 1


def test_no_nested_needle_is_cut_in_two(gpt2_like: Any) -> None:
    probes = build(
        "grid_nested", gpt2_like, lengths=list(range(700, 1900, 150)), depths=7, needles=2, kind="number", seed=1
    )
    needles = {span for probe in probes for span in probe.needle_spans}
    ends = {probe.question_start for probe in probes}
    assert len(needles) == 14
    assert not [(span, end) for span in needles for end in ends if span[0] < end < span[1]]


def test_chat_has_the_templates_markup_around_the_same_context(llama3_like: Any) -> None:
    probes = build("grid", llama3_like, lengths=[400], depths=3, needles=1, chat=True)
    probes.verify(llama3_like)
    codec = Codec(llama3_like)
    for probe in probes:
        text = codec.decode(probe.input_ids)
        assert text.startswith("<s><|user|>\n ")
        assert text.count("<s>") == 1
        assert "<|end|>\n<|bot|>\nAnswer: " in codec.decode(probe.input_ids[probe.question_start :])
        assert probe.length == 400
        assert probe.variant == "sentence-chat"


def test_heads_give_every_family_many_needles_and_all_depths(gpt2_like: Any) -> None:
    probes = build("heads", gpt2_like, lengths=[300, 500], depths=4, needles=4)
    families = {probe.family for probe in probes}
    assert families == {"biography", "keyvalue", "needle", "induction"}
    for family in families:
        own = probes.subset(lambda probe, family=family: probe.family == family)  # type: ignore[misc]
        assert len(own) == 8
        assert len({probe.needle_id for probe in own}) == 4
        for length in (300, 500):
            assert len({probe.depth_nominal for probe in own if probe.length == length}) == 4


def test_five_hundred_probes_have_five_hundred_ids(gpt2_like: Any) -> None:
    probes = build("grid", gpt2_like, lengths=[200, 220, 240, 260, 280], depths=20, needles=5, kind="number")
    assert len({probe.id for probe in probes}) == 500
    assert len({probe.needle_id for probe in probes}) == 5


def test_seed_and_haystack_change_the_set(gpt2_like: Any, tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("".join(f"Day {i} was quiet. We saw boat number {i}.\n" for i in range(300)))
    make = [
        build("smoke", gpt2_like),
        build("smoke", gpt2_like, seed=1),
        build("smoke", gpt2_like, haystack="noise"),
        build("smoke", gpt2_like, haystack=tmp_path),
    ]
    for probes in make:
        probes.verify(gpt2_like)
    assert len({probes.hash for probes in make}) == 4
    assert len({probes.haystack_ids for probes in make}) == 4


PROGRAM = """
import sys
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from headscope.probes import build
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(sys.argv[1]))
print(build("heads", tokenizer, lengths=[256, 384], needles=2, seed=3).hash)
"""


def test_the_same_seed_gives_the_same_hash_in_every_process(without_bos: Any, tmp_path: Path) -> None:
    """In one that hashes with another seed than this."""
    path = tmp_path / "tokenizer.json"
    without_bos.backend_tokenizer.save(str(path))
    here = build("heads", _loaded(path), lengths=[256, 384], needles=2, seed=3).hash
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def _loaded(path: Path) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(path)))


def test_the_global_random_state_is_neither_used_nor_touched(gpt2_like: Any) -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    first = build("smoke", gpt2_like).hash
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    np.random.seed(2)
    assert build("smoke", gpt2_like).hash == first


@pytest.mark.parametrize(
    ("error", "says", "name", "arguments"),
    [
        (UnknownSet, "Did you mean 'grid'?", "gird", {}),
        (UnknownSet, "there are smoke, heads, grid, grid_nested", "zzz", {}),
        (LengthTooShort, "takes at least", "grid", {"lengths": [60]}),
        (LengthTooShort, "lengths holds 'x'", "grid", {"lengths": ["x"]}),
        (LengthTooShort, "lengths holds -5", "grid", {"lengths": [-5]}),
        (LengthTooShort, "lengths is empty", "grid", {"lengths": []}),
        (LengthTooShort, "fewer depths or fewer needles", "grid_nested", {"lengths": [400]}),
        (LengthTooShort, "before the first needle", "grid_nested", {"lengths": [200, 3000], "depths": [0.8]}),
        (DepthOutOfRange, "every depth must be from 0", "grid", {"depths": [0.5, 1.5]}),
        (DepthOutOfRange, "every depth must be from 0", "grid", {"depths": [float("nan")]}),
        (DepthOutOfRange, "depths is 0", "grid", {"depths": 0}),
        (DepthOutOfRange, "give how many", "grid", {"depths": 0.5}),
        (ProbeError, "needles is 0", "grid", {"needles": 0}),
        (ProbeError, "seed is 'a'", "grid", {"seed": "a"}),
        (ProbeError, "kind is 'poem'", "grid", {"kind": "poem"}),
        (ProbeError, "answer is 'long'", "grid", {"answer": "long"}),
        (ProbeError, "is for kind='number'", "grid", {"answer": "value"}),
        (ProbeError, "'heads' has needles of its own choice", "heads", {"kind": "number"}),
        (ProbeError, "does not exist", "grid", {"haystack": "/no/such/folder"}),
        (PoolTooSmall, "there are 30", "grid", {"needles": 31}),
        (NoChatTemplate, "has no chat template", "grid", {"chat": True}),
    ],
)
def test_bad_requests_say_what_to_do(
    error: type[Exception], says: str, name: str, arguments: dict, without_bos: Any
) -> None:
    with pytest.raises(error, match=says.replace("?", r"\?")):
        build(name, without_bos, **arguments)


def test_the_least_length_named_is_enough(tokenizer: Any) -> None:
    with pytest.raises(LengthTooShort) as error:
        build("grid", tokenizer, lengths=[50], depths=3, needles=1)
    least = int(str(error.value).split("at least ")[1].rstrip("."))
    probes = build("grid", tokenizer, lengths=[least], depths=3, needles=1)
    probes.verify(tokenizer)
    assert {probe.length for probe in probes} == {least}
    with pytest.raises(LengthTooShort):
        build("grid", tokenizer, lengths=[least - 1], depths=3, needles=1)


def test_a_short_haystack_is_never_repeated_silently(gpt2_like: Any) -> None:
    essay = " ".join(f"Boat {i} came in." for i in range(40))
    with pytest.raises(HaystackTooShort, match="and 2000 are needed"):
        build("grid", gpt2_like, lengths=[2000], haystack=Haystack("mine", lambda seed: [essay]))
    repeated = build("grid", gpt2_like, lengths=[2000], haystack=Haystack("mine", lambda seed: [essay], repeat=True))
    repeated.verify(gpt2_like)


def test_a_haystack_that_knows_the_answer_is_refused(gpt2_like: Any) -> None:
    value = build("grid", gpt2_like, lengths=[300], needles=1)[0].value
    tells = f"We talked for an hour. Somebody mentioned {value.upper()} in passing. " + "The evening went on. " * 200
    with pytest.raises(NeedleLeak, match="is in the haystack 'gossip'"):
        build(
            "grid", gpt2_like, lengths=[300], needles=1, haystack=Haystack("gossip", lambda seed: [tells], repeat=True)
        )


def test_text_without_sentences_is_cut_at_lines(llama3_like: Any) -> None:
    listing = "\n".join(f"item {i}, shelf {i * 7 % 13}, box {i * 5 % 11}" for i in range(400))
    probes = build("grid", llama3_like, lengths=[600], haystack=Haystack("list", lambda seed: [listing]), depths=5)
    probes.verify(llama3_like)
    codec = Codec(llama3_like)
    for probe in probes.subset(lambda probe: 0 < probe.depth_nominal < 1):
        assert probe.graft is not None
        assert codec.decode(probe.input_ids[probe.graft[0] - 1 : probe.graft[0]]).endswith("\n")
        assert codec.decode(probe.input_ids[slice(*probe.graft)]).endswith("\n")
        assert not codec.decode(probe.input_ids[slice(*probe.needle_spans[0])]).endswith("\n\n")


def test_a_tokenizer_that_merges_over_sentences_is_refused_not_fooled(across_spaces: Any) -> None:
    with pytest.raises(JoinNotCanonical, match="near depth 0.5 of a context of 400 tokens"):
        build("grid", across_spaces, lengths=[400], depths=1, needles=1)


def test_the_monitor_set_is_one_haystack_and_many_needles(gpt2_like: Any) -> None:
    probes = build("monitor", gpt2_like, lengths=600)
    assert len(probes) == 32 == len({probe.needle_id for probe in probes})
    contexts = sorted((context_without_graft(probe) for probe in probes), key=len)
    assert all(context == contexts[-1][: len(context)] for context in contexts), "one prefill serves all of them"
    assert len({probe.depth_nominal for probe in probes}) == 6


def test_interference_and_distance_are_what_was_asked_for(gpt2_like: Any) -> None:
    """Both within the 8 tokens that the report counts as one number, so that its figure has every cell."""
    asked = {"distances": [64, 300, 640], "interferences": [80, 400]}
    probes = build("interference", gpt2_like, needles=2, kind="number", **asked)
    assert len(probes) == 12
    for axis, given in (("distance", asked["distances"]), ("interference", asked["interferences"])):
        groups, column = token_groups(np.array([getattr(probe, axis) for probe in probes]))
        assert len(groups) == len(given) and np.bincount(column).tolist() == [12 // len(given)] * len(given)
        assert all(0 <= number - getattr(p, axis) <= 8 for p in probes for number in given[:1] if getattr(p, axis) < 81)
    contexts = sorted((context_without_graft(probe) for probe in probes), key=len)
    assert all(context == contexts[-1][: len(context)] for context in contexts)
    crowded = build("interference", gpt2_like, kind="biography", distractors=2, distances=[500], interferences=[500])
    crowded.verify(gpt2_like)


def test_what_does_not_belong_to_a_set_is_one_line(gpt2_like: Any) -> None:
    crowd = {"kind": "biography", "distractors": 9}
    for name, given, message in (
        ("interference", {"lengths": [512]}, "lengths is not for 'interference', which takes interferences and"),
        ("interference", {"depths": 2}, "depths is not for 'interference'"),
        ("interference", {"distances": [0]}, "distances holds 0"),
        ("interference", {"interferences": []}, "interferences is empty"),
        ("interference", {**crowd, "interferences": [1]}, "stand before the needle in any case"),
        ("interference", {**crowd, "interferences": [900], "distances": [1]}, "give longer distances"),
        ("grid", {"distances": [512]}, "distances is not for 'grid', which takes lengths and depths"),
        ("grid", {"distractors": 2}, "for the grids with kind='biography'"),
        ("monitor", {"distractors": 2}, "for the grids with kind='biography'"),
        ("grid", {"distractors": 0, "kind": "biography"}, "distractors is 0; give a whole number from 1 up"),
        ("longbio", {"distractors": 2}, "distractors is for sets of needles"),
    ):
        with pytest.raises(ProbeError, match=message):
            build(name, gpt2_like, **given)


def test_sets_are_described() -> None:
    assert set(list_sets()) == {*SETS, *known_suites()}
    assert {"smoke", "heads", "grid", "grid_nested", "interference", "monitor"} == {*SETS}
    assert all(len(text) < 100 for text in list_sets().values())


def test_a_built_set_can_be_saved(gpt2_like: Any, tmp_path: Path) -> None:
    probes = build("smoke", gpt2_like)
    probes.save(tmp_path / "smoke.npz")
    loaded = ProbeSet.load(tmp_path / "smoke.npz")
    loaded.verify(gpt2_like)
    assert loaded.hash == probes.hash
