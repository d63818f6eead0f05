"""Needles in nine languages, asked for in their own: what a model retrieves in English it may not in Hindi.

The wording of every language is in probes/languages/, one file each, with the same twelve sentence needles. All texts
are our own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PoolTooSmall, ProbeError
from ..haystack import Haystack, folder, standard_library
from ..passage import Copied, Passage, Piece
from ..seeds import rng
from ..suite import Draw, Growing, Suite, SuiteTask
from ..task import Task

LANGUAGES = {
    "en": "English",
    "zh": "Chinese",
    "de": "German",
    "es": "Spanish",
    "fr": "French",
    "ru": "Russian",
    "ar": "Arabic",
    "hi": "Hindi",
    "ja": "Japanese",
}
PARAGRAPH = 20  # sentences of an own haystack that are made at a time
SLOTS = ("when", "who", "where", "what")


@cache
def wording(code: str) -> Mapping[str, Any]:
    """The language's file: what stands between sentences, frames, needles, and parts of sentences for a haystack."""
    file = Path(__file__).parent.parent / "languages" / f"{code}.json"
    found: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def own_haystack(code: str) -> Haystack:
    """Sentences put together from parts, no two alike: "Heute sucht Anna im Park eine neue Lampe." No natural prose."""
    parts = wording(code)["haystack"]
    sizes = [len(parts["patterns"]), *(len(parts[slot]) for slot in SLOTS)]

    def sentence(number: int) -> str:
        pattern, *chosen = (int(i) for i in np.unravel_index(number, sizes))
        words = {slot: parts[slot][i] for slot, i in zip(SLOTS, chosen, strict=True)}
        return str(parts["patterns"][pattern]).format(**words)

    def read(seed: int) -> Iterator[str]:
        order = rng(seed, "own haystack", code).permutation(int(np.prod(sizes)))
        for first in range(0, len(order), PARAGRAPH):
            yield "\n".join(map(sentence, order[first : first + PARAGRAPH]))

    return Haystack(f"own-{code}", read)


def _haystacks(given: Haystack, tasks: Sequence[str]) -> dict[str, Haystack]:
    """Task -> text in its language: the user's, else the standard library's for English and own sentences."""
    codes = {task: task.partition("_")[0] for task in tasks}
    if replace(given, repeat=False) == standard_library():
        return {task: given if code == "en" else own_haystack(code) for task, code in codes.items()}
    by_language = _by_language(given)
    if not by_language:
        if len(found := sorted(set(codes.values()))) > 1:
            raise ProbeError(
                f"haystack {given.name!r} is one text for {', '.join(found)}; give a folder with a sub-folder or file "
                f"for each of them ({found[0]}/, {found[1]}.txt), or tasks of one language."
            )
        return dict.fromkeys(tasks, given)
    for code in codes.values():
        if code not in by_language:
            raise ProbeError(
                f"haystack {given.name!r} has no {code} ({LANGUAGES[code]}); it has {', '.join(by_language)}: add "
                f"{code}/ or {code}.txt there, or leave the tasks of that language out."
            )
    return {task: by_language[code] for task, code in codes.items()}


def _by_language(given: Haystack) -> dict[str, Haystack]:
    """Language -> the sub-folder or file of the user's folder that is named after it."""
    if given.path is None or not given.path.is_dir():
        return {}
    entries = {entry.name.partition(".")[0].lower(): entry for entry in sorted(given.path.iterdir())}
    return {code: folder(entries[code], repeat=given.repeat) for code in LANGUAGES if code in entries}


def _number(code: str, draw: Draw) -> Growing:
    words = wording(code)
    frame = words["number"]
    own = rng(draw.text.seed, "i18n", code, "number", draw.index)  # the same needle at every length
    at = int(own.integers(len(frame["keys"])))
    key, value = frame["keys"][at], str(own.integers(10**6, 10**7))
    return _growing(
        words,
        draw,
        Passage(
            key=f"{code}-number-{at}",
            before=frame["before"],
            pieces=(Piece(frame["needle"].format(key=key, value=value), "needle"),),
            question=frame["question"].format(key=key),
            answer_prefix=frame["answer_prefix"].format(key=key),
            answer=(Copied(words["apart"] + value),),
            task=Task("string_match_all", (value,), max_new_tokens=32),
            value=value,
        ),
    )


def _sentence(code: str, draw: Draw) -> Growing:
    words = wording(code)
    frame = words["sentence"]
    if draw.index >= len(frame["needles"]):
        raise PoolTooSmall(
            f"{code}_sentence has {len(frame['needles'])} different needles, and items asks for more; give fewer "
            "items, or another seed for other depths."
        )
    order = rng(draw.text.seed, "i18n", code, "sentence").permutation(len(frame["needles"]))
    name = list(frame["needles"])[order[draw.index]]
    item = frame["needles"][name]
    return _growing(
        words,
        draw,
        Passage(
            key=f"{code}-{name}",
            before=frame["before"],
            pieces=(Piece(item["needle"], "needle"),),
            question=frame["question"].format(question=item["question"]),
            answer_prefix=frame["answer_prefix"],
            answer=(Copied(words["apart"] + item["needle"]),),
            task=Task("string_match_part", (item["value"],), max_new_tokens=128),
            value=item["value"],
        ),
    )


def _growing(words: Mapping[str, Any], draw: Draw, item: Passage) -> Growing:
    """The item's needle between sentences of the haystack, at a depth of its own."""
    apart, depth, needle = words["apart"], draw.own.random(), item.pieces[0].text

    def make(n: int) -> Passage:
        sentences = draw.text.sentences(n)
        # Where the needle's middle is nearest to a place drawn anywhere. "Before a sentence as often as it is long"
        # would favour one end of a context of few sentences, where they are longer or shorter than the needle.
        edges = np.cumsum([0, *(len(sentence + apart) for sentence in sentences)])
        at = int(np.argmin(abs(edges + len(needle) / 2 - depth * (edges[-1] + len(needle)))))
        # The needle brings the one blank that is missing, so that the text without it is the plain haystack.
        before, after = ("", apart) if at == 0 else (apart, "")
        pieces = (
            Piece(apart.join(sentences[:at])),
            Piece(f"{before}{needle}{after}", "needle"),
            Piece((apart if 0 < at < n else "") + apart.join(sentences[at:])),
        )
        return replace(item, pieces=pieces, graft=1)

    return Growing(make, least=2)  # of one sentence, a context has no inside where the needle could lie


def _tasks() -> dict[str, SuiteTask]:
    kinds = {
        "number": ("A seven-digit number of a town", _number),
        "sentence": ("A sentence, repeated word for word", _sentence),
    }
    return {
        f"{code}_{kind}": SuiteTask(f"{text}, in {language}.", partial(make, code))
        for code, language in LANGUAGES.items()
        for kind, (text, make) in kinds.items()
    }


SUITE = Suite(
    name="i18n",
    description="Number and sentence needles in nine languages, over text in that language.",
    tasks=_tasks(),
    lengths=(1024, 2048),
    items=8,
    options={},
    haystacks=_haystacks,
)
