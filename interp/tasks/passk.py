"""Pass@k: how often at least one of k answers is right, from n drawn ones or from the answer's probability."""

from __future__ import annotations

from math import comb

import numpy as np
from numpy.typing import ArrayLike

from ...errors import ArgumentError


def pass_at_k(n: int, right: int, k: int) -> float:
    """1 - C(n - right, k) / C(n, k): the share of the k out of n answers, all choices alike, that hold a right one.

    Unbiased for the probability that one of k new answers is right (Chen et al. 2021, arXiv 2107.03374, equation 1),
    which 1 - (1 - right / n)^k is not. Raises ArgumentError unless 1 <= k <= n and 0 <= right <= n.
    """
    if not 1 <= k <= n or not 0 <= right <= n:
        raise ArgumentError(f"pass@k needs 1 <= k <= n and 0 <= right <= n, got n={n}, right={right}, k={k}")
    return 1 - comb(n - right, k) / comb(n, k)


def best_of_k(scores: ArrayLike, k: int) -> np.ndarray:
    """float64 [...]: expected best score of k out of n answers, for scores [..., n]; unbiased for k new answers.

    With scores of 0 and 1 it is `pass_at_k`. Of the sorted scores s_1 <= ... <= s_n the i-th is the best of C(i - 1,
    k - 1) choices. NaN where a score is. Raises ArgumentError unless 1 <= k <= n.
    """
    values = np.sort(np.asarray(scores, np.float64), axis=-1)
    n = values.shape[-1]
    if not 1 <= k <= n:
        raise ArgumentError(f"the best of k={k} needs 1 <= k <= n, got n={n} scores")
    weights = np.array([comb(i - 1, k - 1) / comb(n, k) for i in range(1, n + 1)])
    found: np.ndarray = (values * weights).sum(axis=-1)  # NaN sorts last, where no weight is 0
    return found


def analytic(nll: ArrayLike, k: int) -> np.ndarray:
    """float64 [...]: 1 - (1 - p)^k with p = exp(-nll), without drawing any answer.

    nll: [...] summed over the tokens of the one right answer, in nats, teacher-forced: then p is the probability that
    an answer at temperature 1 begins with it, token by token. For metrics that take other wordings as well it is a
    lower bound. NaN stays NaN.
    """
    if k < 1:
        raise ArgumentError(f"k must be at least 1, got {k}")
    with np.errstate(divide="ignore"):
        missed = np.log1p(-np.exp(-np.asarray(nll, np.float64)))  # exact also where p is tiny
    return np.asarray(-np.expm1(k * missed))
