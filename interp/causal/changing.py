"""Heads whose output is changed on its way into the output projection, and the proof that nothing else was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, HeadscopeError
from ..engine import PrefixPass
from ..model import Pass, Scoring, Visibility
from .rows import PARTS, Repeated, Rows, rows_of

Heads = Sequence[tuple[int, int]]
"""(layer, head), both from 0."""


class AblationError(HeadscopeError, RuntimeError):
    """A change of heads that did not do what it says."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer's attention: what `Pass.attend` was given, what it gave, and whose rows they are."""

    this: Pass
    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    sees: Visibility
    how: Scoring
    out: Tensor  # [B, Hq, m, Dv]
    rows: Rows


class Change(Protocol):
    """What the output of heads is replaced by."""

    def values(self, call: Call, chosen: Tensor) -> Tensor:
        """chosen: bool [B, Hq, m], the rows of heads that are replaced -> values that broadcast to [B, Hq, m, Dv]."""
        ...


class Zero:
    """Nothing: the head writes no more than the output projection's bias."""

    def values(self, call: Call, chosen: Tensor) -> Tensor:
        return call.out.new_zeros(())


@dataclass(frozen=True, eq=False)
class Mean:
    """The head's mean output over the rows of the same part, layer -> [3, Hq, Dv]; NaN for a part without rows."""

    means: dict[int, Tensor]

    def values(self, call: Call, chosen: Tensor) -> Tensor:
        table = self.means[call.layer].to(call.out)
        return table[call.rows.on("part", call.out.device).clamp_min(0)].transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Stored:
    """The head's output in another run: of probe i's answer row t, row first[i] + min(t, count[i] - 1) of the table.

    table: layer -> [N, Hq, Dv].
    """

    table: dict[int, Tensor]
    first: np.ndarray
    count: np.ndarray
    answer_start: np.ndarray

    def values(self, call: Call, chosen: Tensor) -> Tensor:
        probe, answer = call.rows.probe, call.rows.part == PARTS.index("answer")
        row = np.minimum(call.rows.position - self.answer_start[probe], self.count[probe] - 1)
        index = np.where(answer, self.first[probe] + row, 0)
        table = self.table[call.layer].to(call.out)
        return table[torch.from_numpy(index).to(table.device)].transpose(1, 2)


class Changing:
    """An `Alteration` that changes, in the rows of number v * n + i, the heads of set v; and looks whether it did.

    Args:
        probes: n of them, as many times over as there are sets.
        sets: the sets of heads; an empty one leaves the model as it is.
        change: what their output becomes.
        parts: the rows that are changed. With "context" among them there is one set, for prefixes are shared by all.
    """

    def __init__(self, probes: Repeated, sets: Sequence[Heads], change: Change, parts: Sequence[str]):
        self.probes, self.sets, self.change = probes, sets, change
        self.parts = [PARTS.index(name) for name in parts]
        self.alone: int | None = None  # which probe is run, where it is one at a time
        self._layers = {layer for each in sets for layer, _ in each}
        self._masks: dict[int, Tensor] = {}
        self._rows: tuple[Pass, int, Rows] | None = None
        self._moved: dict[int, Tensor] = {}  # layer -> int64 [V, Hq]: rows whose output became another
        self._strays: dict[torch.device, Tensor] = {}

    def __call__(
        self, this: Pass, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring, out: Tensor
    ) -> Tensor:
        if layer not in self._layers or getattr(this, "unread", None) == layer:
            return out
        if isinstance(this, PrefixPass) and 0 not in self.parts:
            return out
        rows = self._rows_of(this, out)
        acts = np.isin(rows.part, self.parts)
        if not acts.any():
            return out
        variant = rows.on("variant", out.device)
        chosen = self._mask(layer, out)[variant] & torch.from_numpy(acts).to(out.device)[..., None]
        chosen = chosen.transpose(1, 2)  # [B, Hq, m]
        values = self.change.values(Call(this, layer, q, k, v, sees, how, out, rows), chosen)
        changed = torch.where(chosen[..., None], values.to(out.dtype), out)
        self._look(layer, out, changed, chosen, variant)
        return changed

    def _rows_of(self, this: Pass, out: Tensor) -> Rows:
        if self._rows is None or self._rows[0] is not this or self._rows[1] != out.shape[2]:
            self._rows = (this, out.shape[2], rows_of(this, out.shape[2], self.probes, self.alone))
        return self._rows[2]

    def _mask(self, layer: int, out: Tensor) -> Tensor:
        """bool [V, Hq]: the heads of each set in this layer."""
        if layer not in self._masks:
            mask = torch.zeros(len(self.sets), out.shape[1], dtype=torch.bool)
            for v, heads in enumerate(self.sets):
                for head in (h for at, h in heads if at == layer):
                    if not 0 <= head < out.shape[1]:
                        raise ArgumentError(f"there is no head {head} in layer {layer}, which has {out.shape[1]} heads")
                    mask[v, head] = True
            self._masks[layer] = mask.to(out.device)
        return self._masks[layer]

    def _look(self, layer: int, before: Tensor, after: Tensor, chosen: Tensor, variant: Tensor) -> None:
        """Every row of every head bit by bit, NaN like NaN: count what moved, and remember what should not have."""
        same = ((before == after) | (before.isnan() & after.isnan())).all(dim=-1)
        stray = (~same & ~chosen).any()
        self._strays[before.device] = stray | self._strays.get(before.device, stray)
        moved = (~same & chosen).transpose(1, 2).flatten(0, 1).long()
        if layer not in self._moved:
            self._moved[layer] = moved.new_zeros(len(self.sets), before.shape[1])
        self._moved[layer].index_add_(0, variant.flatten(), moved)

    def unmoved(self) -> list[list[tuple[int, int]]]:
        """Of each set the heads whose output never became another.

        Raises AblationError when anything else was changed.
        """
        if any(bool(stray) for stray in self._strays.values()):
            raise AblationError("a head that was to be left alone was changed; please report this")
        moved = {layer: counts.cpu() for layer, counts in self._moved.items()}
        return [
            [(layer, head) for layer, head in heads if layer not in moved or not moved[layer][v, head]]
            for v, heads in enumerate(self.sets)
        ]
