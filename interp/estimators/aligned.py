"""Exact-source copying: the head attends to the very position that this answer token came from."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator


@estimator()
def aligned_copy(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Share of the answer tokens with a known source whose top key is one of their sources, in [0, 1].

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle or no answer token has a known source.
    """
    known = (probe.sources >= 0).any(axis=1)
    if not known.any():
        return evidence.unscored()
    at_source = (evidence.argmax_key[..., None] == np.where(probe.sources < 0, -2, probe.sources)).any(axis=-1)
    return evidence.hidden_as_nan(at_source[..., known].mean(axis=-1))
