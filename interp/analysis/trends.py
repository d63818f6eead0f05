"""What two curves may share without having anything to do with each other: the smooth way up that training gives both.

A family of saturating and S-shaped curves over the checkpoints at hand is boiled down to its leading components. What
is left of a measured curve when these are taken out is what the family cannot explain.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def log_progress(progress: np.ndarray) -> np.ndarray:
    """log of progress [n] >= 0; where it starts at 0, the smallest step is added first, so that 0 has a place."""
    progress = np.asarray(progress, np.float64)
    if (progress > 0).all():
        return np.log(progress)
    steps = np.diff(np.unique(progress))
    return np.log(progress - progress.min() + (steps.min() if len(steps) else 1.0))


def saturating_curves(progress: np.ndarray) -> np.ndarray:
    """float64 [m, n]: c - a exp(-N / tau), power laws and logarithms over progress [n], each rising from 0 to 1."""
    x = _unit(np.asarray(progress, np.float64))
    exponential = [1 - np.exp(-x / tau) for tau in np.geomspace(0.05, 3, 40)]
    offsets = np.geomspace(max(np.diff(x).min() / 2, 1e-3), 1, 12)
    logarithm = [np.log(x + offset) for offset in offsets]
    power = [-((x + offset) ** -alpha) for offset in offsets for alpha in (0.25, 0.5, 1.0, 2.0)]
    return _risen(np.array(exponential + logarithm + power))


def s_curves(progress: np.ndarray) -> np.ndarray:
    """float64 [m, n]: logistic curves that take at least half of the run to rise, in progress and in checkpoints."""
    x = _unit(np.asarray(progress, np.float64))
    axes = (x, np.linspace(0, 1, len(x)))
    grid = [(centre, width) for centre in np.linspace(0.05, 0.6, 8) for width in np.geomspace(0.1, 0.3, 4)]
    return _risen(np.array([1 / (1 + np.exp(-(axis - centre) / width)) for axis in axes for centre, width in grid]))


def components(progress: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal rows [n, n], leading first, of both families about their means, and what is left after k of them.

    left: float64 [n]; left[k] is the root mean square that the worst-fitted curve of height 1 keeps after k rows.
    """
    return _components(tuple(np.asarray(progress, np.float64).tolist()))


@lru_cache(maxsize=8)
def _components(progress: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    curves = np.concatenate([saturating_curves(np.array(progress)), s_curves(np.array(progress))])
    curves = curves - curves.mean(axis=1, keepdims=True)
    rows = np.linalg.svd(curves, full_matrices=False)[2]
    left = np.array([np.sqrt((residuals(curves, rows[:k]) ** 2).mean(axis=1)).max() for k in range(len(rows))])
    return rows, left


def residuals(curves: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Curves [..., n] without their mean and without the orthonormal rows [k, n]."""
    curves = curves - curves.mean(axis=-1, keepdims=True)
    return curves - (curves @ rows.T) @ rows


def _unit(progress: np.ndarray) -> np.ndarray:
    return (progress - progress.min()) / np.ptp(progress)


def _risen(curves: np.ndarray) -> np.ndarray:
    curves = curves - curves[:, :1]
    return curves / np.ptp(curves, axis=1)[:, None]
