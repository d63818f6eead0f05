"""LongBio (arXiv 2506.02921): questions about people in a context of many biographies, from simple to hard.

The idea is the paper's; its code has no licence, so words, lists and code are our own. Four items in a row share their
people and ask about different ones. What is said of people who are asked about is said of nobody else (ages apart: two
people of a ranking never have the same, and only two people differ by the years that `twodiff` names). The two solved
examples, where a level has them, are about people and values of their own, and stand in front of the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ...errors import NeedleLeak
from ...passage import Copied, Passage, Piece
from ...suite import TOGETHER, Draw, Growing, Suite, SuiteTask
from ...task import Task
from .levels import LEVELS, Asked, Fact, Level
from .people import ATTRIBUTES, PLAIN, Person, Population

MOST_RIVALS = 50
DENSITY = (1.0, 0.75, 0.5, 0.25, 0.0)
INTRODUCTION = "Read the biographies and answer the question about them in the same form as begun.\n"


@dataclass(frozen=True)
class _World:
    """What items that share a context have in common: the people whom each asks about, and everybody else."""

    groups: list[list[Person]]
    attributes: list[list[str]]
    examples: list[tuple[list[Person], list[str]]]
    other: Callable[[int], Person]

    def people(self, n: int, turn: int, together: bool) -> list[Person]:
        """n people in the order in which they stand. With too few, those of the other items are not among them."""
        every = together and n >= sum(map(len, self.groups))
        asked = [person for group in (self.groups if every else [self.groups[turn]]) for person in group]
        everybody = asked + [self.other(i) for i in range(n - len(asked))]
        return sorted(everybody, key=lambda person: person.place)


def _world(level: Level, generator: np.random.Generator) -> _World:
    order = ["age"] * len(ATTRIBUTES) if level.ages else generator.permutation(ATTRIBUTES).tolist()
    population = Population(generator)
    groups = [[population.single() for _ in range(level.size)] for _ in range(TOGETHER)]
    examples = [[population.single() for _ in range(level.examples)] for _ in range(2 if level.examples else 0)]
    ages: tuple[int, ...] = ()
    if level.pairs:
        groups, ages = _pairs(groups, generator)
        examples = [_gaps(people, generator) for people in examples]

    def chosen(first: int, size: int) -> list[str]:
        return [order[(first + level.mixed * i) % len(order)] for i in range(size)]

    others: list[Person] = []

    def other(i: int) -> Person:
        while len(others) <= i:
            person = population.other()
            others.append(_aged(person, ages[person.age % len(ages)]) if ages else person)
        return others[i]

    return _World(
        groups,
        [chosen(turn, level.size) for turn in range(TOGETHER)],
        [(people, chosen(TOGETHER + i, level.examples)) for i, people in enumerate(examples)],
        other,
    )


def _aged(person: Person, age: int) -> Person:
    return replace(person, values={**person.values, "age": str(age)})


def _pairs(groups: list[list[Person]], generator: np.random.Generator) -> tuple[list[list[Person]], tuple[int, ...]]:
    """Ages for two people each, so that no other two differ by as much; and the ages that everybody else may have."""
    while True:
        young = generator.permutation(np.arange(18, 32))[: len(groups)]
        years = generator.permutation(np.arange(45, 62))[: len(groups)]
        pairs = [*zip(young.tolist(), (young + years).tolist(), strict=True)]
        every = [age for pair in pairs for age in pair]
        alone = len([1 for i, a in enumerate(every) for b in every[:i] if abs(a - b) in years]) == len(groups)
        free = tuple(age for age in range(30, 70) if all(abs(age - one) not in years for one in every))
        if alone and len(free) >= 12:
            made = [[_aged(p, age) for p, age in zip(*each, strict=True)] for each in zip(groups, pairs, strict=True)]
            return made, free


def _gaps(people: list[Person], generator: np.random.Generator) -> list[Person]:
    """Three people whose ages differ by three different numbers."""
    young, gap, more = (int(generator.integers(*bounds)) for bounds in ((20, 40), (2, 12), (1, 12)))
    ages = (young, young + gap, young + 2 * gap + more)
    return [_aged(person, age) for person, age in zip(people, ages, strict=True)]


def _draw(level: Level, draw: Draw) -> Growing:
    world, density = _world(level, draw.shared), draw.options["density"]
    golds, attributes = world.groups[draw.turn], world.attributes[draw.turn]
    said = {
        fact: text
        for people, asked in zip(world.groups, world.attributes, strict=True)
        for fact, text in level.edit(people, asked).items()
    }
    before = f"{INTRODUCTION}{level.instruction}{''.join(_example(level, *each) for each in world.examples)}\n"
    names = {person.name for person in golds}

    def make(n: int) -> Passage:
        people = world.people(n, draw.turn, together=density == 1.0)
        numbers = {person.name: i for i, person in enumerate(people, 1)}
        asked = level.ask(golds, attributes, numbers)
        left_out = {
            (person.name, attribute): ""
            for person in people
            for attribute in set(attributes)
            if person.name not in names and person.rank >= density
        }
        told = {**said, **left_out}
        rivals = _rivals([p for p in people if p.name not in names], attributes, told)
        pieces = list(_context(level, people, numbers, asked, told, set(rivals)))
        pieces[-1] = replace(pieces[-1], text=pieces[-1].text.rstrip("\n"))
        copied = [part.text.strip() for part in asked.answer if isinstance(part, Copied)]
        values = copied[:: 2 if asked.numbers else 1]
        passage = Passage(
            key="-".join((attributes[0], *golds[-1].name.lower().split())),
            before=before,
            pieces=tuple(pieces),
            question=f"\nQuestion: {asked.question}\nAnswer:",
            answer_prefix=asked.prefix,
            answer=asked.answer,
            task=Task(
                level.metric,
                (asked.gold,),
                max_new_tokens=32 * level.size,
                stop=("\n",),
                rivals=() if level.ages else tuple(rivals.values()),
            ),
            value=values[0] if len(values) == 1 else "",
        )
        _check_values(passage, values)
        return passage

    return Growing(make, least=level.size)


def _example(level: Level, people: list[Person], attributes: list[str]) -> str:
    """A solved example: of each of its people only what is asked about."""
    order = sorted(people, key=lambda person: person.place)
    numbers = {person.name: i for i, person in enumerate(order, 1)}
    said = level.edit(people, attributes)
    asked = level.ask(people, attributes, numbers)
    of = dict(zip((person.name for person in people), attributes, strict=True))
    lines = [
        f"{level.header.format(name=p.name, number=numbers[p.name])} {_sentence(level, p, of[p.name], said)}\n"
        for p in order
    ]
    return f"\n{''.join(lines)}Question: {asked.question}\nAnswer:{asked.prefix} {asked.gold}\n"


def _sentence(level: Level, person: Person, attribute: str, said: Mapping[Fact, str]) -> str:
    wording = PLAIN if attribute == "age" else level.wording
    told = wording[attribute].format(name=person.name, value=person.values[attribute])
    return said.get((person.name, attribute), told)


def _rivals(people: Sequence[Person], attributes: Sequence[str], said: Mapping[Fact, str]) -> dict[Fact, str]:
    """What is told of other people in place of what is asked for, each value once; at most `MOST_RIVALS`, from all
    over the context."""
    found = {
        (attribute, person.values[attribute]): (person.name, attribute)
        for attribute in dict.fromkeys(attributes)
        for person in reversed(people)
        if (person.name, attribute) not in said
    }
    every = max(1, -(-len(found) // MOST_RIVALS))
    return {fact: value for (_, value), fact in list(found.items())[::every]}


def _context(
    level: Level,
    people: Sequence[Person],
    numbers: Mapping[str, int],
    asked: Asked,
    said: Mapping[Fact, str],
    rivals: set[Fact],
) -> Iterator[Piece]:
    """The biographies, a line each."""
    plain = ""
    for person in people:
        whole = asked.whole and (person.name, "") < min(asked.sources, default=("", "")) < (person.name, "~")
        text = level.header.format(name=person.name, number=numbers[person.name])
        parts = [(text, "needle" if person.name in asked.numbers else "", asked.numbers.get(person.name, 0))]
        for attribute in ("age", *ATTRIBUTES[1:]) if level.ages else ATTRIBUTES:
            fact = (person.name, attribute)
            if text := _sentence(level, person, attribute, said):
                role = "needle" if fact in asked.sources else "distractor" if fact in rivals else ""
                parts.append((f" {text}", role, asked.sources.get(fact, 0)))
        if whole:
            parts = [("".join(text for text, _, _ in parts), "needle", 0)]
        for text, role, group in parts:
            if not role:
                plain += text
                continue
            if plain:
                yield Piece(plain)
                plain = ""
            yield Piece(text, role, group)
        plain += "\n"
    yield Piece(plain)


def _check_values(passage: Passage, values: Sequence[str]) -> None:
    text = f"{passage.before}{''.join(piece.text for piece in passage.pieces)}{passage.question}{passage.answer_prefix}"
    for value in values:
        if (count := text.count(value)) != 1:
            raise NeedleLeak(f"{passage.key}: {value!r} is in the prompt {count} times, not once. Use another seed.")


SUITE = Suite(
    name="longbio",
    description="LongBio: facts about people, told plainly, in other words, in chains or not at all.",
    tasks={
        name: SuiteTask(level.description, partial(_draw, level), scored=level.scored) for name, level in LEVELS.items()
    },
    lengths=(4096, 8192),
    items=8,
    options={"density": DENSITY},
)
