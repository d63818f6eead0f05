"""Splits of row_evidence: every device stays full, as far as whole blocks of keys allow."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark_modules import benchmark
from headscope.kernels.gpu.waves import LEAST, attainable, efficiency, splits_for

waves = benchmark("waves")
SOME = np.r_[0:200, 200 : waves.ROWS : 37]  # rows - 1
H100 = 264  # slots


@pytest.mark.parametrize("heads", waves.HEADS, ids=str)
@pytest.mark.parametrize("keys", [1 << 13, 77_777, 1 << 20])
def test_waves_are_full_for_every_number_of_rows(heads: tuple[int, int], keys: int) -> None:
    got, most, each = waves.measured(heads, keys, *waves.GPUS["H100"], SOME + 1)
    assert (got[each >= waves.FULL] >= LEAST).all()
    assert (got >= LEAST * most).all() and (got <= most + 1e-12).all()
    assert (each >= waves.FULL).any()


@pytest.mark.parametrize("rows", [544, 616, 1100])
def test_rows_that_filled_half_of_the_slots(rows: int) -> None:
    tiles = 8 * -(-4 * rows // 128)
    assert efficiency(tiles, H100, 128, 1) < 0.62
    assert efficiency(tiles, H100, 128, splits_for(tiles, H100, 128)) >= LEAST


def test_splits_are_the_best_there_are_or_good_enough() -> None:
    gen = np.random.default_rng(0)
    for tiles, slots, blocks in zip(*(gen.integers(1, most, 200).tolist() for most in (60, 40, 90)), strict=True):
        every = np.arange(1, blocks + 1)
        found = efficiency(tiles, slots, blocks, every)
        # Programs of splits that leave the last ones without a block are not counted as better for it.
        chosen = splits_for(tiles, slots, blocks)
        assert 1 <= chosen <= blocks
        assert efficiency(tiles, slots, blocks, chosen) >= min(LEAST, found.max()) - 1e-12
        assert found.max() <= attainable(tiles, slots, blocks) + 1e-12


def test_what_efficiency_is() -> None:
    assert efficiency(3, 4, 10, 1) == 30 / (4 * 10), "three of four slots"
    assert efficiency(3, 4, 10, 2) == 30 / (2 * 4 * 5), "six programs of five blocks, in two waves"
    assert attainable(3, 264, 128) == 384 / 528, "two blocks a slot at least"
    assert splits_for(3, 264, 128) == 64 and splits_for(8, 264, 0) == splits_for(0, 264, 1) == 1
    assert splits_for(8, 264, 4096) == 33, "no more programs than slots where these are full"
