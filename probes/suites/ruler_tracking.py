"""RULER's variable tracking: one chain of assignments between lines of noise, after one worked example."""

from __future__ import annotations

import string

import numpy as np

from ..haystack import NOISE
from ..passage import Copied, Passage, Piece, woven
from ..suite import Draw, Growing
from ..task import Task

HOPS = 4
MAX_NEW_TOKENS = 30
BEFORE = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: Find "
    "all variables that are assigned the value {value} in the text above."
)
PREFIX = (
    " Answer: According to the chain(s) of variable assignment in the text above, {n} variables are assigned the value "
    "{value}, they are:"
)


def tracking(draw: Draw) -> Growing:
    """vt: variable i + 1 is assigned variable i. Every statement is a needle, its group is its place in the chain.

    The answer lists the variables in the order of the chain, between spaces, as the example does. Published texts have
    a blank at the end of "VAR B = VAR A " and of the prompt; only compat="ruler" has the first, and none the second:
    the answer's first token brings it. The example has 5 lines of noise, with compat="ruler" 15 (some 500 tokens).
    """
    compat = draw.options["compat"] == "ruler"
    trail = " " if compat else ""
    own = draw.own
    value, shown = (str(10_000 + number) for number in own.choice(90_000, 2, replace=False))
    names = _names(own, 5, HOPS + 1, ())
    wrong = _names(own, 3, HOPS + 1, names)
    depths = np.sort(own.random(HOPS + 1))
    example_noise = 15 if compat else 5
    at = np.sort(own.integers(0, example_noise + 1, HOPS + 1))
    example = "".join(piece.text for piece in _context(_chain(wrong, shown, trail), example_noise, at))
    asked = PREFIX.format(n=HOPS + 1, value=shown)
    example = f"{BEFORE.format(context=example, value=shown)}{asked} {' '.join(wrong)}\n\n"
    before, question = BEFORE.format(context="\0", value=value).split("\0")
    statements = _chain(names, value, trail)

    def make(n: int) -> Passage:
        return Passage(
            key=f"chain-{value}",
            before=example + before,
            pieces=_context(statements, n, (depths * (n + 1)).astype(int)),
            question=question,
            answer_prefix=PREFIX.format(n=HOPS + 1, value=value),
            answer=tuple(Copied(f" {name}", group) for group, name in enumerate(names)),
            task=Task("string_match_all", tuple(names), MAX_NEW_TOKENS, rivals=tuple(wrong)),
            reserve=MAX_NEW_TOKENS if compat else 0,
        )

    return Growing(make)


def _chain(names: list[str], value: str, trail: str) -> list[str]:
    assigned = zip(names, names[1:], strict=False)
    return [f"VAR {names[0]} = {value}", *(f"VAR {name} = VAR {before}{trail}" for before, name in assigned)]


def _context(statements: list[str], noise: int, gaps: np.ndarray) -> tuple[Piece, ...]:
    """`noise` lines of noise, and each statement in front of the line of its gap; the last gap is behind all lines."""
    parts = []
    for gap in range(noise + 1):
        parts += [Piece(text, "needle", group) for group, text in enumerate(statements) if gaps[group] == gap]
        parts += [Piece(NOISE)] * (gap < noise)
    return woven(parts, "\n")


def _names(numbers: np.random.Generator, letters: int, n: int, others: tuple[str, ...] | list[str]) -> list[str]:
    """Different names, none of them part of another one."""
    found: list[str] = []
    while len(found) < n:
        name = "".join(numbers.choice(list(string.ascii_uppercase), letters))
        if name not in found and not any(name in other for other in others):
            found.append(name)
    return found
