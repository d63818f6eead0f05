"""A batch of suffixes beside one prefix: where their rows and spans lie, and their attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...kernels import (
    RowEvidence,
    evidence_attention,
    implementation,
    merge,
    merge_attention_states,
    row_evidence,
)
from ...probes import Probe
from ..evidence import STANDARD, Spans
from ..model import PrefixCache, Scoring, Visibility
from .cuts import attend_any_shape
from .passes import LayerEvidence, answer_spans, by_kind, limits, needle_visible
from .plan import Suffix


@dataclass(frozen=True)
class SuffixRows:
    """Index tensors of the rows of a batch of B suffixes, padded to m rows, with A answer rows in all.

    What the model is given are R rows: all B * m, or, where suffixes begin alike, each different one once.

    ids, run_at: [B, m], or [1, R] where rows are shared: tokens and the positions at which the model runs them.
    rows: [B, m], which of the R rows each suffix's rows are; None where they are all B * m.
    first: [R], the first of [B * m] that each of the R rows is; None where rows is.
    positions: [B, m], the positions at which the suffixes' rows are run.
    limits: [R], prefix keys that each row may see; 0 for padding.
    by_limit, place: [R], all rows sorted by their limit, and where each then stands; None where they lie so already.
    answers: [A], the answer rows in [R].
    asked: [B, a], the answer rows in each suffix, filled up with repeats to the most that one has; kept: [A], which of
        [B * a] are no repeats.
    """

    ids: Tensor
    run_at: Tensor
    rows: Tensor | None
    first: Tensor | None
    positions: Tensor
    limits: Tensor
    by_limit: Tensor | None
    place: Tensor | None
    answers: Tensor
    asked: Tensor
    kept: Tensor

    def to(self, device: torch.device) -> Self:
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: x if x is None else x.to(device) for name, x in held.items()}
        return type(self)(**moved)


@dataclass(frozen=True)
class SuffixBatch(SuffixRows):
    """Also where spans lie: of the answer rows among their own suffix's keys and among the prefix's.

    own_spans: [B, a, S, 2], spans among the suffix's own keys, in `positions`; own_kinds: [S], number of each's name.
    prefix_spans: [1, A, S', 2], spans among the prefix's keys; prefix_kinds: [S'].
    row_spans: [1, R, S', 2], the same for all rows in the order of by_limit, empty for those that are no answers.
    needle_end, shift: [A], own keys from needle_end on stand `shift` further back in the probe than they are run at.
    graft_start, graft_len: [A], prefix keys from graft_start on stand graft_len further back in the probe.
    """

    own_spans: Tensor
    own_kinds: Tensor
    prefix_spans: Tensor
    prefix_kinds: Tensor
    row_spans: Tensor
    needle_end: Tensor
    shift: Tensor
    graft_start: Tensor
    graft_len: Tensor


Layout = TypeVar("Layout", bound=SuffixRows)


class RowsBeside(Generic[Layout]):
    """Attention of suffixes' rows to what each may see of a prefix, and to their own suffix causally.

    The prefix's keys are read as they lie, for all suffixes at once: no copy, no expansion by suffix or query head.

    Args:
        suffixes: the suffixes.
        layout: of them.
        cache: the prefix's keys and values.
        device: where the model takes its input.
    """

    def __init__(self, suffixes: Sequence[Suffix], layout: Layout, cache: PrefixCache, device: torch.device):
        self.suffixes, self.cache = suffixes, cache
        in_order = np.sort(layout.limits.numpy())
        starts = np.flatnonzero(np.diff(in_order, prepend=0)).tolist()
        # rows that may see the same number of prefix keys share one attention call: (limit, first row, behind the last)
        self.groups = [(int(in_order[i]), i, j) for i, j in pairwise([*starts, len(in_order)])]
        self._on: dict[torch.device, Layout] = {}
        self._layout = layout
        self.ids, self.positions, self.answers = (x.to(device) for x in (layout.ids, layout.run_at, layout.answers))

    def layout_on(self, device: torch.device) -> Layout:
        if device not in self._on:
            self._on[device] = self._layout.to(device)
        return self._on[device]

    def see_itself(
        self, at: Layout, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring
    ) -> tuple[Tensor, Tensor]:
        """Attention of suffixes [B, Hq, m, D] to themselves, and its log-sum-exp."""
        if _plain(sees, how):
            return attend_any_shape(q, k, v, scale=how.scale, causal=True, sinks=how.sinks)
        own = limits(at.positions, sees, how)
        out, found = evidence_attention(
            q, k, v, q_positions=at.positions, k_positions=at.positions, sinks=how.sinks, **own
        )
        return out, found.lse

    def see_prefix(self, at: Layout, layer: int, rows: Tensor, sees: Visibility, how: Scoring) -> tuple[Tensor, Tensor]:
        """Attention of all rows [1, Hq, R, D] to the prefix, and its log-sum-exp: -inf for rows that see none."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        wide = torch.promote_types(rows.dtype, torch.float32)
        out = rows.new_zeros(*rows.shape[:3], values.shape[-1])
        lse = torch.full(rows.shape[:3], -torch.inf, dtype=wide, device=rows.device)
        rows = _at(rows, at.by_limit, 2)
        if _plain(sees, how):
            for n, i, j in self.groups:
                out[:, :, i:j], lse[:, :, i:j] = attend_any_shape(
                    rows[:, :, i:j], keys[:, :, :n], values[:, :, :n], scale=how.scale, causal=False
                )
        else:
            seeing, end = slice(self.groups[0][1], None), self.cache.length
            positions = _at(at.run_at.view(-1), at.by_limit)[seeing]
            out[:, :, seeing], found = evidence_attention(
                rows[:, :, seeing],
                keys[:, :, :end],
                values[:, :, :end],
                q_positions=positions,
                key_limits=_at(at.limits, at.by_limit)[seeing],
                **limits(positions, sees, how),
            )
            lse[:, :, seeing] = found.lse
        return _at(out, at.place, 2), _at(lse, at.place, 2)


class SuffixPass(RowsBeside[SuffixBatch]):
    """Rows see the prefix up to their own limit, and their own suffix causally; the two merge by log-sum-exp.

    With the Triton kernels one launch does all rows; without them, rows with the same limit share an attention call.

    Args:
        suffixes: the suffixes; shorter ones are padded at the end, where no real row can see the padding.
        probes: the probes of the whole set.
        cache: the prefix's keys and values.
        device: where the model takes its input.
        spans: whose mass is measured.
        topk: how many of the best keys are kept.
        measuring: laid-out rows -> what estimators measure besides; see `measuring.MeasuringSuffixes`.
    """

    def __init__(
        self,
        suffixes: Sequence[Suffix],
        probes: Sequence[Probe],
        cache: PrefixCache,
        device: torch.device,
        spans: Mapping[str, Spans] = STANDARD,
        topk: int = 0,
        measuring: Callable[[SuffixRows], Callable[..., dict[str, Tensor]]] | None = None,
    ):
        self.probes = [probes[suffix.probe] for suffix in suffixes]
        super().__init__(suffixes, lay_out(suffixes, self.probes, spans), cache, device)
        self.measure = None if measuring is None else measuring(self._layout)
        self.n_kinds, self.topk = len(spans), topk
        self._visible: dict[Visibility, np.ndarray] = {}
        self.evidence: dict[int, LayerEvidence] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        at = self.layout_on(q.device)
        rows = flat(q)
        q, k, v = (of_suffixes(x, at) for x in (q, k, v))
        out, lse = self.see_itself(at, q, k, v, sees, how)
        found = self._own_evidence(at, q, k, sees, how)
        out, lse = (once(flat(x), at) for x in (out, lse))
        if self.groups:
            if implementation(rows, self.cache.values[layer], topk=self.topk) == "triton":
                prefix_out, prefix_lse, beside = self._prefix_at_once(at, layer, rows, sees, how)
            else:
                prefix_out, prefix_lse = self.see_prefix(at, layer, rows, sees, how)
                beside = self._prefix_evidence(at, layer, rows[:, :, at.answers], sees, how)
            out, lse = merge_attention_states(out, lse, prefix_out, prefix_lse)
            found = merge(found, beside)
        measured = {}
        if self.measure is not None:
            measured = self.measure(layer, at, rows, (q, k, v), self.cache, (out, lse), sees, how)
        if sees not in self._visible:  # layers share a handful of rules
            self._visible[sees] = np.array([needle_visible(probe, sees) for probe in self.probes])
        self.evidence[layer] = LayerEvidence.of(found, self._visible[sees], measured)
        n, width = at.ids.shape
        return out.view(-1, n, width, out.shape[-1]).transpose(0, 1)

    def _own_evidence(self, at: SuffixBatch, q: Tensor, k: Tensor, sees: Visibility, how: Scoring) -> RowEvidence:
        """Evidence [1, Hq, A] of the answer rows over their own suffix, in the probes' positions."""
        suffix = torch.arange(len(q), device=q.device)[:, None]
        positions = at.positions.gather(1, at.asked)
        found = row_evidence(
            q[suffix, :, at.asked].transpose(1, 2),
            k,
            q_positions=positions,
            k_positions=at.positions,
            spans=at.own_spans,
            sinks=how.sinks,
            topk=self.topk,
            **limits(positions, sees, how),
        )
        found = found.map(lambda x: flat(x)[:, :, at.kept])
        mass = by_kind(found.span_mass, at.own_kinds, self.n_kinds)
        return replace(_moved(found, at.needle_end, at.shift), span_mass=mass)

    def _prefix_evidence(
        self, at: SuffixBatch, layer: int, asked: Tensor, sees: Visibility, how: Scoring
    ) -> RowEvidence:
        """Evidence [1, Hq, A] of the answer rows over the prefix, in the probes' positions."""
        positions = at.run_at.view(-1)[at.answers]
        found = row_evidence(
            asked,
            self.cache.keys[layer][:, :, : self.cache.length],
            q_positions=positions,
            key_limits=at.limits[at.answers],
            spans=at.prefix_spans,
            topk=self.topk,
            **limits(positions, sees, how),
        )
        return self._in_probes(at, found)

    def _prefix_at_once(
        self, at: SuffixBatch, layer: int, rows: Tensor, sees: Visibility, how: Scoring
    ) -> tuple[Tensor, Tensor, RowEvidence]:
        """What `see_prefix` and `_prefix_evidence` return, by one launch over all rows, equal limits side by side."""
        end = self.cache.length
        positions = _at(at.run_at.view(-1), at.by_limit)
        out, found = evidence_attention(
            _at(rows, at.by_limit, 2),
            self.cache.keys[layer][:, :, :end],
            self.cache.values[layer][:, :, :end],
            q_positions=positions,
            key_limits=_at(at.limits, at.by_limit),
            spans=at.row_spans,
            topk=self.topk,
            **limits(positions, sees, how),
        )
        asked = at.answers if at.place is None else at.place[at.answers]
        beside = self._in_probes(at, found.map(lambda x: x[:, :, asked]))
        return _at(out, at.place, 2), _at(found.lse, at.place, 2), beside

    def _in_probes(self, at: SuffixBatch, found: RowEvidence) -> RowEvidence:
        """Evidence of the answer rows over the prefix: its keys as positions in the probes, mass by kind."""
        mass = by_kind(found.span_mass, at.prefix_kinds, self.n_kinds)
        return replace(_moved(found, at.graft_start, at.graft_len), span_mass=mass)


def _moved(found: RowEvidence, edge: Tensor, by: Tensor) -> RowEvidence:
    """Keys from `edge` on stand `by` further back; both [A]. The order of keys, and so of ties, stays."""
    key, top = found.argmax_key, found.topk_key
    return replace(
        found,
        argmax_key=torch.where(key < edge, key, key + by),
        topk_key=None if top is None else torch.where(top < edge[:, None], top, top + by[:, None]),
    )


def _plain(sees: Visibility, how: Scoring) -> bool:
    return sees == Visibility() and how.softcap is None


def lay_out(suffixes: Sequence[Suffix], probes: Sequence[Probe], named: Mapping[str, Spans]) -> SuffixBatch:
    """Where the rows, answers and spans of a batch of suffixes lie; `probes` are their own, in the same order."""
    rows = lay_out_rows(suffixes)
    order = np.argsort(rows.limits.numpy(), kind="stable")
    kept = np.zeros(tuple(rows.asked.shape), bool)
    kept.reshape(-1)[rows.kept.numpy()] = True
    at = np.argsort(order)[rows.answers.numpy()]
    per_answer = [t.n_answer for t in suffixes]
    arrays = {
        **_lay_out_spans(suffixes, probes, named, kept, at, len(order)),
        "needle_end": np.repeat([t.graft_start + t.graft_len for t in suffixes], per_answer),
        "shift": np.repeat([int(t.positions[-1] - t.rotary[-1]) for t in suffixes], per_answer),
        "graft_start": np.repeat([t.graft_start for t in suffixes], per_answer),
        "graft_len": np.repeat([t.graft_len for t in suffixes], per_answer),
    }
    held = {field.name: getattr(rows, field.name) for field in fields(rows)}
    return SuffixBatch(**held, **_tensors(arrays))


def lay_out_rows(suffixes: Sequence[Suffix]) -> SuffixRows:
    """Where the rows and answers of a batch of suffixes lie."""
    n, width, most = len(suffixes), max(len(t.ids) for t in suffixes), max(t.n_answer for t in suffixes)
    ids, positions, row_limits = (np.zeros((n, width), np.int64) for _ in range(3))
    asked, kept = np.zeros((n, most), np.int64), np.zeros((n, most), bool)
    for b, suffix in enumerate(suffixes):
        m = len(suffix.ids)
        ids[b, :m], positions[b, :m], row_limits[b, :m] = suffix.ids, suffix.rotary, suffix.limits
        positions[b, m:] = suffix.rotary[-1] + 1 + np.arange(width - m)  # padding lies behind the suffix
        asked[b] = np.minimum(m - suffix.n_answer + np.arange(most), m - 1)
        kept[b, : suffix.n_answer] = True
    answers = (asked + width * np.arange(n)[:, None])[kept]
    flat_limits, run, run_at, rows, first = row_limits.reshape(-1), ids, positions, None, None
    if (shared := _shared_rows(suffixes, width)) is not None:
        rows, first = shared
        by_limit = np.argsort(flat_limits[first], kind="stable")
        first, rows = first[by_limit], np.argsort(by_limit)[rows]
        flat_limits, answers = flat_limits[first], rows.reshape(-1)[answers]
        run, run_at = ids.reshape(1, -1)[:, first], positions.reshape(1, -1)[:, first]
    order = np.argsort(flat_limits, kind="stable")
    arrays = {
        "ids": run,
        "run_at": run_at,
        "rows": rows,
        "first": first,
        "positions": positions,
        "limits": flat_limits,
        "by_limit": None if shared else order,
        "place": None if shared else np.argsort(order),
        "answers": answers,
        "asked": asked,
        "kept": np.flatnonzero(kept),
    }
    return SuffixRows(**_tensors(arrays))


def _tensors(arrays: Mapping[str, np.ndarray | None]) -> dict[str, Any]:
    return {name: x if x is None else torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}


def _lay_out_spans(
    suffixes: Sequence[Suffix],
    probes: Sequence[Probe],
    named: Mapping[str, Spans],
    kept: np.ndarray,
    at: np.ndarray,
    rows: int,
) -> dict[str, np.ndarray]:
    """The spans of a `SuffixBatch`; kept is bool [B, a], at [A] says which of all `rows` the answer rows are."""
    spans, kinds = _in_slots([answer_spans(probe, named) for probe in probes], len(named))
    own, beside = (
        np.concatenate([lie(s, suffix) for s, suffix in zip(spans, suffixes, strict=True)])
        for lie in (in_suffix, in_prefix)
    )
    own_used, used = ((x[..., 1] > x[..., 0]).any(axis=0) for x in (own, beside))
    own_spans = np.zeros((*kept.shape, int(own_used.sum()), 2), np.int64)
    own_spans[kept] = own[:, own_used]
    row_spans = np.zeros((1, rows, int(used.sum()), 2), np.int64)
    row_spans[0, at] = beside[:, used]
    return {
        "own_spans": own_spans,
        "own_kinds": np.tile(kinds, 2)[own_used],
        "prefix_spans": beside[None, :, used],
        "prefix_kinds": np.tile(kinds, 2)[used],
        "row_spans": row_spans,
    }


def _shared_rows(suffixes: Sequence[Suffix], width: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows that suffixes have in common, each run once: which row each is [B, m], and the first that is each [R].

    Two rows are the same when they are and see the same: token, position and limit, of themselves and of all before. So
    it is with a needle that probes of several lengths have at the same place. Answer rows are every suffix's own,
    because spans are. None where no two rows are the same.
    """
    known: dict[tuple[int, int, int, int, int], int] = {}
    first: list[int] = []
    rows = np.zeros((len(suffixes), width), np.int64)
    for b, suffix in enumerate(suffixes):
        row, alike = -1, len(suffix.ids) - suffix.n_answer
        for i, what in enumerate(zip(suffix.ids.tolist(), suffix.rotary.tolist(), suffix.limits.tolist(), strict=True)):
            before, row = row, len(first)
            if i < alike:
                row = known.setdefault((suffix.apart, before, *what), row)
            if row == len(first):
                first.append(b * width + i)
            rows[b, i] = row
        rows[b, len(suffix.ids) :] = row  # padding: any row, for nobody sees it
    if len(first) == sum(len(suffix.ids) for suffix in suffixes):
        return None
    return rows, np.array(first)


def _in_slots(described: Sequence[tuple[np.ndarray, np.ndarray]], n_kinds: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Spans of several probes in common slots: every kind has as many as the probe with the most; others are empty."""
    per_kind = [max(int((kinds == kind).sum()) for _, kinds in described) for kind in range(n_kinds)]
    first = np.concatenate([[0], np.cumsum(per_kind)])
    placed = []
    for spans, kinds in described:
        slots = np.zeros((len(spans), first[-1], 2), np.int64)
        for kind in range(n_kinds):
            of_kind = spans[:, kinds == kind]
            slots[:, first[kind] : first[kind] + of_kind.shape[1]] = of_kind
        placed.append(slots)
    return placed, np.repeat(np.arange(n_kinds), per_kind)


def in_suffix(spans: np.ndarray, suffix: Suffix) -> np.ndarray:
    """Where spans of probe positions [A, S, 2] lie among the suffix's own keys as they are run: [A, 2 S, 2].

    The inserted needle's keys are run at their own positions, those of question and answer further in front.
    """
    graft_end = suffix.graft_start + suffix.graft_len
    inserted = spans.clip(suffix.graft_start, graft_end)
    rest, run_at = suffix.positions[suffix.graft_len], suffix.rotary[suffix.graft_len]
    return np.concatenate([inserted, spans.clip(rest) - rest + run_at], axis=1)


def in_prefix(spans: np.ndarray, suffix: Suffix) -> np.ndarray:
    """Where spans of probe positions [A, S, 2] lie in the prefix: [A, 2 S, 2], before and behind the graft."""
    before = spans.clip(None, suffix.graft_start if suffix.graft_len else suffix.context_len)
    behind = (spans.clip(suffix.graft_start + suffix.graft_len) - suffix.graft_len).clip(None, suffix.context_len)
    if not suffix.graft_len:
        behind = np.zeros_like(spans)
    return np.concatenate([before, behind], axis=1)


def flat(x: Tensor) -> Tensor:
    """[B, H, m, ...] -> [1, H, B * m, ...]"""
    return x.transpose(0, 1).reshape(1, x.shape[1], x.shape[0] * x.shape[2], *x.shape[3:])


def of_suffixes(x: Tensor, at: SuffixRows) -> Tensor:
    """The R rows as the suffixes have them: [1, H, R, D] -> [B, H, m, D]."""
    return x if at.rows is None else x[0].transpose(0, 1)[at.rows].transpose(1, 2)


def _at(x: Tensor, index: Tensor | None, dim: int = 0) -> Tensor:
    """Some of x, or all of it as it lies where there is no index."""
    return x if index is None else x.index_select(dim, index)


def once(x: Tensor, at: SuffixRows) -> Tensor:
    """Of all rows [1, H, B * m, ...] the R that are run."""
    return x if at.first is None else x[:, :, at.first]
