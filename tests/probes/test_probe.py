"""Probe and ProbeSet as data: what they accept, derive, refuse, and hash."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.probes import Probe, ProbeError, ProbeSet, Span
from headscope.probes.errors import DuplicateId, EmptyAnswer

#       0  1   2   3   4   5   6   7   8 | 9  10 | 11  12  13
IDS = [0, 50, 51, 10, 11, 12, 13, 52, 53, 60, 11, 10, 11, 12]


def made(**changes: object) -> Probe:
    return replace(Probe.from_ids(IDS, prompt_len=11, needles=[(3, 7)], question_start=9), **changes)  # type: ignore[arg-type]


def test_from_ids_finds_sources_and_classes() -> None:
    probe = made()
    assert probe.alignment == "exact"
    np.testing.assert_array_equal(probe.sources, [[3], [4], [5]])
    assert probe.token_class == ("novel", "echo", "novel")  # 11 is in the question as well
    assert (probe.length, probe.n_answer) == (14, 3)
    np.testing.assert_array_equal(probe.answer_ids, [10, 11, 12])
    np.testing.assert_array_equal(probe.answer_rows, [10, 11, 12])
    np.testing.assert_array_equal(np.flatnonzero(probe.needle_mask), [3, 4, 5, 6])
    assert (probe.interference, probe.distance) == (3, 2)
    assert probe.depth == pytest.approx(3 / 5)  # 3 of the 5 context tokens that are not the needle
    assert probe.input_ids.dtype == probe.sources.dtype == np.int32


def test_question_start_defaults_to_the_last_prompt_token() -> None:
    assert Probe.from_ids(IDS, prompt_len=11, needles=[(3, 7)]).question_start == 10


def test_an_answer_out_of_order_is_aligned_by_id() -> None:
    probe = Probe.from_ids([1, 7, 8, 7, 2, 8, 7, 9], prompt_len=5, needles=[(1, 4)])
    assert probe.alignment == "id"
    np.testing.assert_array_equal(probe.sources, [[2, -1], [1, 3], [-1, -1]])
    assert probe.token_class == ("novel", "novel", "format")


def test_an_answer_the_needle_holds_twice_has_two_sources() -> None:
    probe = Probe.from_ids([1, 7, 8, 7, 8, 2, 7, 8], prompt_len=6, needles=[(1, 5)])
    assert probe.alignment == "exact"
    np.testing.assert_array_equal(probe.sources, [[1, 3], [2, 4]])


def test_an_answer_without_sources_is_said_to_have_none() -> None:
    probe = Probe.from_ids([1, 7, 8, 2, 5, 6], prompt_len=4, needles=[(1, 3)])
    assert probe.alignment == "none"
    assert (probe.sources == -1).all()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"needles": [(8, 12)]}, "outside the prompt"),
        ({"needles": [(40, 44)]}, "outside the prompt"),
        ({"needles": [(5, 5)]}, "empty or negative"),
        ({"needles": [(-2, 3)]}, "empty or negative"),
        ({"needles": [(3.5, 7)]}, "whole number"),
        ({"needles": []}, "at least one"),
        ({"needles": [(3, 7), (6, 8)]}, "overlap"),
        ({"distractors": [(6, 8)]}, "overlap"),
        ({"prompt_len": 0}, "prompt_len is 0"),
        ({"prompt_len": 99}, "must be 1 to 13"),
        ({"prompt_len": 11.0}, "whole number"),
        ({"question_start": 12}, "question_start is 12"),
        ({"id": ""}, "non-empty"),
        ({"input_ids": [IDS]}, "shape (1, 14)"),
        ({"input_ids": np.asarray(IDS, dtype=float)}, "float64"),
        ({"input_ids": [*IDS[:-1], -1]}, "not negative"),
        ({"input_ids": [*IDS[:-1], 2**40]}, "int32"),
    ],
)
def test_bad_input_is_refused_and_named(arguments: dict, says: str) -> None:
    given = {"input_ids": IDS, "prompt_len": 11, "needles": [(3, 7)], **arguments}
    with pytest.raises(ProbeError, match=says.replace("(", r"\(").replace(")", r"\)")):
        Probe.from_ids(given.pop("input_ids"), **given)


def test_an_empty_answer_has_its_own_name() -> None:
    with pytest.raises(EmptyAnswer, match="the answer is empty"):
        Probe.from_ids(IDS, prompt_len=len(IDS), needles=[(3, 7)])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sources": np.array([[3], [4], [6]])}, "a source must hold the same token"),
        ({"sources": np.array([[3], [4]])}, "one per answer token"),
        ({"sources": np.array([[3], [4], [99]])}, "positions in the prompt"),
        ({"sources": np.array([3, 4, 5])}, "2-D"),
        ({"token_class": ("novel", "echo", "first")}, "token_class holds"),
        ({"alignment": "none"}, "sources are given"),
        ({"alignment": "roughly"}, "alignment is 'roughly'"),
        ({"depth": float("nan")}, "depth is nan"),
        ({"depth_nominal": 1.5}, "depth_nominal is 1.5"),
        ({"spans": (Span(3, 7, "distractor"),)}, "no span has the role 'needle'"),
        ({"graft": (3, 12)}, "before question_start"),
        ({"graft": (4, 8)}, "does not hold the needle"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ProbeError, match=says):
        made(**changes)


def test_unknown_roles_are_refused() -> None:
    with pytest.raises(ProbeError, match="use one of needle, distractor"):
        Span(0, 1, "haystack")


def test_a_probe_is_frozen() -> None:
    probe = made()
    with pytest.raises(FrozenInstanceError):
        probe.id = "other"  # type: ignore[misc]
    for array in (probe.input_ids, probe.sources):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_probe_keeps_its_own_copy_of_the_ids() -> None:
    ids = np.asarray(IDS, dtype=np.int32)
    probe = Probe.from_ids(ids, prompt_len=11, needles=[(3, 7)])
    ids[:] = 0
    assert probe.input_ids.tolist() == IDS


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda probe: pickle.loads(pickle.dumps(probe))])
def test_copies_are_equal_and_still_read_only(copied) -> None:  # noqa: ANN001
    probe = made()
    other = copied(probe)
    assert other.hash == probe.hash
    assert not other.input_ids.flags.writeable


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "b"},
        {"seed": 1},
        {"question_start": 10},
        {"spans": (Span(3, 7, "needle"), Span(1, 2, "distractor"))},
        {"token_class": ("novel", "novel", "novel")},
        {"depth": 0.25},
        {"graft": (3, 7)},
        {"haystack_id": "x"},
        {"value": "x"},
        {"input_ids": [*IDS[:8], 99, *IDS[9:]]},
    ],
)
def test_every_field_counts_in_the_hash(changes: dict) -> None:
    assert made(**changes).hash != made().hash


def test_integer_types_do_not_count_in_the_hash() -> None:
    narrow = Probe.from_ids(np.asarray(IDS, np.uint8), prompt_len=np.int64(11), needles=[(np.int32(3), 7)])  # type: ignore[arg-type,list-item]
    assert narrow.hash == Probe.from_ids(IDS, prompt_len=11, needles=[(3, 7)]).hash


@given(st.data())
def test_from_ids_never_gives_a_wrong_source(data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, 5), min_size=3, max_size=30))
    edges = st.integers(-1, len(ids) + 1)
    try:
        probe = Probe.from_ids(
            ids,
            prompt_len=data.draw(edges),
            needles=data.draw(st.lists(st.tuples(edges, edges), min_size=1, max_size=3)),
        )
    except ProbeError:
        return
    inside = set(np.flatnonzero(probe.needle_mask).tolist())
    assert inside <= set(range(probe.prompt_len))
    for token, places in zip(probe.answer_ids, probe.sources, strict=True):
        known = {int(place) for place in places if place >= 0}
        assert known <= inside
        assert all(ids[place] == token for place in known)
        if probe.alignment == "id":
            assert known == {place for place in inside if ids[place] == token}


def test_a_set_is_a_sequence_of_probes() -> None:
    probes = ProbeSet([made(id=name) for name in "abc"], "mine")  # type: ignore[arg-type]
    assert len(probes) == 3
    assert [probe.id for probe in probes] == ["a", "b", "c"]
    assert probes[1].id == "b"
    assert [probe.id for probe in probes[1:]] == ["b", "c"]
    assert isinstance(probes[1:], ProbeSet)
    assert [probe.id for probe in probes.subset(lambda probe: probe.id != "b")] == ["a", "c"]
    assert probes.summary()["n_probes"] == 3
    assert probes.summary()["n_tokens"] == 3 * len(IDS)


def test_the_hash_of_a_set_depends_on_content_and_order_but_not_on_the_name() -> None:
    a, b = made(id="a"), made(id="b")
    assert ProbeSet((a, b)).hash == ProbeSet((a, b), "other").hash
    assert len({ProbeSet((a, b)).hash, ProbeSet((b, a)).hash, ProbeSet((a,)).hash}) == 3


def test_a_set_refuses_nothing_strangers_and_doubles() -> None:
    with pytest.raises(ProbeError, match="empty"):
        ProbeSet(())
    with pytest.raises(ProbeError, match="holds a str"):
        ProbeSet(("probe",))  # type: ignore[arg-type]
    with pytest.raises(DuplicateId, match="'a' twice"):
        ProbeSet((made(id="a"), made(id="a")))
