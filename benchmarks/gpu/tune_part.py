"""Other tiles than those of kernels/gpu/configs.py, by turns with the present one; the line to put there is printed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from headscope.kernels.gpu import configs
from headscope.kernels.gpu.configs import Tile, Ways
from headscope.kernels.gpu.evidence_attention import evidence_attention
from headscope.kernels.gpu.kernel_args import KernelArgs
from headscope.kernels.gpu.row_evidence import layout, row_evidence
from headscope.kernels.gpu.split_attention import split_attention, splits_of

from .inputs import heads, problem
from .record import Record
from .stage import Stage

ROUNDS = 3
ATTENTION = (
    Tile(128, 128, 8, 2), Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(128, 64, 8, 4), Tile(128, 128, 8, 3),
    Tile(64, 64, 4, 2), Tile(64, 64, 4, 3), Tile(64, 128, 4, 2), Tile(128, 32, 8, 4), Tile(64, 32, 4, 3),
)  # fmt: skip
ROWS = (
    Tile(128, 64, 8, 3), Tile(128, 64, 8, 2), Tile(128, 64, 8, 4), Tile(128, 128, 8, 2), Tile(128, 128, 8, 3),
    Tile(64, 64, 4, 3), Tile(64, 64, 4, 4), Tile(64, 128, 4, 2), Tile(64, 128, 4, 3), Tile(128, 32, 8, 4),
    Tile(128, 64, 8, 3, 128), Tile(128, 128, 8, 2, 128),
)  # fmt: skip
CLEAR = (Tile(128, 128, 4, 2), Tile(128, 64, 4, 3), Tile(128, 128, 8, 2))  # 4 warps: warp-specialised
FEW_ROWS = (Tile(64, 64, 4, 2), Tile(64, 64, 4, 3), Tile(128, 64, 8, 2, programs=1))
RESIDENT = (1, 2, 3, 4)  # programs on a processor that the splits are cut for

OUTPUT = 2.0**-4  # two steps of bfloat16 at the largest values, of about 5: weights and outputs are rounded to it

Runs = dict[str, Callable[[], Any]]


def run(stage: Stage, record: Record) -> None:
    for dim in (16,) if stage.toy else stage.dims:
        _attention(stage, record, dim)
        _rows(stage, record, dim, "ROWS", configs.ROWS, ((32, 256), (128, 256), (8192, 32)))
        _rows(stage, record, dim, "LONG_ROWS", configs.LONG_ROWS, ((1024, 128), (4096, 64)))
        if dim in (16, 128):
            _splits(stage, record, dim)
        _ways(stage, record, dim)
        _few_rows(stage, record, dim)


def _attention(stage: Stage, record: Record, dim: int) -> None:
    now = _present(stage, configs.ATTENTION, dim)
    tiles = _candidates(stage, now, ATTENTION, dim, of_keys=2)
    cases = {}
    for n in (32,) if stage.toy else (16 << 10, 64 << 10):
        asked, v = _problem(stage, n, n, dim)
        cases[f"{n >> 10}K"] = _compare(
            stage, record, f"attention D{dim} {n >> 10}K",
            {str(tuple(tile)): partial(evidence_attention, asked, v, tile=tile) for tile in tiles},
            str(tuple(now)), stage.ms,
        )  # fmt: skip
        del asked, v
        stage.free()
    _best(stage, record, "ATTENTION", dim, _lines(tiles), cases)


def _ways(stage: Stage, record: Record, dim: int) -> None:
    """What evidence_attention may do beside its one launch with the tile of the table: `WAYS` in configs.py."""
    ways = {"one launch": Ways(), "prefetch": Ways(prefetch=True)}
    if stage.toy or configs.architecture(torch.device("cuda")) in (90, 100):  # which have TMA
        ways |= {f"clear {tuple(t)}": Ways(clear=t) for t in ((configs.INTERPRETED,) if stage.toy else CLEAR)}
    cases = {}
    for n in (32,) if stage.toy else (8 << 10, 64 << 10):
        asked, v = _problem(stage, n, n, dim)
        runs: Runs = {name: partial(evidence_attention, asked, v, ways=way) for name, way in ways.items()}
        cases[f"{n >> 10}K"] = _compare(stage, record, f"ways D{dim} {n >> 10}K", runs, "one launch", stage.ms)
        del asked, v, runs
        stage.free()
    _best(stage, record, "WAYS", dim, {name: repr(way) for name, way in ways.items()}, cases)


def _few_rows(stage: Stage, record: Record, dim: int) -> None:
    """Rows too few to fill the chip: keys split over programs, beside a program for each head."""
    tiles = (configs.INTERPRETED,) if stage.toy else FEW_ROWS
    lines = {"one launch": repr(Ways()), **{str(tuple(t)): repr(Ways(few_rows=t)) for t in tiles}}
    cases = {}
    for rows, n in ((3, 64),) if stage.toy else ((1, 8 << 10), (1, 256 << 10), (16, 64 << 10), (64, 64 << 10)):
        asked, v = _problem(stage, rows, n, dim)
        runs: Runs = {"one launch": partial(evidence_attention, asked, v, ways=Ways())}
        runs |= {str(tuple(t)): partial(split_attention, asked, v, t, splits_of(asked.q, asked.k, t)) for t in tiles}
        name = f"{rows} rows x {n >> 10}K"
        cases[name] = _compare(stage, record, f"few rows D{dim} {name}", runs, "one launch", _cold_graph(stage))
        del asked, v, runs
        stage.free()
    _best(stage, record, "WAYS", dim, lines, cases)


def _rows(
    stage: Stage,
    record: Record,
    dim: int,
    table: str,
    tiles_now: dict[tuple[int, int], Tile],
    asked_for: tuple[tuple[int, int], ...],
) -> None:
    """Tiles for so many rows and thousands of keys; programs walk long enough for LONG_ROWS, or not, in every case."""
    hq, hkv, _ = heads(stage)
    now = _present(stage, tiles_now, dim)
    tiles = _candidates(stage, now, ROWS, dim, of_keys=1)
    cases = {}
    for rows, n in ((3, 64),) if stage.toy else ((r, k << 10) for r, k in asked_for):
        asked, v = _problem(stage, rows, n, dim)
        del v
        runs: Runs = {}
        for tile in tiles:
            size = configs.of_size(tile, hq // hkv * rows, stage.dtype) if not stage.toy else tile
            runs[str(tuple(tile))] = partial(row_evidence, asked, tile=size)
        name = f"{rows} rows x {n >> 10}K"
        cases[name] = _compare(stage, record, f"{table} D{dim} {name}", runs, str(tuple(now)), _cold_graph(stage))
        del asked, runs
        stage.free()
    _best(stage, record, table, dim, _lines(tiles), cases)


def _splits(stage: Stage, record: Record, dim: int) -> None:
    """How many programs the splits should be cut for: `programs` of configs.Tile."""
    hq, hkv, _ = heads(stage)
    for rows, n in ((3, 64),) if stage.toy else ((32, 256 << 10), (32, 8 << 10), (128, 64 << 10)):
        asked, _ = _problem(stage, rows, n, dim)
        tile, now, _ = layout(asked.q, asked.k, asked.sequences)
        tiles = hkv * -(-hq // hkv * rows // tile.rows)
        most = max(1, n // tile.keys)
        counts = sorted({now, *(min(most, max(1, r * configs.processors(asked.q.device) // tiles)) for r in RESIDENT)})
        runs: Runs = {str(count): partial(row_evidence, asked, count) for count in counts}
        found = _compare(stage, record, f"splits D{dim} {rows} rows x {n >> 10}K", runs, str(now), _cold_graph(stage))
        if found:
            best = min(found, key=lambda name: found[name])
            what = f"best splits, D{dim} {rows} rows x {n >> 10}K: {best} (now {now})"
            record.add(what, found[best] / found[str(now)], "x", again=True)
        del asked, runs
        stage.free()


def _present(stage: Stage, table: dict[tuple[int, int], Tile], dim: int) -> Tile:
    arch = 90 if stage.toy else configs.architecture(torch.device("cuda"))
    return configs.table_tile(table, arch, stage.dtype, dim) if not stage.toy else configs.INTERPRETED


def _candidates(stage: Stage, now: Tile, others: tuple[Tile, ...], dim: int, *, of_keys: int) -> list[Tile]:
    """The present tile first, then those whose rows and blocks of keys (and values) fit the shared memory."""
    if stage.toy:
        return [now, Tile(32, 32, 4, 1)]
    each = stage.dtype.itemsize * dim
    return [
        now,
        *(t for t in others if t != now and each * (t.rows + of_keys * t.keys * t.stages) <= stage.shared_memory),
    ]


def _lines(tiles: list[Tile]) -> dict[str, str]:
    return {str(tuple(tile)): f"Tile({', '.join(map(str, tile))})" for tile in tiles}


def _problem(stage: Stage, rows: int, n: int, dim: int) -> tuple[KernelArgs, torch.Tensor]:
    hq, hkv, _ = heads(stage)
    q, k, v = (stage.randn(1, h, m, dim, seed=i) for i, (h, m) in enumerate(((hq, rows), (hkv, n), (hkv, n))))
    return problem(q, k, torch.arange(n - rows, n, device=q.device)), v


def _cold_graph(stage: Stage) -> Callable[..., float]:
    return partial(stage.graph_ms, cold=True)


def _compare(
    stage: Stage, record: Record, what: str, runs: Runs, now: str, measure: Callable[..., float]
) -> dict[str, float]:
    """Median ms of what runs and agrees with the present choice; by turns, so that all meet the same clock."""
    wanted = None
    good: Runs = {}
    for name, call in runs.items():
        try:
            found = call()
            stage.wait()
        except Exception as error:  # too much shared memory, or the compiler gave up: that is the row
            record.add(f"{what}: {name}", problem=f"{type(error).__name__}: {error}".splitlines()[0][:90])
            continue
        out, lse, at = _out_lse_and_keys(found)
        wanted = (out, lse, at) if wanted is None else wanted
        same, off, far = float((at == wanted[2]).float().mean()), _off(lse, wanted[1]), _off(out, wanted[0])
        if same < 0.999 or not off < 1e-3 or not far < OUTPUT:
            told = f"keys agree in {same:.2%}, log-sum-exp off by {off:.2g}, output by {far:.2g}"
            record.add(f"{what}: {name}", problem=f"failed: {told}")
            continue
        good[name] = call
    times: dict[str, list[float]] = {name: [] for name in good}
    for _ in range(1 if stage.toy else ROUNDS):
        for name, call in good.items():
            times[name].append(measure(call, repeats=10, seconds=0.2))
    found_ms = {name: statistics.median(each) for name, each in times.items()}
    for name, ms in found_ms.items():
        spread = (max(times[name]) - min(times[name])) / ms
        detail = {"ms": ms, "spread": spread, "present": name == now}
        record.add(
            f"{what}: {name}{' now' if name == now else ''}", ms / found_ms.get(now, math.nan), "x", detail=detail
        )
    return found_ms


def _out_lse_and_keys(found: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows is (lse, at, ...) and has no output, evidence_attention gives (out, lse, at, ...)."""
    return found[:3] if found[0].dim() == 4 else (found[0], *found[:2])


def _off(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def _best(
    stage: Stage, record: Record, table: str, dim: int, names: dict[str, str], cases: dict[str, dict[str, float]]
) -> None:
    """What has the least geometric mean over the cases, as a line of the table; the first is what is there now."""
    now = next(iter(names))
    ratios = {}
    for name in names:
        each = [found[name] / found[now] for found in cases.values() if name in found and now in found]
        if len(each) == len(cases) and each:
            ratios[name] = math.exp(statistics.fmean(map(math.log, each)))
    if not ratios:
        record.add(f"best of {table}, D{dim}", problem="failed: the present tile does not run")
        return
    best = min(ratios, key=lambda name: ratios[name])
    arch = 90 if stage.toy else configs.architecture(torch.device("cuda"))
    size = max(64, 1 << (dim - 1).bit_length())
    line = f"{table}: ({arch}, {size}): {names[best]},"
    record.add(f"{line}  # now {now}", ratios[best], "x", again=True, detail={"ratios": ratios})
