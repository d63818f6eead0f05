"""Attention of some heads as if the needle were not there: its keys are hidden from them before the softmax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...probes import Probe
from ..engine import RowsBeside, StepPass, Suffix, of_suffixes
from ..model import Scoring, Visibility
from .changing import Call


@dataclass(frozen=True, eq=False)
class Keys:
    """Some keys that a sequence's rows see: k, v [Hkv, n, D], where they are run, and which are the needle's, [n]."""

    k: Tensor
    v: Tensor
    run_at: Tensor
    hidden: Tensor


@dataclass(frozen=True, eq=False)
class NeedleOnly:
    """A head's output without the keys of the needle, -inf before the softmax; all other keys, sinks and the window
    stay. A row that sees none of the needle stays as it is, to the last bit.

    Computed from its definition for the rows and heads that are changed, in float32 or wider: a row of scores for each.

    Args:
        probes: of the run, by number.
    """

    probes: Sequence[Probe]

    def values(self, call: Call, chosen: Tensor) -> Tensor:
        found = call.out.clone()
        touched: np.ndarray = chosen.cpu().numpy()
        for b, columns, q, positions, keys in self._sequences(call, np.asarray(touched.any(axis=1))):
            head, where, at = (
                torch.from_numpy(x).to(q.device)
                for x in (np.flatnonzero(touched[b][:, columns].any(axis=1)), columns, positions.astype(np.int64))
            )
            group = head // (q.shape[0] // keys[0].k.shape[0])
            out, seen = without_hidden(q[head], keys, group, at, call.sees, call.how, head)
            kept = found[b][head[:, None], where]
            found[b, head[:, None], where] = torch.where(seen[None, :, None], out.to(found.dtype), kept)
        return found

    def _sequences(
        self, call: Call, touched: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray, Tensor, np.ndarray, list[Keys]]]:
        """Every sequence with rows that are changed: where those rows are in the output [B, ., m], their queries
        [Hq, r, D], the positions at which they are run, and the keys that they may see."""
        this, rows = call.this, call.rows
        if not isinstance(this, RowsBeside):
            columns = np.flatnonzero(touched[0])
            position, probe = rows.position[0], self.probes[rows.probe[0, 0]]
            end = int(position[-1]) + 1
            at = np.arange(end - call.k.shape[2], end)
            everything = [_keys(call.k[0], call.v[0], at, at, probe)]
            yield 0, columns, call.q[0][:, columns], position[columns], everything
            return
        layout = this.layout_on(call.q.device)
        index = None if layout.rows is None else layout.rows.cpu().numpy()
        q, k, v = (of_suffixes(x, layout) for x in (call.q, call.k, call.v))
        for b, suffix in enumerate(this.suffixes):
            m = len(suffix.ids)
            places = np.arange(m) if index is None else index[b, :m]
            mine = touched[b if index is None else 0, places]
            if not mine.any():
                continue
            probe = self.probes[suffix.probe % len(self.probes)]
            keys = _prefix_keys(this, call.layer, suffix, probe)
            if isinstance(this, StepPass):
                held = int(this.own.held[b]) + 1
                run_at = this.own.positions[b, :held]
                own = (x[call.layer][b, :, :held] for x in (this.own.keys, this.own.values))
                keys.append(_keys(*own, run_at, run_at, probe))
            else:
                keys.append(_keys(k[b, :, :m], v[b, :, :m], suffix.rotary, suffix.positions, probe))
            inside = np.flatnonzero(mine)
            yield b if index is None else 0, places[inside], q[b][:, inside], suffix.rotary[inside], keys


def _prefix_keys(this: RowsBeside, layer: int, suffix: Suffix, probe: Probe) -> list[Keys]:
    """The prefix's keys that question and answer of a suffix see."""
    n = suffix.context_len
    if not n:
        return []
    at = np.arange(n)
    positions = at + suffix.graft_len * (at >= suffix.graft_start)
    return [_keys(this.cache.keys[layer][0, :, :n], this.cache.values[layer][0, :, :n], at, positions, probe)]


def _keys(k: Tensor, v: Tensor, run_at: np.ndarray, positions: np.ndarray, probe: Probe) -> Keys:
    """positions: in the probe's own sequence, in which its needle is known."""
    hidden = np.zeros(len(positions), bool)
    for start, end in probe.needle_spans:
        hidden |= (positions >= start) & (positions < end)
    return Keys(k, v, *(torch.from_numpy(np.ascontiguousarray(x)).to(k.device) for x in (run_at, hidden)))


def without_hidden(
    q: Tensor, keys: Sequence[Keys], group: Tensor, positions: Tensor, sees: Visibility, how: Scoring, head: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention of rows q [h, r, D] to all keys that they see but the hidden ones.

    Args:
        group: [h], the key-value head of each head. head: [h], the heads' own numbers, for sinks.
        positions: [r], where the rows are run.

    Returns:
        out [h, r, Dv] in float32 or wider, 0 where nothing else is seen; bool [r], rows that would see a hidden key.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    first, logits = sees.first_visible(positions), []
    seen = torch.zeros(len(positions), dtype=torch.bool, device=q.device)
    for part in keys:
        inside = (part.run_at <= positions[:, None]) & (part.run_at >= first[:, None])
        seen |= (inside & part.hidden).any(dim=1)
        scores = (q.to(dtype) @ part.k[group].to(dtype).mT) * how.scale
        if how.softcap is not None:
            scores = how.softcap * torch.tanh(scores / how.softcap)
        logits.append(scores.masked_fill(~(inside & ~part.hidden), -torch.inf))
    lse = torch.cat([each.logsumexp(-1, keepdim=True) for each in logits], dim=-1).logsumexp(-1, keepdim=True)
    if how.sinks is not None:
        lse = torch.logaddexp(lse, how.sinks[head].to(dtype).view(-1, 1, 1))
    lse = lse.masked_fill(lse.isneginf(), 0.0)
    out = sum(torch.exp(each - lse) @ part.v[group].to(dtype) for each, part in zip(logits, keys, strict=True))
    assert isinstance(out, Tensor)
    return out, seen
