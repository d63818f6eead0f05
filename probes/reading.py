"""A reading set of our own: short made-up documents, and questions that one of them, or two together, answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from .seeds import distinct
from .words import ADJECTIVES, FIRST, HOBBIES, LAST, MIDDLE, MORE_WORDS, NOUNS, SUBJECTS, TOWNS

KINDS = ("Bakery", "Choir", "Inn", "Museum", "Orchard", "School", "Shipyard", "Theatre")
# fact -> what the document says of it, and the question after it
PLACE = {
    "founder": ("{it} was founded by {founder}.", "Who founded the {name}?"),
    "keeper": ("{it} has long been run by {keeper}.", "Who runs the {name}?"),
    "town": ("{it} is best reached from the station of {town}.", "From which station is the {name} best reached?"),
    "subject": ("{it} keeps a small library on {subject}.", "What is the library of the {name} on?"),
    "year": ("{it} was first opened to visitors in {year}.", "In which year was the {name} first opened to visitors?"),
}
FOUNDER = {
    "birthplace": ("{it} was born in {birthplace}.", "In which town was the founder of the {name} born?"),
    "studied": ("{it} studied {studied} for some years.", "What did the founder of the {name} study?"),
    "hobby": ("{it} spent every winter {hobby}.", "How did the founder of the {name} spend every winter?"),
}


@dataclass(frozen=True)
class Document:
    """sentences: end to end with a space between; facts: which fact each of them tells."""

    sentences: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    def where(self, fact: str) -> tuple[int, int]:
        """Characters of the sentence that tells a fact."""
        i = self.facts.index(fact)
        start = sum(len(sentence) + 1 for sentence in self.sentences[:i])
        return start, start + len(self.sentences[i])


@dataclass(frozen=True)
class Place:
    """A made-up place: its own document and that of its founder; facts: fact -> the words that tell it."""

    name: str
    facts: dict[str, str]
    document: Document
    founder: Document

    def question(self, fact: str) -> str:
        return {**PLACE, **FOUNDER}[fact][1].format(name=self.name)


def places(numbers: np.random.Generator) -> Iterator[Place]:
    """Places with different names, founders and keepers, until there are no more people (some 19,000 places)."""
    nouns = NOUNS + MORE_WORDS
    people = map(_person, distinct(numbers, len(FIRST) * len(MIDDLE) * len(LAST)))
    for i, founder, keeper in zip(distinct(numbers, len(ADJECTIVES) * len(nouns)), people, people, strict=False):
        adjective, noun = ADJECTIVES[i % len(ADJECTIVES)], nouns[i // len(ADJECTIVES)]
        (kind,) = _pick(numbers, KINDS, 1)
        name = f"{adjective.title()} {noun.title()} {kind}"
        town, birthplace = _pick(numbers, TOWNS, 2)
        subject, studied = _pick(numbers, SUBJECTS, 2)
        (hobby,) = _pick(numbers, HOBBIES, 1)
        year = str(numbers.integers(1705, 1996))
        facts = {"founder": founder, "keeper": keeper, "town": town, "subject": subject, "year": year}
        facts |= {"birthplace": birthplace, "studied": studied, "hobby": hobby}
        own = _document(numbers, PLACE, facts, name, f"The {name}", "It")
        last = facts["founder"].split()[-1]
        yield Place(name, facts, own, _document(numbers, FOUNDER, facts, name, facts["founder"], last))


def _document(
    numbers: np.random.Generator, said: dict[str, tuple[str, str]], facts: dict[str, str], name: str, full: str, it: str
) -> Document:
    """Its facts in any order; the first sentence has the full name."""
    order = [list(said)[i] for i in numbers.permutation(len(said))]
    lines = [said[fact][0].format(it=it if i else full, name=name, **facts) for i, fact in enumerate(order)]
    return Document(tuple(lines), tuple(order))


def _pick(numbers: np.random.Generator, words: Sequence[str], n: int) -> list[str]:
    """n different words; n is small."""
    return [words[i] for i in islice(distinct(numbers, len(words)), n)]


def _person(i: int) -> str:
    first, rest = i % len(FIRST), i // len(FIRST)
    return f"{FIRST[first]} {MIDDLE[rest % len(MIDDLE)]} {LAST[rest // len(MIDDLE)]}"
