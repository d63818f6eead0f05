"""Where the rows and keys of a batch of sequences lie: of one shape, packed one behind another, or in pages."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import ArgumentError
from . import reference
from .evidence import RowEvidence
from .rules import Rules


@dataclass(frozen=True, eq=False, kw_only=True)
class Sequences:
    """q is [batch, Hq, rows, D], or [1, Hq, all rows, D] with row_starts. k is [batch, Hkv, keys, D], with key_starts
    [1, Hkv, all keys, D], with a table [pages, Hkv, page, D].
    """

    batch: int
    rows: int
    """of the sequence with the most"""
    keys: int
    """of the sequence with the most"""
    row_starts: Tensor | None = None
    """int32 [batch + 1]"""
    key_starts: Tensor | None = None
    """int32 [batch + 1]"""
    table: Tensor | None = None
    """int32 [batch, any]"""
    page: int = 0

    @classmethod
    def of(cls, q: Tensor, k: Tensor) -> Sequences:
        """Of one shape."""
        return cls(batch=q.shape[0], rows=q.shape[2], keys=k.shape[2])


@dataclass(frozen=True, eq=False, kw_only=True)
class Ragged(Sequences):
    """Sequences of lengths of their own."""

    row_counts: tuple[int, ...]
    key_counts: tuple[int, ...]
    of_row: Tensor | None
    """int64 [all rows]: the sequence of each, where q is packed"""
    positions: Tensor
    """int64 [1, all rows] or [batch, rows]: a sequence's last row is at its last key"""
    lengths: Tensor
    """int64, as positions: the keys of the row's sequence"""

    def rules(self, rules: Rules) -> Rules:
        """With every row limited to the keys of its sequence."""
        limits = self.lengths if rules.key_limits is None else torch.minimum(self.lengths, rules.key_limits)
        return replace(rules, key_limits=limits)

    def telling(self) -> int:
        """The sequence with the most keys among those with rows: for a look at one of them."""
        return max(range(self.batch), key=lambda i: self.key_counts[i] if self.row_counts[i] else -1)

    def alone(self, i: int, q: Tensor, k: Tensor, rules: Rules) -> tuple[Tensor, Tensor, Rules]:
        """Sequence i as a batch of one; keys in pages are copied."""

        def of_rows(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[self._entry(i, x)][:, self._rows(i)]

        count = self.key_counts[i]
        if self.table is not None:
            k = k[self.table[i, : -(-count // self.page)].long()].transpose(0, 1).flatten(1, 2)[None, :, :count]
        else:
            begin = sum(self.key_counts[:i])
            k = k[:, :, begin : begin + count]
        at = rules.q_positions
        spans = rules.spans
        if spans is not None:
            spans = of_rows(spans) if spans.dim() == 4 else spans[self._entry(i, spans)]
        some = replace(
            rules,
            q_positions=at[self._entry(i, at)][:, self._rows(i)],
            key_limits=of_rows(rules.key_limits),
            key_starts=of_rows(rules.key_starts),
            spans=spans,
        )
        return q[self._entry(i, q)][:, :, self._rows(i)], k, some

    def _entry(self, i: int, x: Tensor) -> slice:
        """Of x along the batch: all of it where rows are packed, or where one entry stands for every sequence."""
        return slice(None) if self.row_starts is not None or len(x) == 1 else slice(i, i + 1)

    def _rows(self, i: int) -> slice:
        if self.row_starts is None:
            return slice(None)
        begin = sum(self.row_counts[:i])
        return slice(begin, begin + self.row_counts[i])

    def of_sequence(self, i: int, ev: RowEvidence) -> RowEvidence:
        found = {name: x for name, x in vars(ev).items() if x is not None}
        return replace(ev, **{name: x[self._entry(i, x)][:, :, self._rows(i)] for name, x in found.items()})

    def evidence(self, q: Tensor, k: Tensor, rules: Rules) -> RowEvidence:
        """By the reference: each sequence as a call of its own."""
        parts = []
        for i in range(self.batch):
            one_q, one_k, one_rules = self.alone(i, q, k, rules)
            parts.append(reference.evidence(one_q, one_k, None, one_rules)[1])
        if not parts:
            count = 0 if rules.spans is None else rules.spans.shape[-2]
            wide = torch.promote_types(q.dtype, torch.float32)
            return RowEvidence.empty(*q.shape[:3], spans=count, topk=rules.topk, dtype=wide, device=q.device)
        axis = 0 if self.row_starts is None else 2
        names = [name for name, x in vars(parts[0]).items() if x is not None]
        return RowEvidence(**{name: torch.cat([getattr(part, name) for part in parts], axis) for name in names})


# What was looked at already: a GPU must be waited for to ask, and every layer of a model passes the same tensors.
_known: WeakIdKeyDictionary = WeakIdKeyDictionary()


def ragged(
    q: Tensor,
    k: Tensor,
    *,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    block_table: Tensor | None = None,
    seq_lens: Tensor | None = None,
) -> Ragged:
    """Checked, of integer tensors, once for a device and tensors that stay the same.

    q is [B, Hq, R, D], packed [1, Hq, all rows, D]; k is [1, Hkv, all keys, D], with a table [pages, Hkv, page, D].

    Raises:
        ValueError: lengths do not fit, or a table points outside the cache.
    """
    given = [x for x in (cu_seqlens_q, cu_seqlens_k, block_table, seq_lens) if x is not None]
    versions = None if any(x.is_inference() for x in given) else [x._version for x in given]
    asked = (q.shape[0], q.shape[2], k.shape, q.device, versions)
    others, before, found = _known.get(given[0], ((), None, None))
    if versions is None or asked != before or [id(one()) for one in others] != [id(x) for x in given[1:]]:
        found = _looked_at(q, k, cu_seqlens_q, cu_seqlens_k, block_table, seq_lens)
        _known[given[0]] = ([weakref.ref(x) for x in given[1:]], asked, found)

    def on_device(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(q.device, torch.int32).contiguous()

    assert found is not None
    # The tensors themselves are not kept: what knows its own key would be known for ever.
    return replace(
        found,
        row_starts=on_device(cu_seqlens_q),
        key_starts=on_device(cu_seqlens_k),
        table=on_device(block_table),
    )


def _looked_at(
    q: Tensor, k: Tensor, cu_q: Tensor | None, cu_k: Tensor | None, table: Tensor | None, lens: Tensor | None
) -> Ragged:
    row_counts = [q.shape[2]] * q.shape[0] if cu_q is None else list(_counts("cu_seqlens_q", cu_q, "q", q.shape[2]))
    batch, page = len(row_counts), 0
    if table is not None and lens is not None:
        page = k.shape[2]
        key_counts = _in_pages(table, lens, batch, k.shape[0], page)
    else:
        assert cu_k is not None
        key_counts = list(_counts("cu_seqlens_k", cu_k, "k", k.shape[2]))
        if len(key_counts) != batch:
            raise ArgumentError(
                f"cu_seqlens_k has {len(key_counts) + 1} entries and cu_seqlens_q {batch + 1}; pass one more than "
                f"there are sequences, in both"
            )
    lengths = torch.tensor(key_counts, dtype=torch.int64, device=q.device)
    rows = torch.tensor(row_counts, dtype=torch.int64, device=q.device)
    of_row = None
    if cu_q is None:
        lengths = lengths[:, None].expand(batch, q.shape[2])
        positions = lengths - q.shape[2] + torch.arange(q.shape[2], device=q.device)
    else:
        of_row = torch.repeat_interleave(torch.arange(batch, device=q.device), rows, output_size=q.shape[2])
        behind = rows.cumsum(0)[of_row] - torch.arange(q.shape[2], device=q.device)
        lengths = lengths[of_row][None]
        positions = lengths - behind
    return Ragged(
        batch=batch,
        rows=max(row_counts, default=0),
        keys=max(key_counts, default=0),
        page=page,
        row_counts=tuple(row_counts),
        key_counts=tuple(key_counts),
        of_row=of_row,
        positions=positions,
        lengths=lengths,
    )


def _counts(name: str, cumulative: Tensor, of: str, total: int) -> Iterator[int]:
    if cumulative.dim() != 1 or not len(cumulative):
        raise ArgumentError(f"{name} has shape {tuple(cumulative.shape)}; pass [B + 1] cumulative lengths")
    numbers = cumulative.tolist()
    if numbers[0] != 0 or numbers[-1] != total:
        raise ArgumentError(f"{name} goes from {numbers[0]} to {numbers[-1]}; {of} is packed from 0 to {total}")
    for before, after in zip(numbers, numbers[1:], strict=False):
        if after < before:
            raise ArgumentError(f"{name} falls from {before} to {after}; pass cumulative lengths, which never fall")
        yield after - before


def _in_pages(table: Tensor, lens: Tensor, batch: int, pages: int, page: int) -> list[int]:
    if table.dim() != 2 or len(table) != batch:
        raise ArgumentError(
            f"block_table has shape {tuple(table.shape)}; pass [B, most pages of a sequence] = [{batch}, ...]"
        )
    if lens.shape != (batch,):
        raise ArgumentError(f"seq_lens has shape {tuple(lens.shape)}; pass a number of keys a sequence, [{batch}]")
    if page == 0:
        raise ArgumentError("the cache has pages of 0 keys; pass [pages, page_size, Hkv, D] with a page_size above 0")
    most = table.shape[1] * page
    counts: list[int] = lens.tolist()
    for i, count in enumerate(counts):
        if not 0 <= count <= most:
            raise ArgumentError(
                f"seq_lens[{i}] is {count}; block_table has {table.shape[1]} pages of {page} keys a sequence, so pass "
                f"0 to {most}"
            )
    used = torch.arange(table.shape[1], device=table.device) * page < lens.to(table.device)[:, None]
    outside = (used & ((table < 0) | (table >= pages))).nonzero()
    if len(outside):
        i, j = outside[0].tolist()
        raise ArgumentError(
            f"block_table[{i}, {j}] is {int(table[i, j])}; the cache has {pages} pages, so the entries of a sequence's "
            f"keys are 0 to {pages - 1}"
        )
    return counts
