"""The leading heads, and the halves of the needles: whoever chooses heads or a reference is not who is tested on them.

Heads chosen because they score high on some needles score lower on others: one half of the needles chooses, the other
half is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..levels import counting_level
from ..results import CHANCE_COLUMNS, RETRIEVAL_THRESHOLD, observed_mean

LEADING = 10  # heads that are followed at most


def halves(needles: np.ndarray) -> Iterator[np.ndarray]:
    """Per choosing half, bool [P]: which probes are in it; the others are tested. needles: int [P], from 0 up."""
    yield needles % 2 == 0
    yield needles % 2 == 1


def leading(scores: np.ndarray, probes: Mapping[str, np.ndarray]) -> np.ndarray:
    """bool [L, H]: the best heads, as far as their mean over these probes [P, L, H] makes them retrieval heads.

    probes: columns [P]; needle_id and, where known, chance and chance_sd are used.
    """
    means = observed_mean(scores)[0]
    order = np.argsort(-means, axis=None, kind="stable")[:LEADING]  # NaN sorts last
    chosen = np.zeros(means.size, bool)
    columns = {name: values for name, values in probes.items() if name in ("needle_id", *CHANCE_COLUMNS)}
    level = counting_level(~np.isnan(scores), columns, RETRIEVAL_THRESHOLD)
    chosen[order] = means.ravel()[order] > level.ravel()[order]
    return chosen.reshape(means.shape)
