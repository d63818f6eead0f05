"""The arguments of the evidence operations in the form the kernels take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import reference
from .intervals import visible_keys


@dataclass(frozen=True, eq=False)
class Problem:
    q: Tensor
    k: Tensor
    first: Tensor
    """int32 [B, R], contiguous: a row sees the key indices [first, last), whichever rules set them."""
    last: Tensor
    has_first: bool
    """Whether first can be anything but 0."""
    mult: float
    """scale, or scale / softcap"""
    cap: float
    has_cap: bool
    sinks: Tensor
    """float32 [Hq]; unused without has_sink"""
    has_sink: bool

    @classmethod
    def of(
        cls,
        q: Tensor,
        k: Tensor,
        *,
        q_positions: Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
        key_limits: Tensor | None,
        key_starts: Tensor | None,
        k_positions: Tensor | None,
        causal: bool,
    ) -> Problem:
        """Of arguments as api.py checked them."""
        batch, rows, n = q.shape[0], q.shape[2], k.shape[2]
        rules: dict[str, Any] = {"causal": causal, "window": window, "key_limits": key_limits, "key_starts": key_starts}
        if k_positions is None:
            first, last = visible_keys(q_positions, batch, n, **rules)
        else:
            found = reference.visible_keys(q_positions, n, k_positions=k_positions, **rules)
            first, last = (x.expand(batch, rows).to(torch.int32).contiguous() for x in found)
        return cls(
            q=q,
            k=k,
            first=first,
            last=last,
            has_first=window is not None or key_starts is not None,
            mult=scale if softcap is None else scale / softcap,
            cap=softcap or 0.0,
            has_cap=softcap is not None,
            sinks=first if sinks is None else sinks.float().contiguous(),
            has_sink=sinks is not None,
        )

    @property
    def precision(self) -> str:
        """How tl.dot multiplies: float32 as three tf32 products, to keep its accuracy; other products are exact."""
        return "tf32x3" if self.q.dtype == torch.float32 else "ieee"

    @staticmethod
    def padded(dim: int) -> int:
        """Head dimension of a block: a power of two, and at least what tl.dot takes."""
        return max(16, 1 << (dim - 1).bit_length())
