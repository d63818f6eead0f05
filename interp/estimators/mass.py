"""Soft scores: how much attention probability lies where the answer is, and how much in the sink."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator


@estimator()
def needle_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean over the answer rows of the probability on the needle: float32 [n_layers, n_heads], NaN if unobservable."""
    return evidence.hidden_as_nan(evidence.mass["needle"].mean(axis=-1))


@estimator()
def source_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean, over the answer rows whose source is known, of the probability on that row's sources."""
    known = (probe.sources >= 0).any(axis=1)
    if not known.any():
        return np.full(evidence.argmax_key.shape[:2], np.nan, np.float32)
    return evidence.hidden_as_nan(evidence.mass["source"][..., known].mean(axis=-1))


@estimator()
def sink_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean over the answer rows of the probability on the first four positions. A window that hides them gives 0."""
    mass: np.ndarray = evidence.mass["sink"].mean(axis=-1).astype(np.float32)
    return mass
