"""Perplexity: the loss of one model on the documents of corpora, by position and by length of context."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ArgumentError
from ..packages import need

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("nll", "tail_nll", "key_nll")
COUNTS = {"nll": "tokens", "tail_nll": "tail_tokens", "key_nll": "key_tokens"}
"""What is measured of a document, and how many tokens each mean is over."""


@dataclass(frozen=True, eq=False)
class Perplexity:
    """One model's loss on D documents. Means are nats per token, float64; NaN where no token counts, and in all of a
    document for which the model computed NaN. Beside each is the number of its tokens, int64: a corpus' mean is the sum
    of mean times tokens over that of tokens, and documents are what an interval resamples.

    corpora, documents: str [D], the corpus and the name of each.
    n_tokens: int64 [D], tokens of the whole document, special ones apart.
    buckets: int64 [B], first position of each range; a token at position p is predicted from p tokens.
    nll, tokens: [D, B], of tokens at those positions, each counted once.
    lengths: int64 [L], context lengths.
    tail_nll, tail_tokens: [D, L], of the last `tail` tokens of every window, from `lengths` tokens of context: the same
        tokens at every length that has some.
    key_nll, key_tokens: [D], of the tokens that need a long context; 0 tokens where no set of them was given.
    stride: tokens from window to window; 0: one window a document, from its start.
    texts_hash: `Texts.hash`. tokenizer_fp: of the tokenizer. keys_hash: of the set of key tokens, "" for none.
    provenance: how the numbers were made; what JSON can hold.
    """

    model_id: str
    corpora: np.ndarray
    documents: np.ndarray
    n_tokens: np.ndarray
    buckets: np.ndarray
    nll: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    tail_nll: np.ndarray
    tail_tokens: np.ndarray
    key_nll: np.ndarray
    key_tokens: np.ndarray
    tail: int
    stride: int
    texts_hash: str
    tokenizer_fp: str
    keys_hash: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        d, b, n = len(self.corpora), len(self.buckets), len(self.lengths)
        if not d or not b or not n:
            raise ArgumentError(f"a perplexity needs a document, a bucket and a length, got {d}, {b} and {n}")
        shapes = {"documents": (d,), "n_tokens": (d,), "nll": (d, b), "tail_nll": (d, n), "key_nll": (d,)}
        shapes |= {COUNTS[name]: shapes[name] for name in MEASURED}
        for name, shape in shapes.items():
            if np.shape(getattr(self, name)) != shape:
                raise ArgumentError(f"{name} must have the shape {shape}, got {np.shape(getattr(self, name))}")

    def __repr__(self) -> str:
        return f"<Perplexity of {self.model_id!r} on {len(self)} documents of {', '.join(self.names)}>"

    def __len__(self) -> int:
        return len(self.corpora)

    @property
    def names(self) -> list[str]:
        """The corpora, in their order."""
        return list(dict.fromkeys(self.corpora.tolist()))

    @property
    def by_corpus(self) -> dict[str, float]:
        """Corpus -> nats per token, over all positions."""
        return {name: self._mean("nll", self.corpora == name) for name in self.names}

    @property
    def long_ppl(self) -> dict[str, float]:
        """Corpus -> LongPPL (arXiv 2410.23771): exp of the mean loss of its key tokens; NaN where there are none."""
        return {name: float(np.exp(self._mean("key_nll", self.corpora == name))) for name in self.names}

    def _mean(self, name: str, rows: np.ndarray) -> float:
        values, counts = getattr(self, name)[rows], getattr(self, COUNTS[name])[rows]
        known = ~np.isnan(values) & (counts > 0)
        total = counts[known].sum()
        return float((values[known] * counts[known]).sum() / total) if total else float("nan")

    def to_dataframe(self) -> pd.DataFrame:
        """A row for every document and bucket: corpus, document, position, nll (mean nats), tokens."""
        pandas = need("pandas", "to_dataframe()")
        d, b = self.nll.shape
        found: pd.DataFrame = pandas.DataFrame(
            {
                "corpus": np.repeat(self.corpora, b),
                "document": np.repeat(self.documents, b),
                "position": np.tile(self.buckets, d),
                "nll": self.nll.ravel(),
                "tokens": self.tokens.ravel(),
            }
        )
        return found

    def save(self, path: str | PathLike[str], *, checkpoint: int = 0, tokens_seen: float | None = None) -> None:
        """Write to the results file at `path`, beside the scores of the same checkpoint, or in a file of its own kind.

        Raises StoreError, and leaves the file as it was, where it does not fit: `store.add_perplexity`.
        """
        from ..store import add_perplexity

        add_perplexity(path, self, checkpoint, tokens_seen)

    @classmethod
    def load(cls, path: str | PathLike[str], checkpoint: int | None = None) -> Perplexity:
        """That of one checkpoint of a results file, by default of the last that has one.

        Raises StoreError where the file cannot be read or has none there.
        """
        from ..store import read_perplexity

        return read_perplexity(path, checkpoint)
