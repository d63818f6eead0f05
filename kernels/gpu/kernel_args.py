"""The arguments of the evidence operations in the form the kernels take them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import reference
from ..rules import Rules
from .visible_keys import visible_keys


@dataclass(frozen=True, eq=False)
class KernelArgs:
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
    def of(cls, q: Tensor, k: Tensor, rules: Rules) -> KernelArgs:
        batch, rows, n = q.shape[0], q.shape[2], k.shape[2]
        if rules.k_positions is None:
            first, last = visible_keys(rules, batch, n)
        else:
            found = reference.visible_keys(rules, n)
            first, last = (x.expand(batch, rows).to(torch.int32).contiguous() for x in found)
        return cls(
            q=q,
            k=k,
            first=first,
            last=last,
            has_first=rules.window is not None or rules.key_starts is not None,
            mult=rules.scale if rules.softcap is None else rules.scale / rules.softcap,
            cap=rules.softcap or 0.0,
            has_cap=rules.softcap is not None,
            sinks=first if rules.sinks is None else rules.sinks.float().contiguous(),
            has_sink=rules.sinks is not None,
        )

    @property
    def precision(self) -> str:
        """How tl.dot multiplies: float32 as three tf32 products, to keep its accuracy; other products are exact, and
        AMD's matrix cores take float32 as it is.
        """
        return "tf32x3" if self.q.dtype == torch.float32 and torch.version.hip is None else "ieee"

    @staticmethod
    def padded(dim: int) -> int:
        """Head dimension of a block: a power of two, and at least what tl.dot takes."""
        return max(16, 1 << (dim - 1).bit_length())
