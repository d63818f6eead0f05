"""Which keys each row sees: in the kernel that needs it, or for others in one launch.

A dozen tensor operations would take as long as the evidence itself.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rules import Rules
from .configs import FUSED


def interval_args(rules: Rules, batch: int) -> tuple[tuple[Any, ...], dict[str, bool]]:
    """Arguments of ``interval``: tensors and their strides, window, and flags; without k_positions."""
    at = rules.q_positions
    given = [at if x is None else x for x in (rules.key_limits, rules.key_starts)]
    tensors = [x.expand(batch, at.shape[1]) for x in (at, *given)]
    strides = (stride for x in tensors for stride in x.stride())
    flags = {
        "CAUSAL": rules.causal,
        "HAS_WINDOW": rules.window is not None,
        "HAS_LIMIT": rules.key_limits is not None,
        "HAS_START": rules.key_starts is not None,
    }
    return (*tensors, *strides, rules.window or 0), flags


def visible_keys(rules: Rules, batch: int, n: int) -> tuple[Tensor, Tensor]:
    """As ``reference.visible_keys`` for keys at positions 0 .. n-1; int32 [B, R], contiguous."""
    at = rules.q_positions
    rows = at.shape[1]
    first = torch.empty(batch, rows, dtype=torch.int32, device=at.device)
    last = torch.empty_like(first)  # of its own, so that both are aligned
    arguments, flags = interval_args(rules, batch)
    visible_keys_kernel[(batch, triton.cdiv(rows, 128))](
        first, last, *arguments, n, rows, **flags, BM=128, enable_fp_fusion=FUSED, num_warps=4
    )
    return first, last


@triton.jit
def interval(
    positions,  # int64 [B, R]
    limits,  # int64 [B, R]
    starts,  # int64 [B, R]
    s_pb, s_pr, s_lb, s_lr, s_sb, s_sr, window, N, i_b, o_r,
    CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_LIMIT: tl.constexpr, HAS_START: tl.constexpr,
):  # fmt: skip
    """The keys [first, last) of 0 .. N that rows o_r of batch entry i_b see, int32; equal for a row that sees none."""
    o_r = o_r.to(tl.int64)
    b_t = tl.load(positions + i_b * s_pb + o_r * s_pr)
    b_first = b_t * 0
    b_last = b_first + N
    if CAUSAL:
        b_last = tl.minimum(b_last - 1, b_t) + 1  # b_t may be the largest number there is
    if HAS_LIMIT:
        b_last = tl.minimum(b_last, tl.load(limits + i_b * s_lb + o_r * s_lr))
    if HAS_START:
        b_first = tl.maximum(b_first, tl.load(starts + i_b * s_sb + o_r * s_sr))
    if HAS_WINDOW:
        b_first = tl.maximum(b_first, b_t - window + 1)
    b_first = tl.minimum(b_first, N)
    return b_first.to(tl.int32), tl.maximum(b_last, b_first).to(tl.int32)


@triton.jit(do_not_specialize=["s_pb", "s_pr", "s_lb", "s_lr", "s_sb", "s_sr", "N", "window", "R"])
def visible_keys_kernel(
    first,  # int32 [B, R]
    last,  # int32 [B, R]
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
    N,
    R,
    CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    HAS_START: tl.constexpr,
    BM: tl.constexpr,
):
    i_b = tl.program_id(0).to(tl.int64)
    o_r = tl.program_id(1).to(tl.int64) * BM + tl.arange(0, BM)
    real = o_r < R
    o_r = tl.minimum(o_r, R - 1)
    b_first, b_last = interval(
        positions, limits, starts, s_pb, s_pr, s_lb, s_lr, s_sb, s_sr, window, N, i_b, o_r,
        CAUSAL, HAS_WINDOW, HAS_LIMIT, HAS_START,
    )  # fmt: skip
    tl.store(first + i_b * R + o_r, b_first, mask=real)
    tl.store(last + i_b * R + o_r, b_last, mask=real)
