"""Queries and keys to measure with: 32 query heads, 8 key heads, dimension 128, as in an 8B model."""

from __future__ import annotations

import torch
from torch import Tensor

from headscope.kernels.gpu.kernel_args import KernelArgs
from headscope.kernels.rules import Rules

from .stage import Stage

HEADS, KV_HEADS, DIM = 32, 8, 128


def heads(stage: Stage) -> tuple[int, int, int]:
    return (4, 2, 16) if stage.toy else (HEADS, KV_HEADS, DIM)


def qkv(stage: Stage, rows: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random: every row's best key is anywhere, which no model does. The worst case of the second look at the keys."""
    hq, hkv, dim = heads(stage)
    return stage.randn(1, hq, rows, dim), stage.randn(1, hkv, n, dim, seed=1), stage.randn(1, hkv, n, dim, seed=2)


def like_a_model(stage: Stage, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Causal rows whose best key is the first one, a recent one, or one at a fixed distance, by turns of four heads.

    Two heads of four look at the first key, as half of all rows do in a small real model; one at the key 5 back, one at
    the key half the text back. 128 rows then have two or three winning blocks; the real model had four to five.
    """
    q, k, v = qkv(stage, n, n)
    at = torch.arange(n, device=q.device)
    group = q.shape[1] // k.shape[1]
    for head in range(q.shape[1]):
        target = [at * 0, at - 5, at * 0, at - n // 2][head % 4].clamp_min(0)
        q[0, head] += k[0, head // group, target]
    return q, k, v


def problem(q: Tensor, k: Tensor, at: Tensor, causal: bool = True) -> KernelArgs:
    return KernelArgs.of(q, k, Rules(q_positions=at[None], scale=q.shape[-1] ** -0.5, causal=causal))
