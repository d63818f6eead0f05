"""Attention probability of every key, summed over rows whose log-sum-exp is known: no memory but the result.

A program has the keys of one block and walks the rows of one head; rows that see none of the block are passed over.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import FUSED, span_tile
from .kernel_args import KernelArgs
from .primitives import LOG2E, NO_KEY, load_rows, logit, or_zero, scores, tile_rows


def key_mass(problem: KernelArgs, lse: Tensor) -> Tensor:
    """float32 [B, Hq, N]; lse float32 [B, Hq, R], contiguous."""
    q, k = problem.q, problem.k
    (batch, heads, rows, dim), (_, kv_heads, n, _) = q.shape, k.shape
    mass = torch.empty(batch, heads, n, dtype=torch.float32, device=q.device)
    if not mass.numel():
        return mass
    tile = span_tile(q, rows)
    keys = 2 * tile.keys  # of spans there are few
    key_mass_kernel[(batch * heads * triton.cdiv(n, keys),)](
        q,
        k,
        problem.first,
        problem.last,
        lse,
        mass,
        *q.stride(),
        *k.stride(),
        problem.mult,
        problem.cap,
        rows,
        n,
        heads,
        G=heads // kv_heads,
        D=dim,
        BD=problem.padded(dim),
        BM=tile.rows,
        BN=keys,
        HAS_CAP=problem.has_cap,
        PRECISION=problem.precision,
        enable_fp_fusion=FUSED,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return mass


@triton.jit(do_not_specialize=["R", "N", "HQ"])
def key_mass_kernel(
    q,  # [B, HQ, R, D]
    k,  # [B, HQ / G, N, D]
    first,  # int32 [B, R]
    last,  # int32 [B, R]
    lse,  # float32 [B, HQ, R]
    mass,  # float32 [B, HQ, N]
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
    N,
    HQ,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_CAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    blocks = tl.cdiv(N, BN)
    n, i_bh = tl.program_id(0) % blocks * BN, tl.program_id(0) // blocks
    i_b, i_h = (i_bh // HQ).to(tl.int64), (i_bh % HQ).to(tl.int64)
    o_d, o_n = tl.arange(0, BD), tl.arange(0, BN).to(tl.int64)
    p_k = k + i_b * s_kb + i_h // G * s_kh + o_n[:, None] * s_kn + o_d[None, :] * s_kd
    b_mass = tl.zeros([BN], tl.float32)
    for i_t in range(0, tl.cdiv(R, BM)):
        o_r, _, real = tile_rows(i_t, R, BM, 1)
        b_first = tl.load(first + i_b * R + o_r)
        b_last = tl.where(real, tl.load(last + i_b * R + o_r), 0)
        if (tl.max(b_last, 0) > n) & (tl.min(tl.where(b_first < b_last, b_first, NO_KEY), 0) < n + BN):
            p_q = q + i_b * s_qb + i_h * s_qh + (o_r.to(tl.int64) * s_qr)[:, None] + o_d[None, :] * s_qd
            b_q = load_rows(p_q, o_d, D, BD)
            b_shift = or_zero(tl.load(lse + i_bh.to(tl.int64) * R + o_r)) * LOG2E
            b_s = scores(b_q, p_k, s_kn, o_d, b_first, b_last, 0, N, n, D, BD, BN, PRECISION, True)
            b_p = tl.exp2(logit(b_s, mult, cap, LOG2E, HAS_CAP) - b_shift[:, None])
            b_mass += tl.sum(tl.where(b_s == float("-inf"), 0.0, b_p), 0)  # what is hidden is hidden from NaN as well
    tl.store(mass + i_bh.to(tl.int64) * N + n + o_n, b_mass, mask=n + o_n < N)
