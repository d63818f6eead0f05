"""From evidence to scores: one estimator a file, each (probe, evidence) -> float32 [n_layers, n_heads]."""

from .builtin import DEFAULT, ESTIMATORS, choose, spans_of
from .chance import chance
from .estimator import Estimator, estimator
from .probe_scores import ProbeScores, score_probe
from .retrieval import copyable
from .wu import wu_count

__all__ = [
    "DEFAULT",
    "ESTIMATORS",
    "Estimator",
    "ProbeScores",
    "chance",
    "choose",
    "copyable",
    "estimator",
    "score_probe",
    "spans_of",
    "wu_count",
]
