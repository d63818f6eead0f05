"""From which score on a head counts as a retrieval head: above the paper's threshold, and above chance.

A chance head looks at random copyable tokens of the needle; estimators/chance.py says what that scores on a probe. Its
mean over the probes scatters the more the fewer needles there are, and a model has hundreds of heads. So the level is
one that any of them passes with a probability of at most FALSE_COUNT. With few needles it is high: little can be told.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

FALSE_COUNT = 0.01  # probability that one or more heads of a model count although all look at random needle positions
FALSE_DISCOVERY_RATE = 0.05  # of heads that are called above a null of their own
NO_SPREAD = 1e-9  # a variance of this share of the mean moves no level
LINES = 4  # different levels that a picture can show as lines


def counting_level(observed: np.ndarray, probes: Mapping[str, np.ndarray], threshold: float) -> np.ndarray:
    """float32 [n_layers, n_heads]: a head counts when its mean retrieval score is strictly above it.

    It is `threshold`, or the level of chance where that is higher or equal; the threshold alone where the probes do not
    tell their chance; NaN where a head sees no needle. Heads differ where windows hide some of the needles.

    The mean score of a chance head over its n observed probes has the mean of their `chance`. Probes of one needle may
    get the same choices (a head can choose by content), other needles do not: its variance is the sum over needles of
    (sum of `chance_sd`)^2 / n^2. Its upper tail is that of a Poisson variable scaled to this mean and variance: y
    solves P(N >= y) = FALSE_COUNT / heads, continuous in y. benchmarks/chance.py compares it with simulated heads.

    Args:
        observed: bool [n_probes, n_layers, n_heads], where a head could see the needle.
        probes: columns [n_probes]: needle_id and, where known, chance and chance_sd.
        threshold: the paper's 0.1.
    """
    from scipy import special

    heads = observed.shape[1:]
    seen = observed.reshape(len(observed), heads[0] * heads[1]).astype(np.float64)  # [P, heads]
    n = seen.sum(axis=0)
    level = np.full(n.shape, float(threshold))
    if chance_known(probes):
        needles, cluster = np.unique(probes["needle_id"], return_inverse=True)
        member = np.equal.outer(np.arange(len(needles)), cluster.ravel()).astype(np.float64)  # [needle, probe]
        some = np.maximum(n, 1)
        # NaN is seen by no head; what is no share is a damaged file's, which `validate` tells
        chance, spread = (np.clip(np.nan_to_num(probes[name]), 0, 1) for name in ("chance", "chance_sd"))
        mean = chance @ seen / some
        variance = ((member * spread @ seen) ** 2).sum(axis=0) / some**2
        scale = variance / np.where(mean > 0, mean, 1)
        spreads = scale > NO_SPREAD
        events = mean / np.where(spreads, scale, 1)
        by_chance = np.where(spreads, scale * (special.pdtrik(1 - FALSE_COUNT / n.size, events) + 1), mean)
        level = np.maximum(level, np.minimum(by_chance, 1.0))
    return np.where(n > 0, level, np.nan).astype(np.float32).reshape(heads)


def null_p(scores: np.ndarray, mean: np.ndarray, sd: np.ndarray, needle_id: np.ndarray) -> np.ndarray:
    """float64 [n_layers, n_heads]: how likely a mean score as high as a head's is, were it not for what it copies.

    What a probe's score would be then has the mean and standard deviation given; probes of one needle vary together,
    other needles do not. The upper tail is that of a scaled Poisson variable, as in `counting_level`. 1 for a score of
    0 and where nothing can vary; NaN where a head is never observable.

    Args:
        scores, mean, sd: [n_probes, n_layers, n_heads], NaN where a head cannot see the needle.
        needle_id: [n_probes].
    """
    from scipy import special

    seen = ~np.isnan(scores)
    n = np.maximum(seen.sum(axis=0), 1)
    found, expected = (np.where(seen, each, 0).astype(np.float64).sum(axis=0) / n for each in (scores, mean))
    _, cluster = np.unique(needle_id, return_inverse=True)
    spreads = np.zeros((cluster.max() + 1, *found.shape))
    np.add.at(spreads, cluster.ravel(), np.where(seen, sd, 0))
    scale = (spreads**2).sum(axis=0) / n**2 / np.where(expected > 0, expected, 1)
    varies = scale > NO_SPREAD
    events, at = (each / np.where(varies, scale, 1) for each in (expected, found))
    tail = np.where(varies & (found > 0), special.gammainc(np.where(found > 0, at, 1), events), 1.0)
    return np.where(seen.any(axis=0), tail, np.nan)


def above_null(p: np.ndarray, q: float) -> np.ndarray:
    """bool, as p: what is named at the false discovery rate q, by Benjamini and Hochberg (1995); NaN is not tested."""
    from scipy.stats import false_discovery_control

    known, named = ~np.isnan(p), np.zeros(p.shape, bool)
    if known.any():
        named[known] = false_discovery_control(p[known]) <= q
    return named


def chance_known(probes: Mapping[str, np.ndarray]) -> bool:
    """Whether the probes tell what a head scores on them by chance; files of schema 1.0 do not."""
    return all(name in probes and bool(np.isfinite(probes[name]).any()) for name in ("chance", "chance_sd"))


def in_words(level: np.ndarray, probes: Mapping[str, np.ndarray], threshold: float) -> str:
    """What counted heads are above: "chance (level 0.23 with 2 needles)"."""
    if not chance_known(probes):
        return f"{threshold:g} (chance unknown)"
    needles = len(np.unique(probes["needle_id"]))
    count = f"with {needles} needle{'' if needles == 1 else 's'}"
    if not (level > np.float32(threshold)).any():
        return f"{threshold:g} (chance {count} is lower)"
    return f"chance (level {in_numbers(level)} {count})"


def in_numbers(level: np.ndarray) -> str:
    """ "0.23", or "0.10 to 0.23" where heads differ."""
    known = level[np.isfinite(level)]
    ends = dict.fromkeys(f"{end:.2f}" for end in ((known.min(), known.max()) if known.size else ()))
    return " to ".join(ends) or "-"


def lines(level: np.ndarray) -> list[float]:
    """The different levels, ascending, to be drawn as lines; only the lowest and the highest where there are many."""
    found = np.unique(level[np.isfinite(level)]).tolist()
    return found if len(found) <= LINES else [found[0], found[-1]]
