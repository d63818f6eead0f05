"""Which heads changed between two checkpoints, and when heads are born, die and change rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from ..results import RETRIEVAL_THRESHOLD
from .bootstrap import needle_sums
from .cells import checkpoint_index
from .statistics import benjamini_hochberg
from .trajectory import Trajectory

EXACT_NEEDLES = 16  # up to here all sign patterns are tried, 2 ** 15 by symmetry; above it as many again at random
_RANDOM_FLIPS = (1 << 16) - 1
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class HeadChanges:
    """Every head's change between two checkpoints, on the probes where it was observable at both. Arrays are [L, H].

    difference: float64, mean of later minus earlier; NaN where never observable at both.
    p: two-sided, from flipping the signs of whole needles; `exact` says whether all patterns were tried.
    q: Benjamini and Hochberg's adjusted p over the `tested` heads; 1 for the others: those that were not to be tested,
        and those with too few needles that differ to reach `level` (the sizes of differences alone decide that, not
        their signs, so leaving them out is fair).
    changed: q <= level. Of the heads listed as changed, a share of `level` at most is wrong on average.
    steps: of the two checkpoints. n_clusters: needles. smallest_p: the least p that so many needles can give.
    fewest: as few heads as this can be found when they change alone; 0 when no number of heads can.
    """

    difference: np.ndarray
    p: np.ndarray
    q: np.ndarray
    changed: np.ndarray
    level: float
    steps: tuple[int, int]
    tested: int
    n_clusters: int
    exact: bool
    smallest_p: float
    fewest: int


def changes(
    trajectory: Trajectory,
    a: int = 0,
    b: int = -1,
    *,
    level: float = 0.05,
    sum_above: float | None = None,
    seed: int = 0,
) -> HeadChanges:
    """Compare checkpoint b with checkpoint a (positions; -1 is the last), head by head, on identical probes.

    If a head did not change, a needle's difference is as likely to be positive as negative. So the signs of needles are
    flipped, all probes of a needle together, and p is the share of patterns whose mean is at least as far from 0: valid
    for any number of needles and any skew or zeros, where a t test on a few needles is not. Benjamini and Hochberg
    (1995, J. R. Stat. Soc. B 57) then hold the share of false discoveries.

    sum_above: test only heads whose two mean scores add up to more than this. With the threshold of a retrieval head
        that takes in every head which is one at either checkpoint, and leaves out changes from 0.001 to 0.002; it
        does not look at the difference, so p stays valid, and fewer tests find more.

    Raises ValueError when a or b is no checkpoint, both are the same, or level is not between 0 and 1.
    """
    a, b = checkpoint_index(trajectory, a), checkpoint_index(trajectory, b)
    if a == b:
        raise ArgumentError(f"a and b are the same checkpoint (position {a}); give two different ones")
    if not 0 < level < 1:
        raise ArgumentError(f"level must lie between 0 and 1, got {level}")
    p_count, layers, heads = trajectory.scores.shape[1:]
    before, after = (trajectory.scores[i].reshape(p_count, -1).T.astype(np.float64) for i in (a, b))
    sums, counts = needle_sums(after - before, trajectory.needles)  # [L * H, G]
    n = counts.sum(axis=1)
    difference = np.where(n > 0, sums.sum(axis=1) / np.maximum(n, 1), np.nan)

    g = sums.shape[1]
    exact = g <= EXACT_NEEDLES
    smallest = 2.0 ** (1 - g) if exact else 1 / (_RANDOM_FLIPS + 1)
    moved = (np.abs(sums) > 1e-9).sum(axis=1)
    able = np.maximum(2.0 ** (1 - np.maximum(moved, 1).astype(np.float64)), smallest) <= level
    if sum_above is not None:
        able &= needle_sums(after + before, trajectory.needles)[0].sum(axis=1) > sum_above * n
    p = np.where(n > 0, 1.0, np.nan)
    some = moved > 0
    p[some] = flip_signs(sums[some].T, seed)
    q = np.where(n > 0, 1.0, np.nan)
    q[able] = benjamini_hochberg(p[able])
    tested = int(able.sum())
    needed = max(1, int(np.ceil(smallest * tested / level - 1e-9)))
    shape = (layers, heads)
    return HeadChanges(
        difference=difference.reshape(shape),
        p=p.reshape(shape),
        q=q.reshape(shape),
        changed=(able & (q <= level)).reshape(shape),
        level=level,
        steps=(int(trajectory.steps[a]), int(trajectory.steps[b])),
        tested=tested,
        n_clusters=g,
        exact=exact,
        smallest_p=smallest,
        fewest=needed if needed <= tested else 0,
    )


def flip_signs(sums: np.ndarray, seed: int = 0) -> np.ndarray:
    """p [M], two-sided, of the sums [G, M] over needles under flips of the signs of rows; of no column may all be 0.

    Exact up to EXACT_NEEDLES rows; else at random, and the pattern as observed counts as one of them.
    """
    g, m = sums.shape
    exact, rng = g <= EXACT_NEEDLES, np.random.default_rng(seed)
    patterns = 1 << (g - 1) if exact else _RANDOM_FLIPS
    sums = (sums / np.abs(sums).sum(axis=0)).astype(np.float32)
    reached = np.abs(sums.sum(axis=0)) * (1 - 1e-5) - 1e-6
    count = np.zeros(m, np.int64)
    step = max(1, _BLOCK // max(m, g))
    for start in range(0, patterns, step):
        rows = np.arange(start, min(start + step, patterns))
        bits = (rows[:, None] >> np.arange(g)) & 1 if exact else rng.integers(0, 2, (len(rows), g), dtype=np.int8)
        signs = (1 - 2 * bits).astype(np.float32)
        count += (np.abs(signs @ sums) >= reached).sum(axis=0)
    return count / patterns if exact else (count + 1) / (patterns + 1)


@dataclass(frozen=True, eq=False)
class Life:
    """alive: bool [C, L, H], mean score strictly above the threshold and above chance (`Trajectory.levels`). births,
    deaths: for each of C checkpoints the heads that are alive and were not at the checkpoint before, and the other way
    round; both empty at the first.
    A head whose score lies near the level flickers; `changes` says whether a difference is more than that.
    ranks: float64 [C, L, H], 1 is the best head, ties have their mean rank, NaN where not observable."""

    threshold: float
    alive: np.ndarray
    births: list[list[tuple[int, int]]]
    deaths: list[list[tuple[int, int]]]
    ranks: np.ndarray


def life(trajectory: Trajectory, threshold: float = RETRIEVAL_THRESHOLD) -> Life:
    """Births, deaths and ranks of heads over the checkpoints. Raises ValueError when threshold is no number."""
    from scipy import stats

    if not np.isfinite(threshold):
        raise ArgumentError(f"threshold must be a finite number, got {threshold}")
    maps = trajectory.maps
    alive = maps > trajectory.levels(threshold)
    born, died = alive[1:] & ~alive[:-1], ~alive[1:] & alive[:-1]
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    ranks = stats.rankdata(-flat, axis=1, nan_policy="omit").reshape(maps.shape)
    return Life(threshold, alive, [[], *map(_places, born)], [[], *map(_places, died)], ranks)


def _places(mask: np.ndarray) -> list[tuple[int, int]]:
    return [(int(layer), int(head)) for layer, head in np.argwhere(mask)]
