"""How much a probe's needle is worth: what the answer costs a model without it, less what it costs with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from ..results import NLL_CLASSES, HeadScores
from .bootstrap import Interval, clustered_interval


@dataclass(frozen=True, eq=False)
class ContextGain:
    """per_probe: float64 [P], nats per answer token, twin less probe; NaN where either has none. mean: with an interval
    over needles. value: the class of answer tokens.

    It can be compared across checkpoints also where a model's confidence in an answer's form drifts: both share it.
    """

    per_probe: np.ndarray
    mean: Interval
    value: str


def context_gain(scores: HeadScores, twins: HeadScores, value: str = "nll_novel") -> ContextGain:
    """Gain = NLL of the no-needle twin less NLL of the probe, probe by probe.

    Args:
        scores: of probes. twins: of their twins (`headscope.probes.twin(probe, tokenizer, "no_needle")`), scored with
            the same model, in any order, told by their ids.
        value: "nll_novel", of the answer's tokens that only the needle has, or another class.

    Raises ArgumentError: an unknown class, or a probe that has no twin there.
    """
    if value not in NLL_CLASSES:
        raise ArgumentError(f"value must be one of {', '.join(NLL_CLASSES)}, got {value!r}")
    place = {str(id): i for i, id in enumerate(twins.probes["id"])}
    ids = [f"{id}/no_needle" for id in scores.probes["id"]]
    if missing := [id for id in ids if id not in place]:
        raise ArgumentError(
            f"twins has no {missing[0]!r} ({len(missing)} of {len(ids)} are missing); score "
            'headscope.probes.twin(probe, tokenizer, "no_needle") of every probe'
        )
    without = getattr(twins, value)[[place[id] for id in ids]].astype(np.float64)
    gain = without - getattr(scores, value).astype(np.float64)
    return ContextGain(gain, clustered_interval(gain, scores.probes["needle_id"]), value)
