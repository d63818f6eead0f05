"""Context lengths as people write them: read "4k", write "4K", gather many lengths into a few groups."""

from __future__ import annotations

import re

import numpy as np

from ..errors import HeadscopeError

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kKmM]?)")
_FACTOR = {"": 1, "k": 1024, "m": 1024**2}


class LengthError(HeadscopeError, ValueError):
    """A context length that cannot be read."""


def parse_length(text: str) -> int:
    """Tokens: "1024" and "1k" are 1024, "0.5k" is 512, "1M" is 1048576. Raises LengthError, a ValueError."""
    match = _WRITTEN.fullmatch(text.strip())
    tokens = float(match[1]) * _FACTOR[match[2].lower()] if match else 0.0
    if tokens < 1 or tokens != int(tokens):
        raise LengthError(f"{text.strip()!r} is no length; write whole tokens as 1024, 1k (= 1024), 0.5k or 1M")
    return int(tokens)


def human_length(tokens: int) -> str:
    """1024 -> "1K", 1536 -> "1.5K", 1000 -> "1000": short only where nothing is lost."""
    return f"{tokens / 1024:g}K" if tokens >= 1024 and tokens % 256 == 0 else str(tokens)


def group_lengths(lengths: np.ndarray, most: int = 12) -> tuple[list[str], np.ndarray]:
    """Labels of the groups, ascending, and the group of every length (int, as long as `lengths`).

    Lengths up to 8 tokens below another are written like it: a probe falls that much short of the length asked for
    where no exact one can be had. With more than `most` groups, each doubling is one instead.
    """
    lengths = np.asarray(lengths)
    asked: list[int] = []
    for length in np.unique(lengths)[::-1].tolist():
        if not asked or length < asked[-1] - 8:
            asked.append(length)
    if len(asked) <= most:
        return [human_length(length) for length in asked[::-1]], np.searchsorted(asked[::-1], lengths)
    doublings, group = np.unique(np.floor(np.log2(lengths)).astype(int), return_inverse=True)
    return [f"{human_length(2**power)}-{human_length(2 ** (power + 1))}" for power in doublings.tolist()], group
