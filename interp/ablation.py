"""Ablation: what became of a model's answers when heads were changed, set of heads by set of heads, probe by probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError
from .packages import need
from .results import observed_mean

if TYPE_CHECKING:
    import pandas as pd

MODES = ("zero", "mean", "resample", "needle_only", "from_needle")
UNITS = ("head", "kv_group")
KINDS = ("none", "top", "layer_matched", "mass_matched", "one")
"""Of sets of heads: none is changed; the k leading ones; as many at random in each layer; as many at random whose
attention on the needle is about the same; one leading head (or group) by itself."""

MEASURES = ("nll", "nll_novel", "logprob", "exact_match", "twin_logprob", "answer_score")
LOWER_IS_WORSE = ("logprob", "exact_match", "answer_score")
"""Measures that fall where a model no longer retrieves; of the others a rise says so."""

TEXTS = ("id", "family", "variant", "needle_id")
NUMBERS = ("length", "n_answer")
COLUMNS = (*TEXTS, *NUMBERS, "depth")


@dataclass(frozen=True)
class HeadSet:
    """Heads that are changed together.

    kind: one of KINDS. k: how many units (heads, or groups of heads that read the same keys); draw: number of the
    control, 0 for others; of kind "one" the rank of the unit. heads: (layer, head), from 0. score: mean retrieval score
    of the heads on the probes that chose them; NaN where none did.
    """

    kind: str
    k: int
    draw: int
    heads: tuple[tuple[int, int], ...]
    score: float = float("nan")

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ArgumentError(f"kind of a set of heads must be one of {', '.join(KINDS)}, got {self.kind!r}")

    def __str__(self) -> str:
        return " ".join(f"L{layer}H{head}" for layer, head in self.heads)


@dataclass(frozen=True, eq=False)
class Ablation:
    """One model's answers to N probes under each of S sets of changed heads; the first set is empty.

    mode, rows: what was done to the heads' output (MODES), and in which rows of a probe.
    unit: what is chosen and counted, "head" or "kv_group".
    measured: measure -> float32 [S, N], NaN where not measured or where the model computed NaN:
        nll, nll_novel: of the right answer, mean nats over all its tokens and over those only the needle has.
        logprob: of the whole right answer, nats. exact_match: 1 where each of its tokens is the most probable one.
        twin_logprob: mode "from_needle": of the other value that the twin's needle has, nats.
        answer_score: of the answer that the model wrote itself, by its task's metric.
    probes: columns of the N probes: COLUMNS.
    provenance: how the numbers were made; what JSON can hold.
    """

    model_id: str
    mode: str
    rows: tuple[str, ...]
    unit: str
    sets: tuple[HeadSet, ...]
    measured: Mapping[str, np.ndarray]
    probes: Mapping[str, np.ndarray]
    probe_set_name: str
    probe_set_hash: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        if self.mode not in MODES or self.unit not in UNITS:
            raise ArgumentError(
                f"mode is one of {', '.join(MODES)} and unit of {', '.join(UNITS)}, got {self.mode!r}, {self.unit!r}"
            )
        if not self.sets or self.sets[0].heads:
            raise ArgumentError("the first of the sets must be empty: the model as it is")
        missing = [name for name in MEASURES if name not in self.measured] + [
            c for c in COLUMNS if c not in self.probes
        ]
        if missing:
            raise ArgumentError(f"an ablation needs {', '.join(missing)} as well")
        shape = (len(self.sets), len(self.probes["id"]))
        measured = {name: np.asarray(self.measured[name], np.float32) for name in MEASURES}
        for name, values in measured.items():
            if values.shape != shape:
                raise ArgumentError(
                    f"measured[{name!r}] must have the shape {shape} [sets, probes], got {values.shape}"
                )
        if odd := [name for name in COLUMNS if np.shape(self.probes[name]) != shape[1:]]:
            raise ArgumentError(f"probes: {', '.join(odd)} must have one value for each of {shape[1]} probes")
        put = object.__setattr__
        put(self, "sets", tuple(self.sets))
        put(self, "rows", tuple(self.rows))
        put(self, "measured", measured)
        put(self, "probes", {name: np.asarray(self.probes[name]) for name in COLUMNS})

    def __repr__(self) -> str:
        told = f"{len(self.sets)} sets of heads, mode {self.mode!r}, {len(self)} probes of {self.probe_set_name!r}"
        return f"<Ablation of {self.model_id!r}: {told}>"

    def __len__(self) -> int:
        return len(self.probes["id"])

    @property
    def top(self) -> list[int]:
        """The sizes k of the leading sets."""
        return [each.k for each in self.sets if each.kind == "top"]

    def of(self, kind: str, k: int | None = None) -> list[int]:
        """The numbers of the sets of a kind, and of a size where one is given."""
        return [i for i, each in enumerate(self.sets) if each.kind == kind and k in (None, each.k)]

    def to_dataframe(self) -> pd.DataFrame:
        """A row for every set: kind, k, draw, heads (as text), n_heads, score, and the mean of every measure that was
        taken; `change_in_...` is that minus the mean of the model as it is, on the same probes."""
        pandas = need("pandas", "to_dataframe()")
        frame: pd.DataFrame = pandas.DataFrame(
            {
                **{name: [getattr(each, name) for each in self.sets] for name in ("kind", "k", "draw")},
                "heads": [str(each) for each in self.sets],
                "n_heads": [len(each.heads) for each in self.sets],
                "score": [each.score for each in self.sets],
            }
        )
        for name, values in self.measured.items():
            if not np.isnan(values).all():
                frame[name] = observed_mean(values.astype(np.float64), axis=1)[0]
                frame[f"change_in_{name}"] = observed_mean(self.change(name), axis=1)[0]
        return frame

    def change(self, measure: str) -> np.ndarray:
        """float64 [S, N]: a measure minus what it is in the model as it is."""
        if measure not in self.measured:
            raise ArgumentError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
        values = self.measured[measure].astype(np.float64)
        return values - values[:1]

    def save(self, path: str | PathLike[str], *, checkpoint: int = 0) -> None:
        """Write to a checkpoint of the results file at `path`, in place of an ablation that it had.

        Raises StoreError, and leaves the file as it was, where it does not fit: `store.add_ablation`.
        """
        from .store import add_ablation

        add_ablation(path, self, checkpoint)

    @classmethod
    def load(cls, path: str | PathLike[str], checkpoint: int | None = None) -> Ablation:
        """The ablation of one checkpoint of a results file, by default of the last that has one.

        Raises StoreError where the file cannot be read or has none there.
        """
        from .store import read_ablation

        return read_ablation(path, checkpoint)
