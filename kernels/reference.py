"""Row evidence in plain PyTorch: the definition of the kernels, and the path on CPU.

One idea carries this file. Every rule about what a row may see (causal order, window, limits, starts) is a bound on the
key's position, and positions increase along the keys; so **a row sees one interval of key indices**, [first, last), and
nothing below needs to know which rule set it. Inside it a raw score of -inf is a key that is not seen either, soft-cap
or not: a hidden key and an infinitely unlikely one are the same. A NaN, or +inf, makes the row NaN.

Memory: rows and keys are walked in blocks of at most ``SCORES`` scores. Beside the result and a few integers per row
and span, scratch is a small multiple of SCORES numbers, however many keys, rows and heads there are (though never less
than one row of every head over one block of keys). Keys and values are read through views, a block at a time. The query
heads that share a key head are folded into the rows, [B * Hkv, Hq / Hkv * R, D] @ [B * Hkv, D, N]: nothing is expanded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .evidence import RowEvidence, best, exp_difference
from .rules import Rules

SCORES = 1 << 20  # scores per block: 4 MB of float32, about the second-level caches of two cores
KEYS = 2048  # keys per block
CHUNK = 64  # keys per step of the search for the highest score, and per gather for span mass
SPAN_ROWS = 32  # at most so many rows share one gather of span keys
SPAN_GAP = 8  # rows whose spans start at most this far apart may share one


class LogitRule(NamedTuple):
    """How a raw q.k becomes a logit. Both steps increase with q.k, so the order of keys is read off the raw scores."""

    scale: float
    softcap: float | None

    def logit(self, raw: Tensor) -> Tensor:
        if self.softcap is None:
            return raw * self.scale
        return (raw * (self.scale / self.softcap)).tanh_().mul_(self.softcap)

    def exp_(self, raw: Tensor, shift: Tensor) -> Tensor:
        """exp(logit(raw) - shift) in place; 0 where raw is -inf, which the soft-cap would make finite."""
        if self.softcap is None:
            return torch.add(-shift, raw, alpha=self.scale, out=raw).exp_()
        hidden = raw == -torch.inf
        return raw.mul_(self.scale / self.softcap).tanh_().mul_(self.softcap).sub_(shift).exp_().masked_fill_(hidden, 0)


@torch.no_grad()
def evidence(q: Tensor, k: Tensor, v: Tensor | None, rules: Rules) -> tuple[Tensor | None, RowEvidence]:
    """Evidence of every row and, with v, the attention output.

    Scores are accumulated in float32, in float64 for float64 inputs.
    """
    batch, heads, rows, _ = q.shape
    n = k.shape[2]
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    scoring = LogitRule(rules.scale, rules.softcap)
    count = 0 if rules.spans is None else rules.spans.shape[-2]
    ev = RowEvidence.empty(batch, heads, rows, spans=count, topk=rules.topk, dtype=dtype, device=q.device)
    out = None if v is None else q.new_zeros(batch, heads, rows, v.shape[-1])
    first, last = (x.expand(batch, rows) for x in visible_keys(rules, n))
    # Rows with neighbouring intervals go into one block: it walks fewer keys and masks fewer of them.
    order = (first + last).argsort(dim=-1, stable=True)
    for some, at in _blocks(order, q, k):
        if at.shape == order.shape:  # a single block, in any order
            part, part_out = _walk(q.to(dtype), k, v, first, last, scoring, rules.sinks, rules.topk)
            ev = replace(part, span_mass=ev.span_mass)
            out = None if part_out is None else part_out.to(q.dtype)
            break
        where = (torch.arange(some.start, some.stop, device=q.device)[:, None], slice(None), at)
        part, part_out = _walk(
            q[where].to(dtype).transpose(1, 2),
            k[some],
            None if v is None else v[some],
            first[some].gather(1, at),
            last[some].gather(1, at),
            scoring,
            rules.sinks,
            rules.topk,
        )
        for name in ("lse", "argmax_key", "max_logit", "topk_key", "topk_logit"):
            if getattr(ev, name) is not None:
                getattr(ev, name)[where] = getattr(part, name).transpose(1, 2)
        if out is not None and part_out is not None:
            out[where] = part_out.transpose(1, 2).to(out.dtype)
    k_positions = rules.k_positions
    if rules.spans is not None:
        with torch.autocast(q.device.type, enabled=False):  # it rounds what goes into @
            _add_span_mass(q, k, key_index(rules.spans, n, k_positions), first, last, scoring, ev)
        ev.span_mass.masked_fill_(ev.lse.isnan()[..., None], torch.nan)
    if k_positions is not None and n:
        for key in (ev.argmax_key, ev.topk_key):
            if key is not None:
                position = k_positions.expand(batch, n).gather(1, key.clamp_min(0).flatten(1)).view_as(key)
                key.copy_(torch.where(key < 0, key, position))
    return out, ev


@torch.no_grad()
def key_mass(q: Tensor, k: Tensor, lse: Tensor, rules: Rules) -> Tensor:
    """Attention probability [B, Hq, N] of every key, summed over the rows; lse [B, Hq, R] is theirs."""
    (batch, heads, rows, dim), (_, kv_heads, n, _) = q.shape, k.shape
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    scoring = LogitRule(rules.scale, rules.softcap)
    mass = torch.zeros(batch, heads, n, dtype=dtype, device=q.device)
    first, last = (x.expand(batch, rows) for x in visible_keys(rules, n))
    for some, at in _blocks((first + last).argsort(dim=-1, stable=True), q, k):
        where = (torch.arange(some.start, some.stop, device=q.device)[:, None], slice(None), at)
        b, r = at.shape
        folded = q[where].to(dtype).transpose(1, 2).reshape(b * kv_heads, -1, dim)
        own = lse[where].to(dtype).transpose(1, 2)[..., None]
        shift = _or_zero(own, own)
        from_, to = first[some].gather(1, at), last[some].gather(1, at)
        for k0, k1, partly in _key_blocks(int(from_.min()), int(from_.max()), int(to.min()), int(to.max())):
            scores = q.new_empty(b, heads, r, k1 - k0, dtype=dtype)
            torch.bmm(folded, _block(k[some], k0, k1, dtype).mT, out=scores.view(b * kv_heads, -1, k1 - k0))
            if partly:
                key = torch.arange(k0, k1, device=q.device)
                scores.masked_fill_(((key < from_[..., None]) | (key >= to[..., None]))[:, None], -torch.inf)
            hidden = scores == -torch.inf  # from a log-sum-exp of NaN, too
            mass[some, :, k0:k1] += scoring.exp_(scores, shift).masked_fill_(hidden, 0).sum(2)
    return mass


def visible_keys(rules: Rules, n: int) -> tuple[Tensor, Tensor]:
    """The interval of key indices each row sees, [first, last): int64 [B or 1, R], equal when the row sees none."""
    at = rules.q_positions
    low = torch.full_like(at, torch.iinfo(torch.int64).min)
    high = torch.full_like(at, torch.iinfo(torch.int64).max)
    if rules.causal:
        high = torch.minimum(high - 1, at) + 1  # at may be the largest number there is
    if rules.key_limits is not None:
        high = torch.minimum(high, rules.key_limits)
    if rules.key_starts is not None:
        low = torch.maximum(low, rules.key_starts)
    if rules.window is not None:
        low = torch.maximum(low, at - rules.window + 1)
    first, last = (key_index(x, n, rules.k_positions) for x in (low, high))
    return first, torch.maximum(first, last)


def key_index(positions: Tensor, n: int, k_positions: Tensor | None) -> Tensor:
    """Index of the first key at or behind each position, n where there is none; int64 [B or 1, ...]."""
    if k_positions is None:
        return positions.clamp(0, n)
    batch = max(len(positions), len(k_positions))
    wanted = positions.expand(batch, *positions.shape[1:])
    found = torch.searchsorted(k_positions.expand(batch, n).contiguous(), wanted.flatten(1).contiguous())
    return found.view(wanted.shape)


def _blocks(order: Tensor, q: Tensor, k: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Batch entries and the rows [b, r] of each to walk together: scores, queries and keys all fit SCORES numbers."""
    batch, rows = order.shape
    (_, heads, _, dim), (_, kv_heads, n, _) = q.shape, k.shape
    keys = min(n, KEYS)
    fit = max(1, SCORES // (heads * max(keys, dim)))
    r = max(1, min(rows, fit))
    b = max(1, min(fit // r, SCORES // max(1, kv_heads * keys * dim)))
    for b0 in range(0, batch, b):
        for r0 in range(0, rows, r):
            yield slice(b0, min(b0 + b, batch)), order[b0 : b0 + b, r0 : r0 + r]


def _walk(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    first: Tensor,
    last: Tensor,
    scoring: LogitRule,
    sinks: Tensor | None,
    topk: int,
) -> tuple[RowEvidence, Tensor | None]:
    """Online softmax and argmax of a block of rows q [b, Hq, r, D] over the keys they see, [first, last) of [b, r].

    Keys in the returned evidence are indices, not yet positions, and it has no span mass.
    """
    b, heads, r, _ = q.shape
    groups = b * k.shape[1]
    folded = q.reshape(groups, -1, q.shape[-1])
    top = q.new_full((b, heads, r), -torch.inf)  # highest raw score so far
    top_at = torch.full_like(top, -1, dtype=torch.int64)
    total = torch.zeros_like(top)  # sum of exp(logit - logit of top)
    out = None if v is None else q.new_zeros(groups, folded.shape[1], v.shape[-1])
    more, more_at = top[..., None].expand(-1, -1, -1, topk), top_at[..., None].expand(-1, -1, -1, topk)
    begin, end = int(first.min()), int(last.max())
    scratch = q.new_empty(top.numel() * min(KEYS, max(0, end - begin)))
    for k0, k1, partly in _key_blocks(begin, int(first.max()), int(last.min()), end):
        scores = scratch[: top.numel() * (k1 - k0)].view(b, heads, r, k1 - k0)
        torch.bmm(folded, _block(k, k0, k1, q.dtype).mT, out=scores.view(groups, -1, k1 - k0))
        hidden = None
        if partly:
            key = torch.arange(k0, k1, device=q.device)
            hidden = ((key < first[..., None]) | (key >= last[..., None]))[:, None]
            scores.masked_fill_(hidden, -torch.inf)
        high, high_at = _highest(scores)
        top_at = torch.where(high > top, high_at + k0, top_at)  # strictly greater: the earlier key keeps a tie
        before, top = top, torch.maximum(top, high)  # maximum() passes NaN on
        if topk:
            found, found_at = _several_highest(scores, topk)
            found_at = torch.where(found == -torch.inf, -1, found_at + k0)
            more, more_at = best(torch.cat((more, found), -1), torch.cat((more_at, found_at), -1), topk)
        shift = _or_zero(scoring.logit(top), top)
        faded = torch.exp(scoring.logit(before) - shift).masked_fill_(before == -torch.inf, 0)
        weight = scoring.exp_(scores, shift[..., None])
        total = total * faded + weight.sum(-1)
        if out is not None and v is not None:
            values = _block(v, k0, k1, q.dtype)
            if hidden is not None and b > 1:  # one entry may end where another goes on; 0 times NaN would be NaN
                values = values.view(b, -1, *values.shape[1:]).masked_fill(hidden.all(2)[..., None], 0).flatten(0, 1)
            out.mul_(faded.view(groups, -1, 1)).baddbmm_(weight.view(groups, -1, k1 - k0), values)

    total.masked_fill_(top == torch.inf, torch.nan)  # so it is without a soft-cap
    logit = scoring.logit(top).masked_fill_(top_at < 0, -torch.inf)
    lse = total.log() + _or_zero(logit, top)
    if sinks is not None:
        lse = torch.logaddexp(lse, sinks.to(lse.dtype)[:, None].expand_as(lse))
    broken = lse.isnan()
    part = RowEvidence(
        lse=lse,
        argmax_key=top_at.masked_fill(broken, -1),
        max_logit=logit.masked_fill(broken, torch.nan),
        span_mass=lse.new_zeros(*lse.shape, 0),
    )
    if topk:
        more_logit = scoring.logit(more).masked_fill_(more_at < 0, -torch.inf)
        part = replace(
            part,
            topk_key=more_at.masked_fill(broken[..., None], -1),
            topk_logit=more_logit.masked_fill_(broken[..., None], torch.nan),
        )
    if out is None:
        return part, None
    return part, out.view(b, heads, r, -1) * exp_difference(logit, lse)[..., None]


def _key_blocks(begin: int, clear_from: int, clear_to: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Blocks [k0, k1) of keys, and whether a row may not see all of it; every row sees [clear_from, clear_to)."""
    k0 = begin
    while k0 < end:
        k1 = min(k0 + KEYS, end)
        if k0 < clear_from:
            k1 = min(k1, k0 + -(-(clear_from - k0) // CHUNK) * CHUNK)
        elif k0 + CHUNK <= clear_to:
            k1 = min(k1, k0 + (clear_to - k0) // CHUNK * CHUNK)
        yield k0, k1, k0 < clear_from or k1 > clear_to
        k0 = k1


def _block(x: Tensor, begin: int, end: int, dtype: torch.dtype) -> Tensor:
    return x[:, :, begin:end].to(dtype).flatten(0, 1)


def _or_zero(logit: Tensor, raw: Tensor) -> Tensor:
    """The logit, 0 for a row that has seen no key yet: subtracting it must not make NaN of -inf."""
    return logit.masked_fill(raw == -torch.inf, 0)


def _highest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of the last axis and its first index. By chunk, then inside the best one: half the time of max(dim)."""
    if scores.shape[-1] % CHUNK:
        high, at = scores.max(-1)
        return high, at
    chunks = scores.view(-1, scores.shape[-1] // CHUNK, CHUNK)
    high, chunk = chunks.amax(-1).max(-1)
    chosen = chunk + torch.arange(len(chunks), device=scores.device) * chunks.shape[1]
    inside = chunks.view(-1, CHUNK).index_select(0, chosen).max(-1).indices
    return high.view(scores.shape[:-1]), (chunk * CHUNK + inside).view(scores.shape[:-1])


def _several_highest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of the last axis and their indices, descending, ties in order; scores are changed and put back."""
    found = []
    for _ in range(count):
        high, at = _highest(scores)
        found.append((high, at))
        scores.scatter_(-1, at[..., None], -torch.inf)
    for high, at in reversed(found):  # an exhausted row took one place again and again; its first value goes back last
        scores.scatter_(-1, at[..., None], high[..., None])
    return torch.stack([high for high, _ in found], -1), torch.stack([at for _, at in found], -1)


def _add_span_mass(
    q: Tensor, k: Tensor, spans: Tensor, first: Tensor, last: Tensor, scoring: LogitRule, ev: RowEvidence
) -> None:
    """Add the probability on each span to ev.span_mass; spans are key indices, the log-sum-exp in ev is final.

    Only keys of spans are touched. Spans are short and may lie far apart from row to row, so their keys are gathered:
    all (batch, row, span) are sorted by where the span starts, neighbours form a tile, a tile gathers its keys once.
    """
    (batch, heads, rows, dim), (_, kv_heads, n, _) = q.shape, k.shape
    spans = (spans if spans.dim() == 4 else spans[:, None]).expand(batch, rows, -1, 2)
    start, stop = torch.maximum(spans[..., 0], first[..., None]), torch.minimum(spans[..., 1], last[..., None])
    seen = start < stop
    at, start, stop = seen.nonzero(), start[seen], stop[seen]
    if not len(at):
        return
    line = at[:, 0] * (n + SPAN_GAP + 1) + start  # batch entries end to end, too far apart to share a tile
    order = line.argsort()
    at, start, stop = at[order], start[order], stop[order]
    tiles = _tiles(line[order])
    begin, end = start[tiles[:, 0]], stop[tiles].masked_fill_(tiles < 0, 0).amax(1)
    by_length = (end - begin).argsort()
    tiles, begin, end = tiles[by_length], begin[by_length], end[by_length]
    width = tiles.shape[1]
    kv_head = torch.arange(kv_heads, device=q.device)[:, None]
    step = max(1, SCORES // max(heads * width * max(dim, CHUNK), kv_heads * CHUNK * dim))
    for t in range(0, len(tiles), step):
        tile, t_begin = tiles[t : t + step], begin[t : t + step, None]
        real = tile >= 0
        b, r = at[tile, 0], at[tile, 1]
        lse = ev.lse[b, :, r].transpose(1, 2)[..., None]
        shift = _or_zero(lse, lse)
        folded = q[b, :, r].to(lse.dtype).transpose(1, 2).reshape(len(tile), kv_heads, -1, dim)
        longest = int((end[t : t + step, None] - t_begin).max())
        for offset in range(0, longest, CHUNK):
            key = t_begin + torch.arange(offset, min(offset + CHUNK, longest), device=q.device)
            keys = k[b[:, :1, None], kv_head, key.clamp_max(n - 1)[:, None]].to(lse.dtype)
            scores = (folded @ keys.mT).view(len(tile), heads, width, -1)
            hidden = ((key[:, None] < start[tile][..., None]) | (key[:, None] >= stop[tile][..., None]))[:, None]
            mass = scoring.exp_(scores.masked_fill_(hidden, -torch.inf), shift).sum(-1).transpose(1, 2)
            batch_at, row_at, span_at = at[tile[real]].unbind(1)
            ev.span_mass[batch_at, :, row_at, span_at] += mass[real]


def _tiles(line: Tensor) -> Tensor:
    """Neighbours among sorted places as indices [T, P], padded with -1; a jump of over SPAN_GAP starts a new tile."""
    index = torch.arange(len(line), device=line.device)
    jump = line.diff(prepend=line[:1] - SPAN_GAP - 1) > SPAN_GAP
    since_jump = index - torch.where(jump, index, 0).cummax(0).values
    size = min(SPAN_ROWS, -(-len(line) // int(jump.sum())))
    begin = (since_jump % size == 0).nonzero()
    end = torch.cat((begin[1:], begin.new_tensor([[len(line)]])))
    slot = begin + torch.arange(size, device=line.device)
    return torch.where(slot < end, slot, -1)
