"""Attention probability on spans, when the log-sum-exp of the rows is known: only the spans' keys are read."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import FUSED, span_tile
from .kernel_args import KernelArgs
from .primitives import NO_KEY, load_rows, logit, or_zero, tile_rows
from .sequences import key_scores, sequence_args, sequence_keys, sequence_rows


def span_mass(problem: KernelArgs, lse: Tensor, spans: Tensor) -> Tensor:
    """[B, Hq, R, S] of spans int64 [B, R, S, 2], half-open in key indices, any numbers; lse [B, Hq, R] is final."""
    q, k, at = problem.q, problem.k, problem.sequences
    (batch, heads, rows, dim), kv_heads, count = q.shape, k.shape[1], spans.shape[2]
    group = heads // kv_heads
    mass = torch.empty(batch, heads, rows, count, dtype=torch.float32, device=q.device)
    if not mass.numel():
        return mass
    lie, kinds = sequence_args(at, q)
    tile = span_tile(q, group * at.rows)
    span_mass_kernel[(at.batch * kv_heads * triton.cdiv(group * at.rows, tile.rows), count)](
        q,
        k,
        problem.first,
        problem.last,
        spans,
        lse,
        mass,
        *q.stride(),
        *k.stride(),
        *spans.stride(),
        *lie,
        problem.mult,
        problem.cap,
        at.rows,
        rows,
        kv_heads,
        **kinds,
        G=group,
        D=dim,
        BD=problem.padded(dim),
        BM=tile.rows,
        BN=tile.keys,
        HAS_CAP=problem.has_cap,
        PRECISION=problem.precision,
        enable_fp_fusion=FUSED,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return mass


# The strides of the spans depend on how many there are, which would compile the kernel again and again.
@triton.jit(do_not_specialize=["s_sb", "s_sr", "s_ss", "s_se", "s_tb", "MOST", "R", "H"])
def span_mass_kernel(
    q,  # [B, H * G, R, D]; q and k packed or paged as in row_evidence_kernel
    k,  # [B, H, N, D]
    first,  # int32 [B, R]
    last,  # int32 [B, R]
    spans,  # int64 [B, R, S, 2]
    lse,  # float32 [B, H * G, R]
    mass,  # float32 [B, H * G, R, S]
    s_qb,
    s_qh,
    s_qr,
    s_qd,
    s_kb,
    s_kh,
    s_kn,
    s_kd,
    s_sb,
    s_sr,
    s_ss,
    s_se,
    row_starts,
    key_starts,
    table,
    s_tb,
    mult,
    cap,
    MOST,
    R,
    H,
    PACKED_Q: tl.constexpr,
    PACKED_K: tl.constexpr,
    PAGE: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_CAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles = tl.cdiv(MOST * G, BM)
    i_t, i_bh, i_s = tl.program_id(0) % tiles, tl.program_id(0) // tiles, tl.program_id(1)
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    i_q, begin_row, rows, _ = sequence_rows(row_starts, i_b, MOST, 0, PACKED_Q)
    if i_t * BM >= rows * G:
        return
    o_r, o_g, real = tile_rows(i_t, rows, BM, G)
    o_r = (begin_row + o_r).to(tl.int64)
    o_d = tl.arange(0, BD)
    p_span = spans + i_q * s_sb + o_r * s_sr + i_s * s_ss
    b_first, b_last = tl.load(first + i_q * R + o_r), tl.load(last + i_q * R + o_r)
    b_start = tl.minimum(tl.maximum(tl.load(p_span), b_first), b_last).to(tl.int32)
    b_stop = tl.maximum(tl.minimum(tl.load(p_span + s_se), b_last), b_first).to(tl.int32)

    p_q = q + i_q * s_qb + ((i_h * G + o_g) * s_qh + o_r * s_qr)[:, None] + o_d[None, :] * s_qd
    b_q = load_rows(p_q, o_d, D, BD)
    p_k = sequence_keys(k + i_h * s_kh, key_starts, i_b, s_kb, s_kn, s_kd, o_d, BN, PACKED_K, PAGE)
    p_table = table + i_b * s_tb
    o_row = ((i_q * H + i_h) * G + o_g) * R + o_r
    b_lse = tl.load(lse + o_row)
    b_shift = or_zero(b_lse)[:, None]

    b_mass = tl.zeros([BM], tl.float32)
    end = tl.max(tl.where(b_start < b_stop, b_stop, 0), 0)  # what an empty span says may lie behind a sequence
    # The rows' spans may lie far apart: from where one block ends, go on at the next key that some row asks for.
    n = tl.min(tl.where(b_start < b_stop, b_start, NO_KEY), 0)
    while n < NO_KEY:
        b_s = key_scores(
            b_q, p_k, p_table, s_kb, s_kn, o_d, b_start, b_stop, n, end, n, D, BD, BN, PAGE, PRECISION, True
        )
        b_mass += tl.sum(tl.exp(logit(b_s, mult, cap, 1.0, HAS_CAP) - b_shift), 1)
        n = tl.min(tl.where((b_start < b_stop) & (b_stop > n + BN), tl.maximum(b_start, n + BN), NO_KEY), 0)
    b_mass = tl.where(b_lse != b_lse, b_lse, b_mass)
    tl.store(mass + o_row * tl.num_programs(1) + i_s, b_mass, mask=real)
