"""Probes through a model: plan, preflight, shared prefixes, suffixes beside them, evidence on the answer rows."""

from .check_probes import check_probes
from .check_sharing import compare_sharing
from .cuts import unit_of
from .decoding import Answering, decode, longest_answered, score_and_decode
from .decoding_alone import OwnCachePass, answer_alone
from .engine import CHUNK, DoesNotFitError, Engine, Progress, not_finite
from .generation import MAX_NEW_TOKENS, generated_counts
from .own_keys import PromptPass, StepPass
from .passes import PrefixPass, WholePass, limits
from .plan import Plan, Suffix, plan
from .preflight import PREFLIGHT_LENGTH, may_be_cut, preflight
from .suffixes import RowsBeside, of_suffixes
from .writing import Asked, Decoded

__all__ = [
    "CHUNK",
    "MAX_NEW_TOKENS",
    "PREFLIGHT_LENGTH",
    "Answering",
    "Asked",
    "Decoded",
    "DoesNotFitError",
    "Engine",
    "OwnCachePass",
    "Plan",
    "PrefixPass",
    "Progress",
    "PromptPass",
    "RowsBeside",
    "StepPass",
    "Suffix",
    "WholePass",
    "answer_alone",
    "check_probes",
    "compare_sharing",
    "decode",
    "generated_counts",
    "limits",
    "longest_answered",
    "may_be_cut",
    "not_finite",
    "of_suffixes",
    "plan",
    "preflight",
    "score_and_decode",
    "unit_of",
]
