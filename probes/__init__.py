"""Probes: frozen token sequences that ask a model to copy something from far away."""

from .errors import ProbeError
from .probe import Probe, Span
from .probe_set import ProbeSet
from .sentences import rouge_words
from .sets import build, list_kinds, list_sets, list_suites, list_tasks
from .show import show
from .task import Task
from .tokens import Codec, fingerprint
from .twins import twin
from .verify import check_tokenizer

__all__ = [
    "Codec",
    "Probe",
    "ProbeError",
    "ProbeSet",
    "Span",
    "Task",
    "build",
    "check_tokenizer",
    "fingerprint",
    "list_kinds",
    "list_sets",
    "list_suites",
    "list_tasks",
    "show",
    "rouge_words",
    "twin",
]
