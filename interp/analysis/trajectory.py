"""The scores of many checkpoints on the same probes: what every analysis here starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ..levels import chance_known, counting_level, in_words
from ..results import NLL_CLASSES, PROBE_COLUMNS, RETRIEVAL_THRESHOLD, observed_mean


@dataclass(frozen=True, eq=False)
class Trajectory:
    """One estimator, the NLL classes and the exact matches of C checkpoints on the same P probes, L layers, H heads.

    steps: int64 [C], strictly increasing optimizer steps; over several stages of training they add up.
    tokens: float64 [C], training tokens seen; NaN where unknown.
    scores: float32 [C, P, L, H]; NaN where the head could not see the needle.
    nll: class ("nll", "nll_novel", "nll_echo", "nll_first") -> float32 [C, P] in nats per token; NaN where none.
    exact_match: float32 [C, P], 1 or 0; NaN where unknown.
    probes: columns that describe the probes, each [P] (results.PROBE_COLUMNS and perhaps more).
    about: where it came from, for titles: estimator, model_id, probe_set_name, probe_set_hash.
    stages: str [C], the stage or run of each checkpoint; own_steps: int64 [C], the steps that each stage counts. Empty
        where there is one stage only.
    above_null: int64 [C], heads above a null of their own, -1 where not measured; empty where it never was.

    Raises ValueError when shapes do not fit together, a column is missing or steps do not increase.
    """

    steps: np.ndarray
    tokens: np.ndarray
    scores: np.ndarray
    nll: Mapping[str, np.ndarray]
    exact_match: np.ndarray
    probes: Mapping[str, np.ndarray]
    about: Mapping[str, Any] = field(default_factory=dict)
    stages: np.ndarray = field(default_factory=lambda: np.empty(0, str))
    own_steps: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    above_null: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        if np.ndim(self.scores) != 4:
            raise ArgumentError(
                f"scores must be [checkpoint, probe, layer, head], got the shape {np.shape(self.scores)}"
            )
        c, p = self.scores.shape[:2]
        if c == 0 or p == 0:
            raise ArgumentError(f"a trajectory needs at least one checkpoint and one probe, got {c} and {p}")
        wanted: dict[str, tuple[Any, tuple[int, ...]]] = {"steps": (self.steps, (c,)), "tokens": (self.tokens, (c,))}
        wanted["exact_match"] = (self.exact_match, (c, p))
        wanted |= {f"nll[{name!r}]": (self.nll.get(name, np.empty(0)), (c, p)) for name in NLL_CLASSES}
        wanted |= {f"probes[{name!r}]": (self.probes.get(name, np.empty(0)), (p,)) for name in PROBE_COLUMNS}
        if len(self.stages) or len(self.own_steps):
            wanted |= {"stages": (self.stages, (c,)), "own_steps": (self.own_steps, (c,))}
        if len(self.above_null):
            wanted["above_null"] = (self.above_null, (c,))
        for name, (values, shape) in wanted.items():
            if np.shape(values) != shape:
                raise ArgumentError(f"{name} must have the shape {shape}, got {np.shape(values)}")
        if (np.diff(self.steps) <= 0).any():
            raise ArgumentError(f"steps must increase, got {list(map(int, self.steps))}")

    @property
    def n_checkpoints(self) -> int:
        return len(self.steps)

    @property
    def stage_spans(self) -> list[tuple[str, int, int]]:
        """Every stage in order: its name, and the positions of its first and last checkpoint; one, "", where one is."""
        names = self.stages if len(self.stages) else np.full(self.n_checkpoints, "")
        begins = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), self.n_checkpoints]
        return [(str(names[a]), int(a), int(b) - 1) for a, b in pairwise(begins)]

    def name(self, checkpoint: int) -> str:
        """A checkpoint (a position) in words: "step 3000", or "stage2 step 500" where there are several stages."""
        if len(self.stage_spans) == 1 or not self.stages[checkpoint]:
            return f"step {self.steps[checkpoint]}"
        return f"{self.stages[checkpoint]} step {self.own_steps[checkpoint]}"

    def last_stage(self) -> Trajectory:
        """The checkpoints of the last stage alone, their progress counted from where it began; all where one is."""
        *before, (_, first, _) = self.stage_spans
        if not before:
            return self
        end = before[-1][2]
        on_top_of = int(self.steps[-1] - self.own_steps[-1])
        begin = max(0, int(self.steps[end]) - on_top_of)  # own steps there: 0, but where the stage goes on counting
        kept = slice(first, None)
        return replace(
            self,
            steps=self.own_steps[kept] - begin,
            tokens=self.tokens[kept] - self.tokens[end],
            scores=self.scores[kept],
            nll={name: values[kept] for name, values in self.nll.items()},
            exact_match=self.exact_match[kept],
            stages=self.stages[kept],
            own_steps=self.own_steps[kept],
            above_null=self.above_null[kept],
        )

    @property
    def needles(self) -> np.ndarray:
        """int [P]: the number of each probe's needle; probes of one needle are one cluster."""
        return np.unique(self.probes["needle_id"], return_inverse=True)[1].ravel()

    @property
    def progress(self) -> np.ndarray:
        """float64 [C]: tokens seen where all are known and increase, else optimizer steps. The x axis of everything."""
        known = np.isfinite(self.tokens).all() and (np.diff(self.tokens) > 0).all()
        return np.asarray(self.tokens if known else self.steps, np.float64)

    @property
    def progress_name(self) -> str:
        return "tokens seen" if np.array_equal(self.progress, self.tokens) else "optimizer steps"

    @property
    def maps(self) -> np.ndarray:
        """float32 [C, L, H]: mean score over the probes where the head is observable; NaN where it never is."""
        return observed_mean(self.scores, axis=1)[0].astype(np.float32)

    def levels(self, threshold: float = RETRIEVAL_THRESHOLD) -> np.ndarray:
        """float32 [C, L, H]: the mean score above which a head counts (levels.py), NaN where it is never observable.

        The same at all checkpoints that see the same. The threshold alone for estimators other than retrieval, and
        where the probes do not tell their chance.
        """
        found: list[np.ndarray] = []
        before = None
        for scores in self.scores:
            seen = ~np.isnan(scores)
            same = before is not None and np.array_equal(seen, before)
            found.append(found[-1] if same else counting_level(seen, self._chance, threshold))
            before = seen
        return np.stack(found)

    def level_words(self, levels: np.ndarray, threshold: float = RETRIEVAL_THRESHOLD) -> str:
        """What heads above these levels are above: "chance (level 0.23 with 2 needles)"."""
        return in_words(levels, self._chance, threshold)

    @property
    def chance_known(self) -> bool:
        """Whether heads are counted above chance. If not, `levels` are the threshold."""
        return chance_known(self._chance)

    @property
    def _chance(self) -> Mapping[str, np.ndarray]:
        """The probes' columns; without chance where it says nothing about the scores."""
        told = self.about.get("estimator", "retrieval") == "retrieval"
        return self.probes if told else {"needle_id": self.probes["needle_id"]}


def read_trajectory(path: str | PathLike[str], estimator: str = "retrieval") -> Trajectory:
    """The checkpoints of a results file (SCHEMA.md) at which this estimator was measured: all of them for retrieval.

    Raises StoreError if it cannot be read or lacks it.
    """
    from ..store import StoreError, reading, schema

    with reading(path) as file:
        estimators = schema.estimators_of(file)
        if estimator not in estimators:
            raise StoreError(f"{path} has no estimator {estimator!r}; it has {', '.join(estimators)}")
        if not len(file["checkpoint"]):
            raise StoreError(f"{path} holds no checkpoint")
        has = [estimator in names for names in schema.measured(file)]
        kept = slice(None) if all(has) else np.flatnonzero(has)
        if not any(has):
            raise StoreError(f"{path} holds no checkpoint that was measured with {estimator!r}")
        detail = file["probes"]
        columns = {"id": detail["probe"].asstr()[:].astype(str)}
        for name, kind in schema.columns_of(file).items():
            columns[name] = detail[name].asstr()[:].astype(str) if kind == schema.STRING else detail[name][:]
        staged, counted = "step_in_stage" in file, schema.ABOVE_NULL.path
        matched = detail["exact_match"][kept].astype(np.float32)
        about = {name: schema.text(file, name) for name in ("model_id", "probe_set_name", "probe_set_hash")}
        for name in (estimator, *NLL_CLASSES):
            if np.isinf(detail[name][:]).any():
                raise StoreError(f"{path} is damaged: probes/{name} holds infinite values; measure them again")
        return Trajectory(
            steps=file["checkpoint"][kept].astype(np.int64),
            tokens=file["tokens_seen"][kept].astype(np.float64),
            scores=detail[estimator][kept],
            nll={name: detail[name][kept] for name in NLL_CLASSES},
            exact_match=np.where(matched < 0, np.nan, matched),
            probes=columns,
            about={"estimator": estimator, **about},
            stages=file["stage"].asstr()[kept].astype(str) if staged else np.empty(0, str),
            own_steps=file["step_in_stage"][kept].astype(np.int64) if staged else np.empty(0, np.int64),
            above_null=file[counted][kept].astype(np.int64) if counted in file else np.empty(0, np.int64),
        )
