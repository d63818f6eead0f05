"""Attention on the needle against attention elsewhere: LOCOS's own baseline, which leaves out what heads write."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...probes import Probe
from ..evidence import Measure, ProbeEvidence, Rows, needle
from .base import estimator


def contrast(rows: Rows, inside: Tensor, outside: Tensor) -> Tensor:
    """inside - |K| / |K^c| * outside; NaN for a row with nothing outside."""
    others = rows.keys - rows.part_keys
    return torch.where(others > 0, inside - rows.part_keys / others * outside, torch.nan)


def _spatial(rows: Rows) -> Tensor:
    inside = (rows.part_lse - rows.lse).exp()
    on_keys = 1.0 if rows.sinks is None else 1 - (rows.sinks.to(rows.lse.dtype)[:, None] - rows.lse).exp()
    return contrast(rows, inside, on_keys - inside)


@estimator(measures={"attention_spatial": Measure(needle, _spatial)})
def attention_spatial(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean over answer rows of the probability on the needle K less that elsewhere, scaled to as many keys.

        score = mean_t ( sum_{j in K} a_t,j - |K| / |K^c| * sum_{j not in K} a_t,j )      |K^c| = t + 1 - |K|

    In [-|K| / |K^c|, 1] (LOCOS, arXiv 2607.01002, its attention-spatial baseline; there on generated tokens, with a
    gate). K^c is all else up to the row, also what a window hides; a learned sink is not in it.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle.
    """
    return evidence.hidden_as_nan(evidence.measured["attention_spatial"].mean(axis=-1))
