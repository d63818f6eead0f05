"""A null of the head's own: its top keys stay, and the answer's tokens are dealt to its rows at random.

`chance` is what a head scores that looks at nothing but copyable tokens of the needle. Most heads look there less,
and some look at always the same place; what such a head hits by accident follows from the keys that it did look at. If
its keys have nothing to do with the token that comes next, any order of the answer's tokens is as likely as the true
one, and `HeadScores.null_p` compares the retrieval score with those of other orders.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence, copies
from .base import estimator
from .chance import copyable_positions
from .retrieval import distinct

DEALS = 128  # orders that are tried; the same ones for all probes of a needle, whose answer is the same


@estimator()
def dealt_mean(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Mean retrieval score over random orders of the answer's tokens, in [0, 1].

    Returns:
        float32 [n_layers, n_heads]; NaN where `retrieval` is.
    """
    return _moments(probe, evidence)[0]


@estimator()
def dealt_sd(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """Standard deviation of the same, in [0, 0.5]; 0 where the answer is a single token, which has one order.

    Returns:
        float32 [n_layers, n_heads]; NaN where `retrieval` is.
    """
    return _moments(probe, evidence)[1]


@lru_cache(maxsize=1)  # both estimators ask, one after the other
def _moments(probe: Probe, evidence: ProbeEvidence) -> tuple[np.ndarray, np.ndarray]:
    positions, tokens = copyable_positions(probe), probe.answer_ids
    if not len(positions):
        return evidence.unscored(), evidence.unscored()
    may = np.isin(evidence.argmax_key, positions).any(axis=-1)  # most heads never look there
    keys = evidence.argmax_key[may]
    seed = int.from_bytes(blake2b(probe.needle_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    rng = np.random.default_rng(seed)
    scores = [distinct(keys, copies(probe, keys, rng.permutation(tokens))) for _ in range(DEALS)]
    shares = np.array(scores, np.float32) / len(positions)
    mean, sd = np.zeros((2, *evidence.visible.shape), np.float32)
    mean[may], sd[may] = shares.mean(axis=0), shares.std(axis=0)
    return evidence.hidden_as_nan(mean), evidence.hidden_as_nan(sd)
