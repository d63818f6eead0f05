"""How much attention lies on what only looks like the answer's place: other needles, sibling replies, decoy lines."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator


def distractors(probe: Probe) -> np.ndarray | None:
    """Its spans of the role "distractor"; None where it has none."""
    found = [(span.start, span.end) for span in probe.spans if span.role == "distractor"]
    return np.array(found) if found else None


@estimator(spans={"distractor": distractors})
def distractor_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean over the answer rows of the probability on distractors: float32 [n_layers, n_heads].

    NaN for a probe without any. A window that hides them gives 0, as it does for the sink.
    """
    mass: np.ndarray = evidence.mass["distractor"].mean(axis=-1).astype(np.float32)
    return mass
