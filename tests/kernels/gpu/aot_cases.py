"""Compilation for GPUs that are not here, with the tiles of configs.py: one gate a kernel and idea.

Run by test_without_gpu.py. All kernels, devices and head sizes: `python -m benchmarks.gpu --compiled`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from triton import knobs

from benchmark_modules import benchmark
from headscope.kernels import row_evidence
from headscope.kernels.gpu import configs
from headscope.kernels.gpu.clear_blocks import clear_blocks_kernel
from headscope.kernels.gpu.configs import Tile, table_tile
from headscope.kernels.gpu.evidence_attention import evidence_attention_kernel
from headscope.kernels.gpu.key_mass import key_mass_kernel
from headscope.kernels.gpu.row_evidence import merge_splits_kernel, row_evidence_kernel
from headscope.kernels.gpu.span_mass import span_mass_kernel
from headscope.kernels.gpu.split_attention import split_attention_kernel
from headscope.kernels.gpu.visible_keys import visible_keys_kernel

aot = benchmark("gpu.compiled")
build, MMA, SHARED = aot.build, aot.MMA, aot.SHARED

# A few registers that are stored once, outside the loop, cost nothing. Wide heads with every option may spill more.
SPILLS = 64  # bytes
GROWTH = 1.03  # main loop with evidence / without


def check(sm: int, kernel: Any, name: str, spills: int = SPILLS) -> None:
    assert aot.TENSOR_CORES[sm] in kernel.ptx, f"{name}: no {aot.TENSOR_CORES[sm]}"
    assert kernel.shared <= SHARED[sm], f"{name}: {kernel.shared} bytes of shared memory"
    assert kernel.spills <= spills, f"{name}: {kernel.spills} bytes spilled"


@pytest.mark.parametrize(("sm", "dim"), [(90, 128), (80, 64)])
def test_evidence_costs_the_main_loop_of_attention_next_to_nothing(sm: int, dim: int) -> None:
    tile = table_tile(configs.ATTENTION, sm, torch.bfloat16, dim)
    fused, plain = (build(evidence_attention_kernel, sm, "bf16", dim, tile, EVIDENCE=on) for on in (True, False))
    check(sm, fused, "with evidence")
    assert fused.shared == plain.shared
    assert fused.main_loop <= GROWTH * plain.main_loop, f"{plain.main_loop} -> {fused.main_loop}"


def test_clear_blocks_by_tma_and_specialised_warps() -> None:
    kernel = build(clear_blocks_kernel, 90, "bf16", 128, Tile(128, 128, 4, 2))
    check(90, kernel, "clear blocks", spills=0)
    assert "cp.async.bulk.tensor" in kernel.ptx and "setmaxnreg" in kernel.ptx, "no TMA, or every warp does everything"


def test_few_rows_over_split_keys() -> None:
    few = build(split_attention_kernel, 90, "bf16", 128, Tile(16, 64, 4, 2))
    assert MMA.search(few.sass) and few.spills == 0 and few.shared <= SHARED[90] // 3


def test_rows_by_their_key_and_by_its_block() -> None:
    """As many programs fit on a processor as splits are cut for."""
    loops = []
    for table, long in ((configs.ROWS, False), (configs.LONG_ROWS, True)):
        tile = table_tile(table, 90, torch.bfloat16, 128)
        kernel = build(row_evidence_kernel, 90, "bf16", 128, tile, RESCAN=long)
        check(90, kernel, "many rows", spills=256 if long else SPILLS)  # of a masked block and of the second look
        assert kernel.programs >= tile.programs
        loops.append(kernel.main_loop / tile.keys)
    assert loops[1] <= 0.8 * loops[0]


def test_rows_on_blackwell() -> None:
    tile = table_tile(configs.ROWS, 100, torch.bfloat16, 128)
    kernel = build(row_evidence_kernel, 100, "bf16", 128, tile)
    check(100, kernel, "many rows")
    assert kernel.programs >= tile.programs


def test_few_rows_of_a_decode_step_on_pages() -> None:
    tile = configs.of_size(table_tile(configs.ROWS, 90, torch.bfloat16, 128), 4, torch.bfloat16)
    kernel = build(row_evidence_kernel, 90, "bf16", 128, tile, PACKED_Q=True, PAGE=16)
    assert MMA.search(kernel.sass), "too few rows for wgmma, enough for mma.sync"
    assert kernel.spills == 0 and kernel.shared <= SHARED[90] and kernel.programs >= tile.programs


def test_highest_keys_of_many_rows() -> None:
    tile = table_tile(configs.ROWS, 80, torch.bfloat16, 128)
    check(80, build(row_evidence_kernel, 80, "bf16", 128, tile, K=16), "top 16", spills=1024)


def test_masses_merge_and_intervals() -> None:
    table = table_tile(configs.ROWS, 90, torch.bfloat16, 128)
    small = table._replace(rows=64, keys=32, warps=4, stages=1, registers=None)
    spans = build(span_mass_kernel, 90, "bf16", 128, small, PACKED_Q=True, PAGE=16)
    keys = build(key_mass_kernel, 90, "bf16", 128, small._replace(keys=64), HAS_CAP=True)
    for kernel in (spans, keys):
        assert MMA.search(kernel.sass) and kernel.spills == 0 and kernel.shared <= SHARED[90]
    rules = dict.fromkeys(("HAS_SINK", "CAUSAL", "HAS_WINDOW", "HAS_LIMIT", "HAS_START"), True)
    for kernel in (merge_splits_kernel, visible_keys_kernel):
        assert build(kernel, 90, "bf16", 128, Tile(128, 0, 4, 1), **rules).spills == 0


def test_wide_heads_with_every_option() -> None:
    options = dict.fromkeys(("HAS_FIRST", "HAS_CAP", "HAS_SINK", "PREFETCH"), True)
    tile = table_tile(configs.ATTENTION, 90, torch.float16, 256)
    check(90, build(evidence_attention_kernel, 90, "fp16", 256, tile, **options), "fp16, 256", spills=192)


def test_float32_fits() -> None:
    """For checking, not for speed."""
    tile = table_tile(configs.ATTENTION, 80, torch.float32, 128)
    check(80, build(evidence_attention_kernel, 80, "fp32", 128, tile), "float32", spills=0)


def test_amd() -> None:
    tile = table_tile(configs.ATTENTION, 942, torch.bfloat16, 64)
    built = build(evidence_attention_kernel, "gfx942", "bf16", 64, tile)
    assert "v_mfma" in built.ptx and built.spills == 0 and built.shared <= SHARED["gfx942"]


def test_a_bundle_is_found_where_it_was_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, bundle = benchmark("gpu.bundle_build"), benchmark("gpu.bundle")
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    q, k = (torch.empty(1, heads, 64, 64, dtype=torch.bfloat16, device="meta") for heads in (4, 2))
    at = torch.empty(64, dtype=torch.int64, device="meta")

    def steps(rows: slice = slice(None)) -> Any:
        yield "rows", lambda: row_evidence(q[:, :, rows], k, q_positions=at[rows], impl="triton")

    here, there = tmp_path / "made", tmp_path / "carried"
    assert built.fill(here, 90, steps()) == 2  # the row kernel and the merge of its splits
    here.rename(there)
    assert bundle.put_to_use(there, 90).startswith("bundle fits: 2 kernels")
    assert "does not fit" in bundle.put_to_use(there, 80) and "arch 90, here 80" in bundle.put_to_use(there, 80)
    hits = []
    monkeypatch.setattr(knobs.compilation, "listener", lambda *, cache_hit, **more: hits.append(cache_hit))
    for rows in (slice(None), slice(48, None)):  # the second wants a smaller tile
        for kernel in bundle.all_kernels():
            kernel.device_caches.clear()  # as in a process that has launched nothing
        with built.compiling(90):
            for _, call in steps(rows):
                call()
    assert hits == [True, True, False, True]
    assert bundle.compiled_since(there) == ["row_evidence_kernel"]
    about = json.loads((there / bundle.ABOUT).read_text())
    (there / bundle.ABOUT).write_text(json.dumps(about | {"compiler": "another"}))
    assert "compiler another, here" in bundle.put_to_use(there, 90)
    assert "`make gpu-bundle` makes one" in bundle.put_to_use(tmp_path, 90)
