"""Block sizes, in a table: no tuning at run time, the same result on every run.

Chosen so that ahead-of-time compilation stays within shared memory and (nearly) without spills; see
`python -m benchmarks.gpu --compiled`. Not tuned on a device.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

FUSED = True  # a * b + c is one instruction and one rounding, whatever this version of Triton takes for granted


class Tile(NamedTuple):
    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None
    """most of a thread; the compiler's choice if None"""
    programs: int = 2
    """that fit on a processor at once: what splits are cut for"""

    def options(self) -> dict[str, Any]:
        """For a launch."""
        most = {} if self.registers is None else {"maxnreg": self.registers}
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": FUSED, **most}


class Ways(NamedTuple):
    """Of evidence_attention, beside its one launch."""

    clear: Tile | None = None
    """tile of a launch of its own for the blocks that all its rows see (clear_blocks.py)"""
    few_rows: Tile | None = None
    """largest tile where rows are so few that keys are split over programs (split_attention.py)"""
    prefetch: bool = False
    """whether the next winning block is loaded while one is searched for the highest key"""


# (architecture, head dimension rounded up to a power of two, at least 64) -> tile, for bfloat16 and float16
ROWS = {
    (80, 64): Tile(128, 64, 8, 3, programs=1),
    (80, 128): Tile(128, 64, 8, 3, programs=1),
    (80, 256): Tile(64, 64, 4, 2),
    (90, 64): Tile(128, 64, 8, 3),
    (90, 128): Tile(128, 64, 8, 3, registers=128),
    (90, 256): Tile(128, 64, 8, 2, programs=1),
    (100, 64): Tile(128, 64, 8, 3, registers=128),
    (100, 128): Tile(128, 64, 8, 3, registers=128),
    (100, 256): Tile(128, 64, 8, 2, programs=1),
    (942, 64): Tile(128, 64, 8, 2),
    (942, 128): Tile(128, 64, 8, 2),
    (942, 256): Tile(64, 64, 4, 1),
}
# Programs that walk so many keys find the highest one when they are done, which leaves registers for larger blocks.
LONG_WALK = 1 << 16
LONG_ROWS = ROWS | {(90, 128): Tile(128, 128, 8, 2, registers=128)}
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
WAYS: dict[tuple[int, int], Ways] = {}  # by the same key; what a GPU has not shown to pay is not in use
# float32 is there for checking; it does not fit the tiles above, and its small ones do not need fewer warps for fewer
# rows. The key: head dimension as above.
FLOAT32 = {64: Tile(32, 32, 4, 2), 128: Tile(32, 16, 8, 2), 256: Tile(16, 32, 8, 1)}
INTERPRETED = Tile(16, 16, 4, 1)


def row_tile(q: Tensor, rows: int) -> Tile:
    """For row_evidence; few rows get a tile of their size."""
    return of_size(_look_up(ROWS, q, q.shape[-1]), rows, q.dtype)


def long_row_tile(q: Tensor, rows: int) -> Tile:
    """For programs of row_evidence that walk LONG_WALK keys and more."""
    return of_size(_look_up(LONG_ROWS, q, q.shape[-1]), rows, q.dtype)


def span_tile(q: Tensor, rows: int) -> Tile:
    """For span_mass: small, because a tile walks the spans of all its rows."""
    tile = _look_up(ROWS, q, q.shape[-1])
    return of_size(tile._replace(rows=min(tile.rows, 64), keys=min(tile.keys, 32), stages=1), rows, q.dtype)


def attention_tile(q: Tensor, v: Tensor) -> Tile:
    """For evidence_attention."""
    return _look_up(ATTENTION, q, max(q.shape[-1], v.shape[-1]))


def attention_ways(q: Tensor, v: Tensor) -> Ways:
    """For evidence_attention; float32 has none."""
    if q.device.type != "cuda" or q.dtype == torch.float32:
        return Ways()
    return WAYS.get((architecture(q.device), _size(max(q.shape[-1], v.shape[-1]))), Ways())


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
    return FLOAT32[_size(dim)] if dtype == torch.float32 else table[arch, _size(dim)]


def of_size(tile: Tile, rows: int, dtype: torch.dtype) -> Tile:
    """The table's tile for so many rows."""
    rows = min(tile.rows, max(16, 1 << (rows - 1).bit_length()))
    if rows > 64 or dtype == torch.float32:
        return tile._replace(rows=rows)
    # Registers enough, and a smaller tile than the table's leaves room for one more program.
    return tile._replace(rows=rows, warps=4, registers=None, programs=tile.programs + (rows < tile.rows))


def _size(dim: int) -> int:
    return max(64, 1 << (dim - 1).bit_length())


def _look_up(table: dict[tuple[int, int], Tile], q: Tensor, dim: int) -> Tile:
    return table_tile(table, architecture(q.device), q.dtype, dim) if q.device.type == "cuda" else INTERPRETED
