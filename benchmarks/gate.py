"""What it costs to examine a file before it is opened: as a share of `hs.open` and of an append, on a large file.

The helper process examines the file anew in every round, as for a file that is seen for the first time; how long its
answer takes is held against the whole call. Starting the helper, once a process, is timed apart.

    python -m benchmarks.gate                250 MB, 32 layers x 32 heads
    python -m benchmarks.gate --megabytes 20
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import headscope as hs
from headscope.interp.results import HeadScores
from headscope.interp.store import append, gate, write

from .machine import machine, one_line, write_results
from .smollm2 import say

LAYERS, HEADS, PROBES = 32, 32, 528
_BYTES = 2.2e6  # of a checkpoint in the file: random numbers, which gzip hardly makes smaller


def made_scores(step: int) -> HeadScores:
    """Scores of a made-up model: two estimators, one of them of random numbers, the other mostly zeros."""
    rng = np.random.default_rng(step)
    dense = rng.random((PROBES, LAYERS, HEADS), dtype=np.float32)
    order, nll = np.arange(PROBES), rng.random(PROBES, dtype=np.float32)
    whole = dict.fromkeys(("seed", "length", "distance", "interference", "n_answer"), 1000 + order)
    texts = {name: np.array([f"{name}-{i % 16}" for i in order]) for name in ("family", "variant", "needle_id")}
    return HeadScores(
        model_id="made/up",
        n_layers=LAYERS,
        n_heads=HEADS,
        n_kv_heads=8,
        per_probe={"retrieval": dense, "source_mass": np.where(dense > 0.9, dense, 0)},
        **dict.fromkeys(("nll", "nll_novel", "nll_echo", "nll_first"), nll),
        exact_match=nll < 0.5,
        probes={
            "id": np.array([f"probe-{i}" for i in order]),
            **texts,
            **whole,
            "depth": order / PROBES,
            "depth_nominal": order / PROBES,
        },
        probe_set_name="made up",
        probe_set_hash="ab" * 16,
        provenance={"device": "cpu", "more": "x" * 4000},
    )


def timed(work: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Medians over the rounds, in seconds: of the whole call, of the gate within it, and of their ratio."""
    ask, spent = gate._ask, 0.0

    def watched(*arguments: Any) -> str | None:
        nonlocal spent
        began = time.perf_counter()
        answer = ask(*arguments)
        spent += time.perf_counter() - began
        return answer

    whole, within = [], []
    gate._ask = watched
    try:
        for _ in range(rounds):
            gate._examined.clear()
            spent, began = 0.0, time.perf_counter()
            work()
            whole.append(time.perf_counter() - began)
            within.append(spent)
    finally:
        gate._ask = ask
    shares = [part / all for part, all in zip(within, whole, strict=True)]
    return {
        "rounds": rounds,
        "whole_s": statistics.median(whole),
        "gate_s": statistics.median(within),
        "share": statistics.median(shares),
    }


def start() -> float:
    """Seconds until a helper is there."""
    gate._end()
    began = time.perf_counter()
    helper = gate._running()
    if helper is None or not helper.ready():
        raise SystemExit("no helper process can be started here")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    found = machine()
    say(one_line(found))
    with tempfile.TemporaryDirectory() as name:
        path, grown = Path(name) / "run.h5", Path(name) / "grown.h5"
        count = max(1, round(options.megabytes * 1e6 / _BYTES))
        write(path, ((step, None, made_scores(step)) for step in range(count)))
        shutil.copy(path, grown)
        size, scores, steps = os.path.getsize(path), made_scores(0), iter(range(count, 10**6))
        starts = [start() for _ in range(5)]
        hs.open(path)
        results: dict[str, Any] = {"megabytes": size / 1e6, "checkpoints": count, "start_s": statistics.median(starts)}
        results["open"] = timed(lambda: hs.open(path), options.rounds)
        results["append"] = timed(lambda: append(grown, scores, next(steps)), options.rounds)
    say(f"{size / 1e6:.0f} MB; starting the helper, once a process: {results['start_s']:.2f} s")
    for what in ("open", "append"):
        each = results[what]
        say(f"{what:<7} {each['whole_s']:.3f} s, of which the gate {1e3 * each['gate_s']:.1f} ms: {each['share']:.1%}")
    say(str(write_results("gate", results, found).name))


if __name__ == "__main__":
    main()
