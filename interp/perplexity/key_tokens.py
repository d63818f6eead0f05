"""Tokens that need a long context, frozen as characters of texts, so that every model is judged on the same ones.

LongPPL (arXiv 2410.23771): a token is key where a reference model is surer of it with the long context than with the
last `short` tokens alone (their difference LSD > alpha), and is rather sure of it (LCL > beta).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import HeadscopeError
from ...printable import NAME, printable
from ..model import ModelError, read_json
from .texts import Document

FORMAT = "headscope-key-tokens"
VERSION = 1
_TEXTS = ("model_id", "weights_sha256", "tokenizer_fp", "dtype")
_COUNTS = ("short", "long")
_NUMBERS = ("alpha", "beta")


class KeyTokenError(HeadscopeError, ValueError):
    """A set of key tokens cannot be read, or is of other texts."""


@dataclass(frozen=True)
class Keys:
    """Those of one text: the hash of its ids as the reference model's tokenizer cuts it, the numbers of the tokens, and
    the characters [start, end) that they spell; both ascend.
    """

    ids_hash: str
    tokens: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def among(cls, document: Document, tokens: np.ndarray) -> Keys:
        """From the numbers of tokens of a document, ascending. Tokens that share a character share a span."""
        spans: list[tuple[int, int]] = []
        for start, end in zip(document.starts[tokens].tolist(), document.ends[tokens].tolist(), strict=True):
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
        return cls(hash_of(document.ids), tuple(tokens.tolist()), tuple(spans))


def hash_of(ids: np.ndarray) -> str:
    return blake2b(ids.astype("<i4").tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class KeyTokens:
    """The key tokens of some texts, found with one model.

    model_id, weights_sha256 ("" where unknown), tokenizer_fp, dtype: of that model.
    short, long: tokens of context. alpha, beta: in nats.
    screen: nats below alpha down to which a cheaper context let a token through to be measured; None: every token was.
    texts: sha256 of a text (UTF-8) -> its key tokens.
    """

    model_id: str
    weights_sha256: str
    tokenizer_fp: str
    dtype: str
    short: int
    long: int
    alpha: float
    beta: float
    screen: float | None
    texts: Mapping[str, Keys]

    def __len__(self) -> int:
        return sum(len(keys.tokens) for keys in self.texts.values())

    @property
    def hash(self) -> str:
        """Of everything that is in it."""
        return blake2b(self._json().encode(), digest_size=16).hexdigest()

    def marks(self, document: Document) -> np.ndarray:
        """bool [n]: which tokens of a document are key; where another tokenizer cut it, those with a key character.

        None is lost at a border then: every key character lies in a token that counts.
        Raises KeyTokenError for a text that is not among those that the set is of.
        """
        keys = self.texts.get(document.sha256)
        if keys is None:
            raise KeyTokenError(
                f"the text {printable(document.name, NAME)!r} is not among the {len(self.texts)} that the key tokens "
                "are of; give the same texts, to the letter, or find key tokens anew (--find-key-tokens)"
            )
        if keys.ids_hash == hash_of(document.ids):
            if keys.tokens and keys.tokens[-1] >= len(document.ids):
                raise KeyTokenError(f"a key token of {printable(document.name, NAME)!r} lies beyond its end")
            marked = np.zeros(len(document.ids), bool)
            marked[list(keys.tokens)] = True
            return marked
        spans = np.array(keys.spans, np.int64).reshape(-1, 2)
        # Of spans that ascend and do not overlap, the first that ends behind a token's start is the one to look at.
        number = np.searchsorted(spans[:, 1], document.starts, side="right")
        return np.asarray(np.append(spans[:, 0], np.iinfo(np.int64).max)[number] < document.ends)

    def check(self, documents: Iterable[Document]) -> None:
        """Raise KeyTokenError where one of these texts is none of those that the set is of."""
        for document in documents:
            self.marks(document)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as JSON, whole or not at all. Raises StoreError."""
        from ..store import write_file

        write_file(path, json.dumps({**json.loads(self._json()), "hash": self.hash}).encode())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> KeyTokens:
        """Raises KeyTokenError where the file is none or is damaged."""
        try:
            told = read_json(Path(path), f"{fspath(path)} does not exist; --find-key-tokens makes one")
        except ModelError as error:
            raise KeyTokenError(str(error)) from error
        if told.get("format") != FORMAT or told.get("version") != VERSION:
            raise KeyTokenError(f"{fspath(path)} is no set of key tokens (format {FORMAT!r}, version {VERSION})")
        if (odd := _odd(told)) is not None:
            raise KeyTokenError(f"{fspath(path)} is damaged: {odd}; find the key tokens again")
        fields = {name: told[name] for name in (*_TEXTS, *_COUNTS, *_NUMBERS, "screen")}
        texts = {
            text: Keys(held["ids_hash"], tuple(held["tokens"]), tuple((start, end) for start, end in held["spans"]))
            for text, held in told["texts"].items()
        }
        found = cls(**fields, texts=texts)
        if found.hash != told.get("hash"):
            raise KeyTokenError(f"{fspath(path)} was changed: its hash is not that of what it holds; restore it")
        return found

    @classmethod
    def of(cls, given: KeyTokens | str | PathLike[str]) -> KeyTokens:
        return given if isinstance(given, KeyTokens) else cls.load(given)

    def _json(self) -> str:
        told: dict[str, Any] = {name: getattr(self, name) for name in (*_TEXTS, *_COUNTS, *_NUMBERS, "screen")}
        texts = {text: asdict(keys) for text, keys in self.texts.items()}
        return json.dumps({"format": FORMAT, "version": VERSION, **told, "texts": texts}, sort_keys=True)


def _odd(told: Mapping[str, Any]) -> str | None:
    """What of a file's content is not as it should be, in words."""
    for name in _TEXTS:
        if not isinstance(told.get(name), str):
            return f"{name} is no text"
    for name in _COUNTS:
        if type(told.get(name)) is not int:
            return f"{name} is no whole number"
    for name in _NUMBERS + (("screen",) if told.get("screen") is not None else ()):
        if type(told.get(name)) not in (int, float) or not np.isfinite(told[name]):
            return f"{name} is no number"
    texts = told.get("texts")
    if not isinstance(texts, dict) or not all(isinstance(held, dict) for held in texts.values()):
        return "texts is no object of objects"
    for held in texts.values():
        tokens, spans = held.get("tokens"), held.get("spans")
        if not isinstance(held.get("ids_hash"), str) or not _ascend(tokens):
            return "tokens are no ascending whole numbers"
        if not isinstance(spans, list) or not all(isinstance(span, list) and len(span) == 2 for span in spans):
            return "spans are no pairs of characters"
        if not _ascend([edge for span in spans for edge in span]):
            return "spans do not ascend, or overlap"
    return None


def _ascend(numbers: Any) -> bool:
    whole = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    return whole and numbers == sorted(numbers) and (not numbers or 0 <= numbers[0] <= numbers[-1] < 2**53)
