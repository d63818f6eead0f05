"""How sure the model is of the answer, split by where each answer token could have come from."""

from __future__ import annotations

import numpy as np

from ...probes import Probe
from ..evidence import ProbeEvidence


def nll_classes(probe: Probe, evidence: ProbeEvidence) -> dict[str, float]:
    """Mean negative log-likelihood, in nats, over classes of answer tokens; NaN for a class without tokens.

    nll: all tokens (the paper's). nll_echo: tokens that also stand in the question; they make up most of the plain NLL
    of a full-sentence answer and say nothing of retrieval. nll_novel: tokens that stand only in the needle.
    nll_first: the first of those, before the model has copied anything that could help it along.
    """
    nll = -evidence.logprob
    classes = np.array(probe.token_class)
    novel = np.flatnonzero(classes == "novel")
    return {
        "nll": float(nll.mean()),
        "nll_echo": _mean(nll[classes == "echo"]),
        "nll_novel": _mean(nll[novel]),
        "nll_first": float(nll[novel[0]]) if len(novel) else float("nan"),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
