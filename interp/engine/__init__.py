"""Probes through a model: plan, preflight, shared prefixes, suffixes beside them, evidence on the answer rows."""

from .check_probes import check_probes
from .check_sharing import compare_sharing
from .decoding import decode, longest_answered, score_and_decode
from .engine import CHUNK, DoesNotFitError, Engine, Progress, not_finite
from .generation import MAX_NEW_TOKENS, generated_counts
from .passes import PrefixPass, limits
from .plan import Plan, plan
from .preflight import PREFLIGHT_LENGTH, may_be_cut, preflight
from .writing import Decoded

__all__ = [
    "CHUNK",
    "MAX_NEW_TOKENS",
    "PREFLIGHT_LENGTH",
    "Decoded",
    "DoesNotFitError",
    "Engine",
    "Plan",
    "Progress",
    "PrefixPass",
    "check_probes",
    "compare_sharing",
    "decode",
    "generated_counts",
    "limits",
    "longest_answered",
    "may_be_cut",
    "not_finite",
    "plan",
    "preflight",
    "score_and_decode",
]
