"""Short biographies of people who never lived. One sentence of one of them is the needle.

The idea is LongBio's single needle: a person, six attributes, a sentence each; the question asks for one of them and
the answer repeats its sentence. Names and lists are our own. With `distractors`, other people's biographies stand
around it, and their sentences about the same attribute are its rivals.
"""

from __future__ import annotations

import numpy as np

from ..errors import PoolTooSmall
from ..item import Family, Item
from ..seeds import rng
from ..words import FIRST, HOBBIES, LAST, MIDDLE, SUBJECTS, TOWNS

ATTRIBUTES = ("birthdate", "birthplace", "hobby", "university", "subject", "city")


def person(name: str, generator: np.random.Generator) -> dict[str, tuple[str, str, str]]:
    """Attribute -> (sentence, question, value), in the order in which a biography tells them."""
    birthplace, university, city = (TOWNS[i] for i in generator.permutation(len(TOWNS))[:3])
    birthdate = f"{generator.integers(1950, 2002)}-{generator.integers(1, 13):02d}-{generator.integers(1, 29):02d}"
    hobby = HOBBIES[generator.integers(len(HOBBIES))]
    subject = SUBJECTS[generator.integers(len(SUBJECTS))]
    return {
        "birthdate": (f"{name} was born on {birthdate}.", f"When was {name} born?", birthdate),
        "birthplace": (f"The birthplace of {name} is {birthplace}.", f"What is the birthplace of {name}?", birthplace),
        "hobby": (f"The favourite hobby of {name} is {hobby}.", f"What is the favourite hobby of {name}?", hobby),
        "university": (
            f"{name} graduated from the University of {university}.",
            f"From which university did {name} graduate?",
            f"University of {university}",
        ),
        "subject": (f"The main subject of {name} was {subject}.", f"What was the main subject of {name}?", subject),
        "city": (f"Today {name} works in the city of {city}.", f"In which city does {name} work today?", city),
    }


def item(names: list[str], attribute: str, generator: np.random.Generator) -> Item:
    """The biography of `names[0]`, asked for `attribute`, between those of the other names."""
    people = [person(name, generator) for name in names]
    needle, question, value = people[0][attribute]
    rivals = [other[attribute][0] for other in people[1:]]
    # Two people may have the same hobby, or study where another was born: what says the value too is left out.
    told = [[s for s, _, v in who.values() if who is people[0] or value not in v] for who in people]
    order = [told[i] for i in generator.permutation(len(told))]
    sentences = [sentence for who in order for sentence in who]
    at = sentences.index(needle)
    return Item(
        family="biography",
        variant="single" if len(names) == 1 else f"single-{len(names) - 1}-distractors",
        key=f"{attribute} {names[0]}",
        needle=needle,
        question=question,
        value=value,
        answer=f" {needle}",
        before=tuple(sentences[:at]),
        after=tuple(sentences[at + 1 :]),
        rivals=tuple(rival for rival in rivals if rival in sentences),
    )


def items(n: int, seed: int, distractors: int = 0) -> list[Item]:
    """`n` people, each asked for one attribute (all attributes in turn), each with `distractors` others around."""
    available = len(FIRST) * len(MIDDLE) * len(LAST)
    per_item = 1 + distractors
    if n * per_item > available:
        raise PoolTooSmall(f"{n} biographies with {distractors} distractors need more than the {available} names.")
    names = []
    for index in rng(seed, "names").permutation(available)[: n * per_item]:
        first, rest = divmod(int(index), len(MIDDLE) * len(LAST))
        middle, last = divmod(rest, len(LAST))
        names.append(f"{FIRST[first]} {MIDDLE[middle]} {LAST[last]}")
    groups = [names[i : i + per_item] for i in range(0, len(names), per_item)]
    return [
        item(group, ATTRIBUTES[i % len(ATTRIBUTES)], rng(seed, "biography", group[0])) for i, group in enumerate(groups)
    ]


FAMILIES = [Family("biography", lambda n, seed, _: items(n, seed), among=items)]
