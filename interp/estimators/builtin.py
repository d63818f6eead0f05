"""The estimators that every run computes, in the order of the file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .aligned import aligned_copy
from .mass import needle_mass, sink_mass, source_mass
from .retrieval import retrieval
from .wu import wu_count

Estimator = Callable[[Probe, ProbeEvidence], np.ndarray]

ESTIMATORS: dict[str, Estimator] = {
    "retrieval": retrieval,
    "wu_count": wu_count,
    "aligned_copy": aligned_copy,
    "needle_mass": needle_mass,
    "source_mass": source_mass,
    "sink_mass": sink_mass,
}
