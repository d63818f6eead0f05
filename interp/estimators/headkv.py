"""The importance of HeadKV-R2 (arXiv 2410.19258): attention on the needle that is among a row's highest."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence
from .base import estimator

MOST = 16  # as many top keys as the Triton kernels keep


@estimator(topk=MOST)
def headkv_r2(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Sum over answer rows of the probability at those of their k top keys that lie in the needle K, over |K|.

        score = sum_t sum_{i in top-k(a_t), i in K} a_t,i / |K|      k = min(|K|, 16)

    In [0, n_answer / |K|]; which token a key holds does not matter, so that answers which only follow from the needle
    have a score as well. As in the authors' code, but teacher-forced: no answer of the model's own, no gate on its F1.
    They take k = |K| always: of a longer needle, what lies beyond a row's sixteen top keys is not counted here.

    Returns:
        float32 [n_layers, n_heads]; NaN where the layer cannot see the needle.
    """
    size = sum(end - start for start, end in probe.needle_spans)
    top = evidence.top(min(size, MOST))
    inside = np.zeros(top.topk_key.shape, bool)
    for start, end in probe.needle_spans:
        inside |= (top.topk_key >= start) & (top.topk_key < end)
    return evidence.hidden_as_nan(np.where(inside, top.topk_p, 0).sum(axis=(-2, -1)) / size)
