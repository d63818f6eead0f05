"""How full `row_evidence` keeps a GPU: the efficiency of its splits, computed from the tables of tiles; nothing is run.

    python -m benchmarks.waves [--gpu H100]

For 1 to 8192 rows, 8K to 1M keys and six shapes of heads, as `kernels/gpu/waves.py` defines it: useful work over waves
x slots x the longest program. Blocks of keys are not cut: where there are fewer than some twelve for each slot of the
device, splits that fill it may not exist, and what is found is within 7 % of what could be. Figures and a picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headscope.kernels.gpu import configs
from headscope.kernels.gpu.waves import LEAST, attainable, efficiency, splits_for

from .machine import machine, one_line, write_results
from .smollm2 import say

GPUS = {"A100": (80, 108), "H100": (90, 132), "H200": (90, 132), "B200": (100, 148)}  # tiles of, processors
HEADS = ((32, 8), (9, 3), (14, 2), (40, 8), (64, 8), (128, 1))
ROWS = 8192
KEYS = tuple(1 << e for e in range(13, 21))
DIM = 128
FULL = 12  # blocks a slot from which splits of LEAST are always found


def measured(heads: tuple[int, int], keys: int, arch: int, processors: int, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Efficiency, what is attainable, and blocks a slot, for every number of rows; bfloat16."""
    full, group = configs.table_tile(configs.ROWS, arch, torch.bfloat16, DIM), heads[0] // heads[1]
    sizes = [configs.of_size(full, group * int(count), torch.bfloat16) for count in rows]
    tiles = heads[1] * -(-group * rows // np.array([tile.rows for tile in sizes]))
    slots, blocks = processors * np.array([tile.programs for tile in sizes]), -(-keys // full.keys)
    pairs, back = np.unique(np.stack((tiles, slots)), axis=1, return_inverse=True)
    splits = np.array([splits_for(int(t), int(s), blocks) for t, s in pairs.T])[back.ravel()]
    return efficiency(tiles, slots, blocks, splits), attainable(tiles, slots, blocks), tiles * blocks / slots


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gpu", choices=GPUS, default="H100")
    name = arguments.parse_args().gpu
    found_machine = machine()
    say(one_line(found_machine))
    full, below = f"from {FULL} blocks a slot", f"rows below {LEAST}"
    say(f"{'heads':>8} {'keys':>6} {'least':>6} {full:>21} {'mean':>6} {below:>15}")
    rows: list[dict[str, Any]] = []
    curves = {}
    for heads in HEADS:
        for keys in KEYS:
            got, most, each = measured(heads, keys, *GPUS[name], np.arange(1, ROWS + 1))
            curves[heads, keys] = got
            row = {
                "heads": heads,
                "keys": keys,
                "least": float(got.min()),
                "least_of_attainable": float((got / most).min()),
                f"least_from_{FULL}_blocks_a_slot": float(got[each >= FULL].min(initial=1.0)),
                "mean": float(got.mean()),
                "rows_below": int((got < LEAST).sum()),
            }
            rows.append(row)
            say(
                f"{f'{heads[0]}/{heads[1]}':>8} {f'{keys >> 10}K':>6} {row['least']:6.3f} "
                f"{row[f'least_from_{FULL}_blocks_a_slot']:21.3f} {row['mean']:6.3f} {row['rows_below']:15}"
            )
    path = write_results(f"waves-{name.lower()}", rows, found_machine)
    say(f"written to {path} and {_draw(name, curves, path.with_suffix('.png'))}")


def _draw(name: str, curves: dict[tuple[tuple[int, int], int], np.ndarray], path: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(10, 5), sharex=True, sharey=True, layout="constrained")
    for heads, axis in zip(HEADS, axes.flat, strict=True):
        for keys in (KEYS[0], KEYS[3], KEYS[-1]):
            axis.plot(np.arange(1, ROWS + 1), curves[heads, keys], linewidth=0.7, label=f"{keys >> 10}K keys")
        axis.axhline(LEAST, color="black", linewidth=0.6, linestyle=":")
        axis.set(xscale="log", ylim=(0, 1.02), title=f"{heads[0]} query, {heads[1]} key heads")
    axes[0, 0].legend()
    figure.supxlabel("rows")
    figure.supylabel(f"wave efficiency on {name}")
    figure.savefig(path, dpi=80)
    plt.close(figure)
    return path


if __name__ == "__main__":
    main()
