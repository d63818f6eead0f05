"""Random numbers that are the same in every process: PCG64 seeded with blake2b of what the numbers are for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np


def rng(*purpose: str | int | float) -> np.random.Generator:
    """A generator for one purpose, for example `rng(seed, "needles", "number")`. Independent of every other purpose."""
    digest = blake2b(json.dumps(purpose).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def distinct(numbers: np.random.Generator, n: int) -> Iterator[int]:
    """The numbers from 0 to n - 1, each once, in any order; drawn as they are asked for."""
    seen: set[int] = set()
    while len(seen) < n:
        number = int(numbers.integers(n))
        if number not in seen:
            seen.add(number)
            yield number
