"""What attention does in each kind of forward pass, and the evidence that it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ...kernels import RowEvidence, attend, evidence_attention, implementation, plans_shapes, row_evidence
from ...probes import Probe
from ..evidence import STANDARD, Spans
from ..model import PrefixCache, Scoring, Visibility
from .cuts import UNIT, attend_in_blocks


@dataclass(frozen=True)
class LayerEvidence:
    """What one layer's heads did on the answer rows of a batch of probes, all probes' rows one after the other.

    Attributes:
        argmax_key: int64 [Hq, A], position in the row's own probe.
        p_max: float32 [Hq, A], probability at that key.
        mass: float32 [Hq, A, K], probability on the spans of each name, in the order of the run's spans.
        visible: bool [n_probes], whether any answer row of the probe can see any of its needle.
        topk_key, topk_p: [Hq, A, k], the same as argmax_key and p_max of the k best keys; k may be 0.
        measured: name -> [Hq, A'], of all the rows that the `Measure` of this name is of.
    """

    argmax_key: Tensor
    p_max: Tensor
    mass: Tensor
    visible: np.ndarray
    topk_key: Tensor
    topk_p: Tensor
    measured: Mapping[str, Tensor]

    @classmethod
    def of(cls, found: RowEvidence, visible: np.ndarray, measured: Mapping[str, Tensor]) -> LayerEvidence:
        """From [1, Hq, A] rows whose span mass is summed by name."""
        none = found.argmax_key.new_empty(*found.argmax_key[0].shape, 0)
        key, p = (none if x is None else x[0] for x in (found.topk_key, found.topk_p))
        return cls(found.argmax_key[0], found.p_max[0], found.span_mass[0], visible, key, p, measured)


def answer_spans(probe: Probe, spans: Mapping[str, Spans]) -> tuple[np.ndarray, np.ndarray]:
    """Spans whose mass is measured: int32 [n_answer, S, 2] in probe positions, and the number of each slot's name [S].

    Empty slots count nothing. Raises ArgumentError when spans are no integers, or of another shape than `Spans` says.
    """
    slots = []
    for name, where in spans.items():
        slots.append(probe_spans(probe, name, where, probe.n_answer))
    numbers = np.repeat(np.arange(len(slots)), [each.shape[1] for each in slots])
    return np.concatenate(slots, axis=1).astype(np.int32), numbers


def probe_spans(probe: Probe, name: str, where: Spans, rows: int) -> np.ndarray:
    """Spans of one name for so many rows of a probe: int [rows, S, 2] within it. Errors: see `answer_spans`."""
    given = where(probe)
    found = np.empty((0, 2), np.int32) if given is None else np.asarray(given)
    if found.dtype.kind not in "iu" or found.ndim not in (2, 3) or found.shape[-1] != 2:
        raise ArgumentError(
            f"spans {name!r} of probe {probe.id!r} must be integers [S, 2] or [n_answer, S, 2], got {found.dtype} "
            f"{found.shape}"
        )
    if found.ndim == 3 and len(found) != rows:
        raise ArgumentError(f"spans {name!r} of probe {probe.id!r} are of {len(found)} rows, not {rows}")
    return np.broadcast_to(found, (rows, *found.shape[-2:])).clip(0, probe.length)


def without_spans(probe: Probe, spans: Mapping[str, Spans]) -> np.ndarray:
    """Bool [K, n_answer]: the names of which the probe has no span for an answer row, whose mass is no zero but NaN."""
    places, numbers = answer_spans(probe, spans)
    held = places[..., 1] > places[..., 0]
    return np.stack([~held[:, numbers == number].any(axis=1) for number in range(len(spans))])


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
        unit: rows of a whole chunk, a power of two; see `cuts`.
    """

    def __init__(
        self,
        cache: PrefixCache | None = None,
        unread: int | None = None,
        each_layer: Callable[[], None] | None = None,
        unit: int = UNIT,
    ):
        self.cache, self.unread, self.each_layer, self.unit = cache, unread, each_layer, unit

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        if self.cache is not None:
            k, v = self.cache.put(layer, k, v)
        if layer == self.unread:
            return q.new_zeros(*q.shape[:3], v.shape[-1])
        out = causal(q, k, v, sees, how, self.unit)
        if self.each_layer is not None:
            self.each_layer()
        return out


class WholePass:
    """A whole probe in one forward, nothing shared: the safe path, and the measure of the others.

    measure: (layer, q, k, v, sees, how) -> name -> [Hq, rows], what estimators measure besides.
    """

    def __init__(
        self,
        probe: Probe,
        device: torch.device,
        spans: Mapping[str, Spans] = STANDARD,
        topk: int = 0,
        measure: Callable[..., dict[str, Tensor]] | None = None,
    ):
        self.probe, self.topk, self.measure = probe, topk, measure
        self.n_kinds = len(spans)
        places, kinds = answer_spans(probe, spans)
        self.rows = torch.from_numpy(probe.answer_rows.astype(np.int64)).to(device)
        self.spans, self.kinds = torch.from_numpy(places)[None].to(device), torch.from_numpy(kinds).to(device)
        self.evidence: dict[int, LayerEvidence] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        rows = self.rows.to(q.device)
        found = row_evidence(
            q[:, :, rows],
            k,
            q_positions=rows,
            spans=self.spans.to(q.device),
            sinks=how.sinks,
            topk=self.topk,
            **limits(rows, sees, how),
        )
        found = replace(found, span_mass=by_kind(found.span_mass, self.kinds, self.n_kinds))
        measured = {} if self.measure is None else self.measure(layer, q, k, v, sees, how)
        self.evidence[layer] = LayerEvidence.of(found, np.array([needle_visible(self.probe, sees)]), measured)
        return causal(q, k, v, sees, how)


def causal(q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring, unit: int = UNIT) -> Tensor:
    """Attention of the last rows of a sequence to all of it; q [1, Hq, Q, D], k [1, Hkv, N, D], N >= Q.

    Where torch's kernel plans for every shape, in blocks of `unit` rows.
    """
    # Without our kernels a window is put together from causal squares, which on a GPU are too many small launches.
    narrow = sees.window is not None and sees.window < k.shape[2]
    if sees.chunk is not None or how.softcap is not None or (narrow and implementation(q, v) == "triton"):
        at = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device)
        return evidence_attention(q, k, v, q_positions=at, sinks=how.sinks, **limits(at, sees, how))[0]
    if not narrow and plans_shapes(q, k, v):
        return attend_in_blocks(q, k, v, how.scale, how.sinks, unit)
    return attend(q, k, v, scale=how.scale, causal=True, window=sees.window, sinks=how.sinks)[0]


def limits(positions: Tensor, sees: Visibility, how: Scoring) -> dict[str, Any]:
    """Keyword arguments of the kernels for one layer's rule."""
    starts = sees.first_visible(positions) if sees.chunk is not None else None
    return {"scale": how.scale, "softcap": how.softcap, "window": sees.window, "key_starts": starts}


def by_kind(span_mass: Tensor, kinds: Tensor, n: int) -> Tensor:
    """Sum the mass of slots of one name: [..., S] -> [..., n]."""
    mass = span_mass.new_zeros(*span_mass.shape[:-1], n)
    return mass.index_add_(-1, kinds.to(span_mass.device), span_mass)
