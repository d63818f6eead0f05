"""A text as ids, and which characters each of them spells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import SpanNotFound
from .tokens import Codec


def encode(codec: Codec, text: str, id: str) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the whole text, and the characters `[start, end)` of each token (a character can span several tokens)."""
    if getattr(codec.tokenizer, "is_fast", False):
        encoded = codec.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        ids, starts, ends = list(encoded["input_ids"]), offsets[:, 0], offsets[:, 1].copy()
    else:
        ids = codec.encode(text)
        groups = codec.characters(ids)
        sizes = np.diff([*(start for start, _ in groups), len(ids)])
        spelt = "".join(piece for _, piece in groups)
        extra = (
            len(spelt) - len(spelt.removeprefix(" ")) if not text.startswith(" ") else 0
        )  # SentencePiece puts it first
        bounds = np.maximum(np.cumsum([0, *(len(piece) for _, piece in groups)]) - extra, 0)
        starts, ends = np.repeat(bounds[:-1], sizes), np.repeat(bounds[1:], sizes)
        if spelt[extra:] != text:
            raise SpanNotFound(
                f"{id}: {codec.name} has no character offsets and its tokens do not spell the text; use a fast "
                "tokenizer or Probe.from_ids."
            )
    # Some tokenizers give zero-width offsets: such a token reaches to where the next one starts.
    for i in np.flatnonzero(ends <= starts):
        later = starts[i + 1 :][starts[i + 1 :] > starts[i]]
        ends[i] = later[0] if len(later) else len(text)
    return np.asarray(ids, dtype=np.int32), starts, ends
