"""What a head loses with a window: the idea of DuoAttention (arXiv 2410.10819), in one forward and without training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...probes import Probe
from ..evidence import Measure, ProbeEvidence, Rows
from .base import estimator

SINKS, RECENT = 128, 256  # as in the paper's training


def streaming(probe: Probe) -> np.ndarray:
    """[n_answer, 2, 2]: the first tokens and the most recent ones of every answer row, itself included."""
    end = probe.answer_rows + 1
    begin = np.maximum(end - RECENT, 0)
    first = np.minimum(begin, SINKS)
    return np.stack([np.stack([np.zeros_like(first), first], -1), np.stack([begin, end], -1)], 1)


def _deviation(rows: Rows) -> Tensor:
    kept = rows.part
    if rows.sinks is not None:  # a learned sink is there still
        kept = kept * torch.sigmoid(rows.part_lse - rows.sinks.to(rows.part_lse.dtype)[:, None])[..., None]
    return (rows.out - kept).norm(dim=-1) / rows.out.norm(dim=-1)


@estimator(measures={"streaming": Measure(streaming, _deviation)})
def duo_deviation(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean over answer rows of how far the head's output is from what a streaming head's would be, relatively.

        score = mean_t |o_t - s_t| / |o_t|

    o is the output of full attention, s that of attention to the first 128 and the last 256 tokens alone, with the
    model's keys, values and positions as they are; both before W_O. From 0 up; 0 for a row of no more than 384 tokens.
    DuoAttention trains a gate between the two for every key-value head and calls heads with a high gate retrieval
    heads; this asks for the difference that the gate weighs, on the answer's rows.

    Returns:
        float32 [n_layers, n_heads]; NaN in layers without attention.
    """
    score: np.ndarray = evidence.measured["streaming"].mean(axis=-1).astype(np.float32)
    return score
