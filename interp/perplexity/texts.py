"""Texts whose loss is measured: documents of corpora as tokens, and the windows in which they go through a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, sha256
from operator import index
from os import PathLike
from typing import Any

import numpy as np

from ...errors import ArgumentError, ArgumentTypeError
from ...printable import NAME, printable
from ...probes import Codec, encode_with_offsets, read_texts

LEAST = 4  # tokens of the shortest context length
BUCKETS = 8  # ranges of positions, by default: doublings up to the longest length


@dataclass(frozen=True, eq=False)
class ReadTexts:
    """Corpora that are in memory and not tokenised yet, as (corpus, name, text). Made by `read_corpora`."""

    documents: tuple[tuple[str, str, str], ...]


Corpora = Mapping[str, Any] | str | PathLike[str] | Iterable[str] | ReadTexts


@dataclass(frozen=True, eq=False)
class Document:
    """One text: corpus and name; ids int32 [n], without special tokens; the characters [starts, ends) of each token,
    int64 [n] (a character can span several tokens); sha256 of its text in UTF-8.
    """

    corpus: str
    name: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    sha256: str


@dataclass(frozen=True)
class Window:
    """Tokens [start, end) of a document, of which those from `fresh` on were in no window before."""

    start: int
    end: int
    fresh: int


@dataclass(frozen=True, eq=False)
class Texts:
    """Documents, and how they are measured. Made by `tokenise`.

    A window has at most as many tokens as the longest length says, those that open a sequence (`head`: BOS, or none)
    included, and begins with them. Every token counts once, in the first window that holds it; not the first token of a
    sequence, which nothing stands before.

    lengths: context lengths in tokens, ascending. At each, the last `tail` tokens of every window that is so long are
        predicted from the window's last `length` tokens alone: the same tokens at every length, up to the longest that
        the document has.
    stride: None: one window a document, from its first token on. Else windows every `stride` tokens, each of the
        longest length that the document fills; the last one ends with the document.
    buckets: int64 [B], the first position of each range of positions; position 1 is the token behind the first.
    """

    documents: tuple[Document, ...]
    lengths: tuple[int, ...]
    stride: int | None
    buckets: np.ndarray
    head: tuple[int, ...]
    tokenizer_fp: str
    vocabulary_fp: str = ""  # of the ids in use: the same where a tokenizer only gained other tokens

    @property
    def tail(self) -> int:
        """How many tokens at a window's end are compared between lengths: half of the shortest length."""
        return self.lengths[0] // 2

    @property
    def corpora(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(document.corpus for document in self.documents))

    @cached_property
    def hash(self) -> str:
        """Of all that decides which tokens are predicted from which: corpora, ids, lengths, stride, buckets, head."""
        told = [list(self.lengths), self.stride, self.buckets.tolist(), list(self.head), len(self.documents)]
        digest = blake2b(json.dumps(told).encode(), digest_size=16)
        for document in self.documents:
            digest.update(json.dumps([document.corpus, len(document.ids)]).encode())
            digest.update(document.ids.astype("<i4").tobytes())
        return digest.hexdigest()

    def fits(self, codec: Codec) -> bool:
        """Whether a tokenizer is theirs, or has the same tokens under the ids in use and begins sequences alike."""
        if codec.fingerprint == self.tokenizer_fp:
            return True
        used = np.concatenate([document.ids for document in self.documents])
        return codec.vocabulary_fp(used) == self.vocabulary_fp and tuple(codec.head) == self.head

    def room(self, length: int) -> int:
        """Tokens of a document in a sequence of `length`."""
        return length - len(self.head)

    def windows(self, document: Document) -> list[Window]:
        """Those of one document, in order."""
        n = len(document.ids)
        if self.stride is None or n < self.room(self.lengths[0]):
            return [Window(0, min(n, self.room(self.lengths[-1])), 0)]
        own = max(size for size in map(self.room, self.lengths) if size <= n)
        ends = [*range(own, n, min(self.stride, own)), n]
        before = [0, *ends]
        return [Window(end - own, end, fresh) for fresh, end in zip(before, ends, strict=False)]

    def shorter(self, window: Window) -> Iterator[tuple[int, Window]]:
        """(number of the length, window of that length that ends where this one does), of those that fit into it."""
        for number, length in enumerate(self.lengths):
            start = window.end - self.room(length)
            if start >= window.start:
                yield number, Window(start, window.end, max(window.fresh, window.end - self.tail))

    @property
    def n_tokens(self) -> int:
        """Rows that go through a model."""
        return sum(len(self.head) + w.end - w.start for d in self.documents for w in self.sequences(d))

    def sequences(self, document: Document) -> list[Window]:
        """Every window that is run, at any length."""
        found = self.windows(document)
        return found + [short for window in found for _, short in self.shorter(window) if short.start > window.start]

    def ids(self, document: Document, window: Window) -> np.ndarray:
        """int64 [m], the sequence that a model is given."""
        return np.concatenate([np.array(self.head, np.int64), document.ids[window.start : window.end]])


def tokenise(
    texts: Corpora,
    tokenizer: Any,
    lengths: Sequence[int],
    *,
    stride: int | None = None,
    buckets: Sequence[int] | None = None,
) -> Texts:
    """Read and tokenise corpora.

    Args:
        texts: name -> corpus, or one corpus (then called "text"). A corpus is a file or folder (.txt, .md, and the
            texts that JSON and JSON Lines hold, also gzipped), or texts themselves. Or what `read_corpora` gives.
        tokenizer: a Hugging Face tokenizer, or a `Codec` of one. Documents are tokenised whole.
        lengths, stride, buckets: as in `Texts`. By default there are eight buckets, doublings up to the longest length.

    Raises:
        ProbeError: a file cannot be read, is not UTF-8 or holds no text; NoText where JSON holds none.
        ArgumentError: lengths, stride or buckets are out of range; a corpus or document is empty; no document reaches a
            length.
    """
    codec = tokenizer if isinstance(tokenizer, Codec) else Codec(tokenizer)
    known = check_lengths(lengths, max(LEAST, 2 + len(codec.head)))
    if stride is not None and stride < 1:
        raise ArgumentError(f"stride must be at least 1 token, or None for whole documents, got {stride}")
    found = []
    for corpus, name, text in read_corpora(texts).documents:
        ids, starts, ends = encode_with_offsets(codec, text, f"{corpus}: {name}")
        if len(ids) + len(codec.head) < 2:
            raise _nothing(corpus, name, f"too short ({len(ids)} token)")
        found.append(Document(corpus, name, ids, starts, ends, sha256(text.encode()).hexdigest()))
    fingerprints = codec.fingerprint, codec.vocabulary_fp(np.concatenate([document.ids for document in found]))
    made = Texts(tuple(found), tuple(known), stride, _buckets(buckets, known[-1]), tuple(codec.head), *fingerprints)
    longest = max(found, key=lambda document: len(document.ids))
    for length in known:
        if made.room(length) > len(longest.ids):
            raise ArgumentError(
                f"no text has {length} tokens: the longest, {printable(longest.name, NAME)!r} of corpus "
                f"{longest.corpus!r}, has {len(longest.ids) + len(codec.head)}; give longer texts or shorter lengths"
            )
    return made


def check_lengths(lengths: Sequence[int], least: int = LEAST) -> list[int]:
    """Context lengths, ascending. Raises ArgumentError or ArgumentTypeError where they are none."""
    try:
        known = sorted({index(length) for length in lengths})
    except TypeError:
        raise ArgumentTypeError(f"lengths must be whole numbers, such as [1024, 4096], got {lengths!r}") from None
    if not known or known[0] < least:
        raise ArgumentError(f"lengths must be tokens of context, each at least {least}, got {list(lengths)}")
    return known


def read_corpora(texts: Corpora) -> ReadTexts:
    """Texts from files, folders or iterables, as far as they are not in memory yet. Errors: those of `tokenise`."""
    return texts if isinstance(texts, ReadTexts) else ReadTexts(tuple(_documents(texts)))


def _documents(texts: Any) -> Iterator[tuple[str, str, str]]:
    """(corpus, name, text)"""
    corpora = texts if isinstance(texts, Mapping) else {"text": texts}
    if not corpora:
        raise ArgumentError("texts names no corpus; give {'name': folder or texts}")
    for corpus, held in corpora.items():
        if not isinstance(corpus, str) or not corpus:
            raise ArgumentTypeError(f"a corpus must have a name, got {corpus!r}")
        if isinstance(held, (str, PathLike)):
            named = read_texts(held)
        elif not isinstance(held, Iterable):
            raise ArgumentTypeError(f"corpus {corpus!r} must be a file, a folder or texts, got {held!r}")
        else:
            named = [(str(number), text) for number, text in enumerate(held)]
        if not named:
            raise ArgumentError(f"corpus {corpus!r} is empty; give at least one text")
        for name, text in named:
            if not isinstance(text, str):
                raise ArgumentTypeError(f"text {name} of corpus {corpus!r} is a {type(text).__name__}, not a text")
            if not text.strip():
                raise _nothing(corpus, name, "empty")
            yield corpus, name, text


def _nothing(corpus: str, name: str, state: str) -> ArgumentError:
    return ArgumentError(f"the text {name!r} of corpus {corpus!r} is {state}: there is nothing to predict")


def _buckets(given: Sequence[int] | None, longest: int) -> np.ndarray:
    if given is None:
        powers = [1 << power for power in range(1, longest.bit_length()) if 1 << power < longest]
        return np.array([1, *powers[-(BUCKETS - 1) :]], np.int64)
    starts = [*map(int, given)]
    if not starts or starts != sorted({*starts}) or starts[0] < 1 or starts[-1] >= longest:
        raise ArgumentError(f"buckets must be ascending positions from 1 to {longest - 1}, got {list(given)}")
    return np.array(starts if starts[0] == 1 else [1, *starts], np.int64)
