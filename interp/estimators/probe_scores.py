"""One probe's evidence, boiled down to its scores, so that evidence need not outlive its batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import Estimator
from .nll import nll_classes


@dataclass(frozen=True, eq=False)
class ProbeScores:
    """heads: estimator -> float32 [n_layers, n_heads]; nll: class -> nats; exact_match: every token predicted."""

    heads: dict[str, np.ndarray]
    nll: dict[str, float]
    exact_match: bool


def score_probe(probe: Probe, evidence: ProbeEvidence, estimators: Mapping[str, Estimator]) -> ProbeScores:
    """Every estimator, NLL class and the exact match of one probe; NaN where the model computed no numbers."""
    heads = {name: estimator(probe, evidence) for name, estimator in estimators.items()}
    if np.isnan(evidence.logprob).any():
        heads = {name: np.full_like(values, np.nan) for name, values in heads.items()}
    return ProbeScores(heads, nll_classes(probe, evidence), bool(evidence.correct.all()))
