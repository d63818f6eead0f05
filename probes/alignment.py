"""Where each answer token can be copied from, and what the needle alone gives away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def align(
    ids: NDArray[np.int32], answer: NDArray[np.int32], spans: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int32], Literal["exact", "id", "none"]]:
    """Where in `spans` each answer token can be copied from: int32 [n_answer, m] padded with -1, and how it was found.

    "exact": the whole answer is a run of tokens in a span (every such run is a column). Otherwise "id": all positions
    that hold the same token, or "none" when there are none at all.
    """
    n = len(answer)
    runs = [
        position
        for start, end in spans
        for position in range(start, end - n + 1)
        if np.array_equal(ids[position : position + n], answer)
    ]
    if runs:
        return (np.arange(n)[:, None] + np.asarray(runs)[None, :]).astype(np.int32), "exact"
    positions = np.concatenate([np.arange(start, end) for start, end in spans])
    found = [positions[ids[positions] == token] for token in answer]
    width = max(1, max(len(places) for places in found))
    sources = np.full((n, width), -1, dtype=np.int32)
    for row, places in zip(sources, found, strict=True):
        row[: len(places)] = places
    return sources, "id" if (sources >= 0).any() else "none"


def classify(
    answer: NDArray[np.int32],
    *,
    question: NDArray[np.int32],
    sources: NDArray[np.int32],
    mute: Sequence[bool] | None = None,
) -> tuple[str, ...]:
    """Per answer token: "echo" when the question holds it, else "novel" when the needle does, else "format".

    `mute` marks tokens without a letter or digit (spaces, punctuation); the needle gives nothing away with them, so
    they are "format" rather than "novel".
    """
    asked = set(question.tolist())
    copied = [bool(row.any()) for row in sources >= 0]
    classes = []
    for index, token in enumerate(answer.tolist()):
        told = copied[index] and not (mute is not None and mute[index])
        classes.append("echo" if token in asked else "novel" if told else "format")
    return tuple(classes)
