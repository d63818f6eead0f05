"""Do the leading heads matter? They are ablated on needles that did not choose them, beside random heads of the same
layers.

    python -m benchmarks.causal [MODEL] --lengths 256 1024 4096
    python -m benchmarks.causal [MODEL] --top 1 2 5 10 20 --mass --each 20    all of it: hours on two cores
    python -m benchmarks.causal [MODEL] --lengths 256 --rows all              every set prefills anew
    python -m benchmarks.causal [MODEL] --only cost

novel: the ten leading heads set to zero, sentence needles: how much dearer do the tokens become that only the needle
has, against the most harmful of 20 random sets? number: the same, number needles: how many answers stay right?
cost: 20 heads one by one over a grid of 40 probes, in one pass beside shared prefixes and in runs of their own.
"""

from __future__ import annotations

import math
import time
from typing import Any

import headscope as hs
from headscope.interp.analysis import Dose, Interval, clustered_interval, dose_response, head_effects

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

NEEDLES = 24  # half of them choose
CONTROLS = 20


def interval(of: Interval) -> list[float | None]:
    return [number(x) for x in (of.estimate, of.low, of.high)]


def number(x: float) -> float | None:
    """Rounded; None for NaN, which JSON does not have."""
    return round(float(x), 4) if math.isfinite(x) else None


def probes_of(loaded: Any, kind: str, length: int, needles: int = NEEDLES, depths: list[float] | None = None) -> Any:
    where = depths or [0.5]
    return hs.probes.build("grid", loaded.tokenizer, lengths=[length], depths=where, needles=needles, kind=kind)


def told(dose: Dose) -> dict[str, Any]:
    controls = dose.controls["layer_matched"]
    return {
        "k": dose.k,
        "heads": dose.heads,
        "effect": interval(dose.effect),
        "level": interval(dose.level),
        "controls": [round(float(x), 4) for x in sorted(controls)],
        "control_mean": interval(dose.control_mean["layer_matched"]),
        "p": round(dose.p["layer_matched"], 4),
        "ratio_to_worst": number(dose.ratio["layer_matched"]),
    }


def part(loaded: Any, kind: str, measures: list[str], length: int, options: Any) -> list[dict[str, Any]]:
    """Heads chosen and measured on one kind of needle at one length."""
    probes, start = probes_of(loaded, kind, length), time.process_time()
    estimators = None if options.mass else ["retrieval"]  # without attention on the needle nothing is matched by it
    scores = hs.score_heads(loaded, probes, sharing="exact", estimators=estimators)
    how: dict[str, Any] = {"top": options.top, "rows": options.rows, "each": options.each, "controls": CONTROLS}
    found = hs.ablate(loaded, probes, scores, sharing="exact", **how)
    seconds = round(time.process_time() - start, 1)
    head = {"kind": kind, "length": length, "rows": options.rows, "cpu_seconds": seconds}
    return [head | measured(found, measure, f"{kind} needles, {length} tokens") for measure in measures]


def measured(found: hs.Ablation, measure: str, what: str) -> dict[str, Any]:
    """What changing the leading heads did to one measure."""
    bounds = (0.0, 1.0) if measure == "exact_match" else None
    whole = clustered_interval(found.measured[measure][0], found.probes["needle_id"], bounds=bounds)
    doses = [told(dose) for dose in dose_response(found, measure)]
    say(f"{what}, rows {' '.join(found.rows)}: {measure} {whole.estimate:.3f} on {len(found)} needles")
    for dose in doses:
        low, high = dose["controls"][0], dose["controls"][-1]
        controls = f"{len(dose['controls'])} controls {low:+.3f} to {high:+.3f}, mean {shown(dose['control_mean'])}"
        harm = f"{dose['ratio_to_worst']} x the worst, p {dose['p']}"
        say(f"  top {dose['k']:2}: {shown(dose['effect'])}; {controls}; {harm}")
    row: dict[str, Any] = {"measure": measure, "needles": len(found), "before": interval(whole), "doses": doses}
    if found.of("one"):
        one = head_effects(found, measure)
        row["one_by_one"] = [
            {"head": head, "score": round(float(score), 3), "effect": round(float(effect), 4)}
            for head, score, effect in zip(one.heads, one.score, one.effect.estimate, strict=True)
        ]
    return row


def shown(of: list[float | None]) -> str:
    estimate, *ends = ("-" if x is None else f"{x:+.3f}" for x in of)
    return f"{estimate} [{ends[0]}, {ends[1]}]"


def cost(loaded: Any, length: int, runs: int) -> dict[str, Any]:
    """Twenty heads, each alone, over a grid of 40 probes: in one pass, and each in a run of its own (some are made)."""
    probes = probes_of(loaded, "number", length, needles=8, depths=[0.1, 0.3, 0.5, 0.7, 0.9])
    heads = [(layer, 3) for layer in range(5, 25)]
    row: dict[str, Any] = {"length": length, "probes": len(probes), "separate_runs_made": runs}
    for sharing in ("grafted", "exact"):
        start = time.process_time()
        hs.ablate(loaded, probes, heads, top=[1], each=20, controls=0, sharing=sharing)
        together, start = time.process_time() - start, time.process_time()
        for head in heads[:runs]:
            hs.ablate(loaded, probes, [head], top=[1], each=0, controls=0, sharing=sharing)
        apart = (time.process_time() - start) / runs * 20
        row[sharing] = {
            "one_pass": round(together, 1),
            "separate": round(apart, 1),
            "share": round(together / apart, 3),
        }
        words = f"{together:.0f} CPU s in one pass, {apart:.0f} apart: {together / apart:.2f}"
        say(f"cost, {length} tokens, {sharing}: {words}")
    return row


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    arguments.add_argument("--rows", choices=["answer", "question,answer", "all"], default="answer")
    arguments.add_argument("--top", type=int, nargs="+", default=[10])
    arguments.add_argument("--each", type=int, default=0, help="leading heads that are ablated one by one")
    arguments.add_argument("--mass", action="store_true", help="also controls of the same attention on the needle")
    arguments.add_argument(
        "--only", choices=["novel", "number", "cost"], nargs="+", default=["novel", "number", "cost"]
    )
    arguments.add_argument(
        "--runs", type=int, default=3, help="of the 20 separate ones, how many are made for the cost"
    )
    arguments.add_argument("--name", default="causal", help="of the file of results")
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    rows: list[dict[str, Any]] = []
    for length in options.lengths:
        if "novel" in options.only:
            rows += part(loaded, "sentence", ["nll_novel"], length, options)
        if "number" in options.only:
            rows += part(loaded, "number", ["exact_match", "nll_novel"], length, options)
    results: dict[str, Any] = {"model": loaded.model_id, "fingerprint": loaded.fingerprint, "rows": rows}
    if "cost" in options.only:
        results["cost"] = [cost(loaded, length, options.runs) for length in options.lengths]
    say(write_results(options.name, results, found).name)


if __name__ == "__main__":
    main()
