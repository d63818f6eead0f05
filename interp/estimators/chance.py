"""What a head scores by chance: it knows where the copyable tokens are, and nothing else.

At every answer row, independently of the other rows, its top key is one of the copyable positions K, each as likely as
the others. Its retrieval score is then a random number whose mean and standard deviation follow from K and the answer.
Where the answer is short and repeats itself this is a lot: a number of seven digits gives .21, a sentence of 20 tokens
.05, so the score of .1 that makes a retrieval head in the paper is passed without retrieving anything.
"""

from __future__ import annotations

import math

import numpy as np

from ...probes import Probe


def copyable_positions(probe: Probe) -> np.ndarray:
    """K: int [k], the needle positions that some answer token can be copied from; empty where there is none."""
    positions = np.concatenate([np.arange(start, end) for start, end in sorted(probe.needle_spans)])
    if not probe.copyable:  # a computed answer may hold the same digits
        return positions[:0]
    return positions[np.isin(probe.input_ids[positions], probe.answer_ids)]


def chance(probe: Probe) -> tuple[float, float]:
    """Mean and standard deviation of the `retrieval` score of a chance head, exactly; NaN where nothing can be copied.

    A position j of K is missed when none of the c_j rows whose next token is ids[j] draws it, (1 - 1/k)^c_j. Two
    positions of the same token are missed together with (1 - 2/k)^c_j; those of other tokens have rows of their own.
    """
    positions = copyable_positions(probe)
    if not len(positions):
        return math.nan, math.nan
    tokens, places = np.unique(probe.input_ids[positions], return_counts=True)
    rows = (probe.answer_ids == tokens[:, None]).sum(axis=1)
    k = float(len(positions))
    missed, both_missed = (1 - 1 / k) ** rows, (1 - 2 / k) ** rows
    mean = (places * (1 - missed)).sum() / k
    variance = (places * missed * (1 - missed) + places * (places - 1) * (both_missed - missed**2)).sum() / k**2
    return float(mean), math.sqrt(max(variance, 0.0))
