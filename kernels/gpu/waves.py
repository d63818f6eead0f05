"""How many programs share the keys of a tile of rows, so that the last wave on a device is as full as the others.

A program is resident in a slot: a device has processors x (programs that fit on one) of them. T tiles of rows whose
keys are each cut for `splits` programs are T * splits programs; they run in waves of all slots, and the longest walks
ceil(blocks / splits) blocks of keys.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

LEAST = 0.93  # efficiency that is not given up for fewer programs
START = 2  # blocks of keys that a program could walk while it loads its rows, waits for its first keys and writes
WAVES = 64  # tried beyond the fewest; more only make programs shorter


def efficiency(tiles: Any, slots: Any, blocks: Any, splits: Any) -> Any:
    """Useful work / (waves x slots x the longest program), where work is (tile, block of keys) pairs.

    A tile counts as a whole, rows that pad it included, and every row as if it saw all keys. Numbers or integer arrays.
    Work of less than some blocks a slot cannot be shared evenly, as blocks are not cut: see ``attainable``.
    """
    return tiles * blocks / (-(-tiles * splits // slots) * slots * -(-blocks // splits))


def attainable(tiles: Any, slots: Any, blocks: Any) -> Any:
    """A bound on ``efficiency`` for any splits: no slot walks a part of a block. 0.97 from 32 blocks a slot."""
    return tiles * blocks / (slots * -(-tiles * blocks // slots))


@lru_cache(maxsize=1 << 12)
def splits_for(tiles: int, slots: int, blocks: int, more_waves: int = WAVES) -> int:
    """The number of programs for each tile's keys that takes the least time, at an efficiency of LEAST or the best.

    Time is waves x (blocks of the longest program + START). Only the largest number of splits of every number of waves
    is worth a look. Scratch grows with the waves: ``more_waves`` than the fewest are not tried.
    """
    tiles, blocks = max(1, tiles), max(1, blocks)
    best, chosen = None, 1
    fewest = -(-tiles // slots)
    for waves in range(fewest, fewest + 1 + more_waves):
        if best and not best[0] and tiles * blocks / slots + waves * START > best[1]:
            break  # more waves can only take longer
        share = -(-blocks // max(1, min(waves * slots // tiles, blocks)))
        splits = -(-blocks // share)
        found = efficiency(tiles, slots, blocks, splits)
        time = -(-tiles * splits // slots) * (share + START)
        rank = (False, time, -found) if found >= LEAST else (True, -found, time)
        if best is None or rank < best:
            best, chosen = rank, splits
        if share == 1:
            break
    return chosen
