"""What an estimator is: a name, a function of one probe's evidence, and the spans whose attention mass it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import ArgumentError
from ...probes import Probe
from ..evidence import ProbeEvidence, Spans

Compute = Callable[[Probe, ProbeEvidence], np.ndarray]


@dataclass(frozen=True)
class Estimator:
    """One score of every head, from one probe's evidence.

    Attributes:
        name: in scores, tables and files; lower-case letters, digits and _.
        compute: (probe, evidence) -> [n_layers, n_heads]; NaN where a head cannot be scored, which
            `evidence.hidden_as_nan` does for layers that cannot see the needle.
        spans: name -> `Spans`, a function of the probe; the mass on them comes as `evidence.mass[name]`. "needle",
            "source" and "sink" are always there.
    """

    name: str
    compute: Compute
    spans: Mapping[str, Spans] = field(default_factory=dict)

    def __call__(self, probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        """float32 [n_layers, n_heads]. Raises ValueError when `compute` gives another shape, or no numbers."""
        found, shape = np.asarray(self.compute(probe, evidence)), evidence.argmax_key.shape[:2]
        if found.shape != shape or found.dtype.kind not in "fiub":
            raise ArgumentError(
                f"estimator {self.name!r} gave {found.dtype} {found.shape} for probe {probe.id!r}; it must give "
                f"numbers {shape}, [n_layers, n_heads]"
            )
        return found.astype(np.float32, copy=False)


def estimator(*, name: str | None = None, spans: Mapping[str, Spans] | None = None) -> Callable[[Compute], Estimator]:
    """Make an `Estimator` of a function; its name is that of the function when none is given."""
    return lambda compute: Estimator(name or compute.__name__, compute, spans or {})
