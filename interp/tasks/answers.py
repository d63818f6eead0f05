"""Answers: what a model said to every probe, how it was judged, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import ArgumentError
from ..packages import need
from ..results import HeadScores, needle_stderr, observed_mean
from .passk import analytic, best_of_k

if TYPE_CHECKING:
    import pandas as pd

ENDS = ("eos", "stop", "length")
TEXT_COLUMNS = ("id", "family", "task", "needle_id", "metric", "question", "golds", "rivals")
INTEGER_COLUMNS = ("length", "n_answer")
COLUMNS = (*TEXT_COLUMNS, *INTEGER_COLUMNS, "depth")
# What is known of every answer: name -> dtype. Texts are Python's, in arrays of objects.
SAID: dict[str, type] = {
    "text": object, "end": object, "score": np.float32, "precision": np.float32, "above_chance": np.float32,
    "logprob": np.float32, "rival": np.int32, "n_tokens": np.int32,
}  # fmt: skip
PASSES = (1, 3)


@dataclass(frozen=True, eq=False)
class Answers:
    """What one model answered to one set of probes, and how it was judged.

    said: name -> [n_probes, 1 + n_samples], the greedy answer first, then those drawn. "text" (str), without the stop
        that ended it; "end" (str): "eos", "stop", or "length" where the limit of tokens cut it off; "score" (float32),
        the task's own metric in [0, 1]; "precision", "above_chance" (float32) and "rival" (int32) of `Judged`;
        "logprob" (float32, nats, summed over its tokens); "n_tokens" (int32).
    nll: float32 [n_probes], mean nats per token of the right answer, teacher-forced; NaN where it was not.
    exact_match: bool [n_probes], every token of the right answer is the most probable one; False where unknown.
    probes: columns [n_probes]: id, family, task (the probe's variant), needle_id, metric, question (str); golds and
        rivals (str, a JSON list each); length (int64, tokens asked for), n_answer (int64, tokens of the right answer),
        depth (float64).
    provenance: as in `HeadScores`, with samples, temperature and seed.
    scores: what the heads did in the same contexts; None where it was not asked for.
    """

    model_id: str
    said: dict[str, np.ndarray]
    nll: np.ndarray
    exact_match: np.ndarray
    probes: dict[str, np.ndarray]
    probe_set_name: str
    probe_set_hash: str
    provenance: dict[str, Any]
    scores: HeadScores | None = None

    def __post_init__(self) -> None:
        if missing := [name for name in SAID if name not in self.said]:
            raise ArgumentError(f"said lacks {', '.join(missing)}; it needs {', '.join(SAID)}")
        if missing := [name for name in COLUMNS if name not in self.probes]:
            raise ArgumentError(f"probes lacks the column(s) {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
        said: dict[str, np.ndarray] = {name: np.asarray(self.said[name], dtype) for name, dtype in SAID.items()}
        shape = said["score"].shape
        if len(shape) != 2 or 0 in shape or any(values.shape != shape for values in said.values()):
            shapes = ", ".join(f"{name} {values.shape}" for name, values in said.items())
            raise ArgumentError(f"said must hold arrays of one shape [n_probes, 1 + n_samples], got {shapes}")
        if odd := {*said["end"].flat} - {*ENDS}:
            raise ArgumentError(f"an answer ends by {', '.join(ENDS)}, got {sorted(map(str, odd))[0]!r}")
        for name, values in [*self.probes.items(), ("nll", self.nll), ("exact_match", self.exact_match)]:
            if np.shape(values) != shape[:1]:
                raise ArgumentError(f"{name} must have the shape ({shape[0]},) [n_probes], got {np.shape(values)}")
        object.__setattr__(self, "said", said)
        object.__setattr__(self, "nll", np.asarray(self.nll, np.float32))

    def __repr__(self) -> str:
        drawn = f" and {self.n_samples} drawn" if self.n_samples else ""
        return f"<Answers of {self.model_id!r}: one{drawn} to each of {len(self)} probes of {self.probe_set_name!r}>"

    def __len__(self) -> int:
        return len(self.nll)

    @property
    def n_samples(self) -> int:
        """Answers drawn for a probe, beside the greedy one."""
        return self.said["score"].shape[1] - 1

    @property
    def text(self) -> list[str]:
        """The greedy answers."""
        return [str(text) for text in self.said["text"][:, 0]]

    @property
    def score(self) -> np.ndarray:
        """float32 [n_probes]: the task's own metric on the greedy answer, in [0, 1]."""
        return self.said["score"][:, 0]

    @property
    def precision(self) -> np.ndarray:
        """float32 [n_probes]: of what the greedy answer names, the share that is right; NaN where it names nothing."""
        return self.said["precision"][:, 0]

    @property
    def rival(self) -> np.ndarray:
        """int32 [n_probes]: which of the probe's rivals the greedy answer names first; -1: none."""
        return self.said["rival"][:, 0]

    @property
    def end(self) -> list[str]:
        """How the greedy answers ended: "eos", "stop", or "length" where the limit cut them off."""
        return [str(end) for end in self.said["end"][:, 0]]

    @property
    def n_tokens(self) -> np.ndarray:
        """int32 [n_probes]: tokens of the greedy answers."""
        return self.said["n_tokens"][:, 0]

    @property
    def sample_text(self) -> np.ndarray:
        """str (dtype object) [n_probes, n_samples]: the answers that were drawn."""
        return self.said["text"][:, 1:]

    @property
    def sample_score(self) -> np.ndarray:
        """float32 [n_probes, n_samples]: the task's own metric on them."""
        return self.said["score"][:, 1:]

    @property
    def is_wrong(self) -> np.ndarray:
        """bool [n_probes]: the greedy answer is not wholly right: its score is below 1, or it names wrong ones too."""
        wrong: np.ndarray = (self.score < 1) | (self.precision < 1)
        return wrong

    @property
    def rival_text(self) -> list[str]:
        """The rival that each greedy answer names first; "" for none."""
        told = zip(self.probes["rivals"], self.rival, strict=True)
        return [json.loads(rivals)[i] if i >= 0 else "" for rivals, i in told]

    def pass_at(self, k: int) -> np.ndarray:
        """float64 [n_probes]: expected best score of k drawn answers, unbiased; for right or wrong, pass@k (passk.py).

        Raises ArgumentError for more than `n_samples`.
        """
        if not 1 <= k <= self.n_samples:
            raise ArgumentError(f"pass@{k} needs at least {max(k, 1)} drawn answers; evaluate with samples={max(k, 1)}")
        return best_of_k(self.sample_score, k)

    def analytic_pass_at(self, k: int) -> np.ndarray:
        """float64 [n_probes]: probability that one of k answers at temperature 1 begins with exactly the right answer.

        From the teacher-forced pass, without drawing any: see `passk.analytic`. NaN where there was none.
        """
        return analytic(self.nll.astype(np.float64) * self.probes["n_answer"], k)

    def by_task(self) -> pd.DataFrame:
        """A row for every task and length: family, task, length, score, stderr, n, and what stands beside the score.

        stderr is that of the mean, clustered by needle (`HeadScores.stderr`); NaN with fewer than two. precision,
        above_chance: means over the answers that have one. cut: share of answers that the limit of tokens ended.
        exact_match, analytic@1, analytic@3: from the teacher-forced pass. pass@1, pass@3: where as many were drawn.
        """
        pandas = need("pandas", "by_task()")
        columns = {"score": self.score, "precision": self.precision, "above_chance": self.said["above_chance"][:, 0]}
        columns["cut"] = np.array(self.end) == "length"
        columns["exact_match"] = np.where(np.isnan(self.nll), np.nan, self.exact_match)
        columns |= {f"analytic@{k}": self.analytic_pass_at(k) for k in PASSES}
        columns |= {f"pass@{k}": self.pass_at(k) for k in PASSES if k <= self.n_samples}
        rows = []
        for key, rows_of in self._groups():
            means = {name: float(observed_mean(values[rows_of].astype(float))[0]) for name, values in columns.items()}
            stderr = needle_stderr(self.score[rows_of].astype(float), self.probes["needle_id"][rows_of])
            head = dict(zip(("family", "task", "length"), key, strict=True))
            rows.append(head | {"score": means.pop("score"), "stderr": float(stderr), "n": len(rows_of)} | means)
        found: pd.DataFrame = pandas.DataFrame(rows)
        return found

    def _groups(self) -> Iterator[tuple[tuple[str, str, int], np.ndarray]]:
        """((family, task, length), its probes), tasks in the order of the probes and lengths from short to long."""
        keys = list(zip(*(self.probes[name].tolist() for name in ("family", "task", "length")), strict=True))
        order = {key[:2]: i for i, key in reversed([*enumerate(keys)])}
        for key in sorted(set(keys), key=lambda key: (order[key[:2]], key[2])):
            yield key, np.array([i for i, other in enumerate(keys) if other == key])

    def to_dataframe(self) -> pd.DataFrame:
        """A row for every probe: family, task, length, depth, id, question, golds (a list), said, score, precision,
        rival (its text, "" for none), end, n_tokens, exact_match and nll. All of the greedy answer.
        """
        pandas = need("pandas", "to_dataframe()")
        found: pd.DataFrame = pandas.DataFrame(
            {name: self.probes[name] for name in ("family", "task", "length", "depth", "id", "question")}
            | {"golds": [json.loads(golds) for golds in self.probes["golds"]], "said": self.text, "score": self.score}
            | {"precision": self.precision, "rival": self.rival_text, "end": self.end, "n_tokens": self.n_tokens}
            | {"exact_match": self.exact_match, "nll": self.nll}
        )
        return found

    def wrong(self) -> pd.DataFrame:
        """The rows of `to_dataframe` whose answer `is_wrong`."""
        return self.to_dataframe()[self.is_wrong]

    def save(self, path: str | PathLike[str], *, checkpoint: int = 0, tokens_seen: float | None = None) -> None:
        """Write to the results file at `path`: with `scores` as a new checkpoint, else into one that is there.

        Raises StoreError, and leaves the file as it was, where they do not fit: `store.append`, `store.add_answers`.
        """
        from ..store import add_answers, append

        if self.scores is None:
            add_answers(path, self, checkpoint)
        else:
            append(path, self.scores, checkpoint, tokens_seen, answers=self)

    @classmethod
    def load(cls, path: str | PathLike[str], checkpoint: int | None = None) -> Answers:
        """The answers of one checkpoint of a results file, by default of the last that has some.

        `scores` is None: `hs.read_scores` has them. Raises StoreError where the file cannot be read or has none there.
        """
        from ..store import read_answers

        return read_answers(path, checkpoint)
