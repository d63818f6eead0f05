"""Ahead-of-time compilation for sm_80, sm_90 and sm_100, with the tiles of configs.py. Run by test_without_gpu.py."""

from __future__ import annotations

from typing import Any

import aot
import pytest
import torch
from aot import Compiled, compiled

from headscope.kernels.gpu import configs
from headscope.kernels.gpu.clear_blocks import clear_blocks_kernel
from headscope.kernels.gpu.configs import Tile, table_tile
from headscope.kernels.gpu.evidence_attention import evidence_attention_kernel
from headscope.kernels.gpu.kernel_args import KernelArgs
from headscope.kernels.gpu.key_mass import key_mass_kernel
from headscope.kernels.gpu.row_evidence import merge_splits_kernel, row_evidence_kernel
from headscope.kernels.gpu.span_mass import span_mass_kernel
from headscope.kernels.gpu.split_attention import split_attention_kernel
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
        **dict.fromkeys(
            ("first", "last", "part_at", "part_block", "more_at", "row_starts", "key_starts", "table"), "*i32"
        ),
        **dict.fromkeys(("part_m", "part_l", "part_o", "more", "lse", "max_logit", "mass", "sinks"), "*fp32"),
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
        "CLEAR_DONE": False, "PREFETCH": False, "SPECIALISED": tile.warps == 4,
        "HAS_FIRST": False, "HAS_CAP": False, "HAS_SINK": False, "RESCAN": False,
        "CAUSAL": True, "HAS_WINDOW": False, "HAS_LIMIT": True, "HAS_START": False,
        "PACKED_Q": False, "PACKED_K": False, "PAGE": 0,
        "PRECISION": "tf32x3" if dtype == "fp32" else "ieee", **options,
    }  # fmt: skip
    return {name: value for name, value in every.items() if name in kernel.arg_names}


def build(kernel: Any, sm: int | str, dtype: str, dim: int, tile: Tile, **options: Any) -> Compiled:
    const = constants(kernel, dtype, dim, tile, **options)
    most = {} if tile.registers is None else {"maxnreg": tile.registers}
    return compiled(kernel, sm, types(kernel, dtype), const, warps=tile.warps, stages=tile.stages, **most)


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


def test_clear_blocks_by_tma_and_specialised_warps() -> None:
    """What is measured beside the tables: here, the clear part of evidence_attention and the edges that it leaves."""
    tile = Tile(128, 128, 4, 2)
    fused, plain = (build(clear_blocks_kernel, 90, "bf16", 128, tile, EVIDENCE=on) for on in (True, False))
    check(90, fused, "clear blocks", spills=0)
    assert "cp.async.bulk.tensor" in fused.ptx and "setmaxnreg" in fused.ptx, "no TMA, or every warp does everything"
    assert fused.main_loop <= GROWTH * plain.main_loop and fused.shared == plain.shared
    edges = build(evidence_attention_kernel, 90, "bf16", 128, tile._replace(warps=8, stages=1), CLEAR_DONE=True)
    check(90, edges, "edges", spills=192)  # outside the one or two steps of its loop
    print(f"sm_90 {tile}: loop {plain.main_loop} -> {fused.main_loop}, edges spill {edges.spills}")  # noqa: T201


def test_wide_tile_that_prefetches_winning_blocks() -> None:
    wide = build(evidence_attention_kernel, 90, "bf16", 128, Tile(128, 128, 8, 2), PREFETCH=True)
    check(90, wide, "128 x 128")


def test_few_rows_over_split_keys() -> None:
    few = build(split_attention_kernel, 90, "bf16", 128, Tile(16, 64, 4, 2))
    assert aot.MMA.search(few.sass) and few.spills == 0 and few.shared <= aot.SHARED[90] // 3


@pytest.mark.parametrize("sm", SMS)
def test_rows(sm: int) -> None:
    """The highest key in the loop, and only its block; as many programs fit on a processor as splits are cut for."""
    loops = []
    for table, long in ((configs.ROWS, False), (configs.LONG_ROWS, True)):
        tile = table_tile(table, sm, torch.bfloat16, 128)
        kernel = build(row_evidence_kernel, sm, "bf16", 128, tile, RESCAN=long)
        print(f"sm_{sm} {tile} rescan {long}: {kernel.facts()}")  # noqa: T201
        check(sm, kernel, "many rows", spills=256 if long else SPILLS)  # of a masked block and of the second look
        assert kernel.programs >= tile.programs
        loops.append(kernel.main_loop / tile.keys)
    assert loops[1] <= 0.8 * loops[0]


@pytest.mark.parametrize("sm", SMS)
def test_masses_and_merge(sm: int) -> None:
    small = table_tile(configs.ROWS, sm, torch.bfloat16, 128)._replace(
        rows=64, keys=32, warps=4, stages=1, registers=None
    )
    pages = {"PACKED_Q": True, "PAGE": 16} if sm == 90 else {}
    mass = build(span_mass_kernel, sm, "bf16", 128, small, **pages)
    assert aot.MMA.search(mass.sass)
    assert mass.spills == 0
    keys = build(key_mass_kernel, sm, "bf16", 128, small._replace(keys=64), HAS_CAP=True)
    assert aot.MMA.search(keys.sass)
    assert keys.spills == 0 and keys.shared <= aot.SHARED[sm]
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
    tile = configs.of_size(table_tile(configs.ROWS, 90, torch.bfloat16, 128), 4, torch.bfloat16)
    for lie in ({}, {"PACKED_Q": True, "PAGE": 16}):
        kernel = build(row_evidence_kernel, 90, "bf16", 128, tile, **lie)
        print(f"sm_90 {tile} {lie}: {kernel.facts()}")  # noqa: T201
        assert aot.MMA.search(kernel.sass), "too few rows for wgmma, enough for mma.sync"
        assert kernel.spills == 0 and kernel.shared <= aot.SHARED[90] and kernel.programs >= tile.programs


@pytest.mark.parametrize(("sm", "dim", "dtype"), [(80, 256, "bf16"), (90, 256, "fp16"), (80, 80, "fp16")])
def test_wide_and_odd_heads_with_every_option(sm: int, dim: int, dtype: str) -> None:
    options = dict.fromkeys(("HAS_FIRST", "HAS_WINDOW", "HAS_START", "HAS_CAP", "HAS_SINK"), True)
    for kernel, table in ((evidence_attention_kernel, configs.ATTENTION), (row_evidence_kernel, configs.ROWS)):
        tile = table_tile(table, sm, FLOATS[dtype], dim)
        built = build(kernel, sm, dtype, dim, tile, **options)
        print(f"sm_{sm} D{dim} {kernel.__name__} {tile}: spills {built.spills}, shared {built.shared}")  # noqa: T201
        check(sm, built, kernel.__name__, spills=192)


@pytest.mark.parametrize(
    ("arch", "kernels"),
    [
        ("gfx942", (evidence_attention_kernel, row_evidence_kernel, span_mass_kernel, key_mass_kernel)),
        ("gfx950", (evidence_attention_kernel,)),
    ],
)
def test_amd(arch: str, kernels: tuple[Any, ...]) -> None:
    attention, rows = (table_tile(table, 942, torch.bfloat16, 64) for table in (configs.ATTENTION, configs.ROWS))
    tiles = {evidence_attention_kernel: attention, row_evidence_kernel: rows}
    for kernel in kernels:
        tile = tiles.get(kernel, Tile(64, 64, 4, 1))
        built = build(kernel, arch, "bf16", 64, tile)
        assert "v_mfma" in built.ptx and built.spills == 0 and built.shared <= aot.SHARED[arch]
    if arch == "gfx942":
        build(merge_splits_kernel, arch, "bf16", 64, Tile(128, 0, 4, 1), HAS_SINK=True)


def test_float32_fits() -> None:
    for dim, spills in ((128, 0), (256, 2048)):  # for checking, not for speed: the widest heads may spill
        tile = table_tile(configs.ATTENTION, 80, torch.float32, dim)
        for kernel in (evidence_attention_kernel, row_evidence_kernel, span_mass_kernel)[: 3 if dim == 256 else 1]:
            built = build(kernel, 80, "fp32", dim, tile._replace(stages=1) if kernel is span_mass_kernel else tile)
            print(f"sm_80 D{dim} float32 {kernel.__name__} {tile}: spills {built.spills}, shared {built.shared}")  # noqa: T201
            check(80, built, f"{kernel.__name__}, float32", spills)
