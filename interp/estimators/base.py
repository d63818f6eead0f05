"""What an estimator is: a name, a function of one probe's evidence, and the spans and top keys that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import ArgumentError
from ...probes import Probe
from ..evidence import Measure, ProbeEvidence, Spans

Compute = Callable[[Probe, ProbeEvidence], np.ndarray]


@dataclass(frozen=True)
class Estimator:
    """One score of every head, from one probe's evidence.

    Attributes:
        name: in scores, tables and files; lower-case letters, digits and _.
        compute: (probe, evidence) -> [n_layers, n_heads]; NaN where a head cannot be scored, which
            `evidence.hidden_as_nan` does for layers that cannot see the needle.
        spans: name -> `Spans`, a function of the probe; the mass on them comes as `evidence.mass[name]`. "needle",
            "source" and "sink" are always there. A probe that has none of a kind gives None for it, and NaN comes.
        topk: how many of the keys attended to most come as `evidence.topk_key` and `evidence.topk_p`, best first. The
            Triton kernels keep up to 16, the reference any number.
        measures: name -> `Measure`, taken in the pass; comes as `evidence.measured[name]`.
        weights: the model is asked what heads write to: `Rows.towards` and `evidence.circuits` are there, where it
            shows that.
    """

    name: str
    compute: Compute
    spans: Mapping[str, Spans] = field(default_factory=dict)
    topk: int = 0
    measures: Mapping[str, Measure] = field(default_factory=dict)
    weights: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.topk, (int, np.integer)) or self.topk < 0:
            raise ArgumentError(f"estimator {self.name!r}: topk must be a number of keys from 0 up, got {self.topk!r}")

    def __call__(self, probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        """float32 [n_layers, n_heads].

        Raises ArgumentError when `compute` gives another shape or no numbers, and for evidence with fewer top keys.
        """
        if (held := evidence.topk_key.shape[-1]) < self.topk:
            raise ArgumentError(f"estimator {self.name!r} needs the top {self.topk} keys, and the evidence has {held}")
        found, shape = np.asarray(self.compute(probe, evidence.top(self.topk))), evidence.argmax_key.shape[:2]
        if found.shape != shape or found.dtype.kind not in "fiub":
            raise ArgumentError(
                f"estimator {self.name!r} gave {found.dtype} {found.shape} for probe {probe.id!r}; it must give "
                f"numbers {shape}, [n_layers, n_heads]"
            )
        return found.astype(np.float32, copy=False)


def estimator(
    *,
    name: str | None = None,
    spans: Mapping[str, Spans] | None = None,
    topk: int = 0,
    measures: Mapping[str, Measure] | None = None,
    weights: bool = False,
) -> Callable[[Compute], Estimator]:
    """Make an `Estimator` of a function; its name is that of the function when none is given."""
    return lambda compute: Estimator(name or compute.__name__, compute, spans or {}, topk, measures or {}, weights)
