"""The arguments of the evidence operations in the form the kernels take them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from .. import reference
from ..rules import Rules
from ..sequences import Sequences
from .visible_keys import visible_keys


@dataclass(frozen=True, eq=False)
class KernelArgs:
    q: Tensor
    k: Tensor
    rules: Rules
    """In key indices: without k_positions."""
    mult: float
    """scale, or scale / softcap"""
    cap: float
    has_cap: bool
    sinks: Tensor
    """float32 [Hq]; unused without has_sink"""
    has_sink: bool
    sequences: Sequences

    @classmethod
    def of(cls, q: Tensor, k: Tensor, rules: Rules, sequences: Sequences | None = None) -> KernelArgs:
        """For ``sequences``, k_positions is None and key_limits end at each sequence's last key."""
        if rules.k_positions is not None:
            starts, limits = reference.visible_keys(rules, k.shape[2])
            bounded_below = rules.window is not None or rules.key_starts is not None
            rules = replace(
                rules,
                causal=False,
                window=None,
                key_limits=limits,
                key_starts=starts if bounded_below else None,
                q_positions=limits,  # not looked at any more
                k_positions=None,
            )
        return cls(
            q=q,
            k=k,
            rules=rules,
            mult=rules.scale if rules.softcap is None else rules.scale / rules.softcap,
            cap=rules.softcap or 0.0,
            has_cap=rules.softcap is not None,
            sinks=q if rules.sinks is None else rules.sinks.float().contiguous(),
            has_sink=rules.sinks is not None,
            sequences=sequences or Sequences.of(q, k),
        )

    @property
    def has_first(self) -> bool:
        """Whether a row may not see the first key."""
        return self.rules.window is not None or self.rules.key_starts is not None

    @cached_property
    def _intervals(self) -> tuple[Tensor, Tensor]:
        return visible_keys(self.rules, self.q.shape[0], self.sequences.keys)

    @property
    def first(self) -> Tensor:
        """int32 [B, R], contiguous: a row sees the key indices [first, last), whichever rules set them."""
        return self._intervals[0]

    @property
    def last(self) -> Tensor:
        return self._intervals[1]

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
