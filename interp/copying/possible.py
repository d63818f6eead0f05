"""On how many rows a copy was possible at all: the honest denominator, counted without a map of rows by keys."""

from __future__ import annotations

import numpy as np


def possible_rows(ids: np.ndarray, wanted: np.ndarray, first: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Whether the token that row t wants stands at each range of distances before it: bool [R, D].

    Args:
        ids: int [T], the text; row t stands at position t.
        wanted: int [R], a token per row.
        first: int [R], the lowest position that the row sees.
        starts: int [D], powers of two: bin b holds the distances starts[b] .. 2 * starts[b] - 1.
    """
    n = len(ids)
    # All positions, token by token, as one sorted list: those of a token in an interval are a difference of two ranks.
    places = np.sort(ids.astype(np.int64) * n + np.arange(n))
    rows = np.argsort(wanted, kind="stable")  # ascending questions are answered much faster
    base = wanted[rows].astype(np.int64) * n
    found = np.zeros((len(wanted), len(starts)), bool)
    for b, start in enumerate(starts):
        low = np.maximum(rows - 2 * start + 1, first[rows])
        behind = np.maximum(rows - start + 1, low)  # nothing in between where the range lies outside what the row sees
        found[rows, b] = np.searchsorted(places, base + behind) > np.searchsorted(places, base + low)
    return found
