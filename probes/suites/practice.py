"""practice: what a model is fine-tuned on before it is asked (`headscope sft-probe`). Nothing in it is said elsewhere.

Wording, keys and values are of its own, so that what a model gains on other tasks is no memory of them: keys are words
that do not exist ("kavomi"), no five words in a row stand in another task, and no word of its tales is in words.py. The
kinds of work are those of the benchmarks: one of many lines, a field of a record, several values, a person's fact, a
chain of copies, one of several replies to the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from ..passage import Copied, Passage, Piece, woven
from ..suite import Draw, Growing, Suite, SuiteTask
from ..task import Task
from ..words import MORE_WORDS, NOUNS

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
REAL = frozenset(NOUNS + MORE_WORDS)  # "tomato" is spelt like the words made up here
TAG = "abcdefghijkmnpqrstuvwxyz23456789"

WHO = ("A miller", "The old tinker", "Two sisters", "A lame mule", "The night guard", "Three beggars", "A tall monk")
DID = ("carried", "hid", "mended", "stole", "traded", "buried", "washed", "painted", "counted", "lost")
WHAT = ("a cracked drum", "six loaves", "the iron gate", "a bag of salt", "the wet ropes", "a torn sail", "nine eggs")
WHERE = ("behind the dairy", "at low tide", "before the feast", "under the stairs", "in deep snow", "near the mint")
THEN = (
    "and nobody asked",
    "until the rain came",
    "for a single coin",
    "and laughed",
    "without a sound",
    "twice a week",
)


def lockers(draw: Draw) -> Growing:
    """One of many lines."""
    own = draw.own
    place, keys, codes = own.random(), _words(own), _codes(own, "{:03d}-{:03d}")

    def line(key: str, code: str) -> str:
        return f"Locker {key} opens with {code}."

    def passage(lines: tuple[Piece, ...], key: str, code: str) -> Passage:
        return Passage(
            key=f"locker-{key}",
            before="Below is the register of a station.\n\n",
            pieces=lines,
            question=f"\n\nWhat opens locker {key}?",
            answer_prefix=f" Locker {key} opens with",
            answer=(Copied(f" {code}"),),
            task=Task("string_match_all", (code,), 16, stop=("\n",)),
            value=code,
        )

    return _one_of_many(place, keys, codes, line, passage)


def records(draw: Draw) -> Growing:
    """A field of a JSON record."""
    own = draw.own
    place, keys, codes = own.random(), _words(own), _codes(own, "{:x}-{:x}", 16**3, 16**4)

    def line(key: str, code: str) -> str:
        return f'{{"part": "{key}", "serial": "{code}"}}'

    def passage(lines: tuple[Piece, ...], key: str, code: str) -> Passage:
        return Passage(
            key=f"part-{key}",
            before="parts.jsonl\n\n",
            pieces=lines,
            question=f'\n\nThe serial of part "{key}":',
            answer=(Copied(f" {code}"),),
            task=Task("string_match_all", (code,), 16, stop=("\n",)),
            value=code,
        )

    return _one_of_many(place, keys, codes, line, passage)


def crew(draw: Draw) -> Growing:
    """A fact about one of several people."""
    own = draw.own
    place, words, facts = own.random(), _words(own, title=True), int(own.integers(3))
    told = ("hails from {}", "shares a cabin with {}", "writes letters to {}")
    drawn: list[tuple[str, list[str]]] = []

    def make(n: int) -> Passage:
        while len(drawn) < n:
            first, last, *values = islice(words, 5)
            drawn.append((f"{first} {last}", values))
        at = int(place * n)
        name, value = drawn[at][0], drawn[at][1][facts]
        pieces = []
        for i, (who, values) in enumerate(drawn[:n]):
            for j, (fact, of) in enumerate(zip(told, values, strict=True)):
                role = "" if j != facts else "needle" if i == at else "distractor"
                pieces.append(Piece(f"{who} {fact.format(of)}.", role))
        verb = told[facts].format("").strip()
        return Passage(
            key=name.replace(" ", "-"),
            before="From the crew list.\n\n",
            pieces=woven(pieces, " "),
            question=f"\n\nTell one thing of {name}:",
            answer_prefix=f" {name} {verb}",
            answer=(Copied(f" {value}"),),
            task=Task("string_match_all", (value,), 16, stop=("\n",)),
            value=value,
        )

    return Growing(make)


def gauges(draw: Draw) -> Growing:
    """Several values, in the order asked for, between sentences of the haystack."""
    own = draw.own
    n_asked, n_more = int(own.integers(2, 4)), int(own.integers(2))
    keys, codes = [*islice(_words(own), n_asked + n_more)], [*islice(_codes(own, "{:d}.{:d}"), n_asked + n_more)]
    places = own.random(n_asked + n_more)
    needles = [f"The gauge {key} stood at {code}." for key, code in zip(keys, codes, strict=True)]

    def make(n: int) -> Passage:
        hay = draw.text.sentences(n)
        parts = []
        for gap in range(n + 1):
            for i in np.flatnonzero((places * (n + 1)).astype(int) == gap).tolist():
                parts.append(Piece(needles[i], *(("needle", i) if i < n_asked else ("distractor", 0))))
            parts += [Piece(sentence) for sentence in hay[gap : gap + 1]]
        listed = ", ".join(keys[: n_asked - 1]) + f" and {keys[n_asked - 1]}"
        answer: list[Copied | str] = []
        for i, code in enumerate(codes[:n_asked]):
            answer += [","] if i else []
            answer.append(Copied(f" {code}", i))
        return Passage(
            key=f"gauge-{keys[0]}",
            before="An inspector's notes follow.\n\n",
            pieces=woven(parts, " "),
            question=f"\n\nWhere did the gauges {listed} stand?",
            answer_prefix=" In this order, they stood at",
            answer=tuple(answer),
            task=Task("string_match_all", tuple(codes[:n_asked]), 64, stop=("\n",)),
        )

    return Growing(make, least=0)


def relay(draw: Draw) -> Growing:
    """A chain of copies, followed from its beginning."""
    own = draw.own
    cells = [word.upper() for word in islice(_words(own), int(own.integers(3, 6)))]
    value = f"{own.integers(100, 1000)}{_one(own, CONSONANTS)}"
    places = np.sort(own.random(len(cells)))
    steps = [f"Put {value} into {cells[0]}.", *(f"Copy {a} to {b}." for a, b in zip(cells, cells[1:], strict=False))]

    def make(n: int) -> Passage:
        hay = draw.text.sentences(n)
        parts = []
        for gap in range(n + 1):
            parts += [Piece(steps[i], "needle", int(i)) for i in np.flatnonzero((places * (n + 1)).astype(int) == gap)]
            parts += [Piece(sentence) for sentence in hay[gap : gap + 1]]
        return Passage(
            key=f"relay-{value}",
            before="Follow the cells through these pages.\n\n",
            pieces=woven(parts, "\n"),
            question=f"\n\nWhich cells hold {value} at last?",
            answer_prefix=f" The {len(cells)} cells are:",
            answer=tuple(Copied(f" {cell}", i) for i, cell in enumerate(cells)),
            task=Task("string_match_all", tuple(cells), 48, stop=("\n",)),
        )

    return Growing(make, least=0)


def tales(draw: Draw) -> Growing:
    """One of several replies to the same request, behind a tag."""
    own = draw.own
    same = 2
    asked = int(own.integers(same))
    tag = "".join(TAG[i] for i in own.integers(len(TAG), size=8))
    topics = _words(own, title=True)
    topic = next(topics)
    turns: list[tuple[str, str, float]] = []
    used: set[str] = set()

    def make(n: int) -> Passage:
        while len(turns) < same + n:
            of = topic if len(turns) < same else next(topics)
            turns.append((of, _tale(own, of, used), float(own.random())))
        pieces, nth = [], 0
        for of, tale, _ in sorted(turns[: same + n], key=lambda turn: turn[2]):
            role = ""
            if of == topic:
                role = "needle" if nth == asked else "distractor"
                nth += 1
            pieces += [Piece(f"Guest: Tell of {of}.\nHost:"), Piece(f" {tale}", role), Piece("\n")]
        gold = next(piece.text for piece in pieces if piece.role == "needle")
        return Passage(
            key=f"tale-{topic}-{asked + 1}",
            pieces=tuple(pieces),
            question=f"Guest: Say {tag} and repeat telling {asked + 1} of {topic}.\nHost:",
            answer=(f" {tag}", Copied(gold)),
            task=Task("string_match_all", (gold.strip(),), 96, stop=("\n",)),
            value=gold.strip(),
        )

    return Growing(make, least=0)


def _one_of_many(
    place: float,
    keys: Iterator[str],
    values: Iterator[str],
    line: Callable[[str, str], str],
    passage: Callable[[tuple[Piece, ...], str, str], Passage],
) -> Growing:
    pairs: list[tuple[str, str]] = []

    def make(n: int) -> Passage:
        pairs.extend(islice(zip(keys, values, strict=False), max(0, n - len(pairs))))
        gold = int(place * n)
        roles = ["needle" if i == gold else "distractor" for i in range(n)]
        lines = [Piece(line(*pair), role) for pair, role in zip(pairs, roles, strict=False)]
        return passage(woven(lines, "\n"), *pairs[gold])

    return Growing(make, least=2)


def _words(numbers: np.random.Generator, *, title: bool = False) -> Iterator[str]:
    """Different words that do not exist, without end for the few that a context takes."""
    seen: set[str] = set()
    while True:
        at = numbers.integers(len(CONSONANTS) * len(VOWELS), size=3)
        word = "".join(CONSONANTS[i // len(VOWELS)] + VOWELS[i % len(VOWELS)] for i in at)
        if word not in seen and word not in REAL:
            seen.add(word)
            yield word.title() if title else word


def _codes(numbers: np.random.Generator, form: str, first: int = 1000, second: int = 1000) -> Iterator[str]:
    """Different codes of two numbers below `first` and `second`."""
    seen: set[str] = set()
    while True:
        code = form.format(*(int(numbers.integers(most // 10, most)) for most in (first, second)))
        if code not in seen:
            seen.add(code)
            yield code


def _tale(numbers: np.random.Generator, topic: str, used: set[str]) -> str:
    """One or two sentences, none of which is in `used`; the first names the topic."""
    found: list[str] = []
    n = int(numbers.integers(1, 3))
    while len(found) < n:
        who, did, what, where, then = (_one(numbers, of) for of in (WHO, DID, WHAT, WHERE, THEN))
        text = f"{who} {did} {what} {where}, {then}."
        if text not in used:
            used.add(text)
            found.append(text)
    return " ".join([f"Of {topic}: {found[0]}", *found[1:]])


def _one(numbers: np.random.Generator, of: Sequence[str]) -> str:
    return of[int(numbers.integers(len(of)))]


SUITE = Suite(
    name="practice",
    description="What sft-probe trains on, worded unlike all other tasks.",
    tasks={
        "lockers": SuiteTask("The code of one of many lockers.", lockers),
        "records": SuiteTask("A field of one of many JSON records.", records),
        "crew": SuiteTask("A fact about one of several people.", crew),
        "gauges": SuiteTask("Several values, in the order asked for.", gauges),
        "relay": SuiteTask("All cells of a chain of copies.", relay),
        "tales": SuiteTask("One of several replies to the same request.", tales),
    },
    lengths=(256,),
    items=8,
    options={},
)
