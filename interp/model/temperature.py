"""Puts right the one attention whose queries depend on where rows stand by its own count.

Llama 4's layers without RoPE scale queries up with the position (arXiv 2501.19399). They count positions on from what
the cache holds, as in generation; rows of suffixes stand elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_rows: ContextVar[tuple[Tensor, int] | None] = ContextVar("headscope_rows", default=None)


@contextmanager
def rows_at(positions: Tensor, cached: int) -> Iterator[None]:
    """Inside runs a forward of rows at these positions, int64 [B, m], with a cache that says it holds `cached`."""
    token = _rows.set((positions, cached))
    try:
        yield
    finally:
        _rows.reset(token)


def tempered(layer: nn.Module, q: Tensor) -> Tensor:
    """Queries [B, Hq, m, D] of a layer as they are at their own positions; other layers' unchanged."""
    rows, tuned = _rows.get(), getattr(layer, "attn_temperature_tuning", False)
    if rows is None or not tuned or getattr(layer, "use_rope", True):
        return q
    positions, cached = rows
    counted = torch.arange(positions.shape[-1], device=q.device) + cached
    factor = _scale(layer, positions) / _scale(layer, counted)
    return (q * factor.view(len(positions), 1, -1, 1)).to(q.dtype)


def _scale(layer: Any, positions: Tensor) -> Tensor:
    return torch.log1p(torch.floor((positions.float() + 1) / layer.floor_scale)) * layer.attn_scale + 1
