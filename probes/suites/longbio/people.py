"""People who never lived: their names, what a biography says of them, and in which words. All lists are our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import PoolTooSmall
from ...words import FIRST, LAST, MIDDLE

ATTRIBUTES = ("birthdate", "birthplace", "hobby", "university", "subject", "city")
LABELS = {
    "birthdate": "birth date",
    "birthplace": "birthplace",
    "hobby": "hobby",
    "university": "university",
    "subject": "subject",
    "city": "work city",
    "age": "age",
}
PLAIN = {attribute: f"The {label} of {{name}} is {{value}}." for attribute, label in LABELS.items()}
OTHER_WORDS = {
    "birthdate": "{name} came into the world on {value}.",
    "birthplace": "{name} spent the first years of life in {value}.",
    "hobby": "In the evenings {name} likes nothing better than {value}.",
    "university": "{name} holds a degree from {value}.",
    "subject": "As a student, {name} specialised in {value}.",
    "city": "The office of {name} is in {value}.",
}
FIRST_PERSON = {
    "birthdate": "I was born on {value}.",
    "birthplace": "My birthplace is {value}.",
    "hobby": "My hobby is {value}.",
    "university": "My university was {value}.",
    "subject": "My subject was {value}.",
    "city": "The city that I work in is {value}.",
}


def _pairs(left: str, right: str, between: str = "") -> tuple[str, ...]:
    return tuple(f"{a}{between}{b}" for a in left.split() for b in right.split())


TOWNS = _pairs(
    "Amble Birken Bram Cinder Cold Coven Dover Eagle Elder Fern Fox Glen Grey Harts Hazel Hollow Iron Juniper Kings "
    "Larks Long Maple Mill Moss Nether Oaken Pine Quarry Raven River Salt Silver Stone Thistle Thorn Umber Wave West "
    "Willow Yarrow",
    "beck bridge brook bury combe croft dale fell field ford gate glade harbour holm hurst land leigh marsh mere mill "
    "mont moor port shaw stead thwaite vale view wick worth",
)
HOBBIES = tuple(
    f"{doing} {what}"
    for doing in ("collecting", "drawing", "embroidering", "filming", "painting", "photographing", "sketching")
    for what in (
        *("antique maps", "autumn leaves", "beehives", "canal boats", "carousels", "castle gates", "church bells"),
        *("cranes", "desert flowers", "ferries", "fishing huts", "fountains", "garden gnomes", "hedgehogs", "kites"),
        *("lighthouses", "market stalls", "mountain goats", "mushrooms", "night skies", "old bicycles", "orchards"),
        *("owls", "paper lanterns", "pocket watches", "pumpkins", "racing pigeons", "sea shells", "snow crystals"),
        *(
            "stone bridges",
            "street lamps",
            "sundials",
            "tea pots",
            "toy trains",
            "tram stops",
            "violins",
            "water mills",
        ),
        *("weather vanes", "windmills", "wooden spoons"),
    )
)
SUBJECTS = _pairs(
    "ancient applied comparative experimental medieval modern practical theoretical",
    "acoustics agronomy architecture astronomy botany cartography ceramics chemistry economics ethics forestry geology "
    "glaciology grammar heraldry hydrology law linguistics logic mechanics medicine meteorology music navigation "
    "optics painting pedagogy pharmacy rhetoric statistics theology zoology",
    " ",
)
YEARS, AGES = (1950, 2002), (20, 80)
NAMES = len(FIRST) * len(MIDDLE) * len(LAST)


@dataclass(frozen=True)
class Person:
    """values: attribute -> what a biography says. place: who has a smaller one stands in front.

    rank: evenly from 0 to 1; whether an attribute is kept where only a share of the people has it.
    """

    name: str
    values: Mapping[str, str]
    place: float
    rank: float

    @property
    def age(self) -> int:
        return int(self.values["age"])


class Population:
    """People one after the other. What is said of the first ones (`single`) is said of nobody else, ages apart."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._rng = generator
        self._names: set[int] = set()
        pools = ([pool[i] for i in generator.permutation(len(pool)).tolist()] for pool in (TOWNS, HOBBIES, SUBJECTS))
        self._towns, self._hobbies, self._subjects = pools
        self._ages = generator.permutation(np.arange(*AGES)).tolist()
        self._dates: set[str] = set()

    def single(self) -> Person:
        """Somebody who shares nothing with anybody; nor an age with others who were made so."""
        date = self._date()
        self._dates.add(date)
        towns = [self._towns.pop() for _ in range(3)]
        return self._person(date, towns, self._hobbies.pop(), self._subjects.pop(), self._ages.pop())

    def other(self) -> Person:
        """Anybody else. What is said may be said of others as well, but of nobody who is `single`."""
        chosen = self._three()
        hobby, subject = self._rng.integers(len(self._hobbies)), self._rng.integers(len(self._subjects))
        age = int(self._rng.integers(*AGES))
        towns = [self._towns[i] for i in chosen]
        return self._person(self._date(), towns, self._hobbies[hobby], self._subjects[subject], age)

    def _person(self, date: str, towns: list[str], hobby: str, subject: str, age: int) -> Person:
        if len(self._names) == NAMES:
            raise PoolTooSmall(f"longbio has {NAMES:,} names, and the length asks for more; ask for shorter lengths.")
        while (index := int(self._rng.integers(NAMES))) in self._names:
            pass
        self._names.add(index)
        first, rest = divmod(index, len(MIDDLE) * len(LAST))
        middle, last = divmod(rest, len(LAST))
        values = (date, towns[0], hobby, f"{towns[1]} University", subject, towns[2])
        return Person(
            f"{FIRST[first]} {MIDDLE[middle]} {LAST[last]}",
            {**dict(zip(ATTRIBUTES, values, strict=True)), "age": str(age)},
            float(self._rng.random()),
            float(self._rng.random()),
        )

    def _three(self) -> list[int]:
        while len(set(chosen := self._rng.integers(len(self._towns), size=3).tolist())) < 3:
            pass
        return chosen

    def _date(self) -> str:
        while True:
            year, month, day = (int(self._rng.integers(*bounds)) for bounds in (YEARS, (1, 13), (1, 29)))
            if (date := f"{year}-{month:02d}-{day:02d}") not in self._dates:
                return date
