"""The evidence operations by Triton kernels: same arguments and results as ``reference.evidence``."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ..evidence import RowEvidence, best
from ..reference import key_index
from ..rules import Rules
from ..sequences import Sequences
from .evidence_attention import evidence_attention
from .kernel_args import KernelArgs
from .key_mass import key_mass
from .row_evidence import row_evidence
from .span_mass import span_mass


@torch.no_grad()
def run_kernels(
    q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, sequences: Sequences | None = None
) -> tuple[Tensor | None, RowEvidence]:
    """Evidence of every row and, with v, the attention output; of ``sequences`` without v and k_positions.

    A tile walks all keys between the first and the last that one of its rows sees: rows that see nearly the same keys
    should stand next to each other. With v, topk takes a second walk over the keys.
    """
    batch, heads, rows, _ = q.shape
    n, spans, k_positions, topk = k.shape[2], rules.spans, rules.k_positions, rules.topk
    q, k, v = near(q), near(k), None if v is None else near(v)
    if batch == 0 or rows == 0:
        count = 0 if spans is None else spans.shape[-2]
        out = None if v is None else q.new_zeros(batch, heads, rows, v.shape[-1])
        return out, RowEvidence.empty(batch, heads, rows, spans=count, topk=topk, device=q.device)
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        problem = KernelArgs.of(q, k, rules, sequences)
        out = found = None
        if v is None or topk:
            found = row_evidence(problem, topk=topk)
            lse, at, max_logit = found[:3]
        if v is not None:
            out, lse, at, max_logit = evidence_attention(problem, v)
        mass = lse.new_zeros(*lse.shape, 0)
        if spans is not None:
            index = spans if k_positions is None else key_index(spans, n, k_positions)
            index = (index if spans.dim() == 4 else index[:, None]).expand(batch, rows, -1, 2)
            mass = span_mass(problem, lse, index)
        topk_at = topk_logit = None
        if found is not None and found.more is not None and found.more_at is not None:
            topk_at, topk_logit = _highest(problem, found.more, found.more_at, lse, topk)

        def position(index: Tensor | None) -> Tensor | None:
            if index is None or k_positions is None or n == 0:
                return index
            found = k_positions.expand(batch, n).gather(1, index.clamp_min(0).flatten(1)).view_as(index)
            return torch.where(index < 0, index, found)

        key = position(at)
        assert key is not None
        return out, RowEvidence(
            lse=lse,
            argmax_key=key,
            max_logit=max_logit,
            span_mass=mass,
            topk_key=position(topk_at),
            topk_logit=topk_logit,
        )


@torch.no_grad()
def run_key_mass(q: Tensor, k: Tensor, lse: Tensor, rules: Rules) -> Tensor:
    """As ``reference.key_mass``."""
    q, k = near(q), near(k)
    if q.shape[0] == 0 or q.shape[2] == 0:
        return torch.zeros(*q.shape[:2], k.shape[2], device=q.device)
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        return key_mass(KernelArgs.of(q, k, rules), lse.float().contiguous())


def near(x: Tensor) -> Tensor:
    """x, copied if one of its vectors is spread over 2^31 elements: inside a vector the kernels count in 32 bits."""
    return x.contiguous() if x.stride(-1) * x.shape[-1] >= 2**31 else x


def _highest(problem: KernelArgs, raw: Tensor, at: Tensor, lse: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """Key indices and logits [B, Hq, R, topk], in order, of what the splits found highest."""
    raw, at = best(raw, at, topk)
    logit = raw * problem.mult
    if problem.has_cap:
        logit = torch.where(at < 0, raw, torch.tanh(logit) * problem.cap)
    broken = lse.isnan()[..., None]
    return at.masked_fill(broken, -1), logit.masked_fill(broken, torch.nan)
