"""What a head did at each query row, as a small state that can be merged over disjoint sets of keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class RowEvidence:
    """Evidence of B x Hq x R query rows; float fields are float32 (float64 for float64 inputs).

    A row that sees a NaN score, or a q.k of +inf, has NaN in ``lse``, ``max_logit`` and ``span_mass`` and no key (-1):
    broken inputs stay visible, they never turn into a plausible number. A key whose q.k is -inf is one it does not see.
    """

    lse: Tensor
    """[B, Hq, R] log-sum-exp (nats) of the scaled, soft-capped scores and the sink; -inf when there is neither."""
    argmax_key: Tensor
    """[B, Hq, R] int64 position of the highest-scoring key, the lowest on ties; -1 when the row sees no key."""
    max_logit: Tensor
    """[B, Hq, R] scaled, soft-capped score at ``argmax_key``; -inf when the row sees no key."""
    span_mass: Tensor
    """[B, Hq, R, S] attention probability on each span; 0 for an empty span or a row that sees no key."""
    topk_key: Tensor | None = None
    """[B, Hq, R, K] int64 positions of the highest-scoring keys, descending, ties lowest first, padded with -1."""
    topk_logit: Tensor | None = None
    """[B, Hq, R, K] their scaled, soft-capped scores, padded with -inf."""

    @classmethod
    def empty(
        cls,
        batch: int,
        heads: int,
        rows: int,
        *,
        spans: int = 0,
        topk: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> RowEvidence:
        """Evidence over no keys at all: the identity of ``merge``."""
        shape = (batch, heads, rows)
        low = torch.full(shape, -torch.inf, dtype=dtype, device=device)
        return cls(
            lse=low,
            argmax_key=torch.full(shape, -1, dtype=torch.int64, device=device),
            max_logit=low.clone(),
            span_mass=torch.zeros(*shape, spans, dtype=dtype, device=device),
            topk_key=torch.full((*shape, topk), -1, dtype=torch.int64, device=device) if topk else None,
            topk_logit=torch.full((*shape, topk), -torch.inf, dtype=dtype, device=device) if topk else None,
        )

    @property
    def p_max(self) -> Tensor:
        """[B, Hq, R] attention probability of ``argmax_key``; 0 when the row sees no key."""
        return exp_difference(self.max_logit, self.lse)

    @property
    def topk_p(self) -> Tensor | None:
        """[B, Hq, R, K] attention probability of each ``topk_key``; 0 where there is none."""
        return None if self.topk_logit is None else exp_difference(self.topk_logit, self.lse[..., None])

    def map(self, change: Callable[[Tensor], Tensor]) -> RowEvidence:
        """The same change to every tensor, such as a choice of rows."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: x if x is None else change(x) for name, x in tensors.items()}
        return RowEvidence(**changed)


def merge(a: RowEvidence, b: RowEvidence) -> RowEvidence:
    """Evidence over the union of two disjoint sets of keys, for the same rows and spans.

    Associative, commutative, with ``RowEvidence.empty`` as identity (floats up to rounding). A learned sink is one more
    logit of the row, so it must be part of exactly one side. Keys are ordered by ``max_logit``; where two sides agree
    in it to the last bit, the lower position wins.

    Raises:
        ValueError: the two sides differ in rows, number of spans or top-k.
    """
    for name in ("lse", "span_mass", "topk_key"):
        left, right = getattr(a, name), getattr(b, name)
        shapes = [None if side is None else tuple(side.shape) for side in (left, right)]
        if shapes[0] != shapes[1]:
            raise ArgumentError(
                f"{name} is {shapes[0]} in a and {shapes[1]} in b; both sides of a merge must describe the same rows "
                f"with the same spans and topk"
            )
    lse = torch.logaddexp(a.lse, b.lse)
    broken = lse.isnan()
    # -1 (no key) only ever meets -inf, so it can win a tie only against another -1.
    take_b = (b.max_logit > a.max_logit) | ((b.max_logit == a.max_logit) & _before(b.argmax_key, a.argmax_key))
    mass = a.span_mass * exp_difference(a.lse, lse)[..., None] + b.span_mass * exp_difference(b.lse, lse)[..., None]
    topk_key = topk_logit = None
    if a.topk_key is not None and b.topk_key is not None and a.topk_logit is not None and b.topk_logit is not None:
        topk_logit, topk_key = best(
            torch.cat((a.topk_logit, b.topk_logit), -1), torch.cat((a.topk_key, b.topk_key), -1), a.topk_key.shape[-1]
        )
        topk_key = topk_key.masked_fill(broken[..., None], -1)
        topk_logit = topk_logit.masked_fill(broken[..., None], torch.nan)
    return RowEvidence(
        lse=lse,
        argmax_key=torch.where(take_b, b.argmax_key, a.argmax_key).masked_fill(broken, -1),
        max_logit=torch.where(take_b, b.max_logit, a.max_logit).masked_fill(broken, torch.nan),
        span_mass=mass,
        topk_key=topk_key,
        topk_logit=topk_logit,
    )


def best(score: Tensor, key: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of the last axis with their keys: descending, equal scores by lowest key, no key (-1) last."""
    by_key = torch.where(key < 0, torch.iinfo(key.dtype).max, key).argsort(dim=-1)
    score, key = score.gather(-1, by_key), key.gather(-1, by_key)
    by_score = score.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return score.gather(-1, by_score), key.gather(-1, by_score)


def exp_difference(a: Tensor, b: Tensor) -> Tensor:
    """exp(a - b) with exp(-inf - anything) = 0, also for -inf - -inf; NaN in either stays NaN."""
    return torch.exp(a - b).masked_fill((a == -torch.inf) & ~b.isnan(), 0.0)


def _before(a: Tensor, b: Tensor) -> Tensor:
    """Position a comes first, where -1 means no key."""
    return (a >= 0) & ((b < 0) | (a < b))
