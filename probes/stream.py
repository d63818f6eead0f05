"""A haystack as tokens: one fixed sequence per seed, and the places where something may be inserted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import HaystackTooShort
from .haystack import Haystack
from .tokens import Codec

MARGIN = 64  # tokens behind the last one used, so that it does not depend on where the text was cut
SENTENCE_END = (".", "!", "?", "。", "！", "？")


@dataclass(frozen=True)
class Stream:
    """The tokens of a haystack from its start; every context of a set is a prefix of it.

    The first token has a leading space, as every later sentence: what is inserted has the same ids everywhere.
    """

    name: str
    ids: NDArray[np.int32]
    text: str
    sentences: NDArray[np.int64]  # positions where a sentence starts within a line (and 0)
    lines: NDArray[np.int64]  # positions where a line starts (and 0)


def tokenise(codec: Codec, haystack: Haystack, n_tokens: int, seed: int) -> Stream:
    """The first `n_tokens` of the haystack in the order of `seed`.

    Raises HaystackTooShort, which says how many tokens there are.
    """
    ids = _encode(codec, haystack, n_tokens, seed)
    if len(ids) < n_tokens:
        raise HaystackTooShort(
            f"The haystack {haystack.name!r} holds {len(ids)} tokens with this tokenizer, and {n_tokens} are needed. "
            "Give more text or shorter lengths, or let it repeat: Haystack(..., repeat=True) in Python."
        )
    ids = ids[:n_tokens]
    sentences, lines = _starts(codec, ids)
    return Stream(haystack.name, np.asarray(ids, dtype=np.int32), codec.decode(ids), sentences, lines)


def _encode(codec: Codec, haystack: Haystack, n_tokens: int, seed: int) -> list[int]:
    source = haystack.documents(seed)
    lines: list[str] = []
    n_chars, wanted = 0, 5 * n_tokens + 4000
    while True:
        exhausted = True
        for document in source:
            lines += _ordinary_lines(codec, document)
            n_chars += len(document)
            if n_chars >= wanted:
                exhausted = False
                break
        ids = codec.piece(" " + "".join(lines))
        if len(ids) >= n_tokens + MARGIN or exhausted:
            return ids
        wanted = 2 * n_chars


def _ordinary_lines(codec: Codec, document: str) -> Iterator[str]:
    """Lines without special tokens, written out or standing for characters the vocabulary lacks."""
    unknown = codec.tokenizer.unk_token_id
    for line in document.splitlines(keepends=True):
        if any(special in line for special in codec.special_texts):
            continue
        if unknown is not None and unknown in codec.encode(line):
            continue
        yield line


def _starts(codec: Codec, ids: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    surfaces = codec.surfaces(ids)
    sentences, lines = [0], [0]
    for at in range(1, len(ids)):
        before, here = surfaces[at - 1], surfaces[at]
        if before.endswith("\n") and not here.startswith("\n"):
            lines.append(at)
        elif before.endswith(SENTENCE_END) and len(here) > 1 and here[0] == " " and not here[1].islower():
            sentences.append(at)
    return np.asarray(sentences), np.asarray(lines)
