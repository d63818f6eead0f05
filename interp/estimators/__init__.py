"""From evidence to scores: one estimator a file, each (probe, evidence) -> float32 [n_layers, n_heads]."""

from .builtin import ESTIMATORS, Estimator
from .chance import chance
from .probe_scores import ProbeScores, score_probe
from .retrieval import copyable
from .wu import wu_count

__all__ = ["ESTIMATORS", "Estimator", "ProbeScores", "chance", "copyable", "score_probe", "wu_count"]
