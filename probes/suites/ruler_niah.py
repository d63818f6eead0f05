"""RULER's needles in a haystack: single, multi-key, multi-value, multi-query."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import islice

import numpy as np

from ..errors import PoolTooSmall
from ..haystack import NOISE
from ..passage import Copied, Passage, Piece, woven
from ..seeds import distinct
from ..suite import TOGETHER, Draw, Growing
from ..task import Task
from ..words import ADJECTIVES, MORE_WORDS, NOUNS

MAX_NEW_TOKENS = 128
DEPTHS = np.round(np.linspace(0, 100, 40)) / 100  # of the published tasks' essays
KEY_NOUNS = NOUNS + MORE_WORDS
PAIRS = len(ADJECTIVES) * len(KEY_NOUNS)  # different keys
NEEDLE = "One of the special magic {kind} for {key} is: {value}."


def noise(draw: Draw) -> Growing:
    """niah_single_1: one number for one key, between lines of noise."""
    return _hidden(draw, "numbers", keys=1, haystack="noise")


def essay(draw: Draw, kind: str = "numbers", keys: int = 1, values: int = 1, asked: int = 1) -> Growing:
    """niah_single_2, niah_single_3 (kind "uuids"), niah_multikey_1, niah_multivalue, niah_multiquery."""
    return _hidden(draw, kind, keys=keys, values=values, asked=asked)


def needles(draw: Draw, kind: str = "numbers") -> Growing:
    """niah_multikey_2 and niah_multikey_3 (kind "uuids"): a context of nothing but needles, one of them asked for.

    Items that share a context ask for different needles: each lies as deep as it likes, and a quarter of the context
    behind the one before.
    """
    depth = (draw.shared.random() + draw.turn / TOGETHER) % 1
    keys, values = _keys(draw.shared, kind), _values(draw.shared, kind)
    pairs: list[tuple[str, str]] = []

    def make(n: int) -> Passage:
        pairs.extend(islice(zip(keys, values, strict=False), max(0, n - len(pairs))))
        if len(pairs) < n:
            raise PoolTooSmall(f"There are {len(pairs)} different keys, and {n} lines are needed; use shorter lengths.")
        gold = int(depth * n)
        lines = [
            Piece(NEEDLE.format(kind=kind, key=key, value=value), "needle" if i == gold else "distractor")
            for i, (key, value) in enumerate(pairs[:n])
        ]
        key, value = pairs[gold]
        return _passage(draw, kind, woven(lines, "\n"), [key], [value], [v for _, v in pairs[:n] if v != value])

    return Growing(make, least=TOGETHER)


def _hidden(draw: Draw, kind: str, *, keys: int, values: int = 1, asked: int = 1, haystack: str = "essay") -> Growing:
    """`keys` keys with `values` values each, every one in a needle of its own; the first `asked` keys are asked for."""
    own = draw.own
    names = [_pair(i) for i in own.choice(PAIRS, keys, replace=False)]
    said = list(islice(_values(own, kind), keys * values))
    if draw.options["compat"] == "ruler" and haystack == "essay":
        depths = own.choice(DEPTHS, len(said), replace=False)
    else:
        depths = own.random(len(said))
    wanted = asked * values  # their values come first
    between = "\n" if haystack == "noise" else " "

    def make(n: int) -> Passage:
        hay = [NOISE] * n if haystack == "noise" else draw.text.sentences(n)
        ends = np.cumsum([len(sentence) for sentence in hay])
        places = np.r_[0, ends] / ends[-1]
        gaps = [int(np.argmin(abs(places - depth))) for depth in depths]
        parts: list[Piece] = []
        order: list[int] = []  # of the values, from the start of the context
        for gap in range(n + 1):
            for i in (i for i in range(len(said)) if gaps[i] == gap):
                needle = NEEDLE.format(kind=kind, key=names[i // values], value=said[i])
                parts.append(Piece(needle, *(("needle", i) if i < wanted else ("distractor", 0))))
                order.append(i)
            parts += [Piece(sentence) for sentence in hay[gap : gap + 1]]
        # several values of one key are listed as they stand in the context, several keys as they are asked for
        listed = [i for i in order if i < wanted] if values > 1 else list(range(wanted))
        rivals = [value for i, value in enumerate(said) if i >= wanted]
        pieces = woven(parts, between)
        return _passage(draw, kind, pieces, names[:asked], [said[i] for i in listed], rivals, listed)

    return Growing(make)


def _passage(
    draw: Draw,
    kind: str,
    pieces: tuple[Piece, ...],
    keys: list[str],
    values: list[str],
    rivals: list[str],
    groups: list[int] | None = None,
) -> Passage:
    """The published wording. Several values are answered as " A, B, C, and D", the way the question lists keys."""
    one = len(values) == 1
    kind = kind[:-1] if one else kind
    before = f"A special magic {kind} is" if one else f"Some special magic {kind} are"
    asked = _listed(keys)
    needle = next(i for i, piece in enumerate(pieces) if piece.role == "needle")
    alone = sum(1 for piece in pieces if piece.role) == 1
    answer: list[Copied | str] = []
    for i, (value, group) in enumerate(zip(values, groups or [0] * len(values), strict=True)):
        answer += [] if i == 0 else [", and"] if i == len(values) - 1 else [","]
        answer.append(Copied(f" {value}", group))
    return Passage(
        key=keys[0] if len(keys[0]) < 36 else keys[0][:8],
        before=f"{before} hidden within the following text. Make sure to memorize it. I will quiz you about the {kind} "
        "afterwards.\n",
        pieces=pieces,
        question=f"\nWhat {'is' if one else 'are all'} the special magic {kind} for {asked} mentioned in the provided "
        "text?",
        answer_prefix=f" The special magic {kind} for {asked} mentioned in the provided text {'is' if one else 'are'}",
        answer=tuple(answer),
        task=Task("string_match_all", tuple(values), MAX_NEW_TOKENS, rivals=tuple(rivals)),
        value=values[0] if one else "",
        graft=needle if alone else None,
        reserve=MAX_NEW_TOKENS if draw.options["compat"] == "ruler" else 0,
    )


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:-1]) + ", and " + keys[-1] if len(keys) > 1 else keys[0]


def _keys(numbers: np.random.Generator, kind: str) -> Iterator[str]:
    """Different keys: UUIDs for UUIDs, without end, else "adjective-noun", as long as there are some."""
    if kind == "uuids":
        yield from _values(numbers, kind)
    else:
        yield from map(_pair, distinct(numbers, PAIRS))


def _pair(i: int) -> str:
    return f"{ADJECTIVES[i % len(ADJECTIVES)]}-{KEY_NOUNS[i // len(ADJECTIVES)]}"


def _values(numbers: np.random.Generator, kind: str) -> Iterator[str]:
    """Different numbers of seven digits, or UUIDs (version 4), without end."""
    seen: set[str] = set()
    while True:
        if kind == "uuids":
            value = str(uuid.UUID(bytes=numbers.bytes(16), version=4))
        else:
            value = str(numbers.integers(10**6, 10**7))
        if value not in seen:
            seen.add(value)
            yield value
