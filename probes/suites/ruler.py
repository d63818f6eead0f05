"""RULER (arXiv 2404.06654; NVIDIA, Apache-2.0): its tasks by name, their wording as published, texts of our own."""

from __future__ import annotations

from ..haystack import NOISE
from ..passage import Copied, Passage, Piece
from ..suite import Draw, Growing, Suite, SuiteTask
from ..task import Task
from ..words import ADJECTIVES, NOUNS


def _niah_single_1(draw: Draw) -> Growing:
    key = f"{ADJECTIVES[draw.own.integers(len(ADJECTIVES))]}-{NOUNS[draw.own.integers(len(NOUNS))]}"
    value, depth = str(draw.own.integers(10**6, 10**7)), draw.own.random()
    needle = f"One of the special magic numbers for {key} is: {value}."

    def make(n: int) -> Passage:
        lines = [f"{NOISE}\n"] * n
        at = int(depth * (n + 1))
        return Passage(
            key=key,
            before="A special magic number is hidden within the following text. Make sure to memorize it. I will quiz "
            "you about the number afterwards.\n",
            pieces=(Piece("".join(lines[:at])), Piece(f"{needle}\n", "needle"), Piece("".join(lines[at:])[:-1])),
            question=f"\nWhat is the special magic number for {key} mentioned in the provided text?",
            answer_prefix=f" The special magic number for {key} mentioned in the provided text is",
            answer=(Copied(f" {value}"),),
            task=Task("string_match_all", (value,), max_new_tokens=128),
            value=value,
            graft=1,
        )

    return Growing(make)


SUITE = Suite(
    name="ruler",
    description="RULER: retrieval, variable tracking, common words and question answering.",
    tasks={"niah_single_1": SuiteTask("One number in noise sentences.", _niah_single_1)},
    lengths=(4096, 8192),
    items=8,
    options={"compat": ("", "ruler")},
)
