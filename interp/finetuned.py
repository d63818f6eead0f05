"""SftProbe: what a model answered before and after a light fine-tune, item by item and seed by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError
from .packages import need
from .results import needle_stderr, observed_mean
from .tasks import COLUMNS, SAID, Answers

if TYPE_CHECKING:
    import pandas as pd

BEFORE: dict[str, type] = {"score": np.float32, "nll": np.float32, "exact_match": np.float32}
AFTER: dict[str, type] = {**SAID, "nll": np.float32, "exact_match": np.float32}
COST: dict[str, type] = {
    "tokens": np.int64, "answer_tokens": np.int64, "seconds": np.float64, "answer_seconds": np.float64,
    "peak_memory": np.float64,
}  # fmt: skip
"""Of a seed: tokens that went through the model in training, and those of them that the loss is of; seconds (wall) of
training and of answering afterwards; the most memory in bytes that the device (on the CPU the process) had taken, NaN
where nobody tells."""


@dataclass(frozen=True)
class SeedNoise:
    """How far a score moves from seed to seed: sd, with limits low and high (95 %, of normal scores); NaN: unknown."""

    sd: float
    low: float
    high: float


def seed_noise(means: np.ndarray) -> SeedNoise:
    """The standard deviation over seeds of a score's means [S], and what it may be (chi-square, S - 1 degrees).

    Of two seeds nothing can be said but their range: all is NaN; likewise where a mean is.
    """
    from scipy.stats import chi2

    n = len(means)
    if n < 3 or np.isnan(means).any():
        return SeedNoise(np.nan, np.nan, np.nan)
    sd, free = float(np.std(means, ddof=1)), n - 1
    return SeedNoise(
        sd, sd * float(np.sqrt(free / chi2.ppf(0.975, free))), sd * float(np.sqrt(free / chi2.ppf(0.025, free)))
    )


@dataclass(frozen=True, eq=False)
class SftProbe:
    """Answers of one model to N probes before and after it was fine-tuned on others, by each of S seeds for T steps.

    before: name -> float32 [N], of the model as it is: "score" (its task's metric, 0 to 1), "nll" (mean nats a token of
        the right answer) and "exact_match" (1 where each of its tokens is the most probable one; NaN: not measured).
    after: name -> [S, N], the same of each seed's model, and what it said: all of `Answers.said`.
    loss: float32 [S, T], mean nats a token of the answers of a step, sequences weighed alike, before its update.
    cost: name -> [S], as COST says.
    seeds: of each of the S. probes: the columns of `Answers.probes`. recipe: how it was trained, as JSON; recipe_hash.
    provenance: how the numbers were made; what JSON can hold.
    """

    model_id: str
    seeds: tuple[int, ...]
    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    loss: np.ndarray
    cost: Mapping[str, np.ndarray]
    probes: Mapping[str, np.ndarray]
    recipe: str
    recipe_hash: str
    probe_set_name: str
    probe_set_hash: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        n, s = len(self.probes["id"]) if "id" in self.probes else 0, len(self.seeds)
        if not n or not s:
            raise ArgumentError(f"an SFT probe is of at least one item and one seed, got {n} and {s}")
        put = object.__setattr__
        for name, known, shape in (("before", BEFORE, (n,)), ("after", AFTER, (s, n)), ("cost", COST, (s,))):
            given = getattr(self, name)
            if missing := [each for each in known if each not in given]:
                raise ArgumentError(f"{name} lacks {', '.join(missing)}; it needs {', '.join(known)}")
            table: dict[str, np.ndarray] = {each: np.asarray(given[each], dtype) for each, dtype in known.items()}
            if odd := [each for each, values in table.items() if values.shape != shape]:
                raise ArgumentError(f"{name}[{odd[0]!r}] must have the shape {shape}, got {table[odd[0]].shape}")
            put(self, name, table)
        loss = np.asarray(self.loss, np.float32)
        if loss.ndim != 2 or len(loss) != s:
            raise ArgumentError(f"loss must have the shape ({s}, steps), got {loss.shape}")
        if odd := [name for name in COLUMNS if np.shape(self.probes.get(name, 0)) != (n,)]:
            raise ArgumentError(f"probes: {', '.join(odd)} must have one value for each of {n} probes")
        put(self, "loss", loss)
        put(self, "seeds", tuple(int(seed) for seed in self.seeds))
        put(self, "probes", {name: np.asarray(self.probes[name]) for name in COLUMNS})

    def __repr__(self) -> str:
        return f"<SftProbe of {self.model_id!r}: {len(self)} probes of {self.probe_set_name!r}, seeds {self.seeds}>"

    def __len__(self) -> int:
        return len(self.probes["id"])

    def change(self, measure: str = "score") -> np.ndarray:
        """float64 [S, N]: a measure ("score", "nll", "exact_match") of each seed minus the same before."""
        if measure not in BEFORE:
            raise ArgumentError(f"measure must be one of {', '.join(BEFORE)}, got {measure!r}")
        return self.after[measure].astype(np.float64) - self.before[measure].astype(np.float64)

    def answers(self, seed: int) -> Answers:
        """What one seed's model said, as `evaluate` gives it. Raises ArgumentError for a seed that was not trained."""
        if seed not in self.seeds:
            raise ArgumentError(f"seed {seed!r} was not trained; there are {', '.join(map(str, self.seeds))}")
        of = {name: values[self.seeds.index(seed)] for name, values in self.after.items()}
        return Answers(
            model_id=self.model_id,
            said={name: of[name][:, None] for name in SAID},
            nll=of["nll"],
            exact_match=of["exact_match"] == 1,
            probes=dict(self.probes),
            probe_set_name=self.probe_set_name,
            probe_set_hash=self.probe_set_hash,
            provenance=self.provenance | {"sft_seed": seed, "recipe_hash": self.recipe_hash},
        )

    def by_task(self, measure: str = "score") -> pd.DataFrame:
        """A row for every task and length: family, task, length, n, and of a measure its means.

        before; after (mean over seeds); change, with stderr over items, clustered by needle (NaN with fewer than two);
        seeds: the mean of each; low, high: the least and the most of them; seed_sd: their standard deviation, with 95 %
        limits sd_low and sd_high from three seeds on (of two there is a range only, and NaN here).
        """
        pandas = need("pandas", "by_task()")
        change = self.change(measure).mean(axis=0)
        keys = list(zip(*(self.probes[name].tolist() for name in ("family", "task", "length")), strict=True))
        rows = []
        for key in dict.fromkeys(keys):
            at = np.array([each == key for each in keys])
            means = observed_mean(self.after[measure][:, at].astype(np.float64), axis=1)[0]
            noise = seed_noise(means)
            row = dict(zip(("family", "task", "length"), key, strict=True))
            row |= {"n": int(at.sum()), "before": float(observed_mean(self.before[measure][at].astype(np.float64))[0])}
            row |= {"after": float(means.mean()), "change": float(observed_mean(change[at])[0])}
            row["stderr"] = float(needle_stderr(change[at], self.probes["needle_id"][at]))
            row |= {"seeds": tuple(means.tolist()), "low": float(means.min()), "high": float(means.max())}
            rows.append(row | {"seed_sd": noise.sd, "sd_low": noise.low, "sd_high": noise.high})
        frame: pd.DataFrame = pandas.DataFrame(rows)
        return frame

    def save(self, path: str | PathLike[str], *, checkpoint: int = 0) -> None:
        """Write to a checkpoint of the results file at `path`, in place of an SFT probe that it had.

        Raises StoreError, and leaves the file as it was, where it does not fit: `store.add_sft_probe`.
        """
        from .store import add_sft_probe

        add_sft_probe(path, self, checkpoint)

    @classmethod
    def load(cls, path: str | PathLike[str], checkpoint: int | None = None) -> SftProbe:
        """The SFT probe of one checkpoint of a results file, by default of the last that has one.

        Raises StoreError where the file cannot be read or has none there.
        """
        from .store import read_sft_probe

        return read_sft_probe(path, checkpoint)
