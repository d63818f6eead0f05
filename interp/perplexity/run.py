"""perplexity: documents through a model, window by window, and what each token cost it. The path on one page."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from os import PathLike
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ...kernels import recording
from ...printable import NAME, printable
from ...probes import Codec
from ..engine import CHUNK, Progress, not_finite
from ..environment import for_files
from ..model import Adapter, LoadedModel, adapt, load_model
from .engine import TokenEngine, begin
from .key_tokens import KeyTokens
from .result import Perplexity
from .texts import Corpora, Document, ReadTexts, Texts, Window, check_lengths, read_corpora, tokenise

log = logging.getLogger(__name__)

NO_LENGTHS = "lengths are missing; give context lengths in tokens, such as lengths=[1024, 4096]"


def perplexity(
    model: Any,
    texts: Corpora | Texts,
    tokenizer: Any = None,
    *,
    lengths: Sequence[int] | None = None,
    stride: int | None = None,
    buckets: Sequence[int] | None = None,
    key_tokens: KeyTokens | str | PathLike[str] | None = None,
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> Perplexity:
    """The loss of a model on texts: by position, by length of context, and on the tokens that need a long one.

    Every sequence begins as the tokenizer begins one (BOS, where it has one), and is prefilled in chunks, a part of
    whose rows has logits at any time. Log-probabilities are in float32 whatever the model computes in. Chunks change
    nothing but rounding. Models whose state cannot be cut (recurrent layers) run each window in one forward.

    Args:
        model: as in `score_heads`.
        texts: corpora as `tokenise` takes them, or what it made of them (then lengths, stride and buckets are said).
        tokenizer: needed for texts; by default that of a model that `load_model` has loaded.
        lengths: context lengths, such as [1024, 4096].
        stride: None: every document once, from its start, as far as the longest length reaches. Else windows of the
            longest length that a document fills, every `stride` tokens: each token once, from at least the longest
            length less `stride` tokens where the document has so many before it.
        buckets: first positions of the ranges of positions; by default doublings up to the longest length.
        key_tokens: a frozen set of them (`find_key_tokens`), or its file, for LongPPL.
        chunk: rows per forward at most; fewer where their logits would take too much memory, or memory runs out.
        progress: called with (rows done, rows in all, what is running).

    Raises:
        What `tokenise` raises. ArgumentError: no lengths or tokenizer; a length beyond the model's context; tokens that
            are not in its vocabulary; key tokens of other texts.
        ModelError, CaptureError, DoesNotFitError: as in `score_heads`. A document on which a model computes NaN is NaN,
            with a warning; a model that computes it on all of them is refused.
    """
    if chunk < 1:
        raise ArgumentError(f"chunk must be at least 1 token, got {chunk}")
    loaded = load_model(model, tokenizer=tokenizer) if isinstance(model, (str, PathLike)) else model
    known = loaded if isinstance(loaded, LoadedModel) else None
    texts = as_texts(texts, tokenizer or (known.tokenizer if known else None), lengths, stride, buckets)
    keys = None if key_tokens is None else KeyTokens.of(key_tokens)
    marked = [None if keys is None else keys.marks(document) for document in texts.documents]
    adapted = adapt(known.model if known else loaded)
    check_fit(adapted, texts)
    with begin(adapted, texts, chunk, progress) as engine, recording() as kernels:
        engine.begin(texts.n_tokens)
        pairs = zip(texts.documents, marked, strict=True)
        rows = [_measure(engine, texts, document, wanted) for document, wanted in pairs]
    _tell_not_finite(adapted, texts.documents, rows)
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return Perplexity(
        model_id=known.model_id if known else adapted.name,
        corpora=np.array([document.corpus for document in texts.documents]),
        documents=np.array([document.name for document in texts.documents]),
        n_tokens=np.array([len(document.ids) for document in texts.documents]),
        buckets=texts.buckets,
        lengths=np.array(texts.lengths),
        **columns,
        tail=texts.tail,
        stride=texts.stride or 0,
        texts_hash=texts.hash,
        tokenizer_fp=texts.tokenizer_fp,
        keys_hash=keys.hash if keys else "",
        provenance={
            **for_files(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "alone_because": engine.alone_because,
            "device": str(adapted.device),
            "dtype": str(adapted.dtype).removeprefix("torch."),
            "attn_implementation": engine.attention,
            "kernels": kernels,
            "revision": known.revision if known else None,
            "weights_sha256": known.fingerprint if known else None,
            "key_tokens_of": keys.model_id if keys else None,
        },
    )


def as_texts(
    texts: Corpora | Texts,
    tokenizer: Any,
    lengths: Sequence[int] | None,
    stride: int | None = None,
    buckets: Sequence[int] | None = None,
) -> Texts:
    """Tokenised ones. Raises ArgumentError where lengths or tokenizer are missing, or do not fit what is there."""
    if isinstance(texts, Texts):
        if lengths is not None or stride is not None or buckets is not None:
            raise ArgumentError("lengths, stride and buckets are those of the tokenised texts; leave them out")
        codec = tokenizer if tokenizer is None or isinstance(tokenizer, Codec) else Codec(tokenizer)
        if codec is not None and not texts.fits(codec):
            raise ArgumentError(f"texts were tokenised with another tokenizer than {codec.name}; tokenise them again")
        return texts
    if tokenizer is None:
        raise ArgumentError("texts need tokenizer=...; none lies beside the model")
    if lengths is None:
        raise ArgumentError(NO_LENGTHS)
    return tokenise(texts, tokenizer, lengths, stride=stride, buckets=buckets)


def ahead_of_tokenizer(texts: Corpora | Texts, lengths: Sequence[int] | None) -> Texts | ReadTexts:
    """Texts for a later `as_texts`: they are read, and what can be known without a tokenizer is known. Errors: its."""
    if isinstance(texts, Texts):
        return as_texts(texts, None, lengths)
    if lengths is None:
        raise ArgumentError(NO_LENGTHS)
    check_lengths(lengths)
    return read_corpora(texts)


def _measure(engine: TokenEngine, texts: Texts, document: Document, marked: np.ndarray | None) -> dict[str, np.ndarray]:
    """Means and counts of one document: nll and tokens [B], tail_nll and tail_tokens [L], key_nll and key_tokens []."""
    n_lengths, n_buckets = len(texts.lengths), len(texts.buckets)
    sums = {"nll": np.zeros(n_buckets), "tail_nll": np.zeros(n_lengths), "key_nll": np.zeros(1)}
    counts = {name: np.zeros(len(values), np.int64) for name, values in sums.items()}

    def add(name: str, place: np.ndarray | int, nll: np.ndarray) -> None:
        np.add.at(sums[name], place, nll)
        np.add.at(counts[name], place, 1)

    for window in texts.windows(document):
        nll = _nll(engine, texts, document, window)
        at = np.arange(max(window.fresh, window.start + (not texts.head)), window.end)
        position = at - window.start + len(texts.head)
        add("nll", np.searchsorted(texts.buckets, position, side="right") - 1, nll[at - window.start])
        if marked is not None:
            at = at[marked[at]]
            add("key_nll", np.zeros(len(at), int), nll[at - window.start])
        for number, short in texts.shorter(window):
            own = nll if short.start == window.start else _nll(engine, texts, document, short)
            last = own[short.fresh - short.start :]
            add("tail_nll", np.full(len(last), number), last)
    found: dict[str, np.ndarray] = {}
    for name, counted in (("nll", "tokens"), ("tail_nll", "tail_tokens"), ("key_nll", "key_tokens")):
        with np.errstate(invalid="ignore"):
            found[name], found[counted] = sums[name] / counts[name], counts[name]
    finite = all(np.isfinite(values).all() for values in sums.values())
    if not finite:
        found |= {name: np.full_like(values, np.nan) for name, values in sums.items()}
    return {name: values[0] if name.startswith("key") else values for name, values in found.items()}


def _nll(engine: TokenEngine, texts: Texts, document: Document, window: Window) -> np.ndarray:
    """float64 [m] of the document's tokens in the window; NaN for one that nothing stands before."""
    found = engine.nll(texts.ids(document, window)).astype(np.float64)
    return found[len(texts.head) - 1 :] if texts.head else np.concatenate([[np.nan], found])


def check_fit(model: Adapter, texts: Texts) -> None:
    """Raise ArgumentError where the longest length, or a token, is not for this model."""
    check_context(model, texts.lengths[-1])
    largest = max(int(document.ids.max(initial=0)) for document in texts.documents)
    if largest >= model.n_embeddings:
        raise ArgumentError(
            f"texts hold the token {largest} and the embedding of {model.name} has {model.n_embeddings} rows: they are "
            "from another tokenizer; use this model's"
        )


def check_context(model: Adapter, longest: int) -> None:
    """Raise ArgumentError where a length is more than the model is made for."""
    if model.context is not None and longest > model.context:
        raise ArgumentError(
            f"lengths: {longest} tokens, and {model.name} is made for {model.context} (max_position_embeddings and "
            "RoPE scaling in its config); give shorter lengths, or raise the model's limit if its RoPE allows more"
        )


def _tell_not_finite(model: Adapter, documents: Sequence[Document], rows: Sequence[dict[str, np.ndarray]]) -> None:
    bad = [d for d, row in zip(documents, rows, strict=True) if not np.isfinite(row["nll"][row["tokens"] > 0]).all()]
    if len(bad) == len(rows):
        raise not_finite(model, "the model's logits are not finite")
    if bad:
        named = ", ".join(printable(document.name, NAME) for document in bad[:5]) + (", ..." if len(bad) > 5 else "")
        told = "%s: %d of %d documents have no loss (NaN): %s; the model computes NaN there, it overflows in %s"
        log.warning(told, model.name, len(bad), len(rows), named, model.dtype)
