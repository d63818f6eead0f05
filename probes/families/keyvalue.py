"""Key-value needles, after RULER: "One of the special magic numbers for amber-otter is: 4182736." (own word list).

The value is seven digits or a UUID. The answer is the value alone (the prompt already says "... is:") or the whole
needle sentence.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ..errors import PoolTooSmall
from ..item import Family, Item
from ..seeds import rng
from ..words import ADJECTIVES, NOUNS


def item(key: str, value: str, kind: str = "number", answer: str = "value") -> Item:
    """The needle that gives `value` to `key`."""
    noun = "magic number" if kind == "number" else "magic uuid"
    needle = f"One of the special {noun}s for {key} is: {value}."
    return Item(
        family="keyvalue",
        variant=kind if answer == "value" else f"{kind}-sentence",
        key=f"{kind} {key}",
        needle=needle,
        question=f"What is the special {noun} for {key}?",
        value=value,
        answer=f" {value}" if answer == "value" else f" {needle}",
        answer_prefix=f" The special {noun} for {key} is:" if answer == "value" else "",
    )


def items(n: int, seed: int, kind: str = "number", answer: str = "value") -> list[Item]:
    """`n` items with different keys and different values. The same seed gives the same first ones for every n."""
    available = len(ADJECTIVES) * len(NOUNS)
    if n > available:
        raise PoolTooSmall(f"{n} key-value needles are asked for; there are {available} different keys.")
    chosen = rng(seed, "keys", kind).permutation(available)[:n]
    values = rng(seed, "values", kind)
    made: dict[str, Item] = {}
    for index in chosen:
        key = f"{ADJECTIVES[index // len(NOUNS)]}-{NOUNS[index % len(NOUNS)]}"
        value = _value(values, kind)
        while value in made:
            value = _value(values, kind)
        made[value] = item(key, value, kind, answer)
    return list(made.values())


def _value(generator: np.random.Generator, kind: str) -> str:
    if kind == "number":
        return str(generator.integers(1_000_000, 10_000_000))
    digits = "".join(f"{digit:x}" for digit in generator.integers(0, 16, size=32))
    return "-".join((digits[:8], digits[8:12], "4" + digits[13:16], "a" + digits[17:20], digits[20:]))


def _items_of(kind: str, n: int, seed: int, answer: str) -> list[Item]:
    return items(n, seed, kind, answer)


FAMILIES = [Family(kind, partial(_items_of, kind), answers=("value", "sentence")) for kind in ("number", "uuid")]
