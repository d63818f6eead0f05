"""What a head writes from the needle towards the right token, not only where it looks: LOCOS (arXiv 2607.01002)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...probes import Probe
from ..evidence import Measure, ProbeEvidence, Rows, needle
from .attention_spatial import contrast
from .base import estimator


def _locos(rows: Rows) -> Tensor:
    towards = rows.towards()
    if towards is None:
        return torch.full_like(rows.lse, torch.nan)
    inside = (rows.part * towards).sum(-1) * (rows.part_lse - rows.lse).exp()
    return contrast(rows, inside, (rows.out * towards).sum(-1) - inside)


@estimator(measures={"locos": Measure(needle, _locos)}, weights=True)
def locos(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Logit contribution of the needle K less that of all else, scaled to as many keys, mean over answer rows.

        phi_t,j = a_t,j * u_y W_O v_j      u_y: unembedding of the token y that row t predicts
        score   = mean_t ( sum_{j in K} phi_t,j - |K| / |K^c| * sum_{j not in K} phi_t,j )      |K^c| = t + 1 - |K|

    In logits, unbounded, either sign. As in the authors' code (aryopg/locos, without its tuned lens) neither the final
    norm nor a norm between W_O and the residual stream is applied, nor biases; theirs is of generated answers that pass
    a gate, this one of the right answer. No row of phi is made: the first sum is the output of attention to the needle
    alone, the second the head's output less that, both once times W_O^T u_y.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle, and where the model's output projection
        or unembedding cannot be had (a warning says so).
    """
    return evidence.hidden_as_nan(evidence.measured["locos"].mean(axis=-1))
