"""The retrieval score of arXiv 2604.02650, section 3: which part of the needle a head copies, teacher-forced."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator
from .chance import copyable_positions


@estimator()
def retrieval(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """|distinct needle positions hit| / |K|, in [0, 1].

    A row hits when its top key lies in a needle and holds the gold token that comes next. K are the needle positions
    that some answer token can be copied from: all of the needle when the answer is the needle sentence.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle or no answer token can be copied from it.
    """
    positions = copyable_positions(probe)  # every hit is one of them
    if not len(positions):
        return evidence.unscored()
    found = distinct(evidence.argmax_key, evidence.hits(probe))
    return evidence.hidden_as_nan(found.astype(np.float32) / len(positions))


def distinct(keys: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """int [...]: how many different ones of the keys [..., n_answer] are hits; one counts once, however often hit."""
    hit = np.sort(np.where(hits, keys, -1), axis=-1)
    return np.concatenate([hit[..., :1] >= 0, hit[..., 1:] > hit[..., :-1]], axis=-1).sum(axis=-1)
