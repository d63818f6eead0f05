"""What the model did on one probe's answer rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..probes import Probe


@dataclass(frozen=True, eq=False)
class ProbeEvidence:
    """Evidence of every head on the rows that predict one probe's answer tokens.

    Attributes:
        argmax_key: int32 [n_layers, n_heads, n_answer], position in the probe that the head attends to most; -1 where
            the layer has no attention to look at.
        p_max: float32, same shape, the probability at that position.
        mass: float32 [n_layers, n_heads, n_answer, 3], probability on the needle, on this token's sources, on the sink.
        visible: bool [n_layers, n_heads], whether the head can see the needle at all: not through a window that is too
            short, nor in a layer without attention.
        logprob: float32 [n_answer], log-probability of each answer token, in nats.
        correct: bool [n_answer], whether the answer token is the most probable one.
    """

    argmax_key: np.ndarray
    p_max: np.ndarray
    mass: np.ndarray
    visible: np.ndarray
    logprob: np.ndarray
    correct: np.ndarray

    def hidden_as_nan(self, score: np.ndarray) -> np.ndarray:
        """A score [n_layers, n_heads] with NaN where the layer cannot see the needle: unobservable is not zero."""
        return np.where(self.visible, score, np.nan).astype(np.float32)

    def hits(self, probe: Probe) -> np.ndarray:
        """Bool [n_layers, n_heads, n_answer]: the top key lies in a needle and holds the token that comes next."""
        key = self.argmax_key
        there = np.maximum(key, 0)
        return (key >= 0) & probe.needle_mask[there] & (probe.input_ids[there] == probe.answer_ids)
