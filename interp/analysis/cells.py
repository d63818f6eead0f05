"""Means over the cells of a grid: length x depth, or distance x interference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from ..results import NLL_CLASSES
from .trajectory import Trajectory

MEASURES = (*NLL_CLASSES, "exact_match")


@dataclass(frozen=True, eq=False)
class Grid:
    """values: float64 [depth, length], mean over the probes of a cell that have a value, NaN where none has.
    counts: int [depth, length], how many those are. lengths: int, tokens. depths: float, 0 is the start."""

    values: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    depths: np.ndarray


@dataclass(frozen=True, eq=False)
class DistanceGrid:
    """values, counts: [interference, distance], as in Grid. distances, interferences: int, tokens after and before the
    needle; groups of a doubling each are named by their lower end."""

    values: np.ndarray
    counts: np.ndarray
    distances: np.ndarray
    interferences: np.ndarray


def measure(trajectory: Trajectory, value: str) -> np.ndarray:
    """[C, P]: one of the NLL classes or "exact_match". Raises ValueError for another name."""
    if value not in MEASURES:
        raise ArgumentError(f"value must be one of {', '.join(MEASURES)}, got {value!r}")
    return trajectory.exact_match if value == "exact_match" else trajectory.nll[value]


def checkpoint_index(trajectory: Trajectory, checkpoint: int) -> int:
    """The position of a checkpoint given by position; -1 is the last. Raises ValueError when there is none."""
    c = trajectory.n_checkpoints
    if not -c <= checkpoint < c:
        raise ArgumentError(f"checkpoint must be a position from {-c} to {c - 1} (there are {c}), got {checkpoint}")
    return checkpoint % c


def grid(trajectory: Trajectory, value: str = "nll_novel", checkpoint: int = -1) -> Grid:
    """Mean of `value` by context length and nominal needle depth at one checkpoint (a position, -1 is the last)."""
    return length_by_depth(measure(trajectory, value)[checkpoint_index(trajectory, checkpoint)], trajectory.probes)


def length_by_depth(values: np.ndarray, probes: Mapping[str, np.ndarray]) -> Grid:
    """Means of values [P] by the probes' columns "length" and "depth_nominal"; NaN values are left out."""
    lengths, column = token_groups(probes["length"])
    depths, row = depth_groups(probes["depth_nominal"])
    return Grid(*_cell_means(values, row, column, (len(depths), len(lengths))), lengths, depths)


def distance_by_interference(trajectory: Trajectory, value: str = "nll_novel", checkpoint: int = -1) -> DistanceGrid:
    """Mean of `value` by tokens after the needle (distance) and before it (interference); the paper's section 7.3."""
    distances, column = token_groups(trajectory.probes["distance"])
    interferences, row = token_groups(trajectory.probes["interference"])
    values = measure(trajectory, value)[checkpoint_index(trajectory, checkpoint)]
    cells = _cell_means(values, row, column, (len(interferences), len(distances)))
    return DistanceGrid(*cells, distances, interferences)


def token_groups(tokens: np.ndarray, most: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Groups of lengths or distances: int [groups] ascending, and the group of each entry.

    Numbers up to 8 below another count as it: a probe falls that much short of what was asked for where no exact one
    can be had. With more than `most` groups, each doubling is one, named by its lower end.
    """
    tokens = np.asarray(tokens).astype(np.int64)
    asked: list[int] = []
    for number in np.unique(tokens)[::-1].tolist():
        if not asked or number < asked[-1] - 8:
            asked.append(number)
    if len(asked) <= most:
        return np.array(asked[::-1]), np.searchsorted(asked[::-1], tokens)
    lower = np.where(tokens > 0, 2 ** np.floor(np.log2(np.maximum(tokens, 1))).astype(np.int64), 0)
    groups, index = np.unique(lower, return_inverse=True)
    return groups, index.ravel()


def depth_groups(depths: np.ndarray, most: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Groups of depths: float64 [groups] ascending, and the group of each entry; tenths when there are too many."""
    rounded, in_tenths = _rounded(depths, most)
    if in_tenths:
        rounded = np.clip(np.floor(rounded * 10), 0, 9) / 10
    groups, index = np.unique(rounded, return_inverse=True)
    return groups, index.ravel()


def depth_labels(depths: np.ndarray, most: int = 24) -> list[str]:
    """What the groups of these depths are called: "25%", or "20-30%" where they are tenths."""
    groups, _ = depth_groups(depths, most)
    if _rounded(depths, most)[1]:
        return [f"{100 * group:.0f}-{100 * group + 10:.0f}%" for group in groups]
    return [f"{100 * group:.3g}%" for group in groups]


def _rounded(depths: np.ndarray, most: int) -> tuple[np.ndarray, bool]:
    rounded: np.ndarray = np.round(np.asarray(depths, np.float64), 4)
    return rounded, len(np.unique(rounded)) > most


def _cell_means(
    values: np.ndarray, row: np.ndarray, column: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    seen = ~np.isnan(values)
    cell = np.ravel_multi_index((row[seen], column[seen]), shape)
    size = shape[0] * shape[1]
    counts = np.bincount(cell, minlength=size)
    total = np.bincount(cell, weights=values[seen].astype(np.float64), minlength=size)
    means = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    return means.reshape(shape), counts.reshape(shape)
