"""How close is a grafted run to separate forwards? Three texts, key-value and sentence needles.

    python -m benchmarks.sharing [MODEL] --lengths 1024 2048 4096

Per text and kind of needle: Pearson of all heads' mean retrieval scores, top ten in common, the largest difference of a
leading head (the eight best of the exact run), number of retrieval heads, and the NLL gap (grafted minus exact). Then
the NLL gap by length and depth, over everything.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from headscope import probes as hp
from headscope.interp.results import HeadScores
from headscope.interp.scoring import score_heads

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

LEADING = 8
TEXTS = {"documentation": None, "other articles": None, "noise": "noise"}  # a seed is an order of the articles


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--lengths", type=int, nargs="+", default=[1024, 2048, 4096])
    arguments.add_argument("--depths", type=int, default=5)
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    say(
        f"{'text':>14} {'needle':>9} {'probes':>6} {'Pearson':>8} {'top 10':>6} {'leading':>8} {'heads':>8} "
        f"{'NLL gap':>8}"
    )
    rows: list[dict[str, Any]] = []
    gaps: dict[tuple[int, float], list[float]] = defaultdict(list)
    for seed, (text, haystack) in enumerate(TEXTS.items()):
        for kind in ("sentence", "number"):
            probes = hp.build(
                "grid",
                loaded.tokenizer,
                lengths=options.lengths,
                depths=options.depths,
                needles=1,
                kind=kind,  # type: ignore[arg-type]
                seed=seed,
                haystack=haystack,
            )
            exact, grafted = (score_heads(loaded, probes, sharing=way) for way in ("exact", "grafted"))
            row = {"text": text, "kind": kind, "n_probes": len(probes), **compare(exact, grafted)}
            rows.append(row)
            for i, probe in enumerate(probes):
                gaps[probe.length, probe.depth_nominal].append(float(grafted.nll[i] - exact.nll[i]))
            say(
                f"{text:>14} {kind:>9} {len(probes):6} {row['pearson']:8.4f} {row['top10']:6} "
                f"{row['leading']:8.3f} {row['heads_exact']:4}/{row['heads']:<3} {row['nll_gap']:+8.3f}"
            )
    say("NLL gap (grafted minus exact, nats), mean over texts and needles")
    depths = sorted({depth for _, depth in gaps})
    say(f"{'length':>8} " + " ".join(f"{depth:>7.0%}" for depth in depths))
    for length in options.lengths:
        say(f"{length:8} " + " ".join(f"{np.mean(gaps[length, depth]):+7.3f}" for depth in depths))
    worst = {
        "pearson": min(r["pearson"] for r in rows),
        "top10": min(r["top10"] for r in rows),
        "leading": max(r["leading"] for r in rows),
    }
    say(f"{sum(r['n_probes'] for r in rows)} probes; worst row: {worst}")
    cells = [{"length": length, "depth": depth, "gap": gap} for (length, depth), gap in gaps.items()]
    results = {
        "model": loaded.model_id,
        "fingerprint": loaded.fingerprint,
        "rows": rows,
        "cells": cells,
        "worst": worst,
    }
    say(write_results("sharing", results, found).name)


def compare(exact: HeadScores, grafted: HeadScores) -> dict[str, Any]:
    """Mean retrieval scores of all heads, two ways."""
    a, b = grafted.retrieval.ravel(), exact.retrieval.ravel()
    best_a, best_b = np.argsort(-a, kind="stable"), np.argsort(-b, kind="stable")
    return {
        "pearson": float(np.corrcoef(a, b)[0, 1]),
        "top10": len(set(best_a[:10]) & set(best_b[:10])),
        "leading": float(np.abs(a - b)[best_b[:LEADING]].max()),
        "heads_exact": len(exact.retrieval_heads()),
        "heads": len(grafted.retrieval_heads()),
        "nll_gap": float((grafted.nll - exact.nll).mean()),
    }


if __name__ == "__main__":
    main()
