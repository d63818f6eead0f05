"""Probes: frozen token sequences that ask a model to copy something from far away."""

from .documents import read_texts
from .errors import ProbeError
from .offsets import encode as encode_with_offsets
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
    "encode_with_offsets",
    "fingerprint",
    "list_kinds",
    "list_sets",
    "list_suites",
    "list_tasks",
    "read_texts",
    "show",
    "rouge_words",
    "twin",
]
