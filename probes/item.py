"""What a family makes: a needle, a question about it, and the answer. Text only; where it goes is the layout's work.

A file in families/ says what it offers in a list `FAMILIES`:

    FAMILIES = [Family("number", items=...)]
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .hashing import short_hash


@dataclass(frozen=True)
class Item:
    """One needle and its question.

    Attributes:
        family, variant: for example "keyvalue", "number".
        key: a short name of this needle.
        needle: the sentence that holds the answer.
        question: a natural question about it.
        value: the part of the needle that appears nowhere else in the probe.
        answer: what the model should write, with its leading space.
        answer_prefix: what the prompt already says after "Answer:", with its leading space.
        before, after: sentences that are inserted together with the needle.
        rivals: those of them that look like the needle.
    """

    family: str
    variant: str
    key: str
    needle: str
    question: str
    value: str
    answer: str
    answer_prefix: str = ""
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()

    @property
    def needle_id(self) -> str:
        """The same for the same needle and question, whatever the length, depth or answer mode."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.key.lower()).strip("-")
        return f"{slug}-{short_hash(self.needle, self.question)[:8]}"


@dataclass(frozen=True)
class Family:
    """A kind of needle, as `build(..., kind=)` and `--kind` name it.

    Attributes:
        kind: its name.
        items: (n, seed, answer) -> n different Items; the same seed gives the same first ones for every n. Raises
            PoolTooSmall where there are fewer. `answer` is one of `answers`, and says nothing where there are none.
        answers: what the answer may be, where that is for the caller to choose; the first is the default.
        among: (n, seed, distractors) -> n Items with so many rivals around each, where the family has any.
    """

    kind: str
    items: Callable[[int, int, str], list[Item]]
    answers: tuple[str, ...] = ()
    among: Callable[[int, int, int], list[Item]] | None = None
