"""The count of Wu et al. (arXiv 2404.15574) with their code's `topk` above 1: a near miss counts as well."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator
from .wu import worth

TOP = 5


@estimator(topk=TOP)
def wu_count_top5(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """`wu_count` where any of the five top keys may hit: of a row's hits the best-ranked one counts, once.

    Finds heads that look at the right token and at a sink even more, which a single top key hides. Published scores are
    with topk=1, `wu_count`, which it is never below.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle or no answer token can be copied from it.
    """
    if not probe.copyable:
        return evidence.unscored()
    hits = evidence.topk_hits(probe)
    best = hits & (hits.cumsum(axis=-1) == 1)
    return evidence.hidden_as_nan(np.where(best, worth(probe, evidence.topk_key), 0).sum(axis=(-2, -1)))
