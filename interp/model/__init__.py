"""A model in, its attention reachable: loading, what its weights are, adapters, routing of attention, prefix cache."""

from .adapt import HuggingFaceModel, adapt, check_kind, unwrapped
from .adapter import Adapter, GoesOn, InPieces, ShowsOutput
from .attention import (
    Alteration,
    CaptureError,
    Pass,
    Scoring,
    Visibility,
    altering,
    current_pass,
    routed_length,
    running,
)
from .formats import what_it_is
from .hub import hub_name
from .loading import LoadedModel, has_tokenizer, load_model, load_tokenizer, locate
from .output_weights import OutputWeights
from .prefix_cache import PrefixCache
from .reading import ModelError, first_line, read_json
from .rope_lint import rope_warnings
from .training_state import preserve_training_state
from .weights import fingerprint, folder_weights, gguf_weights

__all__ = [
    "Adapter",
    "Alteration",
    "CaptureError",
    "GoesOn",
    "HuggingFaceModel",
    "InPieces",
    "LoadedModel",
    "ModelError",
    "OutputWeights",
    "Pass",
    "Scoring",
    "PrefixCache",
    "ShowsOutput",
    "Visibility",
    "adapt",
    "altering",
    "check_kind",
    "current_pass",
    "fingerprint",
    "first_line",
    "folder_weights",
    "gguf_weights",
    "has_tokenizer",
    "hub_name",
    "load_model",
    "load_tokenizer",
    "locate",
    "read_json",
    "rope_warnings",
    "routed_length",
    "running",
    "preserve_training_state",
    "unwrapped",
    "what_it_is",
]
