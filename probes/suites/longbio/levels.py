"""What each level asks of the people that it picks, and what the right answer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ...passage import Copied
from .people import FIRST_PERSON, LABELS, OTHER_WORDS, PLAIN, Person

Fact = tuple[str, str]  # (name, attribute): one sentence of a context
NOT_KNOWN = "not known"
NUMBERED = "Biography [{number}]:"


@dataclass(frozen=True)
class Asked:
    """A question, and where its answer comes from.

    Attributes:
        sources: fact -> group, of the sentences that the answer follows from.
        numbers: name -> group, where the number of a biography is part of the answer.
        whole: the answer follows from all that the biography says.
    """

    question: str
    prefix: str
    answer: tuple[Copied | str, ...]
    sources: Mapping[Fact, int]
    numbers: Mapping[str, int] = field(default_factory=dict)
    whole: bool = False

    @property
    def gold(self) -> str:
        return "".join(part if isinstance(part, str) else part.text for part in self.answer).strip()


Ask = Callable[[Sequence[Person], Sequence[str], Mapping[str, int]], Asked]
Edit = Callable[[Sequence[Person], Sequence[str]], Mapping[Fact, str]]


def _as_it_is(people: Sequence[Person], attributes: Sequence[str]) -> Mapping[Fact, str]:
    return {}


@dataclass(frozen=True)
class Level:
    """One level.

    Attributes:
        size: people asked for.
        ask: (people, attribute of each, number of everybody's biography) -> the question.
        edit: (people, attributes) -> sentences that say something else, "" for none at all.
        wording: attribute -> sentence.
        examples: people of each of the two solved examples, 0 for no examples.
        ages: everybody has an age in place of the birth date, and it is asked for.
        metric: how a model's own answer is judged.
    """

    description: str
    size: int
    ask: Ask
    edit: Edit = _as_it_is
    wording: Mapping[str, str] = field(default_factory=lambda: PLAIN)
    header: str = "Biography:"
    instruction: str = ""
    examples: int = 2
    ages: bool = False
    pairs: bool = False
    mixed: bool = False
    scored: bool = True
    metric: str = "longbio"


def _the(person: Person, attribute: str) -> str:
    return f"the {LABELS[attribute]} of {person.name}"


def _one(people: Sequence[Person], attributes: Sequence[str], numbers: Mapping[str, int]) -> Asked:
    (person,), (attribute,) = people, attributes
    return Asked(
        f"What is {_the(person, attribute)}?",
        f" The {LABELS[attribute]} of {person.name} is",
        (Copied(f" {person.values[attribute]}"),),
        {(person.name, attribute): 0},
    )


def _several(people: Sequence[Person], attributes: Sequence[str], numbers: Mapping[str, int]) -> Asked:
    facts = list(zip(people, attributes, strict=True))
    answer: list[Copied | str] = []
    for group, (person, attribute) in enumerate(facts):
        answer += [";"] * bool(group) + [Copied(f" {person.values[attribute]}", group)]
    return Asked(
        f"What are, in this order, {'; '.join(_the(*fact) for fact in facts)}?",
        " In this order, they are:",
        tuple(answer),
        {(person.name, attribute): group for group, (person, attribute) in enumerate(facts)},
    )


def _cited(people: Sequence[Person], attributes: Sequence[str], numbers: Mapping[str, int]) -> Asked:
    asked = (_one if len(people) == 1 else _several)(people, attributes, numbers)
    answer: list[Copied | str] = []
    for part in asked.answer:
        answer.append(part)
        if isinstance(part, Copied):
            number = numbers[people[part.group].name]
            answer.append(Copied(f" [{number}]", len(people) + part.group))
    return Asked(
        f"{asked.question} Add the number of the biography in brackets.",
        asked.prefix,
        tuple(answer),
        asked.sources,
        {person.name: len(people) + group for group, person in enumerate(people)},
    )


def _missing(people: Sequence[Person], attributes: Sequence[str], numbers: Mapping[str, int]) -> Asked:
    asked = _one(people, attributes, numbers)
    return Asked(asked.question, asked.prefix, (f" {NOT_KNOWN}",), asked.sources, whole=True)


def _deleted(people: Sequence[Person], attributes: Sequence[str]) -> Mapping[Fact, str]:
    return {(person.name, attribute): "" for person, attribute in zip(people, attributes, strict=True)}


def _chain(people: Sequence[Person], attributes: Sequence[str], numbers: Mapping[str, int]) -> Asked:
    """The last of the people is asked for, the first has the value; people stand anywhere, so hops go both ways."""
    attribute = attributes[0]
    asked = _one(people[-1:], (attribute,), numbers)
    sources = {(person.name, attribute): hop for hop, person in enumerate(people)}
    return Asked(asked.question, asked.prefix, (Copied(f" {people[0].values[attribute]}"),), sources)


def _hops(people: Sequence[Person], attributes: Sequence[str]) -> Mapping[Fact, str]:
    said = {}
    for earlier, later in zip(people, people[1:], strict=False):
        label = LABELS[attributes[0]]
        said[later.name, attributes[0]] = f"The {label} of {later.name} is the same as {earlier.name}'s."
    return said


def _ages(people: Sequence[Person]) -> Mapping[Fact, int]:
    return {(person.name, "age"): group for group, person in enumerate(people)}


def _difference(people: Sequence[Person], attributes: Sequence[str], numbers: Mapping[str, int]) -> Asked:
    younger, older = sorted(people, key=lambda person: person.age)
    return Asked(
        f"By how many years is {older.name} older than {younger.name}?",
        f" The years by which {older.name} is older than {younger.name} are",
        (f" {older.age - younger.age}",),
        _ages(people),
    )


def _ranking(people: Sequence[Person], attributes: Sequence[str], numbers: Mapping[str, int]) -> Asked:
    ranked = sorted(people, key=lambda person: -person.age)
    return Asked(
        f"What is the order of these people from the oldest to the youngest: {'; '.join(p.name for p in people)}?",
        " From the oldest to the youngest:",
        (f" {'; '.join(person.name for person in ranked)}",),
        _ages(people),
    )


def _two(people: Sequence[Person], attributes: Sequence[str], numbers: Mapping[str, int]) -> Asked:
    younger, older = sorted(people[:2], key=lambda person: person.age)
    return Asked(
        f"Which two people differ in age by exactly {older.age - younger.age} years? Name the older one first.",
        " The older and the younger one are:",
        (f" {older.name}; {younger.name}",),
        _ages(people[:2]),
    )


_FREE = f"Where the biographies do not say it, the answer is: {NOT_KNOWN}.\n"
LEVELS = {
    "standard": Level("A fact, asked for in the words in which it is told.", 1, _one, examples=0),
    "multi_standard_2": Level("Facts about two people, in order.", 2, _several, mixed=True),
    "multi_standard_5": Level("Facts about five people, in order.", 5, _several, mixed=True),
    "paraphrase": Level("A fact, told in other words.", 1, _one, wording=OTHER_WORDS, examples=0),
    "pronoun": Level(
        *("A fact that a person tells in the first person.", 1, _one),
        wording=FIRST_PERSON,
        header="Biography: My name is {name}.",
        examples=0,
    ),
    "calculation": Level(
        *("How much older one person is than another.", 2, _difference),
        ages=True,
        scored=False,
        metric="last_number",
    ),
    "rank_2": Level("Two people by age.", 2, _ranking, ages=True, scored=False),
    "rank_5": Level("Five people by age.", 5, _ranking, ages=True, scored=False),
    "multihop_2": Level("A fact that is told of somebody else: two people.", 2, _chain, _hops),
    "multihop_5": Level("A fact that is told of somebody else: a chain of five people.", 5, _chain, _hops),
    "twodiff": Level(
        *("The two people whose ages differ by so many years.", 2, _two),
        ages=True,
        pairs=True,
        examples=3,
        scored=False,
    ),
    "citation_1": Level("A fact and the number of its biography.", 1, _cited, header=NUMBERED, examples=1),
    "citation_2": Level("Two facts and the numbers of their biographies.", 2, _cited, header=NUMBERED, mixed=True),
    "idk": Level(
        *("A fact that is not told: the right answer says so.", 1, _missing, _deleted),
        instruction=_FREE,
        examples=0,
        scored=False,
    ),
}
