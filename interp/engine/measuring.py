"""Measures of estimators: attention of some rows to some keys alone, beside all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ...kernels import evidence_attention, merge_attention_states
from ...probes import Probe
from ..evidence import Measure, Rows
from ..model import OutputWeights, PrefixCache, Scoring, Visibility
from .passes import LayerEvidence, limits, probe_spans
from .plan import Suffix
from .suffixes import SuffixRows, flat, in_prefix, in_suffix


@dataclass(frozen=True)
class Group:
    """Measures of the same rows and spans, and what is known of those rows before the model runs.

    spans: int64 per probe [n_rows, S, 2], in the probe's positions; following: int64 [A], the token behind each row;
    keys, part_keys: float32 [A], see `Rows`. Over all probes the rows are A.
    """

    measures: Mapping[str, Measure]
    positions: list[np.ndarray]
    spans: list[np.ndarray]
    following: np.ndarray
    keys: np.ndarray
    part_keys: np.ndarray

    def compute(
        self,
        layer: int,
        out: tuple[Tensor, Tensor],
        part: tuple[Tensor, Tensor],
        how: Scoring,
        weights: OutputWeights | None,
    ) -> dict[str, Tensor]:
        """name -> [H, A], of output [H, A, Dv] and log-sum-exp [H, A] of all attention, and of that to the spans."""
        device, wide = out[1].device, out[1].dtype

        def towards() -> Tensor | None:
            if weights is None:
                return None
            tokens = torch.from_numpy(self.following).to(device)
            return weights.towards(layer, tokens, out[0].shape[-1])

        keys, part_keys = (torch.from_numpy(x).to(device, wide) for x in (self.keys, self.part_keys))
        whole, some = (x.to(wide) for x in (out[0], part[0]))
        rows = Rows(whole, out[1], some, part[1], how.sinks, keys, part_keys, towards)
        there = part_keys > 0
        return {name: measure.compute(rows).where(there, torch.nan) for name, measure in self.measures.items()}


def grouped(measures: Mapping[str, Measure], probes: Sequence[Probe]) -> list[Group]:
    """Raises ArgumentError where spans do not fit their rows."""
    alike: dict[tuple[object, str], dict[str, Measure]] = {}
    for name, measure in measures.items():
        alike.setdefault((measure.spans, measure.rows), {})[name] = measure
    return [_group(of_one, probes) for of_one in alike.values()]


def _group(measures: Mapping[str, Measure], probes: Sequence[Probe]) -> Group:
    name, measure = next(iter(measures.items()))
    positions = [measure.positions(probe) for probe in probes]
    spans = [probe_spans(p, name, measure.spans, len(at)) for p, at in zip(probes, positions, strict=True)]
    before = [np.minimum(s, at[:, None, None] + 1) for s, at in zip(spans, positions, strict=True)]
    return Group(
        measures=measures,
        positions=positions,
        spans=spans,
        following=np.concatenate([p.input_ids[at + 1] for p, at in zip(probes, positions, strict=True)]).astype(
            np.int64
        ),
        keys=np.concatenate(positions).astype(np.float32) + 1,
        part_keys=np.concatenate([(s[..., 1] - s[..., 0]).clip(0).sum(-1) for s in before]).astype(np.float32),
    )


def measured_of(
    measures: Mapping[str, Measure],
    probes: Sequence[Probe],
    layers: Mapping[int, LayerEvidence],
    shape: tuple[int, int],
) -> list[dict[str, np.ndarray]]:
    """For every probe name -> float32 [*shape, n_rows], shape (n_layers, n_heads); NaN where nothing was measured."""
    found: list[dict[str, np.ndarray]] = [{} for _ in probes]
    for name, measure in measures.items():
        sizes = [len(measure.positions(probe)) for probe in probes]
        values = np.full((*shape, sum(sizes)), np.nan, np.float32)
        for layer, of_layer in layers.items():
            of_heads = of_layer.measured[name].float().cpu().numpy()
            values[layer, : len(of_heads)] = of_heads
        for of_probe, part in zip(found, np.split(values, np.cumsum(sizes)[:-1], axis=2), strict=True):
            of_probe[name] = part
    return found


def attend_to_spans(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    spans: Tensor,
    positions: Tensor,
    sees: Visibility,
    how: Scoring,
    *,
    k_positions: Tensor | None = None,
    key_limits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, Hq, R, Dv] and log-sum-exp [B, Hq, R] of attention to the keys of spans [B, R, S, 2] that rows see.

    Spans of a row do not overlap. 0 and -inf for a row that sees no key of its spans; learned sinks are left out.
    """
    out = q.new_zeros(*q.shape[:3], v.shape[-1])
    lse = torch.full(q.shape[:3], -torch.inf, dtype=torch.promote_types(q.dtype, torch.float32), device=q.device)
    rule = limits(positions, sees, how)
    starts = rule.pop("key_starts")
    for begin, end in (each.unbind(-1) for each in spans.unbind(2)):
        found, ev = evidence_attention(
            q,
            k,
            v,
            q_positions=positions,
            k_positions=k_positions,
            key_starts=begin if starts is None else torch.maximum(begin, starts),
            key_limits=end if key_limits is None else torch.minimum(end, key_limits),
            **rule,
        )
        out, lse = merge_attention_states(out, lse, found, ev.lse)
    return out, lse


class MeasuringWhole:
    """Measures of one probe in one forward."""

    def __init__(self, measures: Mapping[str, Measure], probe: Probe, weights: OutputWeights | None):
        self.groups, self.weights = grouped(measures, [probe]), weights

    def __call__(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring
    ) -> dict[str, Tensor]:
        """name -> [H, rows], of all of a layer's queries, keys and values."""
        found: dict[str, Tensor] = {}
        for group in self.groups:
            rows, spans = (torch.from_numpy(x).to(q.device, torch.int64) for x in (group.positions[0], group.spans[0]))
            asked = q[:, :, rows]
            out, ev = evidence_attention(asked, k, v, q_positions=rows, sinks=how.sinks, **limits(rows, sees, how))
            part, part_lse = attend_to_spans(asked, k, v, spans[None], rows, sees, how)
            found |= group.compute(layer, (out[0], ev.lse[0]), (part[0], part_lse[0]), how, self.weights)
        return found


class MeasuringSuffixes:
    """Measures of a batch of suffixes beside their prefix.

    Args:
        measures: by name.
        suffixes, probes: the suffixes, and their own probes in the same order.
        rows: how the suffixes are laid out.
        weights: of the model, for measures of what heads write.
    """

    def __init__(
        self,
        measures: Mapping[str, Measure],
        suffixes: Sequence[Suffix],
        probes: Sequence[Probe],
        rows: SuffixRows,
        weights: OutputWeights | None,
    ):
        self.groups, self.weights = grouped(measures, probes), weights
        self._places = [_places(group, suffixes, rows) for group in self.groups]
        self._on: dict[torch.device, list[_Places]] = {}

    def __call__(
        self,
        layer: int,
        at: SuffixRows,
        rows: Tensor,
        own: tuple[Tensor, Tensor, Tensor],
        cache: PrefixCache,
        out: tuple[Tensor, Tensor],
        sees: Visibility,
        how: Scoring,
    ) -> dict[str, Tensor]:
        """name -> [H, rows of all suffixes].

        Args:
            layer, at, cache, sees, how: as in the pass.
            rows: queries [1, Hq, R, D] of all rows that are run.
            own: queries, keys and values of the suffixes, [B, ., m, D].
            out: the output [1, Hq, R, Dv] and log-sum-exp [1, Hq, R] of attention to suffix and prefix.
        """
        q, k, v = own
        if q.device not in self._on:
            self._on[q.device] = [places.to(q.device) for places in self._places]
        suffix = torch.arange(len(q), device=q.device)[:, None]
        found: dict[str, Tensor] = {}
        for group, places in zip(self.groups, self._on[q.device], strict=True):
            asked, positions = q[suffix, :, places.asked].transpose(1, 2), at.positions.gather(1, places.asked)
            inside = attend_to_spans(asked, k, v, places.own, positions, sees, how, k_positions=at.positions)
            part, part_lse = (flat(x)[:, :, places.kept] for x in inside)
            if places.beside.shape[2]:
                part, part_lse = merge_attention_states(
                    part,
                    part_lse,
                    *attend_to_spans(
                        rows[:, :, places.rows],
                        cache.keys[layer][:, :, : cache.length],
                        cache.values[layer][:, :, : cache.length],
                        places.beside,
                        at.run_at.view(-1)[places.rows],
                        sees,
                        how,
                        key_limits=at.limits[places.rows],
                    ),
                )
            whole = out[0][0, :, places.rows], out[1][0, :, places.rows]
            found |= group.compute(layer, whole, (part[0], part_lse[0]), how, self.weights)
        return found


@dataclass(frozen=True)
class _Places:
    """Where a group's rows and spans lie in a batch of B suffixes.

    asked, kept: as in `SuffixRows`. rows: [A], in the R rows that are run. own: [B, a, S, 2], spans among the suffix's
    own keys; beside: [1, A, S', 2], among the prefix's.
    """

    asked: Tensor
    kept: Tensor
    rows: Tensor
    own: Tensor
    beside: Tensor

    def to(self, device: torch.device) -> _Places:
        return _Places(*(getattr(self, field.name).to(device) for field in fields(self)))


def _places(group: Group, suffixes: Sequence[Suffix], rows: SuffixRows) -> _Places:
    n, width, most = len(suffixes), max(len(t.ids) for t in suffixes), max(len(at) for at in group.positions)
    slots = max(spans.shape[1] for spans in group.spans)
    asked, kept = np.zeros((n, most), np.int64), np.zeros((n, most), bool)
    spans = np.zeros((n, most, slots, 2), np.int64)
    for b, (suffix, at, where) in enumerate(zip(suffixes, group.positions, group.spans, strict=True)):
        asked[b] = suffix.graft_len + at[np.minimum(np.arange(most), len(at) - 1)]
        asked[b] -= suffix.positions[suffix.graft_len]
        kept[b, : len(at)] = True
        spans[b, : len(at), : where.shape[1]] = where
    flat_rows = (asked + width * np.arange(n)[:, None])[kept]
    if rows.rows is not None:
        flat_rows = rows.rows.numpy().reshape(-1)[flat_rows]
    own = np.stack([in_suffix(s, suffix) for s, suffix in zip(spans, suffixes, strict=True)])
    beside = np.concatenate([in_prefix(s, t)[k] for s, t, k in zip(spans, suffixes, kept, strict=True)])
    own, beside = (x[..., (x[..., 1] > x[..., 0]).reshape(-1, x.shape[-2]).any(axis=0), :] for x in (own, beside))
    arrays = asked, np.flatnonzero(kept), flat_rows, own, beside[None]
    return _Places(*(torch.from_numpy(np.ascontiguousarray(x)) for x in arrays))
