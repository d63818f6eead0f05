"""Attention and evidence of a few rows against many keys: a decode step, or monitoring one.

``evidence_attention`` gives every head and tile of rows one program: where rows are few, most processors have none.
Here all query heads of a key head are rows of one tile, so that keys and values are read once, and the keys are split
over programs, as in ``row_evidence``, whose second kernel merges the evidence. The winning key of a row is looked for
when it is known which split has it: in one block a row, so that the loop stays that of attention.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import FUSED, Tile, of_size, processors
from .kernel_args import KernelArgs
from .primitives import NO_KEY, least, load_rows, logit, tile_rows, walked_keys
from .row_evidence import merge_splits
from .softmax_walk import walk
from .waves import splits_for


def splits_of(q: Tensor, k: Tensor, tile: Tile) -> int:
    """How many programs share the keys; 1 where the tiles of rows alone keep half of the device busy."""
    rows = q.shape[1] // k.shape[1] * q.shape[2]
    tile = of_size(tile, rows, q.dtype)
    tiles, slots = q.shape[0] * k.shape[1] * triton.cdiv(rows, tile.rows), processors(q.device) * tile.programs
    return splits_for(tiles, slots, triton.cdiv(k.shape[2], tile.keys)) if 2 * tiles <= slots else 1


def split_attention(
    problem: KernelArgs, v: Tensor, tile: Tile, splits: int, *, evidence: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As ``evidence_attention``; the tile is cut to the number of rows."""
    q, k = problem.q, problem.k
    (batch, heads, rows, dim), kv_heads, width = q.shape, k.shape[1], v.shape[-1]
    group = heads // kv_heads
    tile = of_size(tile, group * rows, q.dtype)
    tiles = batch * kv_heads * triton.cdiv(group * rows, tile.rows)
    part_m = torch.empty(splits, batch, heads, rows, dtype=torch.float32, device=q.device)
    part_l, part_block = torch.empty_like(part_m), torch.empty_like(part_m, dtype=torch.int32)
    part_o = torch.empty(*part_m.shape, width, dtype=torch.float32, device=q.device)
    split_attention_kernel[(tiles, splits)](
        q,
        k,
        v,
        problem.first,
        problem.last,
        part_m,
        part_l,
        part_block,
        part_o,
        *q.stride(),
        *k.stride(),
        *v.stride(),
        problem.mult,
        problem.cap,
        rows,
        kv_heads,
        splits,
        G=group,
        D=dim,
        BD=problem.padded(dim),
        DV=width,
        BDV=problem.padded(width),
        BM=tile.rows,
        BN=tile.keys,
        HAS_FIRST=problem.has_first,
        HAS_CAP=problem.has_cap,
        EVIDENCE=evidence,
        PRECISION=problem.precision,
        **tile.options(),
    )
    lse, at, max_logit = merge_splits(problem, part_m, part_l, part_block)
    out = torch.empty(batch, heads, rows, width, dtype=q.dtype, device=q.device)
    join_splits_kernel[(lse.numel(),)](
        q,
        k,
        problem.first,
        problem.last,
        part_m,
        part_o,
        lse,
        at,
        out,
        *q.stride(),
        *k.stride(),
        problem.mult,
        problem.cap,
        rows,
        heads,
        splits,
        G=group,
        D=dim,
        BD=problem.padded(dim),
        DV=width,
        BDV=problem.padded(width),
        BN=tile.keys,
        BS=16,
        HAS_CAP=problem.has_cap,
        EVIDENCE=evidence,
        enable_fp_fusion=FUSED,
        num_warps=4,
    )
    return out, lse, at, max_logit


@triton.jit(do_not_specialize=["R", "H", "SPLITS"])
def split_attention_kernel(
    q,  # [B, H * G, R, D]
    k,  # [B, H, N, D]
    v,  # [B, H, N, DV]
    first,  # int32 [B, R]
    last,  # int32 [B, R]
    part_m,  # float32 [SPLITS, B, H * G, R]
    part_l,  # float32 [SPLITS, B, H * G, R]
    part_block,  # int32 [SPLITS, B, H * G, R]
    part_o,  # float32 [SPLITS, B, H * G, R, DV]
    s_qb,
    s_qh,
    s_qr,
    s_qd,
    s_kb,
    s_kh,
    s_kn,
    s_kd,
    s_vb,
    s_vh,
    s_vn,
    s_vd,
    mult,
    cap,
    R,
    H,
    SPLITS,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    DV: tl.constexpr,
    BDV: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    HAS_CAP: tl.constexpr,
    EVIDENCE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles = tl.cdiv(R * G, BM)
    i_t, i_bh, i_s = tl.program_id(0) % tiles, tl.program_id(0) // tiles, tl.program_id(1)
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    o_r, o_g, real = tile_rows(i_t, R, BM, G)
    o_d, o_e, o_n = tl.arange(0, BD), tl.arange(0, BDV), tl.arange(0, BN).to(tl.int64)
    b_first, b_last = tl.load(first + i_b * R + o_r), tl.load(last + i_b * R + o_r)

    p_q = q + i_b * s_qb + ((i_h * G + o_g) * s_qh + o_r.to(tl.int64) * s_qr)[:, None] + o_d[None, :] * s_qd
    b_q = load_rows(p_q, o_d, D, BD)
    p_k = k + i_b * s_kb + i_h * s_kh + o_n[:, None] * s_kn + o_d[None, :] * s_kd
    p_v = v + i_b * s_vb + i_h * s_vh + o_n[:, None] * s_vn + o_e[None, :] * s_vd

    begin, end, low, clear_from, clear_to = walked_keys(b_first, b_last, BN)
    share = tl.cdiv(tl.cdiv(tl.maximum(end - low, 0), BN), SPLITS) * BN
    n_from = low + i_s * share
    n_to = tl.minimum(n_from + share, end)
    b_m = tl.zeros([BM], tl.float32) + least(mult)
    b_l = tl.zeros([BM], tl.float32)
    b_block = tl.full([BM], NO_KEY, tl.int32)
    b_o = tl.zeros([BM, BDV], tl.float32)
    if HAS_FIRST:
        b_m, b_l, b_block, b_o = walk(
            b_q, p_k, p_v, s_kn, s_vn, o_d, o_e, b_first, b_last, begin, end, n_from, tl.minimum(n_to, clear_from),
            b_m, b_l, b_block, b_o, mult, cap, D, BD, DV, BDV, BN, HAS_CAP, EVIDENCE, PRECISION, True,
        )  # fmt: skip
    b_m, b_l, b_block, b_o = walk(
        b_q, p_k, p_v, s_kn, s_vn, o_d, o_e, b_first, b_last, begin, end,
        tl.maximum(n_from, clear_from), tl.minimum(n_to, clear_to),
        b_m, b_l, b_block, b_o, mult, cap, D, BD, DV, BDV, BN, HAS_CAP, EVIDENCE, PRECISION, False,
    )  # fmt: skip
    b_m, b_l, b_block, b_o = walk(
        b_q, p_k, p_v, s_kn, s_vn, o_d, o_e, b_first, b_last, begin, end, tl.maximum(n_from, clear_to), n_to,
        b_m, b_l, b_block, b_o, mult, cap, D, BD, DV, BDV, BN, HAS_CAP, EVIDENCE, PRECISION, True,
    )  # fmt: skip

    b_seen = b_first < b_last
    b_m = tl.where(b_seen & (b_m > least(mult)), b_m, float("-inf"))
    o_part = ((tl.cast(i_s, tl.int64) * (tl.num_programs(0) // tiles) + i_bh) * G + o_g) * R + o_r
    tl.store(part_m + o_part, b_m, mask=real)
    tl.store(part_l + o_part, tl.where(b_seen, b_l, 0.0), mask=real)
    tl.store(part_block + o_part, b_block, mask=real)
    p_o = part_o + o_part[:, None] * DV + o_e[None, :]
    tl.store(p_o, tl.where(b_seen[:, None], b_o, 0.0), mask=real[:, None] & (o_e < DV)[None, :])


@triton.jit(do_not_specialize=["R", "HQ", "SPLITS"])
def join_splits_kernel(
    q,  # [B, HQ, R, D]
    k,  # [B, HQ / G, N, D]
    first,  # int32 [B, R]
    last,  # int32 [B, R]
    part_m,  # float32 [SPLITS, B, HQ, R]
    part_o,  # float32 [SPLITS, B, HQ, R, DV]
    lse,  # float32 [B, HQ, R]
    at,  # int64 [B, HQ, R]: first key of the winning block, -1 for none, when the kernel begins; then the key
    out,  # [B, HQ, R, DV]
    s_qb,
    s_qh,
    s_qr,
    s_qd,
    s_kb,
    s_kh,
    s_kn,
    s_kd,
    mult,
    cap,
    R,
    HQ,
    SPLITS,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    DV: tl.constexpr,
    BDV: tl.constexpr,
    BN: tl.constexpr,
    BS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    EVIDENCE: tl.constexpr,
):
    """A row's output, from those of the splits by their share of its log-sum-exp; its key, from the winning block."""
    i_row = tl.program_id(0).to(tl.int64)
    i_b, i_h, i_r = i_row // R // HQ, i_row // R % HQ, i_row % R
    rows = tl.num_programs(0).to(tl.int64)
    o_e = tl.arange(0, BDV)
    b_lse = tl.load(lse + i_row)
    b_o = tl.zeros([BDV], tl.float32)
    for i_s in range(0, SPLITS, BS):
        o_s = i_s + tl.arange(0, BS)
        here = o_s < SPLITS
        o_part = o_s * rows + i_row
        b_m = tl.load(part_m + o_part, mask=here, other=float("-inf"))
        b_share = tl.exp(logit(b_m, mult, cap, 1.0, HAS_CAP) - b_lse)
        b_share = tl.where(b_m == float("-inf"), 0.0, b_share)  # its output is 0, or NaN
        p_o = part_o + o_part[:, None] * DV + o_e[None, :]
        b_part = tl.load(p_o, mask=here[:, None] & (o_e < DV)[None, :], other=0.0)
        b_o += tl.sum(b_share[:, None] * b_part, 0)
    tl.store(out + i_row * DV + o_e, b_o.to(out.dtype.element_ty), mask=o_e < DV)

    n = tl.load(at + i_row) if EVIDENCE else -1
    if n >= 0:
        o_d, o_n = tl.arange(0, BD), n + tl.arange(0, BN)
        b_seen = (o_n >= tl.load(first + i_b * R + i_r)) & (o_n < tl.load(last + i_b * R + i_r))
        b_q = tl.load(q + i_b * s_qb + i_h * s_qh + i_r * s_qr + o_d * s_qd, mask=o_d < D, other=0.0)
        p_k = k + i_b * s_kb + i_h // G * s_kh + o_n[:, None] * s_kn + o_d[None, :] * s_kd
        b_k = tl.load(p_k, mask=b_seen[:, None] & (o_d < D)[None, :], other=0.0)
        b_s = tl.where(b_seen, tl.sum(b_q.to(tl.float32)[None, :] * b_k.to(tl.float32), 1), float("-inf"))
        tl.store(at + i_row, tl.min(tl.where(b_s == tl.max(b_s, 0), o_n, n + BN), 0))
