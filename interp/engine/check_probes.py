"""What can be known of probes before any weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...probes import Probe
from ..evidence import STANDARD, Measure, Spans
from .measuring import grouped
from .passes import answer_spans
from .plan import Plan, plan


def check_probes(
    probes: Sequence[Probe],
    sharing: str = "auto",
    spans: Mapping[str, Spans] = STANDARD,
    measures: Mapping[str, Measure] | None = None,
) -> Plan:
    """Refuse, without a model, probes that `score_heads` would only fail on after the prefill; else plan their run.

    Args:
        probes: the probes.
        sharing: as in `plan`.
        spans: name -> where attention mass is to be measured.
        measures: name -> what is measured besides.

    Raises:
        ValueError: unknown `sharing`, or one that these probes do not allow; spans of a wrong shape.
    """
    for probe in probes:
        answer_spans(probe, spans)
    grouped(measures or {}, probes)
    return plan(probes, sharing)
