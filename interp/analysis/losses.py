"""The loss on one corpus over checkpoints, document by document: what the laws of perplexity are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np

from ...errors import ArgumentError
from ..perplexity import Perplexity
from .bootstrap import Interval, ratio_interval

MEASURES = ("nll", "context", "gain", "key")


@dataclass(frozen=True, eq=False)
class Losses:
    """sums: float64 [C, G], nats summed over the tokens of each of G documents at C checkpoints; counts: int64 [G], how
    many tokens these are, the same at every checkpoint. steps: int64 [C]; tokens_seen: float64 [C], NaN where unknown.
    name: what was measured, in words. A loss is at least 0; a gain may have either sign.
    """

    sums: np.ndarray
    counts: np.ndarray
    steps: np.ndarray
    tokens_seen: np.ndarray
    name: str
    signed: bool = False

    def __post_init__(self) -> None:
        if self.sums.ndim != 2 or not self.sums.size or self.counts.shape != self.sums.shape[1:]:
            raise ArgumentError(f"sums must be [C, G] and counts [G], got {self.sums.shape} and {self.counts.shape}")
        for name in ("steps", "tokens_seen"):
            if getattr(self, name).shape != self.sums.shape[:1]:
                raise ArgumentError(f"{name} must have one entry a checkpoint, {len(self.sums)}")

    @property
    def mean(self) -> np.ndarray:
        """float64 [C], nats per token."""
        return np.asarray(self.sums.sum(axis=1) / self.counts.sum())

    @property
    def progress(self) -> np.ndarray:
        """float64 [C]: tokens seen where all are known and increase, else optimizer steps."""
        known = np.isfinite(self.tokens_seen).all() and (np.diff(self.tokens_seen) > 0).all()
        return np.asarray(self.tokens_seen if known else self.steps, np.float64)

    def interval(self, level: float = 0.95) -> Interval:
        """Entries [C] of the mean, resampling documents; NaN with fewer than 12 of them (`clustered_interval`)."""
        return ratio_interval(self.sums, self.counts, level=level, bounds=None if self.signed else (0, np.inf))


def losses(
    found: Sequence[Perplexity],
    corpus: str,
    measure: str = "nll",
    at: int | None = None,
    *,
    steps: Sequence[int] | None = None,
    tokens_seen: Sequence[float] | None = None,
) -> Losses:
    """One measure of one corpus.

    Args:
        found: one a checkpoint, of the same texts.
        measure: "nll", of all tokens, or of those of the bucket that begins `at`; "context", of the last tokens of
            windows with `at` tokens of context; "gain", how much less these cost with `at` tokens of context than with
            the shortest; "key", of key tokens (log LongPPL).
        steps, tokens_seen: of each; by default its number, and unknown.

    Documents that some checkpoint has no number for are left out at all of them.

    Raises:
        ArgumentError: unknown measure, corpus, bucket or length; perplexities of other texts; no document with a value.
    """
    if not found:
        raise ArgumentError("there is no perplexity; give at least one")
    if measure not in MEASURES:
        raise ArgumentError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    first = found[0]
    if any(each.texts_hash != first.texts_hash or each.keys_hash != first.keys_hash for each in found):
        raise ArgumentError("these perplexities are of different texts, tokenizers, windows or key tokens")
    if corpus not in first.names:
        raise ArgumentError(f"there is no corpus {corpus!r}; there are {', '.join(first.names)}")
    rows = first.corpora == corpus
    if measure == "nll":
        places = first.buckets.tolist()
        chosen = range(len(places)) if at is None else [_place(places, at, "bucket")]
        means = np.stack([each.nll[rows][:, chosen] for each in found])
        counts = first.tokens[rows][:, chosen]
        sums, counts = np.where(counts > 0, means * counts, 0.0).sum(axis=2), counts.sum(axis=1)
        words = "loss" if at is None else f"loss from position {at} on"
    elif measure == "key":
        counts = first.key_tokens[rows]
        sums, words = np.stack([each.key_nll[rows] for each in found]) * counts, "loss of key tokens"
    else:
        lengths = first.lengths.tolist()
        place = _place(lengths, lengths[-1] if at is None else at, "length")
        counts = first.tail_tokens[rows][:, place]
        tail = np.stack([each.tail_nll[rows] for each in found])
        less = tail[..., 0] - tail[..., place] if measure == "gain" else tail[..., place]
        sums = less * counts
        words = f"{'gain' if measure == 'gain' else 'loss'} at {lengths[place]} tokens of context"
    kept = (counts > 0) & np.isfinite(sums).all(axis=0)
    if not kept.any():
        raise ArgumentError(f"no document of {corpus!r} has a number for the {words}")
    n = len(found)
    return Losses(
        sums=sums[:, kept],
        counts=counts[kept],
        steps=np.arange(n) if steps is None else np.asarray(steps, np.int64),
        tokens_seen=np.full(n, np.nan) if tokens_seen is None else np.asarray(tokens_seen, np.float64),
        name=f"{words} on {corpus}",
        signed=measure == "gain",
    )


def _place(there: list[int], at: int, what: str) -> int:
    if at not in there:
        raise ArgumentError(f"at: there is no {what} {at}; there are {', '.join(map(str, there))}")
    return there.index(at)


def read_losses(path: str | PathLike[str], corpus: str, measure: str = "nll", at: int | None = None) -> Losses:
    """The same from the checkpoints of a results file that have a perplexity. Raises StoreError, ArgumentError."""
    from ..store import StoreError, all_perplexities, read_steps

    found = all_perplexities(path)
    if not found:
        raise StoreError(f"{path} holds no perplexity; `headscope perplexity MODEL --text DIR -o {path}` measures one")
    known = list(read_steps(path).items())
    steps = [known[row][0] for row in found]
    tokens = [np.nan if (told := known[row][1]) is None else told for row in found]
    return losses([*found.values()], corpus, measure, at, steps=steps, tokens_seen=tokens)
