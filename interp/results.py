"""HeadScores: what one scoring run found, for every attention head, with labels, errors and where it came from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, ArgumentTypeError, HeadscopeError
from .levels import FALSE_DISCOVERY_RATE, above_null, chance_known, counting_level, null_p
from .packages import need

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

# The paper's r: a retrieval head has a mean score strictly above it. It also has to be above chance: see levels.py.
RETRIEVAL_THRESHOLD = 0.1

NLL_CLASSES = ("nll", "nll_novel", "nll_echo", "nll_first")
TEXT_COLUMNS = ("id", "family", "variant", "needle_id")
INTEGER_COLUMNS = ("seed", "length", "distance", "interference", "n_answer")
REAL_COLUMNS = ("depth", "depth_nominal")
PROBE_COLUMNS = TEXT_COLUMNS + INTEGER_COLUMNS + REAL_COLUMNS
CHANCE_COLUMNS = ("chance", "chance_sd")  # files of schema 1.0 do not have them

# Names with a meaning of their own in the frames, the datasets and the file: not for an estimator or a probe column.
RESERVED = {"checkpoint", "layer", "head", "kv_head", "probe", "tokens_seen", "exact_match", "n_retrieval_heads"}
RESERVED |= {*NLL_CLASSES, "n_heads_above_chance", "n_heads_above_null", "counting_level"}
RESERVED |= {"probes", "provenance", "stage", "step_in_stage"}
NAME = re.compile(r"[a-z][a-z0-9_]*")


class UnknownEstimatorError(HeadscopeError, ValueError, KeyError):
    """Scores were asked for an estimator that this run did not compute."""


@dataclass(frozen=True)
class HeadScore:
    """One head's mean score over probes and its standard error (NaN where there is none); layer and head from 0.

    `str()` gives the usual label, such as "L18H6".
    """

    layer: int
    head: int
    score: float
    stderr: float

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Scores of every attention head of one model on one probe set.

    per_probe: estimator -> float32 [n_probes, n_layers, n_heads]; NaN where the head could not see the needle,
        and everywhere for one of a file that this checkpoint was not measured with. "retrieval" is always there.
    nll, nll_novel, nll_echo, nll_first: float32 [n_probes], mean nats over those answer tokens; NaN where none is.
    exact_match: bool [n_probes].
    probes: columns that describe the probes, each [n_probes]: id, family, variant, needle_id (str); seed, length,
        distance, interference, n_answer (int64); depth, depth_nominal (float64); where known chance, chance_sd
        (float64), mean and standard deviation of what `chance` describes. Further columns are kept.
    provenance: how the numbers were made; anything JSON can hold. Numpy scalars become Python's, tuples lists, and
        NaN None. The store also writes these entries as columns of their own where they are given: revision,
        weights_sha256, device, dtype, attn_implementation, sharing, created_at.

    Arrays are converted to the dtypes above. Raises ValueError or TypeError when a shape, a name or a kind is wrong.
    """

    model_id: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    per_probe: dict[str, np.ndarray]
    nll: np.ndarray
    nll_novel: np.ndarray
    nll_echo: np.ndarray
    nll_first: np.ndarray
    exact_match: np.ndarray
    probes: dict[str, np.ndarray]
    probe_set_name: str
    probe_set_hash: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "n_kv_heads"):
            if int(getattr(self, name)) < 1:
                raise ArgumentError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.n_heads % self.n_kv_heads:
            raise ArgumentError(f"n_heads must be a multiple of n_kv_heads, got {self.n_heads} and {self.n_kv_heads}")
        if "retrieval" not in self.per_probe:
            raise ArgumentError(f"per_probe needs the estimator 'retrieval', got {sorted(self.per_probe)}")
        missing = [name for name in PROBE_COLUMNS if name not in self.probes]
        if missing:
            raise ArgumentError(f"probes lacks the column(s) {', '.join(missing)}; it needs {', '.join(PROBE_COLUMNS)}")
        for name in [*self.per_probe, *self.probes]:
            check_name(name)
        both = sorted(self.per_probe.keys() & self.probes.keys())
        if both:
            raise ArgumentError(f"{', '.join(both)}: the same name for an estimator and a probe column; rename one")

        n = np.size(self.nll)
        if n == 0:
            raise ArgumentError("nll is empty: scores need at least one probe")
        maps = {
            name: _floats(f"per_probe[{name!r}]", values, (n, self.n_layers, self.n_heads), np.float32)
            for name, values in self.per_probe.items()
        }
        put = object.__setattr__  # the dataclass is frozen; this is its construction
        put(self, "per_probe", maps)
        for name in NLL_CLASSES:
            put(self, name, _floats(name, getattr(self, name), (n,), np.float32))
        put(self, "exact_match", _booleans("exact_match", self.exact_match, n))
        put(self, "probes", {name: _column(name, values, n) for name, values in self.probes.items()})
        put(self, "provenance", _plain(self.provenance, "provenance"))

    def __repr__(self) -> str:
        shape = f"{self.n_layers} layers x {self.n_heads} heads, {self.n_probes} probes"
        return f"<HeadScores of {self.model_id!r}: {shape} of {self.probe_set_name!r}; {', '.join(self.estimators)}>"

    @property
    def n_probes(self) -> int:
        """How many probes were scored."""
        return len(self.nll)

    @property
    def computed(self) -> np.ndarray:
        """bool [n_probes]: where the model computed numbers. Elsewhere (it overflowed) all is NaN, and no match."""
        return ~np.isnan(self.nll)

    @property
    def share_of_matches(self) -> float:
        """Exact matches in the probes that the model computed numbers for; NaN where there are none."""
        return float(self.exact_match[self.computed].mean()) if self.computed.any() else float("nan")

    @property
    def estimators(self) -> tuple[str, ...]:
        """Names that `scores[name]` takes; "retrieval" is always among them."""
        return tuple(self.per_probe)

    @property
    def retrieval(self) -> np.ndarray:
        """float32 [n_layers, n_heads]: the paper's retrieval score, mean over probes; NaN where never observable."""
        return self["retrieval"]

    @property
    def chance(self) -> np.ndarray:
        """float32 [n_probes]: retrieval score of a head that looks at random copyable tokens of the needle.

        NaN where unknown, as in scores from a file of schema 1.0. `counting_level` makes it a level for the mean.
        """
        return np.asarray(self.probes.get("chance", np.full(self.n_probes, np.nan)), np.float32)

    def __contains__(self, estimator: object) -> bool:
        return estimator in self.per_probe

    def __getitem__(self, estimator: str) -> np.ndarray:
        """float32 [n_layers, n_heads]: mean over the probes where the head is observable; NaN where it never is."""
        return observed_mean(self._values(estimator))[0].astype(np.float32)

    def stderr(self, estimator: str = "retrieval") -> np.ndarray:
        """float32 [n_layers, n_heads]: standard error of the mean over probes, clustered by needle.

        Probes that share a needle are not independent, so residuals e = x - mean are summed per needle first:

            var(mean) = G / (G - 1) * sum_g (sum_{i in g} e_i)^2 / n^2

        with n observed probes in G needles: the cluster-robust sandwich with its small-sample factor (Cameron and
        Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference", J. Human Resources 50(2); for a mean their
        second factor, (N - 1) / (N - K), is 1). With one probe a needle it is the usual s / sqrt(n). NaN with fewer
        than two needles.
        """
        return needle_stderr(self._values(estimator), self.probes["needle_id"])

    def top(self, k: int = 10, by: str = "retrieval") -> list[HeadScore]:
        """The k best heads by an estimator, best first; equal scores in (layer, head) order.

        Unobservable heads are left out. Raises ArgumentError for k below 1, UnknownEstimatorError.
        """
        if k < 1:
            raise ArgumentError(f"k must be at least 1, got {k}")
        score, stderr = self[by], self.stderr(by)
        order = np.argsort(-score, axis=None, kind="stable")  # NaN sorts last
        places = [divmod(int(i), self.n_heads) for i in order[:k] if not np.isnan(score.flat[i])]
        return [HeadScore(*place, float(score[place]), float(stderr[place])) for place in places]

    def counting_level(self, threshold: float = RETRIEVAL_THRESHOLD) -> np.ndarray:
        """float32 [n_layers, n_heads]: the mean retrieval score above which a head counts, at least the threshold.

        All heads of a model that look at random needle positions stay below it with a probability of 99 %. The fewer
        needles, the higher it is. Where `chance` is unknown it is the threshold; NaN where a head is never observable.
        """
        return counting_level(~np.isnan(self.per_probe["retrieval"]), self.probes, threshold)

    def retrieval_heads(self, threshold: float = RETRIEVAL_THRESHOLD, *, plain: bool = False) -> list[tuple[int, int]]:
        """Every (layer, head) whose mean retrieval score is strictly above threshold and chance, in this order.

        plain: count as the paper does, above the threshold only, whatever a head would score by chance.
        """
        level = threshold if plain else self.counting_level(threshold)
        return [(int(layer), int(head)) for layer, head in np.argwhere(self.retrieval > level)]

    @property
    def n_heads_above_chance(self) -> int | None:
        """How many retrieval heads there are; None where chance is unknown and there is only the paper's count."""
        return len(self.retrieval_heads()) if chance_known(self.probes) else None

    def null_p(self) -> np.ndarray:
        """float64 [n_layers, n_heads]: the probability of so high a retrieval score if a head's top keys had nothing to
        do with the token that comes next: its keys as they are, the answer's tokens in random order (`dealt_mean`).

        1 where that cannot be told, as with answers of a single token; NaN where a head is never observable. Raises
        UnknownEstimatorError where `dealt_mean` and `dealt_sd` were not measured.
        """
        moments = (self._values("dealt_mean"), self._values("dealt_sd"))
        return null_p(self._values("retrieval"), *moments, self.probes["needle_id"])

    def heads_above_null(self, q: float = FALSE_DISCOVERY_RATE) -> list[tuple[int, int]]:
        """Every (layer, head) whose retrieval score is above what its keys would score by accident, in this order.

        q: the false discovery rate over all observable heads, by Benjamini and Hochberg (1995) on `null_p`.
        """
        return [(int(layer), int(head)) for layer, head in np.argwhere(above_null(self.null_p(), q))]

    def reliability(self, estimator: str = "retrieval", splits: int = 100, seed: int = 0) -> float:
        """How alike heads are ranked by two halves of the needles: mean Spearman correlation over random halves,
        stepped up to all needles (Spearman-Brown). NaN with fewer than two needles, or where no head varies.
        """
        from scipy.stats import spearmanr

        values, needles = self._values(estimator), np.unique(self.probes["needle_id"])
        rng, found = np.random.default_rng(seed), []
        for _ in range(splits if len(needles) > 1 else 0):
            half = np.isin(self.probes["needle_id"], rng.permutation(needles)[: len(needles) // 2])
            a, b = (observed_mean(values[side])[0].ravel() for side in (half, ~half))
            seen = ~np.isnan(a) & ~np.isnan(b)
            if seen.any() and np.ptp(a[seen]) > 0 and np.ptp(b[seen]) > 0:
                found.append(spearmanr(a[seen], b[seen]).statistic)
        r = float(np.mean(found)) if found else math.nan
        return 2 * r / (1 + r)

    def to_dataframe(self) -> pd.DataFrame:
        """Tidy frame, one row a head: layer, head, kv_head, every estimator, every estimator's standard error."""
        pandas = need("pandas", "to_dataframe()")
        layer, head = (axis.ravel() for axis in np.indices((self.n_layers, self.n_heads)))
        columns = {"layer": layer, "head": head, "kv_head": head // (self.n_heads // self.n_kv_heads)}
        columns |= {name: self[name].ravel() for name in self.estimators}
        columns |= {f"{name}_stderr": self.stderr(name).ravel() for name in self.estimators}
        frame: pd.DataFrame = pandas.DataFrame(columns)
        return frame

    def to_xarray(
        self, *, group: str | None = None, checkpoint: int = 0, tokens_seen: float | None = None
    ) -> xr.Dataset:
        """What `hs.open` gives of a file that holds these scores alone: dims (checkpoint, layer, head).

        `checkpoint` and `tokens_seen` are those of `save`. `group="probes"` gives the detail, with the further dim
        `probe`, `group="provenance"` where the scores came from; see `hs.open`. Everything is in memory.
        """
        from .store import as_dataset

        return as_dataset(self, group=group, checkpoint=checkpoint, tokens_seen=tokens_seen)

    def save(self, path: str | PathLike[str], *, checkpoint: int = 0, tokens_seen: float | None = None) -> None:
        """Append these scores to the HDF5 file at `path` as one checkpoint; the file is created when there is none.

        Raises StoreError (a ValueError), and leaves the file as it was, when the scores do not fit: see `store.append`.
        """
        from .store import append

        append(path, self, checkpoint=checkpoint, tokens_seen=tokens_seen)

    def _values(self, estimator: str) -> np.ndarray:
        if estimator not in self.per_probe:
            near = get_close_matches(str(estimator), self.per_probe, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(self.per_probe)
            raise UnknownEstimatorError(f"unknown estimator {estimator!r}.{hint} Available: {known}")
        return self.per_probe[estimator].astype(np.float64)


def needle_stderr(values: np.ndarray, needle_id: np.ndarray) -> np.ndarray:
    """float32 [...]: standard error of the mean over probes of values [P, ...]; see HeadScores.stderr."""
    mean, n = observed_mean(values)
    seen = ~np.isnan(values)
    residual = np.where(seen, values - mean, 0.0)
    needles, cluster = np.unique(needle_id, return_inverse=True)
    member = np.equal.outer(np.arange(len(needles)), cluster).astype(np.float64)  # [needle, probe]
    squares = (np.tensordot(member, residual, axes=1) ** 2).sum(axis=0)
    clusters = (np.tensordot(member, seen.astype(np.float64), axes=1) > 0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = clusters / (clusters - 1) * squares / n**2
    return np.sqrt(np.where(clusters > 1, variance, np.nan)).astype(np.float32)


def observed_mean(values: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean over probes (along `axis`) without the NaNs, and how many were observed; NaN, unwarned, where none was."""
    seen = ~np.isnan(values)
    n = seen.sum(axis=axis)
    total = np.where(seen, values, 0.0).sum(axis=axis, dtype=np.float64)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan), n


def check_name(name: str) -> None:
    """Raise ValueError unless an estimator or a probe column can have this name in frames, datasets and files."""
    if not NAME.fullmatch(name) or name in RESERVED or name.endswith("_stderr") or name.startswith("probe_"):
        raise ArgumentError(
            f"{name!r} cannot name an estimator or a probe column: use lower-case letters, digits and _, "
            f"no 'probe_' in front, no '_stderr' behind, and none of {', '.join(sorted(RESERVED))}"
        )


def _floats(name: str, values: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind != "f":
        raise ArgumentTypeError(f"{name} must hold floating-point numbers, got {array.dtype}")
    if array.shape != shape:
        meaning = "[n_probes, n_layers, n_heads]" if len(shape) == 3 else "[n_probes]"
        raise ArgumentError(f"{name} must have the shape {shape} {meaning}, got {array.shape}")
    return np.ascontiguousarray(array, dtype=dtype)


def _booleans(name: str, values: Any, n: int) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind != "b":
        raise ArgumentTypeError(f"{name} must be boolean, got {array.dtype}")
    if array.shape != (n,):
        raise ArgumentError(f"{name} must have the shape ({n},) [n_probes], got {array.shape}")
    return array


def _column(name: str, values: Any, n: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (n,):
        raise ArgumentError(f"probes[{name!r}] must have the shape ({n},) [n_probes], got {array.shape}")
    kind = array.dtype.kind
    text, whole, real = kind == "U", kind in "iu", kind == "f"
    for columns, fits, wanted in (
        (TEXT_COLUMNS, text, "text"),
        (INTEGER_COLUMNS, whole, "integers"),
        (REAL_COLUMNS + CHANCE_COLUMNS, whole or real, "numbers"),
        ((name,), text or whole or real, "text or numbers"),
    ):
        if name in columns and not fits:
            raise ArgumentTypeError(f"probes[{name!r}] must hold {wanted}, got {array.dtype}")
    if text:
        return array
    if real or name in REAL_COLUMNS + CHANCE_COLUMNS:
        return array.astype(np.float64)
    if array.max() > np.iinfo(np.int64).max:
        raise ArgumentError(f"probes[{name!r}] must fit into 64 bits with sign, got {array.max()}")
    return array.astype(np.int64)


def _plain(value: Any, where: str) -> Any:
    """The same value in what strict JSON can hold, so that it comes back from a file exactly as it is here."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ArgumentTypeError(f"{where} must be something JSON can hold, got {type(value).__name__}; convert it first")
