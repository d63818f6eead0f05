"""Whether a head's weights copy: the OV circuit of Elhage et al. (2021), on the tokens of the answer."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator


@estimator(weights=True)
def copy_score(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Sum of the eigenvalues of the head's OV circuit over the sum of their moduli, on the T different answer tokens.

        M_ba = u_b W_O W_V x_a      score = sum_i lambda_i(M) / sum_i |lambda_i(M)|

    In [-1, 1], 1 where looking at a token only raises that token (Elhage et al. 2021, "A Mathematical Framework for
    Transformer Circuits", which takes the whole vocabulary). W_V x_a is the value that the layer makes of the token's
    embedding, its norm and biases included; u_b is the unembedding without final norm. Of weights alone: no context,
    the same for all probes of an answer. With one token it is the sign of M. Heads that share keys and values differ
    by their W_O.

    Returns:
        float32 [n_layers, n_heads]; NaN in layers without attention, where M is 0, and where the model's output
        projection or unembedding cannot be had (a warning says so).
    """
    if evidence.circuits is None:
        return evidence.unscored()
    return evidence.circuits(np.unique(probe.answer_ids), _copying)


def _copying(circuits: np.ndarray) -> np.ndarray:
    """[n_heads] of [n_heads, T, T]"""
    if np.isnan(circuits).any():
        return np.full(len(circuits), np.nan)
    values = np.linalg.eigvals(circuits)
    size = np.abs(values).sum(axis=-1)
    return np.divide(values.sum(axis=-1).real, size, out=np.full(len(size), np.nan), where=size > 0)
