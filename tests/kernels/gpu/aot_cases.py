"""Ahead-of-time compilation for sm_80, sm_90 and sm_100, with the tiles of configs.py. Run by test_without_gpu.py."""

from __future__ import annotations

from typing import Any

import aot
import pytest
import torch
from aot import Compiled, compiled

from headscope.kernels.gpu import configs
from headscope.kernels.gpu.configs import Tile, table_tile
from headscope.kernels.gpu.evidence_attention import evidence_attention_kernel
from headscope.kernels.gpu.kernel_args import KernelArgs
from headscope.kernels.gpu.row_evidence import merge_splits_kernel, row_evidence_kernel
from headscope.kernels.gpu.span_mass import span_mass_kernel
from headscope.kernels.gpu.visible_keys import visible_keys_kernel

SMS = (80, 90, 100)
FLOATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# A few registers that are stored once, outside the loop, cost nothing. Wide heads with every option may spill more.
SPILLS = 64  # bytes
GROWTH = 1.03  # main loop with evidence / without


def types(kernel: Any, dtype: str) -> dict[str, str]:
    """Triton types by the parameters' names: tensors of the model, results, strides, scalars."""
    known = {
        **dict.fromkeys(("q", "k", "v", "out"), f"*{dtype}"),
        **dict.fromkeys(("first", "last", "part_at", "more_at"), "*i32"),
        **dict.fromkeys(("part_m", "part_l", "more", "lse", "max_logit", "mass", "sinks"), "*fp32"),
        **dict.fromkeys(("at", "spans", "positions", "limits", "starts"), "*i64"),
        "mult": "fp32",
        "cap": "fp32",
    }
    return {name: known.get(name, "i32") for name in kernel.arg_names}


def constants(kernel: Any, dtype: str, dim: int, tile: Tile, **options: Any) -> dict[str, Any]:
    every = {
        "s_qd": 1, "s_kd": 1, "s_vd": 1, "s_se": 1,
        "G": 4, "D": dim, "BD": KernelArgs.padded(dim), "DV": dim, "BDV": KernelArgs.padded(dim),
        "BM": tile.rows, "BN": tile.keys, "K": 0, "EVIDENCE": True,
        "HAS_FIRST": False, "HAS_CAP": False, "HAS_SINK": False,
        "PRECISION": "tf32x3" if dtype == "fp32" else "ieee", **options,
    }  # fmt: skip
    return {name: value for name, value in every.items() if name in kernel.arg_names}


def build(kernel: Any, sm: int, dtype: str, dim: int, tile: Tile, **options: Any) -> Compiled:
    const = constants(kernel, dtype, dim, tile, **options)
    return compiled(kernel, sm, types(kernel, dtype), const, warps=tile.warps, stages=tile.stages)


def check(sm: int, kernel: Compiled, name: str, spills: int = SPILLS) -> None:
    assert aot.TENSOR_CORES[sm] in kernel.ptx, f"{name}: no {aot.TENSOR_CORES[sm]}"
    assert kernel.shared <= aot.SHARED[sm], f"{name}: {kernel.shared} bytes of shared memory"
    assert kernel.spills <= spills, f"{name}: {kernel.spills} bytes spilled"


# Heads of 64 have the same tile for sm_90 and sm_100, which takes twice as long to compile.
@pytest.mark.parametrize(("sm", "dim"), [*((sm, 128) for sm in SMS), (80, 64), (90, 64)])
def test_evidence_costs_the_main_loop_of_attention_next_to_nothing(sm: int, dim: int) -> None:
    tile = table_tile(configs.ATTENTION, sm, torch.bfloat16, dim)
    fused, plain = (build(evidence_attention_kernel, sm, "bf16", dim, tile, EVIDENCE=on) for on in (True, False))
    check(sm, fused, "with evidence")
    grown = fused.main_loop / plain.main_loop
    line = f"sm_{sm} D{dim} {tile}: {plain.main_loop} -> {fused.main_loop}, spills {plain.spills} -> {fused.spills}"
    print(f"{line}, shared {fused.shared}")  # noqa: T201
    assert fused.shared == plain.shared
    assert grown <= GROWTH, line


@pytest.mark.parametrize("sm", SMS)
def test_rows(sm: int) -> None:
    tile = table_tile(configs.ROWS, sm, torch.bfloat16, 128)
    kernel = build(row_evidence_kernel, sm, "bf16", 128, tile)
    check(sm, kernel, "many rows")
    print(f"sm_{sm} {tile}: loop {kernel.main_loop}, spills {kernel.spills}, shared {kernel.shared}")  # noqa: T201


@pytest.mark.parametrize("sm", SMS)
def test_span_mass_and_merge(sm: int) -> None:
    small = table_tile(configs.ROWS, sm, torch.bfloat16, 128)._replace(rows=64, keys=32, warps=4, stages=1)
    mass = build(span_mass_kernel, sm, "bf16", 128, small)
    assert aot.MMA.search(mass.sass)
    assert mass.spills == 0
    merge = build(merge_splits_kernel, sm, "bf16", 128, Tile(128, 0, 4, 1), HAS_SINK=True)
    assert merge.spills == 0


def test_intervals() -> None:
    rules = dict.fromkeys(("CAUSAL", "HAS_WINDOW", "HAS_LIMIT", "HAS_START"), True)
    built = compiled(
        visible_keys_kernel, 90, types(visible_keys_kernel, "bf16"), {"BM": 128, **rules}, warps=4, stages=1
    )
    assert built.spills == 0 and built.shared == 0


@pytest.mark.parametrize("sm", [80, 100])  # whose tensor cores differ most
def test_highest_keys_of_many_rows(sm: int) -> None:
    tile = table_tile(configs.ROWS, sm, torch.bfloat16, 128)
    kernel = build(row_evidence_kernel, sm, "bf16", 128, tile, K=16)
    print(f"sm_{sm} {tile} top 16: spills {kernel.spills}, shared {kernel.shared}")  # noqa: T201
    check(sm, kernel, "top 16", spills=1024)


def test_few_rows_of_a_decode_step() -> None:
    kernel = build(row_evidence_kernel, 90, "bf16", 128, Tile(16, 64, 4, 3))
    assert aot.MMA.search(kernel.sass), "too few rows for wgmma, enough for mma.sync"
    assert kernel.spills == 0 and kernel.shared <= aot.SHARED[90]


@pytest.mark.parametrize(("sm", "dim", "dtype"), [(80, 256, "bf16"), (90, 256, "fp16"), (80, 80, "fp16")])
def test_wide_and_odd_heads_with_every_option(sm: int, dim: int, dtype: str) -> None:
    options = {"HAS_FIRST": True, "HAS_CAP": True, "HAS_SINK": True}
    for kernel, table in ((evidence_attention_kernel, configs.ATTENTION), (row_evidence_kernel, configs.ROWS)):
        tile = table_tile(table, sm, FLOATS[dtype], dim)
        built = build(kernel, sm, dtype, dim, tile, **options)
        print(f"sm_{sm} D{dim} {kernel.__name__} {tile}: spills {built.spills}, shared {built.shared}")  # noqa: T201
        check(sm, built, kernel.__name__, spills=192)


def test_float32_fits() -> None:
    for dim, spills in ((128, 0), (256, 2048)):  # for checking, not for speed: the widest heads may spill
        tile = table_tile(configs.ATTENTION, 80, torch.float32, dim)
        for kernel in (evidence_attention_kernel, row_evidence_kernel, span_mass_kernel)[: 3 if dim == 256 else 1]:
            built = build(kernel, 80, "fp32", dim, tile._replace(stages=1) if kernel is span_mass_kernel else tile)
            print(f"sm_80 D{dim} float32 {kernel.__name__} {tile}: spills {built.spills}, shared {built.shared}")  # noqa: T201
            check(80, built, f"{kernel.__name__}, float32", spills)
