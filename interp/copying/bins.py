"""The bins of a profile: distances by doublings, positions in equal parts."""

from __future__ import annotations

import numpy as np

POSITION_BINS = 32  # parts of a text; fewer where it has fewer rows


def distance_starts(n_tokens: int) -> np.ndarray:
    """int64 [D], 2^b: bin b holds the distances 2^b .. 2^(b+1) - 1, and the last one the longest of the text."""
    # the last row that has a next token is n_tokens - 2, and it sees back to 0
    return 2 ** np.arange(max(1, (n_tokens - 2).bit_length()), dtype=np.int64)


def position_starts(n_tokens: int) -> np.ndarray:
    """int64 [P], the first row of each bin: of R rows, row t is in bin t * P // R."""
    rows = n_tokens - 1
    bins = min(POSITION_BINS, rows)
    return -(-np.arange(bins, dtype=np.int64) * rows // bins)
