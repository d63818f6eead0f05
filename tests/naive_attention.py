"""The whole attention map in float64: what the kernels must reproduce without building it."""

import torch
from torch import Tensor


def naive_map(
    q: Tensor,
    k: Tensor,
    *,
    q_positions: Tensor,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    key_limits: Tensor | None = None,
    key_starts: Tensor | None = None,
    k_positions: Tensor | None = None,
    causal: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """raw [B, Hq, R, N] (-inf where hidden), logits, probabilities, lse [B, Hq, R] and key positions [B, N]."""
    batch, heads, rows, dim = q.shape
    n = k.shape[2]
    raw = q.double() @ k.double().repeat_interleave(heads // k.shape[1], dim=1).mT
    logits = raw * (dim**-0.5 if scale is None else scale)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    t = q_positions.expand(batch, rows)[..., None].long()
    position = (torch.arange(n) if k_positions is None else k_positions).expand(batch, n)
    j = position[:, None].long()
    seen = torch.ones(batch, rows, n, dtype=torch.bool)
    if causal:
        seen &= j <= t
    if key_limits is not None:
        seen &= j < key_limits.expand(batch, rows)[..., None]
    if key_starts is not None:
        seen &= j >= key_starts.expand(batch, rows)[..., None]
    if window is not None:
        seen &= j > t - window
    hidden = ~seen[:, None]
    raw, logits = raw.masked_fill(hidden, -torch.inf), logits.masked_fill(hidden, -torch.inf)
    parts = [logits]
    if sinks is not None:
        parts.append(sinks.double()[:, None, None].expand(batch, heads, rows, 1))
    lse = torch.cat(parts, -1).logsumexp(-1)
    p = torch.exp(logits - lse[..., None]).masked_fill(hidden, 0)
    return raw, logits, p, lse, position


def naive_span_mass(p: Tensor, position: Tensor, spans: Tensor) -> Tensor:
    """[B, Hq, R, S] for spans [B, S, 2] or [B, R, S, 2]."""
    pairs = spans if spans.dim() == 4 else spans[:, None]
    j = position[:, None, None]
    inside = (j >= pairs[..., :1]) & (j < pairs[..., 1:])
    return torch.einsum("bhrn,brsn->bhrs", p, inside.expand(p.shape[0], p.shape[2], -1, -1).double())


def naive_topk(raw: Tensor, logits: Tensor, position: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Positions and logits of the k highest, ties lowest position first, padded with -1 and -inf."""
    at = raw.argsort(dim=-1, descending=True, stable=True)[..., :k]
    value = logits.gather(-1, at)
    key = position[:, None, None].expand(*raw.shape[:3], -1).gather(-1, at)
    key = key.masked_fill(raw.gather(-1, at) == -torch.inf, -1)
    short = k - key.shape[-1]
    pad = (0, max(0, short))
    return torch.nn.functional.pad(key, pad, value=-1), torch.nn.functional.pad(value, pad, value=-torch.inf)
