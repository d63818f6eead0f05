"""What the model did on one probe's answer rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from ..probes import Probe

Spans = Callable[[Probe], np.ndarray | None]
"""Where attention mass is measured: int [S, 2], or [n_answer, S, 2] where it differs by answer row. A span [start, end)
is in the probe's own positions; one that is empty or lies before 0 counts nothing. Spans of one name do not overlap.
None, or only empty spans in an answer row: the probe has nothing of this kind there, and the mass is NaN."""

SINK = 4  # "sink" is attention on the first four positions


def needle(probe: Probe) -> np.ndarray:
    return np.array(probe.needle_spans)


def source(probe: Probe) -> np.ndarray:
    """The positions that each answer token came from; sources of -1 are none."""
    return np.stack([probe.sources, np.where(probe.sources < 0, -1, probe.sources + 1)], axis=-1)


def sink(probe: Probe) -> np.ndarray:
    return np.array([[0, SINK]])


STANDARD: dict[str, Spans] = {"needle": needle, "source": source, "sink": sink}
"""The spans that every run measures, by name; estimators add their own."""


@dataclass(frozen=True, eq=False)
class ProbeEvidence:
    """Evidence of every head on the rows that predict one probe's answer tokens.

    Attributes:
        argmax_key: int32 [n_layers, n_heads, n_answer], position in the probe that the head attends to most; -1 where
            the layer has no attention to look at.
        p_max: float32, same shape, the probability at that position.
        mass: name of the spans -> float32 [n_layers, n_heads, n_answer], probability on them: "needle", "source" (this
            token's sources), "sink" (positions 0 to 3), and what the estimators of the run declare. NaN where the probe
            has no such span, as "source" for a token whose source is not known.
        visible: bool [n_layers, n_heads], whether the head can see the needle at all: not through a window that is too
            short, nor in a layer without attention.
        logprob: float32 [n_answer], log-probability of each answer token, in nats.
        correct: bool [n_answer], whether the answer token is the most probable one.
        topk_key: int32 [n_layers, n_heads, n_answer, K], the K keys attended to most, best first; -1 where there are
            fewer. K is what an estimator asks for with topk=, else 0.
        topk_p: float32, same shape, their probabilities; 0 where there are fewer, NaN in layers without attention.
    """

    argmax_key: np.ndarray
    p_max: np.ndarray
    mass: Mapping[str, np.ndarray]
    visible: np.ndarray
    logprob: np.ndarray
    correct: np.ndarray
    topk_key: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.int32))
    topk_p: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 0, 0), np.float32))

    def hidden_as_nan(self, score: np.ndarray) -> np.ndarray:
        """A score [n_layers, n_heads] with NaN where the layer cannot see the needle: unobservable is not zero."""
        return np.where(self.visible, score, np.nan).astype(np.float32)

    def unscored(self) -> np.ndarray:
        """float32 [n_layers, n_heads] of NaN, where a score has nothing to go by."""
        return np.full(self.visible.shape, np.nan, np.float32)

    def nothing(self) -> ProbeEvidence:
        """The same without any evidence, where the model computed no numbers: nothing is visible, all else is NaN."""
        return ProbeEvidence(
            argmax_key=np.full_like(self.argmax_key, -1),
            p_max=np.full_like(self.p_max, np.nan),
            mass={name: np.full_like(values, np.nan) for name, values in self.mass.items()},
            visible=np.zeros_like(self.visible),
            logprob=np.full_like(self.logprob, np.nan),
            correct=np.zeros_like(self.correct),
            topk_key=np.full_like(self.topk_key, -1),
            topk_p=np.full_like(self.topk_p, np.nan),
        )

    def hits(self, probe: Probe) -> np.ndarray:
        """Bool [n_layers, n_heads, n_answer]: the top key lies in a needle and holds the token that comes next."""
        return copies(probe, self.argmax_key, probe.answer_ids)

    def topk_hits(self, probe: Probe) -> np.ndarray:
        """Bool [n_layers, n_heads, n_answer, K]: the same of each of the top keys."""
        return copies(probe, self.topk_key, probe.answer_ids[:, None])

    def top(self, k: int) -> ProbeEvidence:
        """The same with K = k, of at least as many."""
        return replace(self, topk_key=self.topk_key[..., :k], topk_p=self.topk_p[..., :k])


def copies(probe: Probe, key: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Bool, as both broadcast: these positions lie in a needle and hold the token that follows there."""
    inside = np.zeros(key.shape, bool)
    for start, end in probe.needle_spans:  # a mask over all of the probe would be most of the work
        inside |= (key >= start) & (key < end)
    return inside & (probe.input_ids[np.maximum(key, 0)] == following)
