"""Sequences of any kind (``kernels/sequences.py``) inside a kernel: where their rows and keys begin, and pages."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ..sequences import Sequences
from .primitives import load_rows, scores


def sequence_args(at: Sequences, unused: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """row_starts, key_starts, table and its stride; and flags."""
    tensors = (unused if x is None else x for x in (at.row_starts, at.key_starts, at.table))
    flags = {"PACKED_Q": at.row_starts is not None, "PACKED_K": at.key_starts is not None, "PAGE": at.page}
    return (*tensors, 0 if at.table is None else at.table.stride(0)), flags


@triton.jit
def sequence_rows(row_starts, i_b, MOST, sequences, PACKED_Q: tl.constexpr):
    """Of sequence i_b: batch entry of q, its first row there, and its number of rows; and q's number of entries."""
    if PACKED_Q:
        begin = tl.load(row_starts + i_b)
        return i_b * 0, begin, tl.load(row_starts + i_b + 1) - begin, 1
    return i_b, 0, MOST, sequences


@triton.jit
def sequence_keys(
    p, key_starts, i_b, s_kb, s_kn, s_kd, o_d, BN: tl.constexpr, PACKED_K: tl.constexpr, PAGE: tl.constexpr
):
    """Pointers to the first BN keys of sequence i_b, [BN, BD]; of pages, to their first key, [1, BD]."""
    p_k = p + o_d[None, :] * s_kd
    if PAGE == 0:
        o_n = tl.arange(0, BN).to(tl.int64)
        if PACKED_K:
            p_k += (tl.load(key_starts + i_b) + o_n)[:, None] * s_kn
        else:
            p_k += i_b * s_kb + o_n[:, None] * s_kn
    return p_k


@triton.jit
def key_scores(
    b_q, p_k, p_table, s_kb, s_kn, o_d, b_first, b_last, begin, end, n,
    D: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, PAGE: tl.constexpr,
    PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """As ``scores``, of keys that may lie in pages of PAGE keys."""
    if PAGE == 0:
        return scores(b_q, p_k, s_kn, o_d, b_first, b_last, begin, end, n, D, BD, BN, PRECISION, MASKED)
    o_n = n + tl.arange(0, BN)
    inside = (o_n >= begin) & (o_n < end)
    b_page = tl.load(p_table + o_n // PAGE, mask=inside, other=0).to(tl.int64)
    p = p_k + (b_page * s_kb + (o_n % PAGE).to(tl.int64) * s_kn)[:, None]
    if MASKED:
        of_key = inside[:, None]
        if BD != D:
            of_key = of_key & (o_d < D)[None, :]
        b_k = tl.load(p, mask=of_key, other=0.0)
    else:
        b_k = load_rows(p, o_d, D, BD)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
    if MASKED:
        b_s = tl.where((o_n[None, :] >= b_first[:, None]) & (o_n[None, :] < b_last[:, None]), b_s, float("-inf"))
    return b_s
