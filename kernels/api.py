"""The two evidence operations: argument checks and the choice of implementation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import reference
from .evidence import RowEvidence

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def row_evidence(
    q: Tensor,
    k: Tensor,
    *,
    q_positions: Tensor,
    spans: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    key_limits: Tensor | None = None,
    key_starts: Tensor | None = None,
    k_positions: Tensor | None = None,
    topk: int = 0,
    causal: bool = True,
    impl: str = "auto",
) -> RowEvidence:
    """What every head did at the given query rows, without building their attention map.

    A row at position t sees the key at position j iff all of these hold::

        j <= t               (causal)
        j <  key_limits[row] (if given)
        j >= key_starts[row] (if given)
        j >  t - window      (if given)

    Args:
        q: [B, Hq, R, D] float64, float32, bfloat16 or float16; any strides.
        k: [B, Hkv, N, D], same dtype and device; any strides (a view of a cache), Hq a multiple of Hkv. Query head h uses
            key head h // (Hq // Hkv); k is never expanded to Hq.
        q_positions: int [R] or [B, R], in any order.
        spans: int [B, S, 2] or per row [B, R, S, 2], half-open [start, end) in key positions; may be empty or reach
            outside the keys.
        scale: score = scale * q.k, > 0; default D ** -0.5.
        window: sliding window in tokens, the row's own position included.
        softcap: score = softcap * tanh(score / softcap), > 0 (Gemma 2, arXiv 2408.00118).
        sinks: float [Hq], one more logit per head that takes probability but is no key (gpt-oss).
        key_limits, key_starts: int [R] or [B, R].
        k_positions: int [N] or [B, N], strictly increasing; default 0 .. N-1.
        topk: how many of the highest-scoring keys to keep per row.
        causal: whether rows are limited to keys at or before their own position.
        impl: "auto", "reference" or "triton".

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes or values do not fit; the message names the argument.
    """
    _check_impl(impl)
    _, ev = reference.evidence(
        q, k, None,
        **_checked(q, k, None, q_positions, spans, scale, window, softcap, sinks, key_limits, key_starts, k_positions, topk),
        causal=causal,
    )
    return ev


def evidence_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_offset: int = 0,
    q_positions: Tensor | None = None,
    spans: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    key_limits: Tensor | None = None,
    key_starts: Tensor | None = None,
    k_positions: Tensor | None = None,
    topk: int = 0,
    causal: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, RowEvidence]:
    """Attention and the evidence of every row in one pass.

    Arguments and errors as in ``row_evidence``; further:

    Args:
        v: [B, Hkv, N, Dv], same dtype and device as k.
        q_offset: position of the first row when the rows are consecutive.
        q_positions: int [R] or [B, R] instead of ``q_offset``.

    Returns:
        The output [B, Hq, R, Dv] in q's dtype (0 for a row that sees no key), and the evidence.
    """
    _check_impl(impl)
    if q_positions is None:
        q_positions = q_offset + torch.arange(q.shape[2], device=q.device)
    elif q_offset:
        raise ValueError(f"q_offset={q_offset} and q_positions were both given; pass one of them")
    out, ev = reference.evidence(
        q, k, v,
        **_checked(q, k, v, q_positions, spans, scale, window, softcap, sinks, key_limits, key_starts, k_positions, topk),
        causal=causal,
    )
    assert out is not None
    return out, ev


def _check_impl(impl: str) -> None:
    if impl == "triton":
        raise ValueError('impl="triton": the Triton kernels do not exist yet; use "auto" or "reference"')
    if impl not in ("auto", "reference"):
        raise ValueError(f'impl={impl!r} is unknown; use "auto" or "reference"')


def _checked(q, k, v, q_positions, spans, scale, window, softcap, sinks, key_limits, key_starts, k_positions, topk):  # type: ignore[no-untyped-def]
    def rows(x):  # type: ignore[no-untyped-def]
        return None if x is None else x.to(q.device, torch.int64).reshape(-1, x.shape[-1])

    return dict(
        q_positions=rows(q_positions), spans=None if spans is None else spans.to(q.device, torch.int64),
        scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale, window=window, softcap=softcap, sinks=sinks,
        key_limits=rows(key_limits), key_starts=rows(key_starts), k_positions=rows(k_positions), topk=topk,
    )
