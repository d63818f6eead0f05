"""What is known of the kernels without a GPU: their compiled loops, and the times that these predict.

    python -m benchmarks.gpu --compiled

Every kernel with the tiles of kernels/gpu/configs.py for compute capability 8.0, 9.0 and 10.0 and heads of 64, 128 and
256, bfloat16: instructions of the main loop, registers, spills, shared memory, programs that fit on a processor. From
them, for the A100, H100 and B200 of `GPUS`, a prediction beside every target of the GPU table that follows from loops.

In clocks of one processor, a program needs for one block of BN keys and its BM rows

    products   2 x BM x BN x D (twice that with values) / operations of the tensor cores a clock
    issue      instructions of the loop x warps / 4, as each of four schedulers issues one instruction a clock
    exps       BM x BN / 16 exponentials a clock

and programs that share a processor share these. If products hide behind the rest or the other way about, a block costs
the largest of the three (`low`); if nothing hides, products + max(issue, exps) (`high`). Then

    time = max(bytes / bandwidth, waves x (blocks of the longest program + 2) x programs a processor x clocks a block)

Bandwidth and products are the sustained rates below, not peaks: a launch, latencies, barriers and the edges of masks
are in neither bound, so what is measured may be above `high`. Predictions; not one of these times has been measured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from headscope.kernels.gpu import configs
from headscope.kernels.gpu.clear_blocks import clear_blocks_kernel
from headscope.kernels.gpu.configs import LONG_WALK, Tile, of_size, table_tile
from headscope.kernels.gpu.evidence_attention import evidence_attention_kernel
from headscope.kernels.gpu.key_mass import key_mass_kernel
from headscope.kernels.gpu.row_evidence import merge_splits_kernel, row_evidence_kernel
from headscope.kernels.gpu.span_mass import span_mass_kernel
from headscope.kernels.gpu.split_attention import split_attention_kernel
from headscope.kernels.gpu.waves import START, splits_for

from ..smollm2 import say
from .compiled import SHARED, build

HEADS, KV_HEADS, DIM = 32, 8, 128
WINNERS = 4.5  # blocks of a tile that hold some row's highest key; a small real model has 4.1 to 4.8
SDPA = 600e12  # operations a second of the fastest attention published for an H100: cuDNN 9, FlashAttention 3
MIB = 1 << 20
EDGES = {"CLEAR_DONE": True}


@dataclass(frozen=True)
class Gpu:
    """Rates that a device of this kind can be expected to sustain; of the H100 about those published for copies and
    8192^3 products, of the others the same shares of their data sheets."""

    arch: int
    processors: int
    clock: float
    """Hz"""
    bandwidth: float
    """bytes a second"""
    products: float
    """operations a second, bfloat16"""

    @property
    def per_clock(self) -> float:
        return self.products / self.processors / self.clock


GPUS = {
    "A100": Gpu(80, 108, 1.41e9, 1.75e12, 250e12),
    "H100": Gpu(90, 132, 1.755e9, 3.0e12, 800e12),
    "B200": Gpu(100, 148, 1.85e9, 7.2e12, 1800e12),
}


@dataclass(frozen=True)
class Line:
    kernel: str
    arch: int
    dim: int
    tile: tuple[Any, ...]
    facts: dict[str, int]
    """as Compiled.facts; loop 0 for kernels without exponentials beside products"""
    seconds: float
    """of CPU time that compiling took"""
    problem: str = ""


def kernels(arch: int, dim: int) -> Iterator[tuple[str, Any, Tile, dict[str, Any]]]:
    """Name, kernel, tile and options; what is in use first."""
    attention, rows, long = (
        table_tile(table, arch, torch.bfloat16, dim) for table in (configs.ATTENTION, configs.ROWS, configs.LONG_ROWS)
    )
    yield "evidence_attention", evidence_attention_kernel, attention, {}
    yield "the same without evidence", evidence_attention_kernel, attention, {"EVIDENCE": False}
    yield "row_evidence", row_evidence_kernel, rows, {}
    yield "row_evidence, long walks", row_evidence_kernel, long, {"RESCAN": True}
    small = rows._replace(rows=64, keys=32, warps=4, stages=1, registers=None)
    yield "span_mass", span_mass_kernel, small, {}
    yield "key_mass", key_mass_kernel, small._replace(keys=64), {}
    if dim == DIM:
        yield "merge of splits", merge_splits_kernel, Tile(128, 0, 4, 1), {}
    yield "candidate: few rows", split_attention_kernel, of_size(Tile(64, 64, 4, 2), 4, torch.bfloat16), {}
    if arch >= 90:
        wide = Tile(128, 128 if dim < 256 else 64, 4, 2)
        yield "candidate: clear blocks by TMA", clear_blocks_kernel, wide, {}
        yield "candidate: the edges they leave", evidence_attention_kernel, wide._replace(warps=8, stages=1), EDGES
    if dim == DIM:
        yield "candidate: wide, prefetching", evidence_attention_kernel, Tile(128, 128, 8, 2), {"PREFETCH": True}


def lines(archs: tuple[int, ...], dims: tuple[int, ...]) -> Iterator[Line]:
    """In the order of what is asked first: the table's own head size, the newest device that it names."""
    for dim in dims:
        for arch in archs:
            for name, kernel, tile, options in kernels(arch, dim):
                began = _cpu()
                try:
                    built = build(kernel, arch, "bf16", dim, tile, **options)
                    facts, problem = built.facts(), ""
                    if built.shared > SHARED[arch]:
                        problem = "does not fit the shared memory"
                except Exception as error:  # the compiler gave up on a candidate: that is the line
                    facts, problem = {}, f"{type(error).__name__}: {error}".splitlines()[0][:90]
                yield Line(name, arch, dim, tuple(tile), facts, round(_cpu() - began, 1), problem)


def _cpu() -> float:
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


def told(line: Line) -> str:
    """A line of the table."""
    f = line.facts
    if not f:
        return f"{line.kernel:<31} sm_{line.arch:<4} {line.dim:>4}  {line.problem}"
    tile = " x ".join(map(str, line.tile[:2])) + f", {line.tile[2]}w {line.tile[3]}s"
    loop = f"{f['loop'] or '-':>5}"
    return (
        f"{line.kernel:<31} sm_{line.arch:<4} {line.dim:>4}  {tile:<18} {loop} {f['registers']:>5} {f['spills']:>7} "
        f"{f['shared'] >> 10:>7} {f['programs']:>9}  {line.problem}".rstrip()
    )


HEAD = f"{'kernel':<31} {'device':<7} {'dim':>4}  {'tile':<18}  loop  regs spilled     KiB  programs"


@dataclass(frozen=True)
class Prediction:
    gpu: str
    what: str
    target: str
    low: float
    high: float
    unit: str = "x"

    @property
    def told(self) -> str:
        return f"{self.gpu}: {self.what:<58} {self.target:>10} {self.low:9.4g} to {self.high:.4g} {self.unit}"


class Loops:
    """Clocks and times from the table's lines, heads of 128."""

    def __init__(self, gpu: Gpu, found: list[Line]):
        self.gpu = gpu
        self.found = {line.kernel: line for line in found if line.arch == gpu.arch and line.dim == DIM and line.facts}

    def clocks(self, kernel: str, products: int, *, rows: int | None = None) -> tuple[float, float]:
        """(low, high) of one block; ``products`` is 1 for scores alone, 2 with values."""
        line = self.found[kernel]
        keys, warps = line.tile[1], line.tile[2]
        size = line.tile[0] if rows is None else rows
        mma = products * 2 * size * keys * DIM / self.gpu.per_clock
        other = max(line.facts["loop"] * warps / 4, size * keys / 16)
        return max(mma, other), mma + other

    def attention(self, n: int, evidence: bool) -> tuple[float, float]:
        """Seconds of causal attention of all n rows, with its look back at WINNERS blocks a tile."""
        line = self.found["evidence_attention"]
        rows, keys = line.tile[:2]
        tiles, blocks = HEADS * -(-n // rows), (n / 2 + rows / 2) / keys
        back = WINNERS / 2 if evidence else 0.0  # scored, no exponentials, no values
        low, high = self.clocks("evidence_attention" if evidence else "the same without evidence", 2)
        programs = tiles * (blocks + back + START) / self.gpu.processors / self.gpu.clock
        return programs * low, programs * high

    def rows(self, rows: int, n: int) -> tuple[tuple[float, float], float, int]:
        """Seconds of row_evidence (low, high), of its roofline, and bytes of scratch."""
        packed = HEADS // KV_HEADS * rows
        name = "row_evidence"
        for name in ("row_evidence", "row_evidence, long walks"):
            tile = of_size(Tile(*self.found[name].tile), packed, torch.bfloat16)
            tiles, blocks = KV_HEADS * -(-packed // tile.rows), -(-n // tile.keys)
            slots = self.gpu.processors * tile.programs
            splits = splits_for(tiles, slots, blocks)
            share = -(-blocks // splits)
            if share * tile.keys < LONG_WALK:
                break
        bandwidth = (KV_HEADS * n + HEADS * rows) * DIM * 2 / self.gpu.bandwidth
        products = 2 * HEADS * rows * n * DIM / self.gpu.products
        exps = HEADS * rows * n / (16 * self.gpu.processors * self.gpu.clock)
        waves = -(-tiles * splits // slots)
        steps = waves * (share + START) * min(tile.programs, -(-tiles * splits // self.gpu.processors))
        low, high = (max(bandwidth, steps * c / self.gpu.clock) for c in self.clocks(name, 1, rows=tile.rows))
        scratch = splits * HEADS * rows * 12
        return (low, high), max(bandwidth, products, exps), scratch


def predictions(found: list[Line]) -> Iterator[Prediction]:
    for name, gpu in GPUS.items():
        loops = Loops(gpu, found)
        if {"evidence_attention", "the same without evidence", "row_evidence", "row_evidence, long walks"} - set(
            loops.found
        ):
            continue
        (low, high), _, _ = loops.rows(32, 256 << 10)
        keys = KV_HEADS * (256 << 10) * DIM * 2
        share = [keys / seconds / gpu.bandwidth for seconds in (high, low)]
        yield Prediction(name, "row_evidence, 32 rows x 256K, of the copy bandwidth", ">= 0.85", *share, unit="")
        flops = 2 * 2 * HEADS * DIM * (256 << 10) ** 2 / 2
        if name == "H100":
            prefill = flops / SDPA
            yield Prediction(
                name, "the same, of that layer's prefill", "<= 0.05", 100 * low / prefill, 100 * high / prefill, "%"
            )
        for rows in (128, 1024, 8192):
            for n in (8 << 10, 32 << 10, 128 << 10, 256 << 10, 1 << 20):
                (low, high), floor, scratch = loops.rows(rows, n)
                what = f"row_evidence, {rows} rows x {n >> 10}K / roofline"
                yield Prediction(name, what, "<= 1.3", low / floor, high / floor)
                if n == 1 << 20:
                    what = f"the same, {rows} rows x {n >> 10}K, scratch"
                    yield Prediction(name, what, "<= 64", scratch / MIB, scratch / MIB, "MiB")
        for n in (8 << 10, 32 << 10, 128 << 10):
            with_evidence, without = loops.attention(n, True), loops.attention(n, False)
            ratios = sorted(a / b for a, b in zip(with_evidence, without, strict=True))
            target = "<= 1.05" if n == 8 << 10 else "<= 1.01"
            yield Prediction(name, f"evidence_attention {n >> 10}K, with / without evidence", target, *ratios)
        n = 64 << 10
        rates = sorted(2 * HEADS * DIM * n * n / seconds for seconds in loops.attention(n, True))
        yield Prediction(name, f"evidence_attention {n >> 10}K", "", rates[0] / 1e12, rates[1] / 1e12, "TFLOP/s")
        if name == "H100":
            ratios = sorted(SDPA / rate for rate in rates)
            yield Prediction(
                name, f"evidence_attention {n >> 10}K / {SDPA / 1e12:.0f} TFLOP/s of cuDNN", "<= 1.6", *ratios
            )


def run(archs: tuple[int, ...] = (90, 80, 100), dims: tuple[int, ...] = (DIM, 64, 256)) -> dict[str, Any]:
    """Print both tables; what goes into the results file."""
    say(HEAD)
    found = []
    for line in lines(archs, dims):
        found.append(line)
        say(told(line))
    predicted = list(predictions(found))
    say("\nPredicted, not measured" if predicted else "")
    for each in predicted:
        say(each.told)
    return {"kernels": [asdict(line) for line in found], "predictions": [asdict(each) for each in predicted]}
