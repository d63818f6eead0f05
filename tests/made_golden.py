"""What tests/golden/store-1.4.h5 was written by: all that a file can hold, made by arithmetic, without a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from headscope.interp.results import HeadScores
from headscope.interp.store import append
from made_ablations import make_ablation
from made_answers import make_answers
from made_perplexities import make_perplexity
from made_scores import with_chance
from made_sft_probes import make_sft_probe


def write_golden(path: Path) -> None:
    """Two checkpoints, of which the second has everything beside its scores."""
    append(path, golden_scores(0), 0, 0.0)
    more: dict[str, Any] = {"answers": make_answers(1000), "ablation": make_ablation(1000)}
    more |= {"sft_probe": make_sft_probe(1000), "perplexity": make_perplexity(1000)}
    append(path, golden_scores(1000), 1000, 4.2e9, **more)


def golden_scores(step: int) -> HeadScores:
    """At the second checkpoint with a null for every head, which two are above."""
    scores = with_chance(step, n_probes=4, n_layers=2)
    if not step:
        return scores
    retrieval = scores.per_probe["retrieval"].copy()
    retrieval[:, 1, 2:] = 0.75
    dealt = {"dealt_mean": retrieval.copy(), "dealt_sd": retrieval / 8}
    dealt["dealt_mean"][:, 1, 2:] = 0.0625
    return replace(scores, per_probe={**scores.per_probe, "retrieval": retrieval, **dealt})
