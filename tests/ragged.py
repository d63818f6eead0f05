"""Packed and paged calls beside calls of each sequence alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headscope.kernels import RowEvidence, row_evidence, row_evidence_paged, row_evidence_varlen

FIELDS = ("lse", "argmax_key", "max_logit", "span_mass", "topk_key", "topk_logit")


class Batch:
    """Sequences with rows and keys of their own; the last may have no row, the first no key."""

    def __init__(self, seed: int, rows: list[int], keys: list[int], heads: int, kv_heads: int, dim: int) -> None:
        self.gen = torch.Generator().manual_seed(seed)
        self.rows, self.keys = rows, keys
        self.q = [self.normal(heads, r, dim) for r in rows]
        self.k = [self.normal(kv_heads, n, dim) for n in keys]

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Batch:
        self.q, self.k = ([x.to(device, dtype) for x in part] for part in (self.q, self.k))
        return self

    def normal(self, *shape: int) -> Tensor:
        """Sums of products are exact in float32, in any order."""
        return torch.randn(shape, generator=self.gen).mul_(64).round_().div_(64)

    def alone(self, impl: str, each: list[dict[str, Any]], **options: Any) -> list[RowEvidence]:
        return [
            row_evidence(q[None], k[None], impl=impl, **{"q_positions": torch.arange(n - r, n), **options, **own})
            for q, k, r, n, own in zip(self.q, self.k, self.rows, self.keys, each, strict=True)
        ]

    def cache(self, page: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pages in any order, NaN where no key is; a table with entries that point nowhere behind a sequence's end."""
        counts = [-(-n // page) for n in self.keys]
        order = torch.randperm(sum(counts) + 2, generator=self.gen)
        heads, _, dim = self.k[0].shape
        cache = torch.full((len(order), page, heads, dim), torch.nan).to(self.k[0])
        table = torch.full((len(counts), max(counts) + 1), -(10**6), dtype=torch.int32)
        used = 0
        for i, (k, count) in enumerate(zip(self.k, counts, strict=True)):
            table[i, :count] = order[used : used + count]
            for j in range(count):
                part = k[:, j * page : (j + 1) * page].transpose(0, 1)
                cache[order[used + j], : len(part)] = part
            used += count
        return cache, table.to(cache.device), torch.tensor(self.keys, dtype=torch.int32, device=cache.device)

    def packed(self, impl: str, page: int = 0, **options: Any) -> RowEvidence:
        q = torch.cat([x.transpose(0, 1) for x in self.q])
        cu_q, cu_k = (torch.tensor([0, *x], device=q.device).cumsum(0).int() for x in (self.rows, self.keys))
        if not page:
            k = torch.cat([x.transpose(0, 1) for x in self.k])
            return row_evidence_varlen(q, k, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k, impl=impl, **options)
        cache, table, lens = self.cache(page)
        return row_evidence_varlen(q, cache, cu_seqlens_q=cu_q, block_table=table, seq_lens=lens, impl=impl, **options)

    def paged(self, impl: str, page: int, **options: Any) -> RowEvidence:
        """All sequences have the same number of rows."""
        cache, table, lens = self.cache(page)
        return row_evidence_paged(torch.stack(self.q), cache, block_table=table, seq_lens=lens, impl=impl, **options)


def joined(parts: list[RowEvidence], axis: int) -> dict[str, Tensor]:
    """axis 2: packed; 0: a batch."""
    names = [name for name in FIELDS if getattr(parts[0], name) is not None]
    return {name: torch.cat([getattr(part, name) for part in parts], axis) for name in names}
