"""What heads put out while nothing is changed: means, and outputs on answer rows, for other runs to take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ...probes import Probe
from ..engine import Engine, Plan, PrefixPass
from ..model import Pass, Scoring, Visibility
from .changing import Mean, Stored
from .rows import PARTS, Repeated, part_of, rows_of
from .running import watch


class Recorder:
    """An `Alteration` that changes nothing, and keeps what it sees of some layers.

    Args:
        probes: of the run.
        layers: which.
        parts: whose rows' outputs are summed, for means.
        keep: also every answer row's output, in the order of the probes.
    """

    def __init__(self, probes: Sequence[Probe], layers: Collection[int], parts: Sequence[str] = (), keep: bool = False):
        self.probes, self.layers = Repeated(probes, 1), layers
        self.parts, self.keep = [PARTS.index(name) for name in parts], keep
        self.answer_start = np.array([probe.prompt_len - 1 for probe in probes])
        self.count = np.array([probe.n_answer for probe in probes])
        self.first = np.cumsum(self.count) - self.count
        self.alone: int | None = None
        self.rows: dict[int, Tensor] = {}  # layer -> [answer rows of all probes, Hq, Dv]
        self._sums: dict[int, dict[int, Tensor]] = defaultdict(dict)  # layer -> part -> float64 [Hq, Dv]
        self._counts: dict[int, dict[int, int]] = defaultdict(dict)

    def __call__(
        self, this: Pass, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring, out: Tensor
    ) -> Tensor:
        unread = getattr(this, "unread", None) == layer
        if layer not in self.layers or unread or (isinstance(this, PrefixPass) and 0 not in self.parts):
            return out
        rows = rows_of(this, out.shape[2], self.probes, self.alone)
        flat = out.transpose(1, 2).flatten(0, 1)  # [B * m, Hq, Dv]
        part = rows.part.ravel()
        for number in self.parts:
            mine = np.flatnonzero(part == number)
            if not len(mine):
                continue
            total = flat[torch.from_numpy(mine).to(out.device)].float().sum(dim=0).cpu().double()
            sums, counts = self._sums[layer], self._counts[layer]
            sums[number] = sums.get(number, 0) + total
            counts[number] = counts.get(number, 0) + len(mine)
        if self.keep:
            answer = np.flatnonzero(part == PARTS.index("answer"))
            probe = rows.probe.ravel()[answer]
            place = self.first[probe] + rows.position.ravel()[answer] - self.answer_start[probe]
            if layer not in self.rows:
                self.rows[layer] = flat.new_full((int(self.count.sum()), *flat.shape[1:]), torch.nan)
            where, what = (torch.from_numpy(x).to(out.device) for x in (place, answer))
            self.rows[layer][where] = flat[what]
        return out

    def means(self) -> dict[int, Tensor]:
        """Layer -> float64 [3, Hq, Dv]: the mean output over the rows of each part; NaN where there were none."""
        found = {}
        for layer, sums in self._sums.items():
            none = torch.full_like(next(iter(sums.values())), torch.nan)
            means = {part: sums[part] / self._counts[layer][part] for part in sums}
            found[layer] = torch.stack([means.get(part, none) for part in range(len(PARTS))])
        return found


def mean_outputs(
    engine: Engine, planned: Plan | None, probes: Sequence[Probe], layers: Collection[int], parts: Sequence[str]
) -> Mean:
    """Every head's mean output over all rows of a part of all probes, each row once, in the model as it is."""
    recorder = Recorder(probes, layers, parts)
    watch(engine, planned, recorder)
    return Mean(recorder.means())


def outputs_elsewhere(
    engine: Engine,
    planned: Plan | None,
    others: Sequence[Probe],
    donor: np.ndarray,
    probes: Sequence[Probe],
    layers: Collection[int],
) -> Stored:
    """Every head's output on the answer rows of other probes, teacher-forced with their own answers.

    donor: [n_probes], which of the others each probe takes its outputs from.
    """
    recorder = Recorder(others, layers, keep=True)
    watch(engine, planned, recorder)
    start = np.array([probe.prompt_len - 1 for probe in probes])
    return Stored(recorder.rows, recorder.first[donor], recorder.count[donor], start)


def donors(probes: Sequence[Probe]) -> np.ndarray:
    """Int [n]: whose outputs each probe is given when they are resampled: the next probe of another needle, in the
    set's order and from its end at the beginning again; one of the same family and answer length where there is one.

    Raises ArgumentError where all are of one needle.
    """
    n = len(probes)
    found = np.empty(n, np.int64)
    for i, probe in enumerate(probes):
        others = [j % n for j in range(i + 1, i + n) if probes[j % n].needle_id != probe.needle_id]
        if not others:
            raise ArgumentError(
                "mode='resample' takes outputs from probes of other needles, and these are of one; give more needles, "
                "or another mode"
            )
        alike = [j for j in others if (probes[j].family, probes[j].n_answer) == (probe.family, probe.n_answer)]
        same = [j for j in others if probes[j].family == probe.family]
        found[i] = next(iter(alike or same or others))
    return found


def check_twins(probes: Sequence[Probe], twins: Sequence[Probe]) -> None:
    """Raise ArgumentError unless every twin has its probe's tokens but for the needle's and the answer's."""
    if len(twins) != len(probes):
        raise ArgumentError(f"twins must be as many as the probes, in their order: {len(twins)} for {len(probes)}")
    for probe, twin in zip(probes, twins, strict=True):
        same = probe.length == twin.length and probe.prompt_len == twin.prompt_len
        if same:
            apart = probe.input_ids[: probe.prompt_len] != twin.input_ids[: probe.prompt_len]
            same = not (apart & ~probe.needle_mask[: probe.prompt_len]).any()
        if not same:
            raise ArgumentError(
                f"twin {twin.id!r} of probe {probe.id!r} must have the same tokens but for the needle's and the "
                "answer's, as headscope.probes.twin(probe, tokenizer, 'counterfactual') makes it"
            )
        if (probe.answer_ids == twin.answer_ids).all():
            raise ArgumentError(f"twin {twin.id!r} has the answer of its probe {probe.id!r}; give one of another value")
        assert (part_of(probe, probe.answer_rows) == part_of(twin, probe.answer_rows)).all()
