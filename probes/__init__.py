"""Probes: frozen token sequences that ask a model to copy something from far away."""

from .errors import ProbeError
from .probe import Probe, ProbeSet, Span

__all__ = ["Probe", "ProbeError", "ProbeSet", "Span"]
