"""Row evidence in plain PyTorch: the definition, and the path on CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from .evidence import RowEvidence, best, exp_difference

KEY_BLOCK = 512
ROW_BLOCK = 128


def visible_keys(
    rows: Tensor, n: int, *, window: int | None, key_limits: Tensor | None, key_starts: Tensor | None,
    k_positions: Tensor | None, causal: bool,
) -> tuple[Tensor, Tensor]:
    """First and one-past-last key index each row sees, int64 [B or 1, R]: every rule is a bound, so what a row sees is one interval."""
    low = torch.full_like(rows, torch.iinfo(torch.int64).min)
    high = torch.full_like(rows, torch.iinfo(torch.int64).max)
    if causal:
        high = torch.minimum(high, rows + 1)
    if key_limits is not None:
        high = torch.minimum(high, key_limits)
    if key_starts is not None:
        low = torch.maximum(low, key_starts)
    if window is not None:
        low = torch.maximum(low, rows - window + 1)
    first, last = to_index(low, n, k_positions), to_index(high, n, k_positions)
    return first, torch.maximum(first, last)


def to_index(positions: Tensor, n: int, k_positions: Tensor | None) -> Tensor:
    """Index of the first key at or behind each position; [B or 1, ...] int64."""
    if k_positions is None:
        return positions.clamp(0, n)
    batch = max(len(positions), len(k_positions))
    flat = positions.expand(batch, *positions.shape[1:]).flatten(1).contiguous()
    keys = k_positions.expand(batch, -1).contiguous()
    return torch.searchsorted(keys, flat).view(batch, *positions.shape[1:])


@torch.no_grad()
def evidence(
    q: Tensor, k: Tensor, v: Tensor | None, *, q_positions: Tensor, spans: Tensor | None, scale: float, window: int | None,
    softcap: float | None, sinks: Tensor | None, key_limits: Tensor | None, key_starts: Tensor | None,
    k_positions: Tensor | None, topk: int, causal: bool,
) -> tuple[Tensor | None, RowEvidence]:
    """Evidence (and with v the attention output) of every row. Arguments as checked by api.py."""
    batch, heads, rows, dim = q.shape
    kv_heads, n = k.shape[1:3]
    group = heads // kv_heads
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    first, last = visible_keys(
        q_positions, n, window=window, key_limits=key_limits, key_starts=key_starts, k_positions=k_positions, causal=causal
    )
    count = spans.shape[-2] if spans is not None else 0
    ev = RowEvidence.empty(batch, heads, rows, spans=count, topk=topk, dtype=dtype, device=q.device)
    out = q.new_zeros(batch, heads, rows, v.shape[-1]) if v is not None else None

    def logits(raw: Tensor) -> Tensor:
        s = raw * scale
        return s if softcap is None else softcap * torch.tanh(s / softcap)

    for b in range(batch):
        for r0 in range(0, rows, ROW_BLOCK):
            block = slice(r0, min(r0 + ROW_BLOCK, rows))
            lo = first[min(b, len(first) - 1), block][:, None]
            hi = last[min(b, len(last) - 1), block][:, None]
            q_block = q[b, :, block].to(dtype).unflatten(0, (kv_heads, group))
            shape = q_block.shape[:3]
            top_raw = torch.full((*shape, max(topk, 1)), -torch.inf, dtype=dtype, device=q.device)
            top_key = torch.full((*shape, max(topk, 1)), -1, dtype=torch.int64, device=q.device)
            lse = torch.full(shape, -torch.inf, dtype=dtype, device=q.device)
            if sinks is not None:
                lse = sinks.to(dtype).view(kv_heads, group, 1).expand(shape).clone()
            acc = torch.zeros((*shape, v.shape[-1]), dtype=dtype, device=q.device) if v is not None else None
            for k0 in range(int(lo.min()) // KEY_BLOCK * KEY_BLOCK, int(hi.max()), KEY_BLOCK):
                cols = torch.arange(k0, min(k0 + KEY_BLOCK, n), device=q.device)
                keys = slice(k0, k0 + len(cols))
                raw = (q_block.flatten(1, 2) @ k[b, :, keys].to(dtype).mT).view(*shape, -1)
                hidden = ~((cols >= lo) & (cols < hi))
                raw.masked_fill_(hidden, -torch.inf)
                at = raw.argsort(dim=-1, descending=True, stable=True)[..., : max(topk, 1)]
                found = raw.gather(-1, at)
                top_raw, top_key = best(
                    torch.cat((top_raw, found), -1),
                    torch.cat((top_key, torch.where(found == -torch.inf, -1, at + k0)), -1), max(topk, 1),
                )
                s = logits(raw).masked_fill_(hidden, -torch.inf)
                new = torch.logaddexp(lse, s.logsumexp(-1))
                if acc is not None and v is not None:
                    p = exp_difference(s, new[..., None]).flatten(1, 2) @ v[b, :, keys].to(dtype)
                    acc = acc * exp_difference(lse, new)[..., None] + p.view_as(acc)
                lse = new
            broken = lse.isnan()
            top_key = top_key.masked_fill_(broken[..., None], -1)
            top_logit = logits(top_raw).masked_fill_(top_key < 0, -torch.inf).masked_fill_(broken[..., None], torch.nan)
            if k_positions is not None:
                here = k_positions[min(b, len(k_positions) - 1)]
                top_key = torch.where(top_key < 0, -1, here[top_key.clamp_min(0)]) if n else top_key
            ev.lse[b, :, block] = lse.flatten(0, 1)
            ev.argmax_key[b, :, block] = top_key[..., 0].flatten(0, 1)
            ev.max_logit[b, :, block] = top_logit[..., 0].flatten(0, 1)
            if ev.topk_key is not None and ev.topk_logit is not None:
                ev.topk_key[b, :, block] = top_key.flatten(0, 1)
                ev.topk_logit[b, :, block] = top_logit.flatten(0, 1)
            if out is not None and acc is not None:
                out[b, :, block] = acc.flatten(0, 1).to(q.dtype)
            for i in range(count):
                assert spans is not None
                pair = spans[b, block, i] if spans.dim() == 4 else spans[b, None, i]
                ends = to_index(pair[None], n, k_positions[min(b, len(k_positions) - 1)][None] if k_positions is not None else None)[0]
                a, z = torch.maximum(ends[:, :1], lo), torch.minimum(ends[:, 1:], hi)
                for k0 in range(int(a.min()), int(z.max()), KEY_BLOCK):
                    cols = torch.arange(k0, min(k0 + KEY_BLOCK, int(z.max())), device=q.device)
                    raw = (q_block.flatten(1, 2) @ k[b, :, k0 : k0 + len(cols)].to(dtype).mT).view(*shape, -1)
                    p = exp_difference(logits(raw), lse[..., None]).masked_fill_(~((cols >= a) & (cols < z)), 0)
                    ev.span_mass[b, :, block, i] += p.sum(-1).flatten(0, 1)
                ev.span_mass[b, :, block, i] = ev.span_mass[b, :, block, i].masked_fill(broken.flatten(0, 1), torch.nan)
    return out, ev
