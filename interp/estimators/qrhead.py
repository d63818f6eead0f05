"""Query-focused retrieval heads, QRHead (arXiv 2506.09944): where the question looks, before any answer."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ...probes import Probe
from ..evidence import Measure, ProbeEvidence, Rows, needle
from .base import estimator


def _mass(rows: Rows) -> Tensor:
    """NaN, not 0, for a row that sees none of the needle."""
    return (rows.part_lse - rows.lse).exp().masked_fill(rows.part_lse.isneginf(), float("nan"))


@estimator(measures={"question_to_needle": Measure(needle, _mass, rows="question")})
def qrhead(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean over the rows of the question Q of the probability on the needle, as the document that holds the answer.

        score = 1 / |Q| * sum_{t in Q} sum_{j in K} a_t,j

    In [0, 1]. Q is all between the context and the answer: instruction, question and, in a chat, what opens the reply.
    The paper's score; its code then takes off what a question of "N/A" gives and cuts outliers, which is not done here.

    Returns:
        float32 [n_layers, n_heads]; NaN where no row of the question sees the needle.
    """
    mass = evidence.measured["question_to_needle"]
    seen = ~np.isnan(mass)
    found = np.where(seen, mass, 0).mean(axis=-1)
    return np.where(seen.any(axis=-1), found, np.nan).astype(np.float32)
