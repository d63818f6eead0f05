"""A haystack as tokens: one fixed sequence per seed, and the places where something may be inserted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import HaystackTooShort
from .haystack import Haystack
from .sentences import clause_starts, line_starts, sentence_starts, space_starts, word_starts
from .tokens import Codec

MARGIN = 64  # tokens behind the last one used, so that it does not depend on where the text was cut
CLOSED = re.compile(r"[)\]}\"'’”»〉》」』】〕）］｝]\s*\Z")
BLANKS = re.compile(r"[^\S\n]+")
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """The tokens of a haystack from its start; every context of a set is a prefix of it.

    The first token has a leading space, as every later sentence: what is inserted has the same ids everywhere. A place
    is in front of the space before a sentence, clause or word; 0 is a place where a sentence and a line starts.
    """

    name: str
    ids: NDArray[np.int32]
    text: str
    places: dict[str, Positions]  # where something may be inserted, by what starts there: PLACES, best first
    solid: frozenset[int]  # those of them where no white space follows: in Chinese, and where a line starts


def tokenise(codec: Codec, haystack: Haystack, n_tokens: int, seed: int) -> Stream:
    """The first `n_tokens` of the haystack in the order of `seed`.

    Raises HaystackTooShort, which says how many tokens there are.
    """
    ids, dropped = _encode(codec, haystack, n_tokens, seed)
    if len(ids) < n_tokens:
        lines = f" ({dropped} lines with special tokens or unknown characters are left out)" if dropped else ""
        raise HaystackTooShort(
            f"The haystack {haystack.name!r} holds {len(ids)} tokens with this tokenizer{lines}, and {n_tokens} are "
            "needed. Give more text or shorter lengths, or let it repeat: Haystack(..., repeat=True) in Python."
        )
    ids = ids[:n_tokens]
    places, solid = _places(codec.characters(ids))
    return Stream(haystack.name, np.asarray(ids, dtype=np.int32), codec.decode(ids), places, solid)


def _encode(codec: Codec, haystack: Haystack, n_tokens: int, seed: int) -> tuple[list[int], int]:
    """Ids of enough lines, and how many lines were left out."""
    source = (line for document in haystack.documents(seed) for line in document.splitlines(keepends=True))
    lines: list[str] = []
    n_chars, wanted, dropped = 0, 5 * n_tokens + 4000, 0
    while True:
        exhausted = True
        for line in source:
            n_chars += len(line)
            if ordinary(codec, line):
                lines.append(line)
            else:
                dropped += 1
            if n_chars >= wanted:
                exhausted = False
                break
        ids = codec.piece(" " + "".join(lines))
        if len(ids) >= n_tokens + MARGIN or exhausted:
            return ids, dropped
        wanted = 2 * n_chars


def ordinary(codec: Codec, line: str) -> bool:
    """Whether a line holds no special token, written out or standing for characters the vocabulary lacks."""
    if any(special in line for special in codec.special_texts):
        return False
    unknown = codec.tokenizer.unk_token_id
    return unknown is None or unknown not in codec.encode(line)


def _places(characters: Sequence[tuple[int, str]]) -> tuple[dict[str, Positions], frozenset[int]]:
    """`Stream.places` and `Stream.solid` of tokens cut where characters end."""
    text = "".join(piece for _, piece in characters)
    sentences, lines = set(sentence_starts(text)), set(line_starts(text))
    starts = {
        "sentence": {start for start in sentences - lines if not CLOSED.search(text, max(0, start - 8), start)},
        "line": lines,
        "clause": sentences.union(clause_starts(text)),  # a bracket or quotation that ends is no better than a comma
        "space": set(space_starts(text)),
        "word": set(word_starts(text)),
    }
    behind = {run.start(): run.end() for run in BLANKS.finditer(text)}
    found: dict[str, list[int]] = {kind: [0] if kind in ("sentence", "line") else [] for kind in starts}
    solid, offset = set(), 0
    for position, piece in characters:
        in_line = offset and not text[offset - 1].isspace()
        start = behind.get(offset, offset)
        kind = next((kind for kind, places in starts.items() if start in places), "")
        if (kind == "line" and start == offset) or (kind and in_line):
            found[kind].append(position)
            if start == offset:
                solid.add(position)
        offset += len(piece)
    return {kind: np.asarray(places, dtype=np.int64) for kind, places in found.items()}, frozenset(solid)
