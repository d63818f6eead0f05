"""Whose rows a pass runs, and which part of their probe they are: what decides where a change acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ...probes import Probe
from ..engine import OwnCachePass, RowsBeside, WholePass
from ..model import Pass

PARTS = ("context", "question", "answer")
"""Of a probe's rows: those before the question, those of it, and those that predict the answer's tokens."""


class Repeated(Sequence[Probe]):
    """Probes, as many times over as there are sets of heads: number v * n + i is probe i with the heads of set v."""

    def __init__(self, probes: Sequence[Probe], times: int):
        self.probes, self.times = probes, times

    def __len__(self) -> int:
        return len(self.probes) * self.times

    @overload
    def __getitem__(self, i: int) -> Probe: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Probe]: ...
    def __getitem__(self, i: int | slice) -> Probe | Sequence[Probe]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        return self.probes[i % len(self.probes)]


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows [B, m] of one pass, as it has them: probe and set of each (-1: shared by all, or padding), its position
    in the probe's own sequence, and the number of its part (-1: padding)."""

    probe: np.ndarray
    variant: np.ndarray
    position: np.ndarray
    part: np.ndarray

    @cached_property
    def _on(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}

    def on(self, name: str, device: torch.device) -> Tensor:
        """One of the arrays as int64 on a device."""
        if (name, device) not in self._on:
            array = np.ascontiguousarray(getattr(self, name), np.int64)
            self._on[name, device] = torch.from_numpy(array).to(device)
        return self._on[name, device]


def parts_of(rows: str | Sequence[str]) -> tuple[str, ...]:
    """The parts that are meant by "answer", "question,answer", "all" or a list of names, in their order."""
    asked = rows.replace("+", ",").split(",") if isinstance(rows, str) else [*rows]
    names = [str(name).strip() for name in asked]
    names = [*PARTS] if names == ["all"] else names
    if not names or {*names} - {*PARTS}:
        raise ArgumentError(f"rows must be 'all' or some of {', '.join(PARTS)}, got {rows!r}")
    return tuple(name for name in PARTS if name in names)


def part_of(probe: Probe, positions: np.ndarray) -> np.ndarray:
    """Number of the part that each row is in. A probe that asks nothing has its first answer row as question_start."""
    answer = probe.prompt_len - 1
    return (positions >= min(probe.question_start, answer)).astype(np.int64) + (positions >= answer)


def rows_of(this: Pass, n_rows: int, probes: Repeated, alone: int | None) -> Rows:
    """The rows of a pass. alone: the probe that a pass of one sequence runs, which it does not always know itself."""
    n = len(probes.probes)
    if isinstance(this, RowsBeside):
        layout = this.layout_on(torch.device("cpu"))
        found = _beside(this, layout.positions.shape, probes)
        if layout.first is not None:
            first = layout.first.numpy()
            found = {name: x.reshape(1, -1)[:, first] for name, x in found.items()}
    elif isinstance(this, (WholePass, OwnCachePass)) and alone is not None:
        position = np.arange(n_rows)[None] + getattr(this, "start", 0)
        number = np.full_like(position, alone)
        part = part_of(probes[alone], position)
        if isinstance(this, WholePass):  # the answer's last token predicts nothing
            part[:, probes[alone].length - 1 :] = -1
        found = {"number": number, "position": position, "part": part}
    else:  # a chunk of a prefix, which is nobody's own
        none = np.full((1, n_rows), -1)
        found = {"number": none, "position": none, "part": np.zeros_like(none)}
    number = found.pop("number")
    own = number >= 0
    return Rows(np.where(own, number % n, -1), np.where(own, number // n, 0), **found)


def _beside(this: RowsBeside, shape: Sequence[int], probes: Repeated) -> dict[str, np.ndarray]:
    found = {name: np.full(tuple(shape), -1) for name in ("number", "position", "part")}
    for b, suffix in enumerate(this.suffixes):
        m = len(suffix.positions)
        found["number"][b, :m], found["position"][b, :m] = suffix.probe, suffix.positions
        found["part"][b, :m] = part_of(probes[suffix.probe], suffix.positions)
    return found
