"""What can be known of probes before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

from ...probes import Probe
from ..estimators import copyable
from .plan import plan


def check_probes(probes: Sequence[Probe], sharing: str = "auto") -> None:
    """Refuse, without a model, probes that `score_heads` would only fail on after the prefill.

    Raises:
        ProbeError: a probe has no token in its needle that its answer could be copied from.
        ValueError: unknown `sharing`, or one that these probes do not allow; see `plan`.
    """
    for probe in probes:
        copyable(probe)
    plan(probes, sharing)
