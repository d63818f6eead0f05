"""What every layer's argmax keys hold, counted where the keys are; only the counts leave the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...kernels import evidence_attention
from ..engine import limits
from ..evidence import SINK
from ..model import PrefixCache, Scoring, Visibility
from .bins import distance_starts, position_starts


class Counts(NamedTuple):
    """Rows of one layer, by query head, all int64.

    broken, sink: [Hq], rows without an argmax key (a NaN score), and with one among the first four positions.
    copies, echoes: [Hq, 1 + D], column 0 for rows whose argmax is the row itself, then the bins of distance.
    copies_by_position, echoes_by_position: [Hq, P], at distances of 1 and more.
    """

    broken: Tensor
    sink: Tensor
    copies: Tensor
    echoes: Tensor
    copies_by_position: Tensor
    echoes_by_position: Tensor

    def plus(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Text:
    """The tokens of a text, int64 [T], and their bins; row t of the T - 1 rows that have a next token is token t."""

    def __init__(self, ids: np.ndarray):
        self.ids = ids
        self.n_rows = len(ids) - 1
        self.distances, self.positions = distance_starts(len(ids)), position_starts(len(ids))
        self._on: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def count(self, key: Tensor, start: int) -> Counts:
        """Count the argmax keys [Hq, R] of the rows start, start + 1, ..."""
        if key.device not in self._on:
            self._on[key.device] = (
                torch.from_numpy(self.ids).to(key.device),
                torch.from_numpy(self.distances).to(key.device),
            )
        ids, distances = self._on[key.device]
        row = torch.arange(start, min(start + key.shape[1], self.n_rows), device=key.device)
        key = key[:, : len(row)]
        distance = row - key
        column = torch.bucketize(distance, distances, right=True)
        part = row * len(self.positions) // self.n_rows
        held = ids[key.clamp_min(0)]

        def histograms(wanted: Tensor) -> tuple[Tensor, Tensor]:
            hit = held == wanted
            by_distance = torch.zeros(len(key), 1 + len(self.distances), dtype=torch.int64, device=key.device)
            by_position = torch.zeros(len(key), len(self.positions), dtype=torch.int64, device=key.device)
            by_distance.scatter_add_(1, column, hit.long())
            by_position.index_add_(1, part, (hit & (distance > 0)).long())
            return by_distance, by_position

        copies, copies_by_position = histograms(ids[row + 1])
        echoes, echoes_by_position = histograms(ids[row])
        broken, sink = (key < 0).sum(1), (key < SINK).sum(1)
        return Counts(broken, sink, copies, echoes, copies_by_position, echoes_by_position)


class CopyPass:
    """A chunk of a text: causal attention to everything cached, and the counts of its rows, layer by layer.

    Args:
        text: the whole text.
        cache: where the chunk's keys and values go, and those before it lie; None for a text in one piece.
        each_layer: called when a layer's attention is done.
    """

    def __init__(self, text: Text, cache: PrefixCache | None, each_layer: Callable[[], None] | None):
        self.text, self.cache, self.each_layer = text, cache, each_layer
        self.counts: dict[int, Counts] = {}
        self.sees: dict[int, Visibility] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        if self.cache is not None:
            k, v = self.cache.put(layer, k, v)
        start = k.shape[2] - q.shape[2]
        rows = torch.arange(start, k.shape[2], device=q.device)
        out, found = evidence_attention(q, k, v, q_offset=start, sinks=how.sinks, **limits(rows, sees, how))
        self.counts[layer] = self.text.count(found.argmax_key[0], start)
        self.sees[layer] = sees
        if self.each_layer is not None:
            self.each_layer()
        return out
