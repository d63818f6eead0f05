"""From evidence to scores: one estimator a file, each (probe, evidence) -> float32 [n_layers, n_heads]."""

from .base import Estimator, estimator
from .builtin import DEFAULT, ESTIMATORS, as_asked, choose, measures_of, spans_of
from .chance import chance
from .probe_scores import ProbeScores, score_probe
from .wu import count_hits, wu_count

__all__ = [
    "DEFAULT",
    "ESTIMATORS",
    "Estimator",
    "ProbeScores",
    "as_asked",
    "chance",
    "choose",
    "estimator",
    "measures_of",
    "score_probe",
    "spans_of",
    "count_hits",
    "wu_count",
]
