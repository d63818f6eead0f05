"""The attention sink in its narrow sense: how much of a head's attention lies on the very first token."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator


def first_token(probe: Probe) -> np.ndarray:
    return np.array([[0, 1]])


@estimator(spans={"first_token": first_token})
def first_token_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean over the answer rows of the probability on position 0, in [0, 1] (Gu et al., arXiv 2410.10781).

        score = mean_t a_t,0

    They call a head a sink head where the mean over all rows is above 0.3. `sink_mass` is that of positions 0 to 3. A
    window that hides the first token gives 0; a learned sink (gpt-oss) is no token and takes its share of the rest.

    Returns:
        float32 [n_layers, n_heads]; NaN in layers without attention.
    """
    mass: np.ndarray = evidence.mass["first_token"].mean(axis=-1).astype(np.float32)
    return mass
