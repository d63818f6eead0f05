"""Attention with the evidence of every row: one pass over the keys, and a look back at the few blocks that won.

The loop is FlashAttention's (arXiv 2205.14135) plus one compare and one select a row: it remembers the *block* of each
row's highest score. When the loop is done, the distinct winning blocks of the tile (a handful) are scored once more to
find the keys. Span mass is left to ``span_mass``, which needs only the log-sum-exp. ``configs.WAYS`` has other ways to
the same, for a GPU to choose from.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .clear_blocks import State, clear_blocks, takes
from .configs import Tile, Ways, attention_tile, attention_ways
from .kernel_args import KernelArgs
from .primitives import NO_KEY, close_rows, least, load_keys, load_rows, scores_of, tile_rows, walked_keys
from .softmax_walk import walk
from .split_attention import split_attention, splits_of


def evidence_attention(
    problem: KernelArgs,
    v: Tensor,
    *,
    evidence: bool = True,
    tile: Tile | None = None,
    ways: Ways | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output [B, Hq, R, Dv]; lse, key index (int64) and highest logit, each [B, Hq, R].

    Without ``evidence`` the last two are not written: the same kernel as plain attention, to compare with. Tile and
    ways are chosen here unless they are given, which only measurements do.
    """
    q, k = problem.q, problem.k
    (batch, heads, rows, dim), kv_heads = q.shape, k.shape[1]
    ways = fitting(q, k, v, Ways() if ways is None and tile is not None else ways)
    tile = tile or attention_tile(q, v)
    if ways.few_rows is not None:
        return split_attention(problem, v, ways.few_rows, splits_of(q, k, ways.few_rows), evidence=evidence)
    out = torch.empty(batch, heads, rows, v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, heads, rows, dtype=torch.float32, device=q.device)
    max_logit, at = torch.empty_like(lse), torch.empty_like(lse, dtype=torch.int64)
    state = State(lse, lse, problem.first, lse)  # of no use without clear
    if ways.clear is not None and not problem.has_first:
        state = clear_blocks(problem, v, ways.clear, evidence=evidence)
        tile = ways.clear._replace(warps=8, stages=1)  # one or two blocks are left
    evidence_attention_kernel[(batch * heads * triton.cdiv(rows, tile.rows),)](
        q,
        k,
        v,
        problem.first,
        problem.last,
        problem.sinks,
        *state,
        out,
        lse,
        at,
        max_logit,
        *q.stride(),
        *k.stride(),
        *v.stride(),
        problem.mult,
        problem.cap,
        rows,
        heads,
        G=heads // kv_heads,
        D=dim,
        BD=problem.padded(dim),
        DV=v.shape[-1],
        BDV=problem.padded(v.shape[-1]),
        BM=tile.rows,
        BN=tile.keys,
        HAS_FIRST=problem.has_first,
        HAS_CAP=problem.has_cap,
        HAS_SINK=problem.has_sink,
        EVIDENCE=evidence,
        CLEAR_DONE=state.m is not lse,
        PREFETCH=ways.prefetch,
        PRECISION=problem.precision,
        **tile.options(),
    )
    return out, lse, at, max_logit


def fitting(q: Tensor, k: Tensor, v: Tensor, ways: Ways | None = None) -> Ways:
    """Those of the ways, of the table's if none are given, that such tensors can go."""
    ways = attention_ways(q, v) if ways is None else ways
    few = ways.few_rows is not None and splits_of(q, k, ways.few_rows) > 1
    clear = ways.clear is not None and takes(q, k, v)
    return Ways(ways.clear if clear else None, ways.few_rows if few else None, ways.prefetch)


@triton.jit(do_not_specialize=["R", "HQ"])
def evidence_attention_kernel(
    q,  # [B, HQ, R, D]
    k,  # [B, HQ / G, N, D]
    v,  # [B, HQ / G, N, DV]
    first,  # int32 [B, R]
    last,  # int32 [B, R]
    sinks,  # float32 [HQ]
    part_m,  # float32 [B, HQ, R]; this and the next three with CLEAR_DONE
    part_l,  # float32 [B, HQ, R]
    part_block,  # int32 [B, HQ, R]
    part_o,  # float32 [B, HQ, R, DV]
    out,  # [B, HQ, R, DV]
    lse,  # float32 [B, HQ, R]
    at,  # int64 [B, HQ, R]
    max_logit,  # float32 [B, HQ, R]
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
    HQ,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    DV: tl.constexpr,
    BDV: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_SINK: tl.constexpr,
    EVIDENCE: tl.constexpr,
    CLEAR_DONE: tl.constexpr,
    PREFETCH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles = tl.cdiv(R, BM)
    # The last rows have the most keys: they start first.
    i_t, i_bh = tiles - 1 - tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i_b, i_h = (i_bh // HQ).to(tl.int64), (i_bh % HQ).to(tl.int64)
    o_r, _, real = tile_rows(i_t, R, BM, 1)
    o_d, o_e, o_n = tl.arange(0, BD), tl.arange(0, BDV), tl.arange(0, BN).to(tl.int64)
    b_first, b_last = tl.load(first + i_b * R + o_r), tl.load(last + i_b * R + o_r)

    p_q = q + i_b * s_qb + i_h * s_qh + (o_r.to(tl.int64) * s_qr)[:, None] + o_d[None, :] * s_qd
    b_q = load_rows(p_q, o_d, D, BD)
    p_k = k + i_b * s_kb + i_h // G * s_kh + o_n[:, None] * s_kn + o_d[None, :] * s_kd
    p_v = v + i_b * s_vb + i_h // G * s_vh + o_n[:, None] * s_vn + o_e[None, :] * s_vd

    begin, end, low, clear_from, clear_to = walked_keys(b_first, b_last, BN)
    b_m = tl.zeros([BM], tl.float32) + least(mult)  # highest raw score
    b_l = tl.zeros([BM], tl.float32)  # sum of exp(logit - logit(b_m))
    b_block = tl.full([BM], NO_KEY, tl.int32)  # first key of the block of b_m
    b_o = tl.zeros([BM, BDV], tl.float32)
    if HAS_FIRST:
        b_m, b_l, b_block, b_o = walk(
            b_q, p_k, p_v, s_kn, s_vn, o_d, o_e, b_first, b_last, begin, end, low, tl.minimum(end, clear_from),
            b_m, b_l, b_block, b_o, mult, cap, D, BD, DV, BDV, BN, HAS_CAP, EVIDENCE, PRECISION, True,
        )  # fmt: skip
    o_row = i_bh.to(tl.int64) * R + o_r
    p_row = o_row[:, None] * DV + o_e[None, :]
    if CLEAR_DONE:
        b_m, b_l = tl.load(part_m + o_row), tl.load(part_l + o_row)
        if EVIDENCE:
            b_block = tl.load(part_block + o_row)
        b_o = load_rows(part_o + p_row, o_e, DV, BDV)
    else:
        b_m, b_l, b_block, b_o = walk(
            b_q, p_k, p_v, s_kn, s_vn, o_d, o_e, b_first, b_last, begin, end,
            tl.maximum(low, clear_from), tl.minimum(end, clear_to),
            b_m, b_l, b_block, b_o, mult, cap, D, BD, DV, BDV, BN, HAS_CAP, EVIDENCE, PRECISION, False,
        )  # fmt: skip
    b_m, b_l, b_block, b_o = walk(
        b_q, p_k, p_v, s_kn, s_vn, o_d, o_e, b_first, b_last, begin, end, tl.maximum(low, clear_to), end,
        b_m, b_l, b_block, b_o, mult, cap, D, BD, DV, BDV, BN, HAS_CAP, EVIDENCE, PRECISION, True,
    )  # fmt: skip

    b_seen = b_first < b_last
    b_m = tl.where(b_seen & (b_m > least(mult)), b_m, float("-inf"))
    b_l = tl.where(b_seen, b_l, 0.0)
    b_sink = b_l
    if HAS_SINK:
        b_sink = tl.zeros([BM], tl.float32) + tl.load(sinks + i_h)
    b_lse, b_top, b_share = close_rows(b_m, b_l, b_sink, mult, cap, HAS_CAP, HAS_SINK)
    tl.store(lse + o_row, b_lse, mask=real)
    b_o = tl.where(b_seen[:, None], b_o * b_share[:, None], 0.0)
    tl.store(out + p_row, b_o.to(out.dtype.element_ty), mask=real[:, None] & (o_e < DV)[None, :])

    if EVIDENCE:
        tl.store(max_logit + o_row, b_top, mask=real)
        b_todo = tl.where(b_seen & (b_lse == b_lse), b_block, NO_KEY)
        b_at = tl.full([BM], -1, tl.int32)
        o_b = tl.arange(0, BN)
        n = tl.min(b_todo, 0)
        if PREFETCH:
            b_k = load_keys(p_k + tl.cast(n, tl.int64) * s_kn, n + o_b, o_d, begin, end, D, BD, True)
        while n < NO_KEY:
            b_here = b_todo == n
            b_todo = tl.where(b_here, NO_KEY, b_todo)
            n_next = tl.min(b_todo, 0)
            n_load = n_next if PREFETCH else n
            b_loaded = load_keys(p_k + tl.cast(n_load, tl.int64) * s_kn, n_load + o_b, o_d, begin, end, D, BD, True)
            b_s = scores_of(b_q, b_k if PREFETCH else b_loaded, n + o_b, b_first, b_last, PRECISION, True)
            # The block's own maximum, so that nothing depends on both products being equal to the last bit.
            b_c = tl.min(tl.where(b_s == tl.max(b_s, 1)[:, None], o_b[None, :], BN), 1)
            b_at = tl.where(b_here, n + b_c, b_at)
            n = n_next
            if PREFETCH:
                b_k = b_loaded
        tl.store(at + o_row, b_at.to(tl.int64), mask=real)
