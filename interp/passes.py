"""What attention does in each kind of forward pass, and the evidence that it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..kernels import RowEvidence, evidence_attention, merge, row_evidence
from ..kernels.plain import attend, merge_outputs
from ..probes import Probe
from .cache import TrunkCache
from .capture import Scoring, Visibility
from .tree import Tail

SINK = 4  # "sink" is attention on the first four positions
KINDS = ("needle", "source", "sink")


@dataclass(frozen=True)
class LayerEvidence:
    """What one layer's heads did on the answer rows of a batch of probes, all probes' rows one after the other.

    Attributes:
        argmax_key: int64 [Hq, A], position in the row's own probe.
        p_max: float32 [Hq, A], probability at that key.
        mass: float32 [Hq, A, 3], probability on the needle, on the row's sources, and on the sink.
        visible: bool [n_probes], whether any answer row of the probe can see any of its needle.
    """

    argmax_key: Tensor
    p_max: Tensor
    mass: Tensor
    visible: np.ndarray


def answer_spans(probe: Probe) -> tuple[np.ndarray, np.ndarray]:
    """Spans whose mass is measured: int32 [n_answer, S, 2] in probe positions, and each slot's index in KINDS [S]."""
    needles = [np.broadcast_to(np.array(span, np.int32), (probe.n_answer, 2)) for span in probe.needle_spans]
    sources = [np.stack([s, np.where(s < 0, s, s + 1)], axis=1) for s in probe.sources.T]  # -1 stays empty
    sink = np.broadcast_to(np.array([0, SINK], np.int32), (probe.n_answer, 2))
    spans = np.stack([*needles, *sources, sink], axis=1).clip(0).astype(np.int32)
    return spans, np.repeat([0, 1, 2], [len(needles), len(sources), 1])


def needle_visible(probe: Probe, sees: Visibility) -> bool:
    """Whether any answer row can see any needle key of the probe through this layer's window."""
    first = sees.first_visible(torch.from_numpy(probe.answer_rows.astype(np.int64)))
    return any(bool((first < end).any()) for _, end in probe.needle_spans)


class TrunkPass:
    """A chunk of the trunk: causal attention to everything cached, at the speed of the machine's fastest backend.

    Args:
        each_layer: called when a layer's attention is done.
    """

    def __init__(self, each_layer: Callable[[], None] | None = None):
        self.each_layer = each_layer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        out = causal(q, k, v, sees, how)
        if self.each_layer is not None:
            self.each_layer()
        return out


class WholePass:
    """A whole probe in one forward, nothing shared: the safe path, and the measure of the others."""

    def __init__(self, probe: Probe, device: torch.device):
        self.probe = probe
        spans, kinds = answer_spans(probe)
        self.rows = torch.from_numpy(probe.answer_rows.astype(np.int64)).to(device)
        self.spans, self.kinds = torch.from_numpy(spans)[None].to(device), torch.from_numpy(kinds).to(device)
        self.evidence: dict[int, LayerEvidence] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        rows = self.rows.to(q.device)
        found = row_evidence(
            q[:, :, rows],
            k,
            q_positions=rows,
            spans=self.spans.to(q.device),
            sinks=how.sinks,
            **limits(rows, sees, how),
        )
        visible = np.array([needle_visible(self.probe, sees)])
        self.evidence[layer] = _summary(found, self.kinds, visible)
        return causal(q, k, v, sees, how)


class TailPass:
    """A batch of tails beside one trunk: rows see the trunk up to their own limit, and their own tail causally.

    The trunk's keys are read as they lie, for all tails at once: no copy, no expansion per tail or per query head.

    Args:
        tails: the tails; shorter ones are padded at the end, where no real row can see the padding.
        probes: the probes of the whole set.
        cache: the trunk's keys and values.
        device: where the model takes its input.
    """

    def __init__(self, tails: Sequence[Tail], probes: Sequence[Probe], cache: TrunkCache, device: torch.device):
        self.tails, self.cache = tails, cache
        self.probes = [probes[tail.probe] for tail in tails]
        width = max(len(tail.ids) for tail in tails)
        n = len(tails)
        ids = np.zeros((n, width), np.int64)
        positions, row_limits = np.zeros((n, width), np.int64), np.zeros((n, width), np.int64)
        for b, tail in enumerate(tails):
            m = len(tail.ids)
            ids[b, :m], positions[b, :m], row_limits[b, :m] = tail.ids, tail.rotary, tail.limits
            # padding lies behind the tail, where no real row sees it
            positions[b, m:] = tail.rotary[-1] + 1 + np.arange(width - m)
        self.ids, self.positions = torch.from_numpy(ids).to(device), torch.from_numpy(positions).to(device)
        self.row_limits = torch.from_numpy(row_limits.reshape(-1)).to(device)
        answers = [b * width + len(t.ids) - t.n_answer + np.arange(t.n_answer) for b, t in enumerate(tails)]
        self.answers = torch.from_numpy(np.concatenate(answers)).to(device)
        # Rows that may see the same number of trunk keys share one attention call.
        self.groups = [
            (int(limit), torch.from_numpy(np.flatnonzero(row_limits.reshape(-1) == limit)).to(device))
            for limit in np.unique(row_limits)
            if limit > 0
        ]
        self._place_spans(width, device)
        self.evidence: dict[int, LayerEvidence] = {}

    def _place_spans(self, width: int, device: torch.device) -> None:
        """Split every measured span into its part among the tail's own keys and its part among the trunk's."""
        described = [answer_spans(probe) for probe in self.probes]
        slots = sum(max(int((kinds == kind).sum()) for _, kinds in described) for kind in range(len(KINDS)))
        per_kind = [max(int((kinds == kind).sum()) for _, kinds in described) for kind in range(len(KINDS))]
        self.kinds = torch.from_numpy(np.repeat(np.arange(len(KINDS)), per_kind)).to(device)
        first = np.concatenate([[0], np.cumsum(per_kind)])
        spans = []
        for row_spans, kinds in described:
            placed = np.zeros((len(row_spans), slots, 2), np.int32)
            for kind in range(len(KINDS)):
                here = row_spans[:, kinds == kind]
                placed[:, first[kind] : first[kind] + here.shape[1]] = here
            spans.append(placed)
        own = np.zeros((len(self.tails) * width, slots, 2), np.int32)
        own[self.answers.cpu().numpy()] = np.concatenate(spans)
        trunk = np.concatenate([_in_trunk(s, tail) for s, tail in zip(spans, self.tails, strict=True)])
        used = np.flatnonzero((trunk[..., 1] > trunk[..., 0]).any(axis=0))
        self.own_spans = torch.from_numpy(own).view(len(self.tails), width, slots, 2).to(device)
        self.trunk_spans = torch.from_numpy(trunk[:, used])[None].to(device)
        self.trunk_kinds = self.kinds.repeat(2)[torch.from_numpy(used).to(device)]
        repeat = [t.n_answer for t in self.tails]
        # own keys: the needle's rows run at their own positions, the question's are `shift` behind theirs
        self.needle_end = torch.from_numpy(np.repeat([t.graft_start + t.graft_len for t in self.tails], repeat)).to(
            device
        )
        self.shift = torch.from_numpy(np.repeat([t.positions[-1] - t.rotary[-1] for t in self.tails], repeat)).to(
            device
        )
        self.graft_start = torch.from_numpy(np.repeat([t.graft_start for t in self.tails], repeat)).to(device)
        self.graft_len = torch.from_numpy(np.repeat([t.graft_len for t in self.tails], repeat)).to(device)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        n, heads, width, dim = q.shape
        positions, answers = self.positions.to(q.device), self.answers.to(q.device)
        own_out, own = evidence_attention(
            q,
            k,
            v,
            q_positions=positions,
            k_positions=positions,
            spans=self.own_spans.to(q.device),
            sinks=how.sinks,
            **limits(positions, sees, how),
        )
        # [1, Hq, B * m, D]: every row of every tail against the one trunk
        rows = q.transpose(0, 1).reshape(1, heads, n * width, dim)
        out, lse = _flat(own_out), _flat(own.lse)
        key = _flat(own.argmax_key)[:, :, answers]
        found = RowEvidence(
            lse=lse[:, :, answers],
            argmax_key=torch.where(key < self.needle_end.to(q.device), key, key + self.shift.to(q.device)),
            max_logit=_flat(own.max_logit)[:, :, answers],
            span_mass=_flat(own.span_mass)[:, :, answers],
        )
        mass = _by_kind(found.span_mass, self.kinds)
        if self.groups:
            trunk_out, trunk_lse = self._see_trunk(layer, rows, positions.reshape(-1), sees, how)
            out, _ = merge_outputs(out, lse, trunk_out, trunk_lse)
            at = positions.reshape(-1)[answers]
            seen = row_evidence(
                rows[:, :, answers],
                self.cache.keys[layer][:, :, : self.cache.length],
                q_positions=at,
                key_limits=self.row_limits.to(q.device)[answers],
                spans=self.trunk_spans.to(q.device),
                **limits(at, sees, how),
            )
            behind = seen.argmax_key >= self.graft_start.to(q.device)
            key = torch.where(behind, seen.argmax_key + self.graft_len.to(q.device), seen.argmax_key)
            own_kinds = RowEvidence(found.lse, found.argmax_key, found.max_logit, mass)
            trunk_kinds = RowEvidence(seen.lse, key, seen.max_logit, _by_kind(seen.span_mass, self.trunk_kinds))
            found = merge(own_kinds, trunk_kinds)
            mass = found.span_mass
        visible = np.array([needle_visible(probe, sees) for probe in self.probes])
        self.evidence[layer] = LayerEvidence(found.argmax_key[0], found.p_max[0], mass[0], visible)
        return out.view(heads, n, width, -1).transpose(0, 1)

    def _see_trunk(
        self, layer: int, rows: Tensor, positions: Tensor, sees: Visibility, how: Scoring
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        if sees != Visibility() or how.softcap is not None:
            n = self.cache.length
            out, found = evidence_attention(
                rows,
                keys[:, :, :n],
                values[:, :, :n],
                q_positions=positions,
                key_limits=self.row_limits.to(rows.device),
                **limits(positions, sees, how),
            )
            return out, found.lse
        out = rows.new_zeros(*rows.shape[:3], values.shape[-1])
        lse = torch.full(
            rows.shape[:3], -torch.inf, dtype=torch.promote_types(rows.dtype, torch.float32), device=rows.device
        )
        for limit, index in self.groups:
            index = index.to(rows.device)
            out[:, :, index], lse[:, :, index] = attend(
                rows[:, :, index], keys[:, :, :limit], values[:, :, :limit], scale=how.scale, causal=False
            )
        return out, lse


def causal(q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
    """Attention of the last rows of a sequence to all of it; q [1, Hq, Q, D], k [1, Hkv, N, D], N >= Q."""
    if sees.chunk is not None or how.softcap is not None:
        at = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device)
        return evidence_attention(q, k, v, q_positions=at, sinks=how.sinks, **limits(at, sees, how))[0]
    return attend(q, k, v, scale=how.scale, causal=True, window=sees.window, sinks=how.sinks)[0]


def limits(positions: Tensor, sees: Visibility, how: Scoring) -> dict[str, object]:
    """Keyword arguments of the kernels for one layer's rule."""
    starts = sees.first_visible(positions) if sees.chunk is not None else None
    return {"scale": how.scale, "softcap": how.softcap, "window": sees.window, "key_starts": starts}


def _flat(x: Tensor) -> Tensor:
    """[B, H, m, ...] -> [1, H, B * m, ...]"""
    return x.transpose(0, 1).reshape(1, x.shape[1], x.shape[0] * x.shape[2], *x.shape[3:])


def _by_kind(span_mass: Tensor, kinds: Tensor) -> Tensor:
    """Sum the mass of slots of one kind: [..., S] -> [..., len(KINDS)]."""
    mass = span_mass.new_zeros(*span_mass.shape[:-1], len(KINDS))
    return mass.index_add_(-1, kinds.to(span_mass.device), span_mass)


def _in_trunk(spans: np.ndarray, tail: Tail) -> np.ndarray:
    """Where spans of probe positions [A, S, 2] lie in the trunk: [A, 2 S, 2], before and behind the graft."""
    before = spans.clip(None, tail.graft_start if tail.graft_len else tail.context_len)
    behind = (spans.clip(tail.graft_start + tail.graft_len) - tail.graft_len).clip(None, tail.context_len)
    if not tail.graft_len:
        behind = np.zeros_like(spans)
    return np.concatenate([before, behind], axis=1)


def _summary(found: RowEvidence, kinds: Tensor, visible: np.ndarray) -> LayerEvidence:
    return LayerEvidence(found.argmax_key[0], found.p_max[0], _by_kind(found.span_mass, kinds)[0], visible)
