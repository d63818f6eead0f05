"""MRCR: own transcripts in both wordings, and files of OpenAI's kind, right and wrong."""

from __future__ import annotations

import json
import logging
import re
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from headscope import probes as hp
from headscope.probes.haystack import standard_library
from headscope.probes.seeds import rng
from headscope.probes.suite import Draw, Text
from headscope.probes.suites.mrcr import ALIKE, SUITE, WORDINGS
from headscope.probes.tokens import Codec

LAST = {
    "openai": r"User: Prepend [a-z0-9]{10} to the (1st|2nd|3rd|[4-8]th) \(1 indexed\) [a-z ]+ about [a-z]+\. "
    r"Do not include any other text in your response\.\n\nAssistant:",
    "deepmind": r"User: Prepend [a-z0-9]{12} to the (first|second|third|fourth|fifth|sixth|seventh|eighth) [a-z ]+ "
    r"about [a-z]+ in a [a-z]+ style\. Do not include any other text in your response\.\n\nAssistant:",
}


def passages(task: str, codec: Codec, count: int, *, turns: int, wording: str = "openai", length: int = 8192):
    """Items as text; each of a seed of its own."""
    for seed in range(count):
        draw = Draw(
            rng(seed, "own"),
            rng(seed, "shared"),
            length,
            {"wording": wording, "mrcr_file": None},
            Text(standard_library(), seed, codec),
        )
        yield SUITE.tasks[task].draw(draw).make(turns)


def instance(passage) -> int:
    """Which of the replies to its request is asked for, from 0, read off the roles."""
    return [piece.role for piece in passage.pieces if piece.role].index("needle")


@pytest.mark.parametrize("wording", list(WORDINGS))
@pytest.mark.parametrize("needles", [2, 4, 8])
def test_the_transcript_is_what_the_question_says(gpt2_like, wording, needles) -> None:
    codec = Codec(gpt2_like)
    for passage in passages(f"mrcr_{needles}", codec, 3, turns=40, wording=wording):
        text = "".join(piece.text for piece in passage.pieces)
        assert np.count_nonzero([bool(piece.role) for piece in passage.pieces]) == needles
        assert re.fullmatch(LAST[wording], passage.question)
        hash = passage.task.prefix
        assert hash not in text and hash in passage.question
        turns = [turn.split("\n\nAssistant: ") for turn in text.removesuffix("\n\n").split("\n\nUser: ")]
        turns[0][0] = turns[0][0].removeprefix("User: ")
        if wording == "openai":
            request = "write a " + re.search(r"indexed\) (.*)\. Do not", passage.question)[1]
        else:
            request = "Write a " + re.search(r"to the \w+ (.* style\.)", passage.question)[1].replace(" in a ", " in ")
        replies = [reply for asked, reply in turns if asked == request]
        assert len(replies) == needles
        assert passage.task.golds == (hash + replies[instance(passage)],)
        assert set(passage.task.rivals) == set(replies) - {replies[instance(passage)]}
        assert "".join(part if isinstance(part, str) else part.text for part in passage.answer) == (
            " " + passage.task.golds[0]
        )


def test_no_two_replies_are_alike(gpt2_like) -> None:
    for passage in passages("mrcr_4", Codec(gpt2_like), 1, turns=30):
        text = "".join(piece.text for piece in passage.pieces)
        replies = [turn.partition("\n\nUser:")[0] for turn in text.split("\n\nAssistant: ")[1:]]
        assert len(replies) == 34
        assert max(SequenceMatcher(None, *pair).ratio() for pair in combinations(replies, 2)) < ALIKE


def test_every_place_and_every_instance_is_as_likely(gpt2_like) -> None:
    depths, asked = [], np.zeros(2, int)
    for seed, passage in enumerate(passages("mrcr_2", Codec(gpt2_like), 500, turns=9, length=256)):
        sizes = [len(piece.text) for piece in passage.pieces]
        at = [piece.role for piece in passage.pieces].index("needle")
        depths.append((sum(sizes[:at]) + sizes[at] * rng(seed, "within").random()) / sum(sizes))
        asked[instance(passage)] += 1
    assert kstest(depths, "uniform").pvalue > 0.01
    assert chisquare(asked).pvalue > 0.01


def test_four_items_share_a_transcript_and_ask_different_questions(gpt2_like) -> None:
    built = list(hp.build("mrcr", gpt2_like, tasks=["mrcr_2"], lengths=[2048], items=4))
    shortest = min(probe.question_start for probe in built)
    assert all(np.array_equal(probe.input_ids[:shortest], built[0].input_ids[:shortest]) for probe in built)
    assert len({probe.answer_text[10:] for probe in built}) == 4  # two sets of two
    for probe in built:
        copied = probe.sources[:, 0] >= 0  # a run of the reply's own tokens, not any that are the same
        assert probe.sources.shape[1] == 1 and (np.diff(probe.sources[copied, 0]) == 1).all()


def test_an_answer_opens_a_chats_turn_without_a_blank(gpt2_like) -> None:
    (probe,) = hp.build("mrcr", gpt2_like, tasks=["mrcr_2"], lengths=[1024], items=1, chat=True)
    assert gpt2_like.decode(probe.answer_ids) == probe.task.golds[0]


def row(*, needles: int = 2, nth: int = 2, said: int | None = None, answered: int | None = None, more: int = 0) -> dict:
    """A row such as OpenAI's. said: needles that it says it has; answered: the reply that it gives, not asks for."""
    talk = []
    for i in range(needles + more):
        talk += [{"role": "user", "content": "write a poem about tapirs"}]
        talk += [{"role": "assistant", "content": f"**Tapirs {i}**\n\nThe tapir walks number {i} of {'abcdefgh'[i]}."}]
        talk += [{"role": "user", "content": f"write a song about frog {i}"}]
        talk += [{"role": "assistant", "content": f"Frog {i}!"}]
    replies = [message["content"] for message in talk if message["content"].startswith("**")]
    ordinal = {1: "1st", 2: "2nd", 3: "3rd"}[nth]
    last = f"Prepend aYooSG8CQg to the {ordinal} (1 indexed) poem about tapirs. "
    last += "Do not include any other text in your response."
    examples = {"role": "user", "content": "Here are examples:\n\nUser: write a poem about tapirs\nAssistant: no"}
    return {
        "prompt": json.dumps([examples, *talk, {"role": "user", "content": last}]),
        "answer": "aYooSG8CQg" + replies[(nth if answered is None else answered) - 1],
        "random_string_to_prepend": "aYooSG8CQg",
        "n_needles": needles if said is None else said,
    }


def written(folder, rows, name="mrcr.jsonl"):
    path = folder / name
    if name.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["mrcr.jsonl", "mrcr.parquet"])
def test_a_file_is_read_and_what_it_says_of_itself_is_checked(llama3_like, tmp_path, caplog, name) -> None:
    rows = [row(more=1, said=2), row(nth=1), row(answered=1), row(nth=2), row(needles=4, nth=3)]
    path = written(tmp_path, rows, name)
    with caplog.at_level(logging.WARNING):
        built = hp.build("mrcr", llama3_like, tasks=["mrcr_2_file"], lengths=[300, 1024], items=2, mrcr_file=str(path))
    built.verify(llama3_like)
    assert [probe.variant for probe in built] == ["mrcr_2_file"] * 2
    assert [probe.task.golds[0] for probe in built] == [rows[1]["answer"], rows[3]["answer"]]
    for probe in built:
        (needle,) = probe.needle_spans
        assert llama3_like.decode(probe.input_ids[slice(*needle)]).strip() == probe.task.golds[0][10:]
        assert [span.role for span in probe.spans].count("distractor") == 1
    assert len([record for record in caplog.records if "left out 2 of 4 rows" in record.getMessage()]) == 1


def test_tasks_of_a_file_take_the_place_of_our_own(gpt2_like, tmp_path) -> None:
    path = written(tmp_path, [row(nth=1), row(needles=4, nth=3)])
    built = hp.build("mrcr", gpt2_like, lengths=[1024], items=1, mrcr_file=path)
    assert [probe.variant for probe in built] == ["mrcr_2_file", "mrcr_4_file", "mrcr_8"]


def test_what_is_wrong_with_a_file_is_one_line(gpt2_like, tmp_path) -> None:
    lacking = row()
    del lacking["answer"]
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    for given, message in (
        ({"mrcr_file": tmp_path / "none.parquet"}, "does not exist; give a file: accepted are OpenAI's"),
        ({"mrcr_file": tmp_path}, "is a folder"),
        ({"mrcr_file": 3}, "give the path of a file"),
        ({"mrcr_file": written(tmp_path, [lacking], "a.jsonl")}, "has no answer; accepted"),
        ({"mrcr_file": written(tmp_path, [{**row(), "prompt": "[1]"}], "b.jsonl")}, "prompt is no list of messages"),
        ({"mrcr_file": written(tmp_path, [row() | {"n_needles": "2"}], "c.jsonl")}, "other kinds of values"),
        ({"mrcr_file": written(tmp_path, [row(needles=4)], "d.jsonl")}, "has n_needles 2; give a file with"),
        ({"mrcr_file": written(tmp_path, [row()], "e.jsonl"), "lengths": [64]}, "nothing in the file has at most 64"),
        ({"mrcr_file": broken}, "is no Parquet file"),
        ({}, r"give it with mrcr_file=PATH \(--mrcr-file\), or take mrcr_2"),
    ):
        with pytest.raises(hp.ProbeError, match=message) as raised:
            hp.build("mrcr", gpt2_like, **{"tasks": ["mrcr_2_file"], "lengths": [1024], **given})
        assert "\n" not in str(raised.value)
