"""Probes: frozen token sequences that ask a model to copy something from far away."""

from .errors import ProbeError
from .probe import Probe, ProbeSet, Span
from .sentences import rouge_words
from .sets import build, list_sets
from .show import show
from .tokens import Codec, fingerprint
from .verify import check_tokenizer

__all__ = [
    "Codec",
    "Probe",
    "ProbeError",
    "ProbeSet",
    "Span",
    "build",
    "check_tokenizer",
    "fingerprint",
    "list_sets",
    "show",
    "rouge_words",
]
