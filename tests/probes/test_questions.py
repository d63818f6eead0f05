"""A user's own questions: SQuAD, HotpotQA and JSON Lines, as they are and as they should not be."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headscope import probes as hp
from headscope.errors import HeadscopeError
from headscope.probes.questions import read_questions

RIVERS = ("Lofoten", "Narvik", "Bergen", "Hamar", "Molde", "Voss", "Alta", "Moss")


def squad(n: int = 8) -> dict[str, Any]:
    """As version 2.0 is published: articles, paragraphs, questions; one in two of these has no answer."""
    paragraphs = []
    for i, town in enumerate(RIVERS[:n]):
        context = (
            f"The river of {town} is cold. It was measured by Ole Berg{i}. Its bridge was built in {1801 + 7 * i}."
        )
        year = str(1801 + 7 * i)
        answers = [{"text": year, "answer_start": context.index(year)}]
        asked = f"When was the bridge of {town} built?"
        more = [{"text": f"in {year}", "answer_start": context.index(f"in {year}")}, *answers]
        paragraphs.append(
            {
                "context": context,
                "qas": [
                    {"question": asked, "id": f"{i}", "answers": answers + more, "is_impossible": False},
                    {"question": f"Who fished in {town}?", "id": f"{i}x", "answers": [], "is_impossible": True},
                ],
            }
        )
    return {
        "version": "v2.0",
        "data": [{"title": "A", "paragraphs": paragraphs[::2]}, {"title": "B", "paragraphs": paragraphs[1::2]}],
    }


def hotpot() -> list[dict[str, Any]]:
    """As published, with distractors: a bridge, a yes, an answer that the question names, a fact too many."""
    context = [
        ["Fram", ["Fram is a ship.", " It was built by Colin Archer."]],
        ["Colin Archer", ["Colin Archer was a naval architect.", " He was born in Larvik."]],
        ["Gjoa", ["Gjoa is a ship of 1872.", " It is in Oslo."]],
    ]
    common = {"type": "bridge", "level": "hard", "context": context}
    return [
        {
            **common,
            "_id": "1",
            "question": "Where was the builder of Fram born?",
            "answer": "Larvik",
            "supporting_facts": [["Fram", 1], ["Colin Archer", 1], ["Colin Archer", 7]],
        },
        {
            **common,
            "_id": "2",
            "question": "Are Fram and Gjoa both ships?",
            "answer": "yes",
            "supporting_facts": [["Fram", 0], ["Gjoa", 0]],
        },
        {
            **common,
            "_id": "3",
            "question": "Which ship was built by an architect, Fram or Gjoa?",
            "answer": "Fram",
            "supporting_facts": [["Fram", 1], ["Colin Archer", 0]],
        },
    ]


def lines() -> list[dict[str, Any]]:
    return [
        {"context": "The harbour master is Ada. She has two dogs.", "question": "Who is master?", "answers": ["Ada"]},
        {"context": "Tea is sold at four.\nIt is green tea.", "question": "When is it sold?", "answers": "at four"},
        {
            "context": "The keeper's name was Emil Wik. He left.",
            "question": "What was the keeper's name?",
            "answers": {"text": ["Wik", "Emil Wik"], "answer_start": [0, 22]},
        },
    ]


def written(path: Path, value: Any) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, value)) + "\n")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(json.dumps(value).encode()))
    else:
        path.write_text(json.dumps(value, indent=1))
    return path


def needle(tokenizer: Any, probe: hp.Probe, group: int = 0) -> str:
    (span,) = (span for span in probe.spans if span.role == "needle" and span.group == group)
    return tokenizer.decode(probe.input_ids[span.start : span.end]).strip()


def test_squad_as_published(tokenizer: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "dev-v2.0.json", squad())
    built = hp.build("ruler", tokenizer, tasks=["qa_1"], lengths=[720], items=8, qa_file=path)
    built.verify(tokenizer)
    assert len({probe.needle_id for probe in built}) == 8  # each question once
    for probe in built:
        assert probe.copyable and probe.task.metric == "string_match_part" and probe.task.max_new_tokens == 32
        year, other = probe.task.golds
        assert other == f"in {year}" and probe.answer_text == year
        assert "bridge was built in" in needle(tokenizer, probe) and probe.length > 500
    said = tokenizer.decode(built[0].input_ids)
    assert said.count("The river of") == 8 and "Document 9" in said  # its own, then the haystack's
    assert len({round(probe.depth, 2) for probe in built}) > 3


def test_the_gold_document_may_be_any(gpt2_like: Any, tmp_path: Path) -> None:
    """The published code shuffles with one seed: the gold document is the same one in every sample."""
    path = written(tmp_path / "squad.json.gz", squad())
    slots = []
    for seed in range(6):
        for probe in hp.build("ruler", gpt2_like, tasks=["qa_1"], lengths=[400], items=8, qa_file=path, seed=seed):
            before = gpt2_like.decode(probe.input_ids[: probe.needle_spans[0][0]])
            slots.append(before.count("Document "))
    assert min(np.bincount(slots)[1:6]) >= 3


def test_hotpotqa_as_published(tokenizer: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "hotpot_dev_distractor_v1.json", hotpot())
    built = hp.build("ruler", tokenizer, tasks=["qa_2"], lengths=[512], items=3, qa_file=path)
    built.verify(tokenizer)
    by_answer = {probe.answer_text: probe for probe in built}
    bridge, yes, named = by_answer["Larvik"], by_answer["yes"], by_answer["Fram"]
    assert bridge.copyable and "born in Larvik" in needle(tokenizer, bridge)
    assert "built by Colin Archer" in needle(tokenizer, bridge, 1)
    assert not yes.copyable and {span.group for span in yes.spans} == {0, 1}
    assert not named.copyable  # the question says it: nothing needs the documents for it


def test_lines_of_your_own(gpt2_like: Any, tmp_path: Path) -> None:
    for name in ("own.jsonl", "own.json"):
        path = written(tmp_path / name, lines())
        built = hp.build("ruler", gpt2_like, tasks=["qa_1"], lengths=[512], items=3, qa_file=str(path))
        built.verify(gpt2_like)
        assert {probe.answer_text: needle(gpt2_like, probe) for probe in built} == {
            "Ada": "The harbour master is Ada.",
            "at four": "Tea is sold at four.",
            "Wik": "The keeper's name was Emil Wik.",
        }


def test_all_tasks_are_eleven_and_two_for_questions(gpt2_like: Any, tmp_path: Path) -> None:
    first, second = written(tmp_path / "s.json", squad()), written(tmp_path / "h.json", hotpot())
    names = {}
    for given in (None, first, [first, second]):
        built = hp.build("ruler", gpt2_like, lengths=[1100], items=1, qa_file=given)
        names[str(given)] = [probe.variant for probe in built]
    without, one, both = names.values()
    assert len(without) == len(one) == len(both) == 13
    assert (without[-2:], one[-2:], both[-2:]) == (["qa_1_own", "qa_2_own"], ["qa_1", "qa_2_own"], ["qa_1", "qa_2"])


@pytest.mark.parametrize("task", ["qa_1", "qa_2"])
def test_nothing_of_our_own_is_passed_off_as_theirs(gpt2_like: Any, task: str) -> None:
    with pytest.raises(hp.ProbeError, match=rf"{task} is .*: give the file as qa_file .*; {task}_own needs none\.$"):
        hp.build("ruler", gpt2_like, tasks=[task], lengths=[512], items=1)


def deep() -> str:
    return '{"data":' * 100_000


WRONG: list[tuple[str, Any, str]] = [
    ("absent.json", None, "does not exist; give a file: accepted are SQuAD's JSON"),
    ("folder.json", ..., "is a folder"),
    ("notes.txt", "hello", r"is no \.json, \.jsonl, \.ndjson file"),
    ("cut.json", '{"data": [', "is not JSON"),
    ("deep.json", deep(), "nested too deeply"),
    ("deep.jsonl", deep(), "nested too deeply"),
    ("binary.json", b"\xff\xfe\x00\x80", "is not UTF-8 text"),
    ("digits.json", "9" * 5000, "is not JSON"),
    ("empty.jsonl", "\n", "holds no question"),
    ("other.jsonl", json.dumps({"prompt": "a", "answer": "b"}), "line 1, holds no text 'context'; accepted are"),
    ("list.json", [1, 2], "item 1, holds no text 'context'"),
    ("number.json", 7, "holds no text 'context'"),
    ("paragraphs.json", {"data": [{"title": "A"}]}, "article 1, holds no list 'paragraphs'"),
    ("impossible.json", {"data": [{"paragraphs": [{"context": "a", "qas": []}]}]}, "holds no question"),
    ("unlike.jsonl", {"context": "a b", "question": "c?", "answers": [3]}, "no list of texts as 'answers'"),
    (
        "elsewhere.jsonl",
        {"context": "a b", "question": "c?", "answers": ["d"]},
        r"none of its answers \('d'\) is in its",
    ),
    ("hop.json", [{"question": "a", "answer": "b", "supporting_facts": [], "context": [["t"]]}], "no list of"),
    (
        "facts.json",
        [{"question": "a", "answer": "b", "supporting_facts": [["t", 0]], "context": [["u", ["c"]]]}],
        "no supporting fact and no answer",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), WRONG, ids=[name for name, _, _ in WRONG])
def test_what_is_wrong_with_a_file_is_one_line(
    gpt2_like: Any, tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = tmp_path / name
    if content is ...:
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(HeadscopeError, match=message) as told:
        hp.build("ruler", gpt2_like, tasks=["qa_1"], lengths=[512], items=1, qa_file=path)
    assert "\n" not in str(told.value) and name in str(told.value) and len(str(told.value)) < 400


def test_what_does_not_go_together_is_one_line(gpt2_like: Any, tmp_path: Path) -> None:
    first, again = written(tmp_path / "s.json", squad()), written(tmp_path / "l.jsonl", lines())
    for given, message in (
        ({"qa_file": [first, again]}, "are both for qa_1; give one of them"),
        ({"qa_file": 3}, "qa_file is 3; give the path of a file"),
        ({"qa_file": []}, "give the path of a file"),
        ({"qa_file": first, "tasks": ["qa_2"]}, "s.json is for qa_1; qa_2_own needs none"),
        ({"qa_file": again, "items": 4}, "has 3 questions for qa_1; ask for at most so many items"),
    ):
        with pytest.raises(HeadscopeError, match=message):
            hp.build("ruler", gpt2_like, **{"tasks": ["qa_1"], "lengths": [512], "items": 1, **given})


def test_halves_of_surrogate_pairs_and_odd_blanks(gpt2_like: Any, tmp_path: Path) -> None:
    path = tmp_path / "odd.jsonl"
    path.write_text('{"context": "  A \\ud83d note.\\r\\nBy Eva. ", "question": "By?", "answers": [" Eva", "", "Eva"]}')
    (held,) = read_questions(path)
    assert held.questions[0].answers == ("Eva",) and held.task == "qa_1"
    hp.build("ruler", gpt2_like, tasks=["qa_1"], lengths=[512], items=1, qa_file=path).verify(gpt2_like)
