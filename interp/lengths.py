"""Context lengths as people write them: read "4k", write "4K", gather them into groups; a length that was found."""

from __future__ import annotations

import re
from dataclasses import dataclass

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


def about_length(tokens: float) -> str:
    """1024 -> "1K", 3481.2 -> "3.4K": round lengths as they are written, others to two digits, from 100K on to 1K."""
    whole = human_length(round(tokens))
    if tokens < 1024 or whole.endswith("K"):
        return whole
    return f"{tokens / 1024:.2g}K" if tokens < 100 * 1024 else f"{tokens / 1024:.0f}K"


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


@dataclass(frozen=True, eq=False)
class EffectiveLength:
    """The longest context, in tokens, at which the leading heads keep `share` of their score at the shortest length.

    tokens: the estimate. The longest length probed where the share is never lost (`at_least`), the shortest where no
        head retrieves even there (`below`), NaN where nothing can be said.
    low, high: 95 % interval over needles, for these heads; high is inf where the longest length is not too long. NaN
        for `below` and where nothing can be said.
    lengths: float64 [k], tokens, ascending; close ones are one (`lengths.group_lengths`).
    score: float64 [k], mean score of the leading heads at each length, as measured; kept: the same that never rises, in
        shares of its first.
    n_needles: the fewest at one length.
    words: "3.4K tokens (95% 2.9K to 4.1K)", "at least 8K tokens: not lost at any length probed", ...
    """

    tokens: float
    low: float
    high: float
    at_least: bool
    below: bool
    share: float
    lengths: np.ndarray
    score: np.ndarray
    kept: np.ndarray
    n_needles: int
    words: str

    @property
    def short(self) -> str:
        """A cell of a table: "3.4K", ">= 8K", "< 1K", "-"."""
        sign = ">= " if self.at_least else "< " if self.below else ""
        return f"{sign}{about_length(self.tokens)}" if np.isfinite(self.tokens) else "-"

    @property
    def target_over_shortest(self) -> float:
        """Mean score at the longest length over that at the shortest, as measured; NaN where there is none."""
        return float(self.score[-1] / self.score[0]) if len(self.score) > 1 and self.score[0] > 0 else float("nan")
