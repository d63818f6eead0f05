"""How far a shared run is from separate forwards: measured on the user's own model and probes."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from .engine import Engine
from .estimators.retrieval import retrieval
from .evidence import ProbeEvidence
from .nll import nll_classes
from .tree import Plan, plan

log = logging.getLogger(__name__)

PEARSON_BOUND = 0.98
LEADING = 8  # heads whose scores must agree
LEADING_BOUND = 0.05


def compare_sharing(engine: Engine, used: Plan, evidence: dict[int, ProbeEvidence], n: int) -> dict[str, Any]:
    """Run up to n of the probes exactly as well, and compare.

    Args:
        engine: inside the model's routing.
        used: the plan that `evidence` came from.
        evidence: per probe of the set.
        n: how many probes, drawn from the set's own hash: the same ones at every checkpoint.

    Returns:
        n_probes; pearson (mean retrieval score over all heads); top10_overlap; max_difference and leading_difference
        (largest difference of a head's mean score, over all heads and over the exact run's leading ones); nll_gap and
        nll_novel_gap (shared minus exact, nats).
    """
    probes = engine.probes
    seed = int.from_bytes(str(probes[0].hash).encode()[:8], "little")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(probes))[: min(n, len(probes))])
    subset = [probes[i] for i in chosen]
    exact = dict(Engine(engine.model, subset, chunk=engine.chunk, progress=engine.progress).run(plan(subset, "exact")))
    a = np.mean([retrieval(probes[i], evidence[i]) for i in chosen], axis=0).ravel()
    b = np.mean([retrieval(p, exact[i]) for i, p in enumerate(subset)], axis=0).ravel()
    seen = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[seen], b[seen]
    order_a, order_b = np.argsort(-a, kind="stable"), np.argsort(-b, kind="stable")
    shared_nll = [nll_classes(probes[i], evidence[i]) for i in chosen]
    exact_nll = [nll_classes(p, exact[i]) for i, p in enumerate(subset)]
    gap = {
        k: float(np.nanmean([s[k] - e[k] for s, e in zip(shared_nll, exact_nll, strict=True)]))
        for k in ("nll", "nll_novel")
    }
    pearson = float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else None
    leading = float(np.abs(a - b)[order_b[:LEADING]].max())
    if (pearson is not None and pearson < PEARSON_BOUND) or leading > LEADING_BOUND:
        log.warning(
            "sharing: grafted scores differ from separate forwards (Pearson %s, leading heads by up to %.3f); "
            "use sharing='exact' where single scores matter",
            "undefined" if pearson is None else f"{pearson:.3f}",
            leading,
        )
    return {
        "n_probes": len(subset),
        "n_grafted": int(used.grafted[chosen].sum()),
        "pearson": pearson,
        "top10_overlap": len(set(order_a[:10]) & set(order_b[:10])),
        "max_difference": float(np.abs(a - b).max()),
        "leading_difference": leading,
        "nll_gap": gap["nll"],
        "nll_novel_gap": gap["nll_novel"],
    }
