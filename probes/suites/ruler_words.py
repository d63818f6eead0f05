"""RULER's aggregation tasks: the most common words of a list, the most frequent words of a coded text."""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from ..errors import PoolTooSmall
from ..passage import Copied, Passage, Piece, woven
from ..suite import Draw, Growing
from ..task import Task
from ..words import ADJECTIVES, MORE_WORDS, NOUNS

COMMON = 10
LONG = 4096  # tokens from which on words are repeated more often
CWE_NEW_TOKENS, FWE_NEW_TOKENS = 120, 50
WORDS = tuple(word for word in (*ADJECTIVES, *NOUNS, *MORE_WORDS) if word != "pottery")  # which holds "otter"
BEFORE = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n"
)
QUESTION = "\nQuestion: What are the 10 most common words in the above list?"
PREFIX = " Answer: The top 10 words that appear most often in the list are:"

RANKS = 3  # asked for, behind the dots of the first rank
DOTS = "..."
ZETA = np.pi**2 / 6  # of 2


def common_words(draw: Draw) -> Growing:
    """cwe: ten words stand in a numbered list 30 times (6 below 4K), all others 3 times (once), after one example.

    All places of the ten are needles, a group for each word. The answer is a numbered list, as in the example, in the
    order in which the words first appear; with compat="ruler" in the order in which they were drawn, and below 4K the
    example has 40 entries for 25. No word of the example is in the list. Where more different words than WORDS are
    needed, all are of the form "adjective-noun".
    """
    compat = draw.options["compat"] == "ruler"
    often, seldom = (30, 3) if draw.length >= LONG else (6, 1)
    shown, shown_often, shown_seldom = (40, 10, 3) if draw.length >= LONG else (20, 3, 1) if compat else (15, 2, 1)
    words = [WORDS[i] for i in draw.own.permutation(len(WORDS))]
    example, words = words[:shown], words[shown:]
    order = int(draw.own.integers(2**63))
    listed = _shuffled(example[:COMMON] * shown_often + example[COMMON:] * shown_seldom, order)
    top = example[:COMMON] if compat else _first_seen(listed, example[:COMMON])
    answered = " ".join(f"{i}. {word}" for i, word in enumerate(top, 1))
    before = f"{BEFORE}{_numbered(listed)}{QUESTION}{PREFIX} {answered}\n{BEFORE}"

    def make(n: int) -> Passage:
        chosen = words if n <= len(words) else _shuffled(_pairs(words), order)
        if len(chosen) < n:
            raise PoolTooSmall(f"There are {len(chosen)} different words, and {n} are needed; use shorter lengths.")
        chosen = chosen[:n]
        common, others = chosen[:COMMON], chosen[COMMON:]
        listed = _shuffled(common * often + others * seldom, order)
        top = common if compat else _first_seen(listed, common)
        group = {word: i for i, word in enumerate(top)}
        parts = []
        for i, word in enumerate(listed, 1):
            needle = word in group
            parts += [Piece(f"{i}."), Piece(word, "needle" if needle else "", group.get(word, 0))]
        answer: list[Copied | str] = []
        for i, word in enumerate(top):
            answer += [f" {i + 1}.", Copied(f" {word}", i)]
        return Passage(
            key=f"words-{top[0]}",
            before=before,
            pieces=woven(parts, " "),
            question=QUESTION,
            answer_prefix=PREFIX,
            answer=tuple(answer),
            task=Task("string_match_all", tuple(top), CWE_NEW_TOKENS, rivals=tuple(others)),
            reserve=CWE_NEW_TOKENS if compat else 0,
        )

    return Growing(make, least=COMMON + 2)


def frequent_words(draw: Draw) -> Growing:
    """fwe: coded words of six letters, as often as 1 / rank^2; the first rank are dots, the next three are asked for.

    All their places are needles, a group for each word. The answer lists them by frequency: " A, B, and C".
    """
    compat = draw.options["compat"] == "ruler"
    vocabulary = [DOTS, *_coded(draw.own, max(RANKS + 2, draw.length // 50) - 1)]
    shares = np.arange(1, len(vocabulary) + 1) ** -2.0 / ZETA
    golds = vocabulary[1 : 1 + RANKS]
    order = int(draw.own.integers(2**63))

    def make(n: int) -> Passage:
        counts = (n * shares).astype(int).tolist()
        text = _shuffled([word for word, count in zip(vocabulary, counts, strict=True) for _ in range(count)], order)
        parts = [Piece(word, "needle" if word in golds else "", word in golds and golds.index(word)) for word in text]
        said = [word for word, count in zip(vocabulary, counts, strict=True) if count]
        return Passage(
            key=f"coded-{golds[0]}",
            before="Read the following coded text and track the frequency of each coded word. Find the three most "
            "frequently appeared coded words. ",
            pieces=woven(parts, " "),
            question="\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three "
            "most frequently appeared words in the above coded text?",
            answer_prefix=" Answer: According to the coded text above, the three most frequently appeared words are:",
            answer=(Copied(f" {golds[0]}", 0), ",", Copied(f" {golds[1]}", 1), ", and", Copied(f" {golds[2]}", 2)),
            task=Task("string_match_all", tuple(golds), FWE_NEW_TOKENS, rivals=tuple(said[1 + RANKS :])),
            reserve=FWE_NEW_TOKENS if compat else 0,
        )

    return Growing(make, least=60)  # 9, 4 and 2 times, and the next word once


def _shuffled(words: Sequence[str], order: int) -> list[str]:
    """In the order of a seed: another one for every item, the same whenever it is made."""
    return [words[i] for i in np.random.default_rng(order).permutation(len(words))]


def _pairs(words: Sequence[str]) -> list[str]:
    known = set(words)
    return [f"{a}-{noun}" for a in ADJECTIVES if a in known for noun in NOUNS + MORE_WORDS if noun in known]


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def _first_seen(listed: Sequence[str], words: Sequence[str]) -> list[str]:
    return sorted(words, key=listed.index)


def _coded(numbers: np.random.Generator, n: int) -> list[str]:
    """Different random words of six letters."""
    found: dict[str, None] = {}
    while len(found) < n:
        found["".join(numbers.choice(list(string.ascii_lowercase), 6))] = None
    return list(found)
