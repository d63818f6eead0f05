"""The count of Wu et al. (arXiv 2404.15574) as their code computes it: hits with multiplicity, not a set."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator


@estimator()
def wu_count(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Every hit adds 1 / (length of the needle that it lies in); unbounded above, since a position may count twice.

    On a teacher-forced answer this is the un-gated count; see `score_heads(generate=True)` for the published one.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle or no answer token can be copied from it.
    """
    return count_hits(probe, evidence) if probe.copyable else evidence.unscored()


def count_hits(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """The same of whatever the answer is: 0 where it holds nothing of the needle, as one of the model's own may."""
    counts = np.where(evidence.hits(probe), worth(probe, evidence.argmax_key), 0)
    return evidence.hidden_as_nan(counts.sum(axis=-1))


def worth(probe: Probe, key: np.ndarray) -> np.ndarray:
    """float64, as `key`: what a hit at these positions adds; 0 outside the needles."""
    found = np.zeros(key.shape, np.float64)
    for start, end in probe.needle_spans:
        found[(key >= start) & (key < end)] = 1 / (end - start)
    return found
