"""The retrieval score of arXiv 2604.02650, section 3: which part of the needle a head copies, teacher-forced."""

from __future__ import annotations

import numpy as np

from ...probes import Probe, ProbeError
from ..evidence import ProbeEvidence
from .base import estimator
from .chance import copyable_positions


@estimator()
def retrieval(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """|distinct needle positions hit| / |K|, in [0, 1].

    A row hits when its top key lies in a needle and holds the gold token that comes next. K are the needle positions
    that some answer token can be copied from: all of the needle when the answer is the needle sentence.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle.

    Raises:
        ProbeError: no answer token occurs in the needle.
    """
    positions = copyable(probe)
    hits = evidence.hits(probe)
    # [n_layers, n_heads, n_answer] against each copyable position: a position counts once, however often it is hit
    found = sum(((evidence.argmax_key == j) & hits).any(axis=-1).astype(np.float32) for j in positions)
    return evidence.hidden_as_nan(found / len(positions))


def copyable(probe: Probe) -> np.ndarray:
    """`copyable_positions`. Raises ProbeError: there are none."""
    positions = copyable_positions(probe)
    if not len(positions):
        raise ProbeError(f"probe {probe.id!r}: no token of its answer occurs in its needle, so no head can copy it")
    return positions
