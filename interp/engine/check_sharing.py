"""How far a shared run is from separate forwards: measured on the user's own model and probes."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..estimators import ESTIMATORS, ProbeScores, score_probe
from ..results import observed_mean
from .engine import Engine
from .plan import Plan, plan

log = logging.getLogger(__name__)

PEARSON_BOUND = 0.98
LEADING = 8  # heads whose scores must agree
LEADING_BOUND = 0.05


def compare_sharing(engine: Engine, used: Plan, scored: dict[int, ProbeScores], n: int) -> dict[str, Any]:
    """Run up to n of the probes exactly as well, and compare.

    Args:
        engine: inside the model's routing.
        used: the plan that was run.
        scored: what it gave, per probe of the set.
        n: how many probes, drawn by the first probe's hash: the same ones at every checkpoint.

    Returns:
        n_probes; pearson (mean retrieval score over all heads); top10_overlap; max_difference and leading_difference
        (largest difference of a head's mean score, over all heads and over the exact run's leading ones); nll_gap and
        nll_novel_gap (shared minus exact, nats). A head's mean is over the probes in which it is observable; where no
        head ever is, there is nothing to compare, and what is said of heads is None.
    """
    probes = engine.probes
    seed = int.from_bytes(probes[0].hash.encode()[:8], "little")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(probes))[: min(n, len(probes))])
    subset = [probes[i] for i in chosen]
    again = Engine(engine.model, subset, chunk=engine.chunk, progress=engine.progress).run(plan(subset, "exact"))
    exact = {i: score_probe(subset[i], evidence, {"retrieval": ESTIMATORS["retrieval"]}) for i, evidence in again}
    pairs = [(scored[i], exact[j]) for j, i in enumerate(chosen)]
    maps = (np.stack([pair[side].heads["retrieval"] for pair in pairs]) for side in (0, 1))
    a, b = (observed_mean(each)[0].ravel() for each in maps)
    seen = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[seen], b[seen]
    found: dict[str, Any] = {"n_probes": len(subset), "n_grafted": int(used.grafted[chosen].sum())}
    heads = _compare_heads(a, b) if seen.any() else dict.fromkeys(_OF_HEADS)
    pearson, leading = heads["pearson"], heads["leading_difference"]
    if (pearson is not None and pearson < PEARSON_BOUND) or (leading is not None and leading > LEADING_BOUND):
        log.warning(
            "sharing: grafted scores differ from separate forwards (Pearson %s, leading heads by up to %.3f); "
            "use sharing='exact' where single scores matter",
            "undefined" if pearson is None else f"{pearson:.3f}",
            leading,
        )
    return found | heads | {"nll_gap": _mean_gap(pairs, "nll"), "nll_novel_gap": _mean_gap(pairs, "nll_novel")}


_OF_HEADS = ("pearson", "top10_overlap", "max_difference", "leading_difference")


def _compare_heads(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """What is said of the heads' mean scores [n >= 1], shared (a) and exact (b)."""
    order_a, order_b = np.argsort(-a, kind="stable"), np.argsort(-b, kind="stable")
    pearson = float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else None
    overlap = len(set(order_a[:10]) & set(order_b[:10]))
    leading = float(np.abs(a - b)[order_b[:LEADING]].max())
    return dict(zip(_OF_HEADS, (pearson, overlap, float(np.abs(a - b).max()), leading), strict=True))


def _mean_gap(pairs: list[tuple[ProbeScores, ProbeScores]], name: str) -> float | None:
    """Mean of shared minus exact over the probes that have tokens of this class, in nats; None when none has."""
    gaps = np.array([shared.nll[name] - exact.nll[name] for shared, exact in pairs])
    gaps = gaps[~np.isnan(gaps)]
    return float(gaps.mean()) if len(gaps) else None
