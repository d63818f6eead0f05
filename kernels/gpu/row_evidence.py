"""Evidence of some rows against many keys: K is read once for each tile of rows, V not at all.

All query heads of a key head are rows of one tile. The keys of a tile are split over several programs, each writes
(highest raw score, sum of weights, its key), and ``merge_splits_kernel`` joins them by the rule of ``merge``.

The highest keys beyond the first are optional: a block is searched again for as long as some row of the tile finds a
key in it that belongs among its highest so far.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import FUSED, Tile, processors, row_tile
from .kernel_args import KernelArgs
from .primitives import LOG2E, NO_KEY, close_rows, load_rows, logit, or_zero, scores, tile_rows, walked_keys

LEAST_BLOCKS = 4  # blocks of keys a split is worth


def splits_for(problem: KernelArgs, tiles: int, keys: int) -> int:
    """So many that two programs are resident on every processor, as long as each has something to do."""
    blocks = triton.cdiv(problem.k.shape[2], keys)
    return max(1, min(2 * processors(problem.q.device) // tiles, blocks // LEAST_BLOCKS))


class Rows(NamedTuple):
    """lse, at (key index, int64) and max_logit: [B, Hq, R].

    With topk also key indices (int64) and raw scores of every split's highest, [B, Hq, R, splits * K'] with K' >= topk,
    in no order, -1 and -inf where there are fewer.
    """

    lse: Tensor
    at: Tensor
    max_logit: Tensor
    more_at: Tensor | None
    more: Tensor | None


def row_evidence(problem: KernelArgs, splits: int | None = None, *, topk: int = 0, tile: Tile | None = None) -> Rows:
    """Splits and tile are chosen here unless they are given, which only measurements do."""
    q, k = problem.q, problem.k
    (batch, heads, rows, dim), kv_heads = q.shape, k.shape[1]
    group = heads // kv_heads
    tile = tile or row_tile(q, group * rows)
    tiles = triton.cdiv(group * rows, tile.rows)
    if splits is None:
        splits = splits_for(problem, batch * kv_heads * tiles, tile.keys)
    part_m = torch.empty(splits, batch, heads, rows, dtype=torch.float32, device=q.device)
    part_l = torch.empty_like(part_m)
    part_at = torch.empty_like(part_m, dtype=torch.int32)
    more, more_at = part_m, part_at
    if topk:
        more = torch.empty(*part_m.shape, triton.next_power_of_2(topk), dtype=torch.float32, device=q.device)
        more_at = torch.empty_like(more, dtype=torch.int32)
    row_evidence_kernel[(batch * kv_heads * tiles, splits)](
        q,
        k,
        problem.first,
        problem.last,
        part_m,
        part_l,
        part_at,
        more,
        more_at,
        *q.stride(),
        *k.stride(),
        problem.mult,
        problem.cap,
        rows,
        kv_heads,
        splits,
        G=group,
        D=dim,
        BD=problem.padded(dim),
        BM=tile.rows,
        BN=tile.keys,
        HAS_FIRST=problem.has_first,
        HAS_CAP=problem.has_cap,
        K=triton.next_power_of_2(topk) if topk else 0,
        PRECISION=problem.precision,
        enable_fp_fusion=FUSED,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    lse, max_logit = torch.empty_like(part_m[0]), torch.empty_like(part_m[0])
    at = torch.empty_like(lse, dtype=torch.int64)
    merge_splits_kernel[(triton.cdiv(lse.numel(), 128),)](
        part_m,
        part_l,
        part_at,
        problem.sinks,
        lse,
        at,
        max_logit,
        problem.mult,
        problem.cap,
        lse.numel(),
        rows,
        heads,
        splits,
        BM=128,
        HAS_CAP=problem.has_cap,
        HAS_SINK=problem.has_sink,
        enable_fp_fusion=FUSED,
        num_warps=4,
    )
    if not topk:
        return Rows(lse, at, max_logit, None, None)
    more_at, more = (x.movedim(0, -2).flatten(-2) for x in (more_at, more))
    return Rows(lse, at, max_logit, more_at.long().clamp_min(-1), more)


@triton.jit(do_not_specialize=["R", "H", "SPLITS"])
def row_evidence_kernel(
    q,  # [B, H * G, R, D]
    k,  # [B, H, N, D]
    first,  # int32 [B, R]
    last,  # int32 [B, R]
    part_m,  # float32 [SPLITS, B, H * G, R]
    part_l,  # float32 [SPLITS, B, H * G, R]
    part_at,  # int32 [SPLITS, B, H * G, R]
    more,  # float32 [SPLITS, B, H * G, R, K]
    more_at,  # int32 [SPLITS, B, H * G, R, K]
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
    H,
    SPLITS,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_FIRST: tl.constexpr,
    HAS_CAP: tl.constexpr,
    K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles = tl.cdiv(R * G, BM)
    i_t, i_bh, i_s = tl.program_id(0) % tiles, tl.program_id(0) // tiles, tl.program_id(1)
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    o_r, o_g, real = tile_rows(i_t, R, BM, G)
    o_d, o_n = tl.arange(0, BD), tl.arange(0, BN).to(tl.int64)
    b_first, b_last = tl.load(first + i_b * R + o_r), tl.load(last + i_b * R + o_r)

    p_q = q + i_b * s_qb + ((i_h * G + o_g) * s_qh + o_r.to(tl.int64) * s_qr)[:, None] + o_d[None, :] * s_qd
    b_q = load_rows(p_q, o_d, D, BD)
    p_k = k + i_b * s_kb + i_h * s_kh + o_n[:, None] * s_kn + o_d[None, :] * s_kd

    begin, end, low, clear_from, clear_to = walked_keys(b_first, b_last, BN)
    blocks = tl.cdiv(tl.maximum(end - low, 0), BN)
    share = tl.cdiv(blocks, SPLITS)
    n_from = low + i_s * share * BN
    n_to = tl.minimum(n_from + share * BN, low + blocks * BN)

    b_m = tl.full([BM], float("-inf"), tl.float32)  # highest raw score
    b_l = tl.zeros([BM], tl.float32)  # sum of exp(logit - logit(b_m))
    b_at = tl.full([BM], -1, tl.int32)  # key of b_m
    BK: tl.constexpr = K if K else 1
    o_k = tl.arange(0, BK)[None, :]
    b_more = tl.full([BM, BK], float("-inf"), tl.float32)  # the highest raw scores, in no order
    b_more_at = tl.zeros([BM, BK], tl.int32) - 1 - o_k  # their keys; free places differ, so that one is taken at a time
    if HAS_FIRST:
        b_m, b_l, b_at, b_more, b_more_at = _walk(
            b_q, p_k, s_kn, o_d, b_first, b_last, begin, end, n_from, tl.minimum(n_to, clear_from),
            b_m, b_l, b_at, b_more, b_more_at, mult, cap, D, BD, BN, HAS_CAP, K, PRECISION, True,
        )  # fmt: skip
    b_m, b_l, b_at, b_more, b_more_at = _walk(
        b_q, p_k, s_kn, o_d, b_first, b_last, begin, end, tl.maximum(n_from, clear_from), tl.minimum(n_to, clear_to),
        b_m, b_l, b_at, b_more, b_more_at, mult, cap, D, BD, BN, HAS_CAP, K, PRECISION, False,
    )  # fmt: skip
    b_m, b_l, b_at, b_more, b_more_at = _walk(
        b_q, p_k, s_kn, o_d, b_first, b_last, begin, end, tl.maximum(n_from, clear_to), n_to,
        b_m, b_l, b_at, b_more, b_more_at, mult, cap, D, BD, BN, HAS_CAP, K, PRECISION, True,
    )  # fmt: skip

    b_seen = b_first < b_last
    o_part = ((tl.cast(i_s, tl.int64) * (tl.num_programs(0) // tiles) + i_bh) * G + o_g) * R + o_r
    tl.store(part_m + o_part, tl.where(b_seen, b_m, float("-inf")), mask=real)
    tl.store(part_l + o_part, tl.where(b_seen, b_l, 0.0), mask=real)
    tl.store(part_at + o_part, tl.where(b_seen, b_at, -1), mask=real)
    if K:
        o_more = o_part[:, None] * K + o_k
        tl.store(more + o_more, tl.where(b_seen[:, None], b_more, float("-inf")), mask=real[:, None])
        tl.store(more_at + o_more, tl.where(b_seen[:, None], b_more_at, -1), mask=real[:, None])


@triton.jit
def _walk(
    b_q, p_k, s_kn, o_d, b_first, b_last, begin, end, n_from, n_to,
    b_m, b_l, b_at, b_more, b_more_at, mult, cap,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr,
    HAS_CAP: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Online softmax and argmax, and with K the K highest, over the blocks of [n_from, n_to)."""
    o_c = tl.arange(0, BN)[None, :]
    for n in range(n_from, n_to, BN):
        b_s = scores(b_q, p_k, s_kn, o_d, b_first, b_last, begin, end, n, D, BD, BN, PRECISION, MASKED)
        b_top = tl.max(b_s, 1)
        b_c = tl.min(tl.where(b_s == b_top[:, None], o_c, BN), 1)
        b_at = tl.where(b_top > b_m, n + b_c, b_at)  # strictly greater: the earlier key keeps a tie
        b_new = tl.maximum(b_m, b_top)
        b_shift = or_zero(logit(b_new, mult, cap, LOG2E, HAS_CAP))
        b_p = tl.exp2(logit(b_s, mult, cap, LOG2E, HAS_CAP) - b_shift[:, None])
        b_l = b_l * tl.exp2(logit(b_m, mult, cap, LOG2E, HAS_CAP) - b_shift) + tl.sum(b_p, 1)
        b_m = b_new
        if K:
            b_left = b_s  # what was not taken yet
            b_least = tl.min(b_more, 1)
            b_takes = b_top > b_least  # strictly: of equal scores the earlier keys stay
            while tl.max(b_takes.to(tl.int32), 0) > 0:
                # Of equal least scores the last key goes.
                b_goes = tl.max(tl.where(b_more == b_least[:, None], b_more_at, -NO_KEY), 1)
                b_put = b_takes[:, None] & (b_more == b_least[:, None]) & (b_more_at == b_goes[:, None])
                b_more = tl.where(b_put, b_top[:, None], b_more)
                b_more_at = tl.where(b_put, (n + b_c)[:, None], b_more_at)
                b_left = tl.where(b_takes[:, None] & (o_c == b_c[:, None]), float("-inf"), b_left)
                b_top = tl.max(b_left, 1)
                b_c = tl.min(tl.where(b_left == b_top[:, None], o_c, BN), 1)
                b_least = tl.min(b_more, 1)
                b_takes = b_top > b_least
    return b_m, b_l, b_at, b_more, b_more_at


@triton.jit(do_not_specialize=["rows", "R", "H", "SPLITS"])
def merge_splits_kernel(
    part_m,  # float32 [SPLITS, rows]
    part_l,  # float32 [SPLITS, rows]
    part_at,  # int32 [SPLITS, rows]
    sinks,  # float32 [H]
    lse,  # float32 [rows]
    at,  # int64 [rows]
    max_logit,  # float32 [rows]
    mult,
    cap,
    rows,  # B * H * R
    R,
    H,
    SPLITS,
    BM: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_SINK: tl.constexpr,
):
    o_r = tl.program_id(0) * BM + tl.arange(0, BM)
    real = o_r < rows
    b_m = tl.full([BM], float("-inf"), tl.float32)
    b_l = tl.zeros([BM], tl.float32)
    b_at = tl.full([BM], -1, tl.int32)
    for i_s in range(SPLITS):
        o_part = tl.cast(i_s, tl.int64) * rows + o_r
        b_top = tl.load(part_m + o_part, mask=real, other=float("-inf"))
        b_at = tl.where(b_top > b_m, tl.load(part_at + o_part, mask=real, other=-1), b_at)  # a tie: the lower split
        b_new = tl.maximum(b_m, b_top)
        b_shift = or_zero(logit(b_new, mult, cap, LOG2E, HAS_CAP))
        b_l = b_l * tl.exp2(logit(b_m, mult, cap, LOG2E, HAS_CAP) - b_shift)
        b_more = tl.load(part_l + o_part, mask=real, other=0.0)
        b_l += b_more * tl.exp2(logit(b_top, mult, cap, LOG2E, HAS_CAP) - b_shift)
        b_m = b_new
    b_sink = b_l
    if HAS_SINK:
        b_sink = tl.load(sinks + o_r // R % H)
    b_lse, b_top, _ = close_rows(b_m, b_l, b_sink, mult, cap, HAS_CAP, HAS_SINK)
    tl.store(lse + o_r, b_lse, mask=real)
    tl.store(max_logit + o_r, b_top, mask=real)
    tl.store(at + o_r, tl.where(b_lse != b_lse, -1, b_at).to(tl.int64), mask=real)
