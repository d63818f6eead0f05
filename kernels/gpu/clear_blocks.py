"""The blocks of keys that every row of a tile sees, in a launch of their own: a loop without masks, fed by TMA.

With 4 warps and tiles of 128 rows, Triton specialises warps on Hopper: one loads, two groups of four take 64 rows each.
Only a kernel with this one loop compiles so; ``evidence_attention`` goes on from its state and does the edges. Queries
come by TMA too, because Triton 3.9 takes no other loads of operands beside such a loop.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from contextvars import copy_context
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .configs import Tile
from .kernel_args import KernelArgs
from .primitives import NO_KEY, least, tile_rows, walked_keys
from .softmax_walk import weigh


class State(NamedTuple):
    """Of every row behind its clear blocks, as ``weigh`` has it: [B, Hq, R], output not normalised [B, Hq, R, Dv]."""

    m: Tensor
    l: Tensor  # noqa: E741
    block: Tensor
    out: Tensor


def takes(*tensors: Tensor) -> bool:
    """Whether TMA can read them."""
    return all(
        x.numel()
        and x.stride(-1) == 1
        and x.data_ptr() % 16 == 0
        and all(s * x.itemsize % 16 == 0 for s in x.stride()[:-1])
        for x in tensors
    )


def clear_blocks(problem: KernelArgs, v: Tensor, tile: Tile, *, evidence: bool = True) -> State:
    """For rows that see the first key: with edges behind the clear blocks, and none before, which would come first."""
    q, k = problem.q, problem.k
    (batch, heads, rows, dim), (_, kv_heads, n, _) = q.shape, k.shape
    m = torch.empty(batch, heads, rows, dtype=torch.float32, device=q.device)
    out = torch.empty(*m.shape, v.shape[-1], dtype=m.dtype, device=q.device)
    state = State(m, torch.empty_like(m), torch.empty_like(m, dtype=torch.int32), out)

    def launch() -> None:
        # Memory for the descriptors of a launch; set in a copied context, so that the caller's allocator stays.
        triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device=q.device))
        clear_blocks_kernel[(batch * heads * triton.cdiv(rows, tile.rows),)](
            q,
            k,
            v,
            problem.first,
            problem.last,
            *state,
            *q.stride()[:-1],
            *k.stride()[:-1],
            *v.stride()[:-1],
            problem.mult,
            problem.cap,
            rows,
            heads,
            n,
            G=heads // kv_heads,
            D=dim,
            BD=problem.padded(dim),
            DV=v.shape[-1],
            BDV=problem.padded(v.shape[-1]),
            BM=tile.rows,
            BN=tile.keys,
            HAS_CAP=problem.has_cap,
            EVIDENCE=evidence,
            PRECISION=problem.precision,
            SPECIALISED=tile.warps == 4,
            **tile.options(),
        )

    copy_context().run(launch)
    return state


@triton.jit(do_not_specialize=["R", "HQ", "N"])
def clear_blocks_kernel(
    q,  # [B, HQ, R, D]
    k,  # [B, HQ / G, N, D]
    v,  # [B, HQ / G, N, DV]
    first,  # int32 [B, R]
    last,  # int32 [B, R]
    part_m,  # float32 [B, HQ, R]
    part_l,  # float32 [B, HQ, R]
    part_block,  # int32 [B, HQ, R]
    part_o,  # float32 [B, HQ, R, DV]
    s_qb,
    s_qh,
    s_qr,
    s_kb,
    s_kh,
    s_kn,
    s_vb,
    s_vh,
    s_vn,
    mult,
    cap,
    R,
    HQ,
    N,
    G: tl.constexpr,
    D: tl.constexpr,
    BD: tl.constexpr,
    DV: tl.constexpr,
    BDV: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_CAP: tl.constexpr,
    EVIDENCE: tl.constexpr,
    PRECISION: tl.constexpr,
    SPECIALISED: tl.constexpr,
):
    tiles = tl.cdiv(R, BM)
    i_t, i_bh = tiles - 1 - tl.program_id(0) % tiles, tl.program_id(0) // tiles  # as in evidence_attention_kernel
    i_b, i_h = (i_bh // HQ).to(tl.int64), (i_bh % HQ).to(tl.int64)
    o_r, _, real = tile_rows(i_t, R, BM, 1)
    b_first, b_last = tl.load(first + i_b * R + o_r), tl.load(last + i_b * R + o_r)
    _, end, low, clear_from, clear_to = walked_keys(b_first, b_last, BN)

    p_q, p_k, p_v = q + i_b * s_qb + i_h * s_qh, k + i_b * s_kb + i_h // G * s_kh, v + i_b * s_vb + i_h // G * s_vh
    d_q = tl.make_tensor_descriptor(p_q, shape=[R, D], strides=[s_qr, 1], block_shape=[BM, BD])
    d_k = tl.make_tensor_descriptor(p_k, shape=[N, D], strides=[s_kn, 1], block_shape=[BN, BD])
    d_v = tl.make_tensor_descriptor(p_v, shape=[N, DV], strides=[s_vn, 1], block_shape=[BN, BDV])
    b_q = d_q.load([i_t * BM, 0])
    b_m = tl.zeros([BM], tl.float32) + least(mult)
    b_l = tl.zeros([BM], tl.float32)
    b_block = tl.full([BM], NO_KEY, tl.int32)
    b_o = tl.zeros([BM, BDV], tl.float32)
    n_from, n_to = tl.maximum(low, clear_from), tl.minimum(end, clear_to)
    for n in tl.range(n_from, n_to, BN, warp_specialize=SPECIALISED):
        b_s = tl.dot(b_q, tl.trans(d_k.load([n, 0])), input_precision=PRECISION)
        b_p, b_fade, b_m, b_l, b_block = weigh(b_s, n, b_m, b_l, b_block, mult, cap, HAS_CAP, EVIDENCE)
        b_v = d_v.load([n, 0])
        b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o * b_fade[:, None], input_precision=PRECISION)

    o_row, o_e = i_bh.to(tl.int64) * R + o_r, tl.arange(0, BDV)
    tl.store(part_m + o_row, b_m, mask=real)
    tl.store(part_l + o_row, b_l, mask=real)
    if EVIDENCE:
        tl.store(part_block + o_row, b_block, mask=real)
    tl.store(part_o + o_row[:, None] * DV + o_e[None, :], b_o, mask=real[:, None] & (o_e < DV)[None, :])
