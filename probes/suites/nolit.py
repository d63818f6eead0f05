"""Needles without a word of the question, after NoLiMa's idea (arXiv 2502.05167); sentences and pairs are our own.

Four people live beside four landmarks; who has been to the city of one of them? What leads from the question to the
needle is common knowledge alone, and the others keep a lone name in the text from being the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from ..passage import Copied, Passage, Piece, woven
from ..suite import TOGETHER, Draw, Growing, Suite, SuiteTask
from ..task import Task
from ..words import FIRST, LAST

PLACES: Mapping[str, str] = {
    "the Semper Opera House": "Dresden",
    "the Brandenburg Gate": "Berlin",
    "the Eiffel Tower": "Paris",
    "the Colosseum": "Rome",
    "the Rialto Bridge": "Venice",
    "the Uffizi Gallery": "Florence",
    "the Leaning Tower": "Pisa",
    "the Sagrada Familia": "Barcelona",
    "the Prado Museum": "Madrid",
    "the Alhambra": "Granada",
    "the Acropolis": "Athens",
    "the Hagia Sophia": "Istanbul",
    "the Kremlin": "Moscow",
    "the Hermitage": "Saint Petersburg",
    "the Charles Bridge": "Prague",
    "the Belvedere Palace": "Vienna",
    "the Atomium": "Brussels",
    "the Rijksmuseum": "Amsterdam",
    "the Little Mermaid": "Copenhagen",
    "the Vasa Museum": "Stockholm",
    "the Wawel Castle": "Krakow",
    "the Trinity College Library": "Dublin",
    "Buckingham Palace": "London",
    "the Statue of Liberty": "New York",
    "the Golden Gate Bridge": "San Francisco",
    "the Space Needle": "Seattle",
    "the Liberty Bell": "Philadelphia",
    "the Alamo": "San Antonio",
    "the White House": "Washington",
    "the CN Tower": "Toronto",
    "the statue of Christ the Redeemer": "Rio de Janeiro",
    "Table Mountain": "Cape Town",
    "the Burj Khalifa": "Dubai",
    "the Taj Mahal": "Agra",
    "the Petronas Towers": "Kuala Lumpur",
    "the Forbidden City": "Beijing",
}
WORDINGS = {
    "onehop": "{name} lives right beside {landmark}.",
    "inverted": "Right beside {landmark} lives {name}.",
    "literal": "{name} lives right beside {landmark} in {place}.",
}
# What a question and a needle may both say.
FUNCTION_WORDS = frozenset(("been", "has", "in", "is", "of", "one", "the", "to", "who"))
KNOWN = re.compile(
    rf"\b({'|'.join(re.escape(word.removeprefix('the ')) for pair in PLACES.items() for word in pair)})\b", re.I
)


def _item(wording: str, draw: Draw) -> Growing:
    """The items that share a context ask for its people in turn."""
    order = [list(PLACES)[i] for i in draw.shared.permutation(len(PLACES))[:TOGETHER]]
    firsts, lasts = (draw.shared.permutation(len(names))[:TOGETHER] for names in (FIRST, LAST))
    names = [f"{FIRST[first]} {LAST[last]}" for first, last in zip(firsts, lasts, strict=True)]
    depths = draw.shared.random(TOGETHER)
    asked = draw.turn
    place, name = PLACES[order[asked]], names[asked]
    told = [
        WORDINGS[wording].format(name=each, landmark=landmark, place=PLACES[landmark])
        for each, landmark in zip(names, order, strict=True)
    ]
    told = [text[0].upper() + text[1:] for text in told]

    seen, plain = 0, list[str]()  # sentences of the haystack that were read, and those that speak of no such place

    def make(n: int) -> Passage:
        nonlocal seen
        while len(plain) < n:
            sentences = draw.text.sentences(seen + n - len(plain))[seen:]
            plain.extend(sentence for sentence in sentences if not KNOWN.search(sentence))
            seen += len(sentences)
        parts = [Piece(sentence) for sentence in plain[:n]]
        roles = ["needle" if i == asked else "distractor" for i in range(TOGETHER)]
        for depth, text, role in sorted(zip(depths, told, roles, strict=True), reverse=True):
            parts.insert(int(depth * (n + 1)), Piece(text, role))
        return Passage(
            key=f"{place}-{asked + 1}".replace(" ", "-"),
            before="Here is a text, and a question about the people in it.\n\n",
            pieces=woven(parts, " "),
            question=f"\n\nQuestion: Who has been to {place}?",
            answer_prefix=f" The one who has been to {place} is",
            answer=(Copied(f" {name}"),),
            task=Task(
                "string_match_part",
                (name,),
                max_new_tokens=32,
                stop=("\n",),
                rivals=tuple(each for each in names if each != name),
            ),
            value=name,
        )

    return Growing(make)


SUITE = Suite(
    name="nolit",
    description="Who has been to Dresden? A needle that shares no word with the question.",
    tasks={
        "onehop": SuiteTask("Who lives beside a landmark has been to its city.", partial(_item, "onehop")),
        "inverted": SuiteTask("The same, with the landmark before the name.", partial(_item, "inverted")),
        "literal": SuiteTask("The control: the needle names the city.", partial(_item, "literal")),
    },
    lengths=(4096, 8192),
    items=8,
    options={},
)
