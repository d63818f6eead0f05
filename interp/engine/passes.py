"""What attention does in each kind of forward pass, and the evidence that it leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels import RowEvidence, attend, evidence_attention, implementation, row_evidence
from ...probes import Probe
from ..model import PrefixCache, Scoring, Visibility

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


class PrefixPass:
    """A chunk of the prefix: causal attention to everything cached, at the speed of the machine's fastest backend.

    Args:
        cache: where the chunk's keys and values go, and those before it lie; None for a sequence in one piece.
        unread: a layer whose output nobody reads, only its keys: the last one, unless logits are wanted.
        each_layer: called when a layer's attention is done.
    """

    def __init__(
        self,
        cache: PrefixCache | None = None,
        unread: int | None = None,
        each_layer: Callable[[], None] | None = None,
    ):
        self.cache, self.unread, self.each_layer = cache, unread, each_layer

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        if self.cache is not None:
            k, v = self.cache.put(layer, k, v)
        if layer == self.unread:
            return q.new_zeros(*q.shape[:3], v.shape[-1])
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


def causal(q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
    """Attention of the last rows of a sequence to all of it; q [1, Hq, Q, D], k [1, Hkv, N, D], N >= Q."""
    # Without our kernels a window is put together from causal squares, which on a GPU are too many small launches.
    narrow = sees.window is not None and sees.window < k.shape[2]
    if sees.chunk is not None or how.softcap is not None or (narrow and implementation(q, v) == "triton"):
        at = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device)
        return evidence_attention(q, k, v, q_positions=at, sinks=how.sinks, **limits(at, sees, how))[0]
    return attend(q, k, v, scale=how.scale, causal=True, window=sees.window, sinks=how.sinks)[0]


def limits(positions: Tensor, sees: Visibility, how: Scoring) -> dict[str, Any]:
    """Keyword arguments of the kernels for one layer's rule."""
    starts = sees.first_visible(positions) if sees.chunk is not None else None
    return {"scale": how.scale, "softcap": how.softcap, "window": sees.window, "key_starts": starts}


def by_kind(span_mass: Tensor, kinds: Tensor) -> Tensor:
    """Sum the mass of slots of one kind: [..., S] -> [..., len(KINDS)]."""
    mass = span_mass.new_zeros(*span_mass.shape[:-1], len(KINDS))
    return mass.index_add_(-1, kinds.to(span_mass.device), span_mass)


def _summary(found: RowEvidence, kinds: Tensor, visible: np.ndarray) -> LayerEvidence:
    return LayerEvidence(found.argmax_key[0], found.p_max[0], by_kind(found.span_mass, kinds)[0], visible)
