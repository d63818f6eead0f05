"""The evidence operations by Triton kernels: same arguments and results as ``reference.evidence``."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ..evidence import RowEvidence
from ..reference import key_index
from .evidence_attention import evidence_attention
from .problem import Problem
from .row_evidence import row_evidence
from .span_mass import span_mass


@torch.no_grad()
def evidence(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    *,
    q_positions: Tensor,
    spans: Tensor | None,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
    key_limits: Tensor | None,
    key_starts: Tensor | None,
    k_positions: Tensor | None,
    topk: int,
    causal: bool,
) -> tuple[Tensor | None, RowEvidence]:
    """Evidence of every row and, with v, the attention output. topk must be 0; api.py sees to it.

    A tile walks all keys between the first and the last that one of its rows sees: rows that see nearly the same keys
    should stand next to each other.
    """
    batch, heads, rows, _ = q.shape
    n = k.shape[2]
    if batch == 0 or rows == 0:
        count = 0 if spans is None else spans.shape[-2]
        out = None if v is None else q.new_zeros(batch, heads, rows, v.shape[-1])
        return out, RowEvidence.empty(batch, heads, rows, spans=count, device=q.device)
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        problem = Problem.of(
            q,
            k,
            q_positions=q_positions,
            scale=scale,
            window=window,
            softcap=softcap,
            sinks=sinks,
            key_limits=key_limits,
            key_starts=key_starts,
            k_positions=k_positions,
            causal=causal,
        )
        out = None
        if v is None:
            lse, at, max_logit = row_evidence(problem)
        else:
            out, lse, at, max_logit = evidence_attention(problem, v)
        mass = lse.new_zeros(*lse.shape, 0)
        if spans is not None:
            index = key_index(spans, n, k_positions).to(torch.int32)
            index = (index if spans.dim() == 4 else index[:, None]).expand(batch, rows, -1, 2)
            mass = span_mass(problem, lse, index)
        if k_positions is not None and n:
            position = k_positions.expand(batch, n).gather(1, at.clamp_min(0).flatten(1)).view_as(at)
            at = torch.where(at < 0, at, position)
    return out, RowEvidence(lse=lse, argmax_key=at, max_logit=max_logit, span_mass=mass)
