"""What the rows of an evidence operation see, how a raw q.k becomes a logit, and what is asked about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Rules:
    """As described in ``api.row_evidence`` and checked there: integer tensors are int64 on q's device.

    q_positions, key_limits and key_starts are [B or 1, R], k_positions [B or 1, N].
    """

    q_positions: Tensor
    scale: float
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    key_limits: Tensor | None = None
    key_starts: Tensor | None = None
    k_positions: Tensor | None = None
    spans: Tensor | None = None
    topk: int = 0
