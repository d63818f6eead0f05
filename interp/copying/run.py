"""copy_profile: one text through one model, chunk by chunk, and what every head's argmax keys held."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from itertools import count
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ...errors import ArgumentError, ArgumentTypeError
from ...kernels import recording
from ...probes import Probe
from ..engine import CHUNK, PREFLIGHT_LENGTH, Engine, Progress, may_be_cut, preflight
from ..environment import for_files
from ..model import Adapter, LoadedModel, PrefixCache, Visibility, adapt, load_model, running
from .counting import CopyPass, Counts, Text
from .possible import possible_rows
from .profile import COUNTS, CopyProfile


def copy_profile(model: Any, tokens: ArrayLike, *, chunk: int = CHUNK, progress: Progress | None = None) -> CopyProfile:
    """Count, for every head and over all rows of a text, how often its argmax key holds the next or the current token.

    One prefill, no needle, no attention map. The definitions are at `CopyProfile`. Chunks change nothing but rounding:
    the counts are the same unless two keys of a row tie to within it. A model whose state cannot be cut into chunks
    (length-dependent RoPE, recurrent layers) runs the text in one forward.

    Args:
        model: a transformers causal LM, a TransformerLens `TransformerBridge`, what `load_model` returned, or a path or
            hub id to load so.
        tokens: int [T], at least 2 token ids, as the model shall see them (BOS included, if it is used to one).
        chunk: tokens per forward. Out of memory halves it.
        progress: called with (rows done, rows in all, what is running).

    Raises:
        TypeError: tokens are no integers, or the model is none.
        ValueError: tokens have another shape, are not in the vocabulary, or are more than the model's context; or the
            model computes NaN.
        ModelError: the model cannot be loaded.
        CaptureError: the model's attention cannot be followed exactly.
        DoesNotFitError: a model that runs the text in one forward has not enough memory for it; a ValueError.
    """
    ids = _token_ids(tokens)
    if chunk < 1:
        raise ArgumentError(f"chunk must be at least 1 token, got {chunk}")
    loaded = load_model(model) if isinstance(model, (str, PathLike)) else model
    model = loaded.model if isinstance(loaded, LoadedModel) else model
    adapted = adapt(model)
    _check_fit(adapted, ids)

    start_of_text = np.resize(ids, PREFLIGHT_LENGTH)
    alone = preflight(
        adapted, Probe.from_ids(start_of_text, prompt_len=PREFLIGHT_LENGTH - 4, needles=[(5, 9)], id="text")
    )
    attention = adapted.attention()
    text = Text(ids)
    with adapted.routed(len(ids)), recording() as kernels:
        engine = TextEngine(adapted, (), chunk=chunk, progress=progress)
        if alone is not None and len(ids) > chunk:
            engine.cut_alone = may_be_cut(adapted, Probe.from_ids(ids[:8], prompt_len=6, needles=[(1, 2)], id="text"))
        counts, sees = engine.count(text, in_one=alone is not None)
    known = loaded if isinstance(loaded, LoadedModel) else None
    return CopyProfile(
        model_id=known.model_id if known else adapted.name,
        n_tokens=len(ids),
        n_kv_heads=adapted.n_kv_heads,
        text_hash=blake2b(ids.astype("<i8").tobytes(), digest_size=16).hexdigest(),
        **_tables(text, counts, sees, adapted.n_layers),
        provenance={
            **for_files(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "alone_because": alone,
            "device": str(adapted.device),
            "dtype": str(adapted.dtype).removeprefix("torch."),
            "attn_implementation": attention,
            "kernels": kernels,
            "revision": known.revision if known else None,
            "weights_sha256": known.fingerprint if known else None,
        },
    )


class TextEngine(Engine):
    """Runs one text, without probes. Use inside `model.routed(...)`."""

    def count(self, text: Text, in_one: bool) -> tuple[dict[int, Counts], dict[int, Visibility]]:
        """Every layer's counts over the whole text, and how far back its rows see; in one forward, or in chunks."""
        n = len(text.ids)
        pieces = self.in_pieces(n) if in_one else nullcontext()
        if pieces is None:
            halves = (n >> k for k in range(1, n.bit_length() - 1))
            parts = {part: partial(self._rows, text, 0, part, None) for part in halves}
            found = self.in_one("tokens", n, partial(self._rows, text, 0, n, None), parts)
            return found.counts, found.sees
        with pieces:
            return self._in_chunks(text)

    def _in_chunks(self, text: Text) -> tuple[dict[int, Counts], dict[int, Visibility]]:
        n = len(text.ids)
        cache = PrefixCache(n)
        counts: dict[int, Counts] = {}
        while cache.length < n:
            start, end = cache.length, min(cache.length + self.chunk, n)
            # A chunk's counts are added when all of it is done: one that ran out of memory leaves none behind.
            this = self.retry(lambda start=start, end=end: self._rows(text, start, end, cache))  # type: ignore[misc]
            if this is None:
                continue  # the chunk is smaller now
            cache.length, sees = end, this.sees
            counts = {layer: new.plus(counts[layer]) if layer in counts else new for layer, new in this.counts.items()}
        return counts, sees

    def _rows(self, text: Text, start: int, end: int, cache: PrefixCache | None) -> CopyPass:
        this = CopyPass(text, cache, self._layer_done(start, end, len(text.ids)))
        with running(this):
            tokens = self._tensor(text.ids[start:end])[None]
            positions = torch.arange(start, end, device=tokens.device)[None]
            last = torch.tensor([end - start - 1], device=tokens.device)
            logits = self.model.forward(tokens, positions, cache, last)
        self._refuse_nan(this.counts, logits)
        return this

    def _refuse_nan(self, counts: dict[int, Counts], logits: Tensor) -> None:
        bad = [f"attention of layer {layer} is" for layer, found in counts.items() if bool(found.broken.any())]
        if not bool(logits.isfinite().all()):
            bad.append("the model's logits are")
        if bad:
            raise ArgumentError(
                f"{self.model.name}: {bad[0]} NaN; its weights hold NaN or overflow in {self.model.dtype}. Check the "
                "checkpoint, or load it in float32 or bfloat16"
            )

    def _layer_done(self, start: int, end: int, n: int) -> Callable[[], None] | None:
        if self.progress is None:
            return None
        report, layers, done = self.progress, self.model.n_layers, count(1)
        return lambda: report(start + (end - start) * min(next(done), layers) // layers, n, "text")


def _tables(text: Text, counts: dict[int, Counts], sees: dict[int, Visibility], n_layers: int) -> dict[str, np.ndarray]:
    """The arrays of a CopyProfile; 0 for layers without attention, and for heads that a layer does not have."""
    sizes = {
        "layer": n_layers,
        "head": max(len(found.sink) for found in counts.values()),
        "distance": len(text.distances),
        "position": len(text.positions),
    }
    tables = {name: np.zeros([sizes[dim] for dim in dims], np.int32) for name, dims in COUNTS.items()}
    denominators = {seen: _denominators(text, seen) for seen in set(sees.values())}
    for layer, found in counts.items():
        h = len(found.sink)
        copies, echoes = found.copies.cpu().numpy(), found.echoes.cpu().numpy()
        tables["rows"][layer, :h] = text.n_rows
        tables["self_rows"][layer, :h] = echoes[:, 0]  # a row that attends to itself finds the current token there
        tables["sink_rows"][layer, :h] = found.sink.cpu().numpy()
        tables["copies"][layer, :h], tables["echoes"][layer, :h] = copies[:, 1:], echoes[:, 1:]
        tables["copies_by_position"][layer, :h] = found.copies_by_position.cpu().numpy()
        tables["echoes_by_position"][layer, :h] = found.echoes_by_position.cpu().numpy()
        for name, values in denominators[sees[layer]].items():
            tables[name][layer] = values
    return tables


def _denominators(text: Text, sees: Visibility) -> dict[str, np.ndarray]:
    """On how many rows copies and echoes were possible through this layer's rule, by distance and by position."""
    rows = np.arange(text.n_rows)
    first = sees.first_visible(torch.from_numpy(rows)).numpy()
    part = rows * len(text.positions) // text.n_rows
    found = {}
    for name, wanted in (("copy", text.ids[1:]), ("echo", text.ids[:-1])):
        possible = possible_rows(text.ids, wanted, first, text.distances)
        found[f"{name}_possible"] = possible.sum(axis=0)
        anywhere = part[possible.any(axis=1)]
        found[f"{name}_possible_by_position"] = np.bincount(anywhere, minlength=len(text.positions))
    return found


def _token_ids(tokens: ArrayLike) -> np.ndarray:
    """int64 [T], or an error that says what is wrong with the tokens."""
    ids = tokens.detach().cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)
    if ids.ndim != 1:
        raise ArgumentError(f"tokens must be one sequence of token ids, [T], got the shape {ids.shape}; pass one text")
    if ids.size < 2:
        raise ArgumentError(f"tokens must hold at least 2 token ids, a token and the next one, got {ids.size}")
    if ids.dtype.kind not in "iu":
        raise ArgumentTypeError(f"tokens must be integers, got {ids.dtype}; pass tokenizer(text)['input_ids']")
    if ids.min() < 0:
        raise ArgumentError(f"tokens must be token ids from 0 up, got {ids.min()}; leave padding and masks out")
    return ids.astype(np.int64)


def _check_fit(model: Adapter, ids: np.ndarray) -> None:
    if model.context is not None and len(ids) > model.context:
        raise ArgumentError(
            f"tokens holds {len(ids)} and {model.name} is made for {model.context} (max_position_embeddings and "
            "RoPE scaling in its config); pass a shorter text, or raise the model's limit if its RoPE allows more"
        )
    vocabulary = model.n_embeddings
    if ids.max() >= vocabulary:
        raise ArgumentError(
            f"tokens holds the id {ids.max()} and {model.name} has a vocabulary of {vocabulary}: it is from another "
            "tokenizer; use this model's"
        )
