"""Evidence of some rows against many keys: K is read once for each tile of rows, V not at all.

All query heads of a key head are rows of one tile. The keys of a tile are split over several programs (``waves.py``),
each writes (highest raw score, sum of weights, its key), and ``merge_splits_kernel`` joins them by the rule of
``merge``.

The loop looks for the key of the highest score in every block, or only remembers the block: programs that walk many
blocks find the keys of the few that won when they are done.

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

from ..sequences import Sequences
from .configs import FUSED, LONG_WALK, Tile, long_row_tile, processors, row_tile
from .kernel_args import KernelArgs
from .primitives import LOG2E, NO_KEY, close_rows, least, load_rows, logit, or_zero, tile_rows, walked_keys
from .sequences import key_scores, sequence_args, sequence_keys, sequence_rows
from .visible_keys import interval, interval_args
from .waves import WAVES, splits_for


class Layout(NamedTuple):
    tile: Tile
    splits: int
    rescan: bool
    """The loop remembers blocks; keys are found by a second look at those that won."""


def layout(
    q: Tensor,
    k: Tensor,
    at: Sequences,
    topk: int = 0,
    *,
    splits: int | None = None,
    tile: Tile | None = None,
    rescan: bool | None = None,
) -> Layout:
    """How a call is cut, by shapes and device alone; what is given stays, which only measurements do."""
    rows = q.shape[1] // k.shape[1] * at.rows

    def cut(size: Tile) -> Layout:
        tiles, blocks = at.batch * k.shape[1] * triton.cdiv(rows, size.rows), triton.cdiv(at.keys, size.keys)
        slots, more = processors(q.device) * size.programs, 0 if topk else WAVES  # every split keeps its topk
        count = splits_for(tiles, slots, blocks, more) if splits is None else splits
        long = triton.cdiv(blocks, count) * size.keys >= LONG_WALK
        return Layout(size, count, (long if rescan is None else rescan) and not topk)

    chosen = cut(tile or row_tile(q, rows))
    return cut(long_row_tile(q, rows))._replace(rescan=True) if chosen.rescan and tile is None else chosen


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


def row_evidence(
    problem: KernelArgs,
    splits: int | None = None,
    *,
    topk: int = 0,
    tile: Tile | None = None,
    rescan: bool | None = None,
) -> Rows:
    """The layout is chosen here where it is not given, which only measurements do."""
    q, k, sequences = problem.q, problem.k, problem.sequences
    (batch, heads, rows, dim), kv_heads = q.shape, k.shape[1]
    group = heads // kv_heads
    tile, splits, rescan = layout(q, k, sequences, topk, splits=splits, tile=tile, rescan=rescan)
    tiles = triton.cdiv(group * sequences.rows, tile.rows)
    part_m = torch.empty(splits, batch, heads, rows, dtype=torch.float32, device=q.device)
    part_l = torch.empty_like(part_m)
    part_at = torch.empty_like(part_m, dtype=torch.int32)
    more, more_at = part_m, part_at
    if topk:
        more = torch.empty(*part_m.shape, triton.next_power_of_2(topk), dtype=torch.float32, device=q.device)
        more_at = torch.empty_like(more, dtype=torch.int32)
    sees, flags = interval_args(problem.rules, batch)
    lie, kinds = sequence_args(sequences, q)
    row_evidence_kernel[(sequences.batch * kv_heads * tiles, splits)](
        q,
        k,
        part_m,
        part_l,
        part_at,
        more,
        more_at,
        *q.stride(),
        *k.stride(),
        *sees,
        *lie,
        sequences.keys,
        problem.mult,
        problem.cap,
        sequences.rows,
        rows,
        kv_heads,
        splits,
        **flags,
        **kinds,
        G=group,
        D=dim,
        BD=problem.padded(dim),
        BM=tile.rows,
        BN=tile.keys,
        HAS_CAP=problem.has_cap,
        K=triton.next_power_of_2(topk) if topk else 0,
        RESCAN=rescan,
        PRECISION=problem.precision,
        **tile.options(),
    )
    lse, at, max_logit = merge_splits(problem, part_m, part_l, part_at)
    if not topk:
        return Rows(lse, at, max_logit, None, None)
    more_at, more = (x.movedim(0, -2).flatten(-2) for x in (more_at, more))
    return Rows(lse, at, max_logit, more_at.long().clamp_min(-1), more)


def merge_splits(problem: KernelArgs, part_m: Tensor, part_l: Tensor, part_at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """lse, what part_at says of the highest score (int64) and max_logit, [B, Hq, R], of parts [splits, B, Hq, R]."""
    splits, _, heads, rows = part_m.shape
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
    return lse, at, max_logit


# What changes from call to call would compile the kernel again and again.
CHANGING = ("s_pb", "s_pr", "s_lb", "s_lr", "s_sb", "s_sr", "s_tb", "window", "N", "MOST", "R", "H", "SPLITS")


@triton.jit(do_not_specialize=CHANGING)
def row_evidence_kernel(
    q,  # [B, H * G, R, D]; packed: [1, H * G, R, D], the rows of all sequences
    k,  # [B, H, N, D]; packed: [1, H, all keys, D]; paged: [pages, H, PAGE, D]
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
    positions,
    limits,
    starts,
    s_pb,
    s_pr,
    s_lb,
    s_lr,
    s_sb,
    s_sr,
    window,
    row_starts,  # int32 [sequences + 1], with PACKED_Q
    key_starts,  # int32 [sequences + 1], with PACKED_K
    table,  # int32 [sequences, ...], with PAGE
    s_tb,
    N,
    mult,
    cap,
    MOST,
    R,
    H,
    SPLITS,
    CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    HAS_START: tl.constexpr,
    PACKED_Q: tl.constexpr,
    PACKED_K: tl.constexpr,
    PAGE: tl.constexpr,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_CAP: tl.constexpr,
    K: tl.constexpr,
    RESCAN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles = tl.cdiv(MOST * G, BM)
    # The last rows have the most keys: they start first.
    i_t, i_bh, i_s = tiles - 1 - tl.program_id(0) % tiles, tl.program_id(0) // tiles, tl.program_id(1)
    i_b, i_h = (i_bh // H).to(tl.int64), (i_bh % H).to(tl.int64)
    sequences = tl.num_programs(0) // tiles // H
    i_q, begin_row, rows, batch = sequence_rows(row_starts, i_b, MOST, sequences, PACKED_Q)
    if i_t * BM >= rows * G:
        return
    o_r, o_g, real = tile_rows(i_t, rows, BM, G)
    o_r = (begin_row + o_r).to(tl.int64)
    o_d = tl.arange(0, BD)
    b_first, b_last = interval(
        positions, limits, starts, s_pb, s_pr, s_lb, s_lr, s_sb, s_sr, window, N, i_q, o_r,
        CAUSAL, HAS_WINDOW, HAS_LIMIT, HAS_START,
    )  # fmt: skip

    p_q = q + i_q * s_qb + ((i_h * G + o_g) * s_qh + o_r * s_qr)[:, None] + o_d[None, :] * s_qd
    b_q = load_rows(p_q, o_d, D, BD)
    p_k = sequence_keys(k + i_h * s_kh, key_starts, i_b, s_kb, s_kn, s_kd, o_d, BN, PACKED_K, PAGE)
    p_table = table + i_b * s_tb

    begin, end, low, clear_from, clear_to = walked_keys(b_first, b_last, BN)
    blocks = tl.cdiv(tl.maximum(end - low, 0), BN)
    share = tl.cdiv(blocks, SPLITS)
    n_from = low + i_s * share * BN
    n_to = tl.minimum(n_from + share * BN, low + blocks * BN)

    lowest = least(mult)  # a block of nothing but -inf is then like any other, and needs no care in the loop
    b_m = tl.zeros([BM], tl.float32) + lowest  # highest raw score
    b_l = tl.zeros([BM], tl.float32)  # sum of exp(logit - logit(b_m))
    b_at = tl.full([BM], NO_KEY, tl.int32)  # key of b_m; with RESCAN the first of its block
    BK: tl.constexpr = K if K else 1
    o_k = tl.arange(0, BK)[None, :]
    b_more = tl.full([BM, BK], float("-inf"), tl.float32)  # the highest raw scores, in no order
    b_more_at = tl.zeros([BM, BK], tl.int32) - 1 - o_k  # their keys; free places differ, so that one is taken at a time
    if HAS_WINDOW or HAS_START:
        b_m, b_l, b_at, b_more, b_more_at = _walk(
            b_q, p_k, p_table, s_kb, s_kn, o_d, b_first, b_last, begin, end, n_from, tl.minimum(n_to, clear_from),
            b_m, b_l, b_at, b_more, b_more_at, mult, cap, D, BD, BN, PAGE, HAS_CAP, K, RESCAN, PRECISION, True,
        )  # fmt: skip
    b_m, b_l, b_at, b_more, b_more_at = _walk(
        b_q, p_k, p_table, s_kb, s_kn, o_d, b_first, b_last, begin, end,
        tl.maximum(n_from, clear_from), tl.minimum(n_to, clear_to),
        b_m, b_l, b_at, b_more, b_more_at, mult, cap, D, BD, BN, PAGE, HAS_CAP, K, RESCAN, PRECISION, False,
    )  # fmt: skip
    b_m, b_l, b_at, b_more, b_more_at = _walk(
        b_q, p_k, p_table, s_kb, s_kn, o_d, b_first, b_last, begin, end, tl.maximum(n_from, clear_to), n_to,
        b_m, b_l, b_at, b_more, b_more_at, mult, cap, D, BD, BN, PAGE, HAS_CAP, K, RESCAN, PRECISION, True,
    )  # fmt: skip

    b_seen = b_first < b_last
    if RESCAN:
        b_todo = tl.where(b_seen & (b_l == b_l), b_at, NO_KEY)
        o_c = tl.arange(0, BN)[None, :]
        n = tl.min(b_todo, 0)
        while n < NO_KEY:
            b_s = key_scores(
                b_q, p_k, p_table, s_kb, s_kn, o_d, b_first, b_last, begin, end, n, D, BD, BN, PAGE, PRECISION, True
            )
            # The block's own maximum, so that nothing depends on both products being equal to the last bit.
            b_c = tl.min(tl.where(b_s == tl.max(b_s, 1)[:, None], o_c, BN), 1)
            b_at = tl.where(b_todo == n, n + b_c, b_at)
            b_todo = tl.where(b_todo == n, NO_KEY, b_todo)
            n = tl.min(b_todo, 0)
    b_found = b_seen & (b_m != lowest)
    o_part = ((tl.cast(i_s, tl.int64) * batch + i_q) * H * G + i_h * G + o_g) * R + o_r
    tl.store(part_m + o_part, tl.where(b_found, b_m, float("-inf")), mask=real)
    tl.store(part_l + o_part, tl.where(b_seen, b_l, 0.0), mask=real)
    tl.store(part_at + o_part, tl.where(b_found, b_at, -1), mask=real)
    if K:
        o_more = o_part[:, None] * K + o_k
        tl.store(more + o_more, tl.where(b_seen[:, None], b_more, float("-inf")), mask=real[:, None])
        tl.store(more_at + o_more, tl.where(b_seen[:, None], b_more_at, -1), mask=real[:, None])


@triton.jit
def _walk(
    b_q, p_k, p_table, s_kb, s_kn, o_d, b_first, b_last, begin, end, n_from, n_to,
    b_m, b_l, b_at, b_more, b_more_at, mult, cap,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, PAGE: tl.constexpr,
    HAS_CAP: tl.constexpr, K: tl.constexpr, RESCAN: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Online softmax and argmax, and with K the K highest, over the blocks of [n_from, n_to)."""
    o_c = tl.arange(0, BN)[None, :]
    for n in range(n_from, n_to, BN):
        b_s = key_scores(
            b_q, p_k, p_table, s_kb, s_kn, o_d, b_first, b_last, begin, end, n, D, BD, BN, PAGE, PRECISION, MASKED
        )
        b_top = tl.max(b_s, 1)
        # Strictly greater: the earlier key keeps a tie.
        if RESCAN:
            b_at = tl.where(b_top > b_m, n, b_at)
        else:
            b_c = tl.min(tl.where(b_s == b_top[:, None], o_c, BN), 1)
            b_at = tl.where(b_top > b_m, n + b_c, b_at)
        b_new = tl.maximum(b_m, b_top)
        b_shift = logit(b_new, mult, cap, LOG2E, HAS_CAP)
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
