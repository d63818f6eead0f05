"""Block sizes, in a table: no tuning at run time, the same result on every run.

Chosen so that ahead-of-time compilation stays within shared memory and (nearly) without spills; see
tests/kernels/gpu/test_aot.py. Not tuned on a device.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Tile(NamedTuple):
    rows: int
    keys: int
    warps: int
    stages: int


# (architecture, head dimension rounded up to a power of two, at least 64) -> tile, for bfloat16 and float16
ROWS = {
    (80, 64): Tile(128, 64, 8, 3),
    (80, 128): Tile(128, 64, 8, 3),
    (80, 256): Tile(64, 64, 8, 2),
    (90, 64): Tile(128, 64, 8, 3),
    (90, 128): Tile(128, 64, 8, 3),
    (90, 256): Tile(128, 64, 8, 2),
    (100, 64): Tile(128, 64, 8, 3),
    (100, 128): Tile(128, 64, 8, 3),
    (100, 256): Tile(128, 64, 8, 2),
    (942, 64): Tile(128, 64, 8, 2),
    (942, 128): Tile(128, 64, 8, 2),
    (942, 256): Tile(64, 64, 4, 1),
}
ATTENTION = {
    (80, 64): Tile(128, 64, 8, 2),
    (80, 128): Tile(128, 64, 8, 3),
    (80, 256): Tile(64, 32, 8, 2),
    (90, 64): Tile(128, 128, 8, 3),
    (90, 128): Tile(128, 64, 8, 3),
    (90, 256): Tile(128, 64, 8, 2),
    (100, 64): Tile(128, 128, 8, 3),
    (100, 128): Tile(128, 64, 8, 2),
    (100, 256): Tile(128, 32, 8, 2),
    (942, 64): Tile(128, 32, 4, 2),
    (942, 128): Tile(128, 32, 4, 2),
    (942, 256): Tile(64, 32, 4, 1),
}
# float32 is there for checking; it does not fit the tiles above, and its small ones do not need fewer warps for fewer
# rows. The key: head dimension as above.
FLOAT32 = {64: Tile(32, 32, 4, 2), 128: Tile(32, 16, 8, 2), 256: Tile(16, 32, 8, 1)}
INTERPRETED = Tile(16, 16, 4, 1)
FUSED = True  # a * b + c is one instruction and one rounding, whatever this version of Triton takes for granted


def row_tile(q: Tensor, rows: int) -> Tile:
    """For row_evidence; few rows get a tile of their size."""
    return of_size(_look_up(ROWS, q, q.shape[-1]), rows, q.dtype)


def span_tile(q: Tensor, rows: int) -> Tile:
    """For span_mass: small, because a tile walks the spans of all its rows."""
    tile = _look_up(ROWS, q, q.shape[-1])
    return of_size(tile._replace(rows=min(tile.rows, 64), keys=min(tile.keys, 32), stages=1), rows, q.dtype)


def attention_tile(q: Tensor, v: Tensor) -> Tile:
    """For evidence_attention."""
    return _look_up(ATTENTION, q, max(q.shape[-1], v.shape[-1]))


@cache
def architecture(device: torch.device) -> int:
    """80, 90 or 100, or 942 for AMD's: whose tiles to use. Other GPUs get those of the smallest shared memory."""
    if torch.version.hip is not None:
        return 942
    return {9: 90, 10: 100}.get(torch.cuda.get_device_capability(device)[0], 80)


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def table_tile(table: dict[tuple[int, int], Tile], arch: int, dtype: torch.dtype, dim: int) -> Tile:
    size = max(64, 1 << (dim - 1).bit_length())
    return FLOAT32[size] if dtype == torch.float32 else table[arch, size]


def of_size(tile: Tile, rows: int, dtype: torch.dtype) -> Tile:
    """The table's tile for so many rows."""
    rows = min(tile.rows, max(16, 1 << (rows - 1).bit_length()))
    return tile._replace(rows=rows, warps=4 if rows <= 64 and dtype != torch.float32 else tile.warps)


def _look_up(table: dict[tuple[int, int], Tile], q: Tensor, dim: int) -> Tile:
    return table_tile(table, architecture(q.device), q.dtype, dim) if q.device.type == "cuda" else INTERPRETED
