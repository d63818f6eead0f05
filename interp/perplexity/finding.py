"""find_key_tokens: which tokens of texts a reference model needs the long context for. Frozen once, for all models."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ..engine import CHUNK, Progress, not_finite
from ..model import LoadedModel, adapt, load_model
from .engine import TokenEngine, begin
from .key_tokens import Keys, KeyTokens
from .run import as_texts, check_fit
from .texts import Corpora, Document, Texts

log = logging.getLogger(__name__)


def find_key_tokens(
    model: Any,
    texts: Corpora | Texts,
    tokenizer: Any = None,
    *,
    short: int = 4096,
    long: int | None = None,
    alpha: float = 2.0,
    beta: float = -2.0,
    screen: float | None = 1.0,
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> KeyTokens:
    """The tokens of texts whose log-probability is above beta with all of the document before them, and by more than
    alpha lower with the last `short` tokens alone (LongPPL, arXiv 2410.23771).

    The short context has exactly `short` tokens of the document (and what opens a sequence); one with fewer than that
    before it has no shorter context, and is not key. Log-softmax in float32.

    Args:
        model, tokenizer, chunk, progress: as in `perplexity`.
        texts: as in `perplexity`; each document is read once, from its start.
        short: tokens of the short context. long: of the long one, at most; the longest length of tokenised texts.
        alpha, beta: nats; the paper's.
        screen: a token's own short context costs a forward of `short` tokens. So, first, contexts of `short` to 1.5 x
            `short` tokens are tried, half as many windows as that has tokens, and only where these are worse than the
            long one by more than alpha - screen is the exact one run. None: it is run for every token above beta.

    Raises:
        What `perplexity` raises. ArgumentError also where no document is longer than `short`, or screen is negative.
    """
    if screen is not None and not 0 <= screen < float("inf"):
        raise ArgumentError(f"screen must be a number of nats from 0 up, or None for every token, got {screen}")
    loaded = load_model(model, tokenizer=tokenizer) if isinstance(model, (str, PathLike)) else model
    known = loaded if isinstance(loaded, LoadedModel) else None
    lengths = None if isinstance(texts, Texts) else [long] if long is not None else None
    texts = as_texts(texts, tokenizer or (known.tokenizer if known else None), lengths)
    if texts.stride is not None:
        raise ArgumentError("key tokens are looked for in whole documents; tokenise them without a stride")
    adapted = adapt(known.model if known else loaded)
    check_fit(adapted, texts)
    longest = max(texts.windows(document)[0].end for document in texts.documents)
    if not 2 <= short < longest:
        raise ArgumentError(f"short must be 2 to {longest - 1} tokens, fewer than the longest text has, got {short}")
    found: dict[str, Keys] = {}
    with begin(adapted, texts, chunk, progress) as engine:
        for document in texts.documents:
            tokens = _keys(engine, texts, document, short, alpha, beta, screen)
            found[document.sha256] = Keys.among(document, tokens)
    return KeyTokens(
        model_id=known.model_id if known else adapted.name,
        weights_sha256=(known.fingerprint if known else None) or "",
        tokenizer_fp=texts.tokenizer_fp,
        dtype=str(adapted.dtype).removeprefix("torch."),
        short=short,
        long=texts.lengths[-1],
        alpha=float(alpha),
        beta=float(beta),
        screen=None if screen is None else float(screen),
        texts=found,
    )


def _keys(
    engine: TokenEngine,
    texts: Texts,
    document: Document,
    short: int,
    alpha: float,
    beta: float,
    screen: float | None,
) -> np.ndarray:
    """The document's tokens that are key, ascending."""
    window = texts.windows(document)[0]
    head, m = len(texts.head), window.end
    engine.begin(head + m)
    ids = texts.ids(document, window)
    long = np.full(m, np.nan)
    long[(not head) :] = -engine.nll(ids)[max(head - 1, 0) :]
    if not np.isfinite(long[1:]).all():
        raise not_finite(engine.model, "the model's logits are not finite")
    # A token with up to `short` tokens before it has the same context twice.
    asked = np.flatnonzero(long > beta)
    asked = asked[asked > short]
    if screen is not None and len(asked):
        looser = _with_looser(engine, texts, document, short, m)
        asked = asked[long[asked] - looser[asked] > alpha - screen]
    found = [long[i] - value > alpha for i, value in _with_short(engine, texts, document, short, asked)]
    return asked[np.array(found, bool)]


def _with_looser(engine: TokenEngine, texts: Texts, document: Document, short: int, m: int) -> np.ndarray:
    """float64 [m]: log-likelihoods from the last `short` to 1.5 x `short` tokens; NaN up to there."""
    head, step = len(texts.head), max(1, short // 2)
    found = np.full(m, np.nan)
    starts = range(1, m - short, step)
    engine.begin(len(starts) * (head + short + step))
    for start in starts:
        end = min(start + short + step, m)
        ids = np.concatenate([np.array(texts.head, np.int64), document.ids[start:end]])
        found[start + short : end] = -engine.nll(ids)[head + short - 1 :]
    return found


def _with_short(
    engine: TokenEngine, texts: Texts, document: Document, short: int, asked: np.ndarray
) -> Iterator[tuple[int, float]]:
    """(token, log-likelihood from exactly the `short` tokens before it)"""
    head = np.array(texts.head, np.int64)
    at_once = max(1, engine.chunk // (len(head) + short))
    engine.begin(len(asked) * (len(head) + short))
    for first in range(0, len(asked), at_once):
        some = asked[first : first + at_once]
        ids = np.stack([np.concatenate([head, document.ids[i - short : i]]) for i in some])
        found = engine.last_logprobs(ids, document.ids[some])
        yield from zip(some.tolist(), found.tolist(), strict=True)
        engine.tick(ids.size, "short contexts")
