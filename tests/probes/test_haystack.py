"""Where the text comes from, and how it becomes one stream of tokens."""

from __future__ import annotations

import gzip
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headscope.probes import ProbeError
from headscope.probes.errors import HaystackTooShort
from headscope.probes.haystack import Haystack, as_haystack, folder, noise, prose, standard_library
from headscope.probes.stream import tokenise
from headscope.probes.tokens import Codec

ESSAY = "The river was high. Nobody could cross it. We waited for a week.\nThen the rain stopped. A boat came.\n"


def test_docstrings_become_running_text() -> None:
    docstring = """Return the number of rivers that
        were crossed in the end.

        >>> rivers()
        3

        Arguments:
        ==========

        x = y + z * (a[0] // 2)

        The second argument says how many boats
        there are for everybody in town.
        """
    assert prose(docstring).splitlines() == [
        "Return the number of rivers that were crossed in the end.",
        "The second argument says how many boats there are for everybody in town.",
    ]


def test_the_standard_library_is_long_varied_and_in_seeded_order() -> None:
    first, again, other = (list(islice(standard_library().documents(seed), 60)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(set(first)) == len(first)
    assert sum(map(len, first)) > 150_000


def test_no_paragraph_comes_twice_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One line of text.\nAnother line.\n")
    (tmp_path / "b.md").write_text("Another line.\nA third line.\nA third line.\n")
    once = "".join(folder(tmp_path).documents(0)).splitlines()
    assert sorted(once) == ["A third line.", "Another line.", "One line of text."]
    again = list(islice(folder(tmp_path, repeat=True).documents(0), 7))
    assert "".join(again[:2]) == "".join(again[2:4])


def test_a_folder_is_read_in_seeded_order_and_one_file_will_do(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / f"{name}.txt").write_text(f"This is file {name}.\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    orders = {tuple(folder(tmp_path).documents(seed)) for seed in range(8)}
    assert len(orders) > 3
    assert len(next(iter(orders))) == 6
    assert list(folder(tmp_path / "a.txt").documents(0)) == ["This is file a.\n"]


def test_folders_without_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match=r"holds no text file \(\.txt, \.md, \.json, \.jsonl, \.ndjson\)"):
        folder(tmp_path)
    with pytest.raises(ProbeError, match="does not exist"):
        folder(tmp_path / "nowhere")
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ProbeError, match=r"latin.txt is not UTF-8"):
        list(folder(tmp_path).documents(0))


def test_haystacks_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(ESSAY)
    own = Haystack("own", lambda seed: [ESSAY])
    names = [as_haystack(given).name for given in (None, "stdlib", "noise", tmp_path, str(tmp_path), own)]
    assert names == ["standard library", "standard library", "noise", str(tmp_path), str(tmp_path), "own"]
    assert next(noise().documents(0)).startswith("The grass is green. The sky is blue.")


def test_a_shorter_stream_is_a_prefix_of_a_longer_one(tokenizer: Any) -> None:
    codec = Codec(tokenizer)
    long = tokenise(codec, standard_library(), 3000, 0)
    for n in (100, 777, 2048):
        np.testing.assert_array_equal(tokenise(codec, standard_library(), n, 0).ids, long.ids[:n])
    assert not np.array_equal(tokenise(codec, standard_library(), 100, 1).ids, long.ids[:100])


def test_a_stream_is_canonical_and_holds_nothing_special(tokenizer: Any) -> None:
    codec = Codec(tokenizer)
    stream = tokenise(codec, standard_library(), 3000, 0)
    assert not codec.special_ids.intersection(stream.ids.tolist())
    assert all(codec.is_canonical(stream.ids, at) for at in range(1, 3000, 7))


def test_starts_are_starts(llama3_like: Any) -> None:
    codec = Codec(llama3_like)
    own = Haystack("own", lambda seed: [ESSAY])
    n = len(codec.piece(" " + ESSAY))
    stream = tokenise(codec, own, n, 0)
    following = [codec.decode(stream.ids[at:]).split()[0] for at in stream.places["sentence"]]
    assert following == ["The", "Nobody", "We", "A"]
    assert [codec.decode(stream.ids[at:]).split()[0] for at in stream.places["line"]] == ["The", "Then"]


def test_a_short_haystack_says_how_short(gpt2_like: Any) -> None:
    codec = Codec(gpt2_like)
    own = Haystack("own", lambda seed: [ESSAY])
    n = len(codec.piece(" " + ESSAY))
    with pytest.raises(HaystackTooShort, match=rf"'own' holds {n} tokens .*, and 5000 are needed.*repeat=True"):
        tokenise(codec, own, 5000, 0)
    assert len(tokenise(codec, Haystack("own", lambda seed: [ESSAY], repeat=True), 5000, 0).ids) == 5000


def test_lines_with_special_or_unknown_tokens_are_left_out(gpt2_like: Any, words_only: Any) -> None:
    lines = ["A good line is here.", "A line with <|end|> markup.", "A line with a snowman ☃ in it.", "One more line."]
    own = Haystack("own", lambda seed: ["\n".join(lines)], repeat=True)
    for tokenizer, dropped in ((gpt2_like, ("<|end|>",)), (words_only, ("<|end|>", "☃"))):
        text = tokenise(Codec(tokenizer), own, 60, 0).text
        assert "more line" in text
        assert not any(word in text for word in dropped)
    assert "☃" in tokenise(Codec(gpt2_like), own, 60, 0).text  # bytes spell everything


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("essays.json", '{"text": "One.\\n\\nTwo \\u00e9."}', ["One.", "Two é."]),
        ("list.json", '["One.", "Two."]', ["One.", "Two."]),
        ("rows.json", '[{"content": "One.", "id": 3}, {"text": "Two."}]', ["One.", "Two."]),
        ("rows.jsonl", '{"text": "One."}\n\n{"text": "Two."}\n', ["One.", "Two."]),
        ("named.json", '{"text": "One."}\n{"text": "Two."}\n', ["One.", "Two."]),
        ("many.json", '{"text": ["One.", "Two."]}', ["One.", "Two."]),
        ("mark.json", '\ufeff{"text": "One."}', ["One."]),
        ("half.jsonl", '{"text": "One \\ud83d."}', ["One �."]),
    ],
)
def test_json_is_read_as_data(name: str, content: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert "".join(folder(tmp_path / name).documents(0)).splitlines() == expected
    assert "".join(folder(tmp_path).documents(0)).splitlines() == expected
    with gzip.open(tmp_path / f"{name}.gz", "wt", encoding="utf-8") as file:
        file.write(content)
    assert "".join(folder(tmp_path / f"{name}.gz").documents(0)).splitlines() == expected


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", '{"body": "One.", "id": 3}', "holds an object with the fields 'body', 'id', no text; accepted are"),
        ("a.json", '{"text": 7}', "holds 'text' with the int 7"),
        ("a.json", "[[], 3]", "item 0, holds an empty list"),
        ("a.json", "{'text': 1}", "is not JSON"),
        ("a.jsonl", '{"text": "One."}\n{"text": "Tw', "line 2, is not JSON"),
        ("a.jsonl", '{"text": "One."}\n{"txt": "Two."}', "line 2, holds an object with the fields 'txt'"),
        ("a.txt.gz", "no gzip", "is not UTF-8 text"),
    ],
)
def test_json_without_text_is_refused_in_one_line(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    for given in (tmp_path / name, tmp_path):
        with pytest.raises(ProbeError, match=re.escape(says)) as error:
            list(folder(given).documents(0))
        assert "\n" not in str(error.value)


def test_json_that_is_no_text_is_left_out_of_a_folder_of_texts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.md").write_text("One.\n")
    (tmp_path / "b.json").write_text('{"text": "Two."}')
    (tmp_path / "package.json").write_text('{"name": "x"}')
    assert sorted("".join(folder(tmp_path).documents(0)).splitlines()) == ["One.", "Two."]
    assert "package.json" in caplog.text
