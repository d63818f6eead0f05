"""What a tracker is sent of a measurement: a few numbers by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from ..analysis import LEADING, effective_length
from ..lengths import group_lengths
from ..results import HeadScores, observed_mean


def scalars(scores: HeadScores, more: Mapping[str, float | None]) -> dict[str, float]:
    """Name -> number, of a measurement and of `more` that is known; what is missing or not finite is left out."""
    level = scores.counting_level()
    found: dict[str, float | None] = {
        "retrieval_heads": float(len(scores.retrieval_heads())),
        "retrieval_heads_plain": float(len(scores.retrieval_heads(plain=True))),
        "counting_level": float(np.nanmax(level)) if not np.isnan(level).all() else np.nan,
        "leading": leading_score(scores),
        "nll": _mean(scores.nll),
        "nll_novel": _mean(scores.nll_novel),
        "exact_match": scores.share_of_matches,
        **by_length(scores),
        **more,
    }
    return {f"heads/{name}": value for name, value in found.items() if value is not None and math.isfinite(value)}


def by_length(scores: HeadScores) -> dict[str, float | None]:
    """Scores of the leading heads at every length, effective length, NLL at the shortest; {} where all are of one."""
    labels, group = group_lengths(scores.probes["length"])
    if len(labels) < 2:
        return {}
    found: dict[str, float | None] = {
        f"leading_{label.lower()}": leading_score(scores, group == k) for k, label in enumerate(labels)
    }
    held = effective_length(scores)
    return found | {
        "effective_length": held.tokens,
        "effective_length_low": held.low,
        "effective_length_high": held.high,
        "target_over_shortest": held.target_over_shortest,
        "nll_novel_short": _mean(scores.nll_novel[group == 0]),
    }


def leading_score(scores: HeadScores, probes: np.ndarray | slice = slice(None)) -> float:
    """Mean score of the ten best heads over these probes; the heads are the best over all probes."""
    heads = [(head.layer, head.head) for head in scores.top(LEADING)]
    if not heads:
        return math.nan
    values = scores.per_probe["retrieval"][probes][:, *np.transpose(heads)].astype(np.float64)
    return _mean(observed_mean(values)[0])


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan
