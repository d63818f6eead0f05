"""Do the leading heads matter? They are ablated on needles that did not choose them, beside random heads of the same
layers.

    python -m benchmarks.causal [MODEL] --lengths 256 1024 4096 --rows answer
    python -m benchmarks.causal [MODEL] --lengths 256 --rows all            every set prefills anew: the slow one
    python -m benchmarks.causal [MODEL] --only cost

novel: the ten leading heads set to zero, sentence needles: how much dearer do the tokens become that only the needle
has, against the most harmful of 20 random sets? number: the same, number needles: how many answers stay right?
cost: 20 heads one by one over a grid of 40 probes, in one pass beside shared prefixes and in runs of their own.
"""

from __future__ import annotations

import time
from typing import Any

import headscope as hs
from headscope.interp.analysis import Dose, Interval, clustered_interval, dose_response, head_effects

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

K = 10
NEEDLES = 24  # half of them choose
CONTROLS = 20


def interval(of: Interval) -> list[float]:
    return [round(float(x), 4) for x in (of.estimate, of.low, of.high)]


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
        "ratio_to_worst": round(dose.ratio["layer_matched"], 2),
    }


def part(loaded: Any, kind: str, measure: str, length: int, rows: str, top: list[int]) -> dict[str, Any]:
    """Heads chosen and measured on one kind of needle at one length."""
    probes, start = probes_of(loaded, kind, length), time.process_time()
    scores = hs.score_heads(loaded, probes, sharing="exact")
    each = 0 if rows == "all" else 20
    found = hs.ablate(loaded, probes, scores, top=top, rows=rows, controls=CONTROLS, each=each, sharing="exact", seed=0)
    seconds = time.process_time() - start
    whole = clustered_interval(found.measured[measure][0], found.probes["needle_id"])
    doses = [told(dose) for dose in dose_response(found, measure)]
    say(f"{kind} needles, {length} tokens, rows {rows}: {measure} {whole.estimate:.3f} on {len(found)} needles")
    for dose in doses:
        low, high = dose["controls"][0], dose["controls"][-1]
        say(
            f"  top {dose['k']:2}: {dose['effect'][0]:+.3f} [{dose['effect'][1]:+.3f}, {dose['effect'][2]:+.3f}]; "
            f"{len(dose['controls'])} controls {low:+.3f} to {high:+.3f}, mean {dose['control_mean'][0]:+.3f}; "
            f"{dose['ratio_to_worst']} x the worst, p {dose['p']}"
        )
    row = {"kind": kind, "measure": measure, "length": length, "rows": rows, "before": interval(whole), "doses": doses}
    if each:
        one = head_effects(found, measure)
        row["one_by_one"] = [
            {"head": head, "score": round(float(score), 3), "effect": round(float(effect), 4)}
            for head, score, effect in zip(one.heads, one.score, one.effect.estimate, strict=True)
        ]
    return row | {"cpu_seconds": round(seconds, 1)}


def cost(loaded: Any, length: int) -> dict[str, Any]:
    """Twenty heads, each alone, over a grid of 40 probes: in one pass, and a run for each (of which three are made)."""
    probes = probes_of(loaded, "sentence", length, needles=8, depths=[0.1, 0.3, 0.5, 0.7, 0.9])
    heads = [(layer, 3) for layer in range(5, 25)]
    row: dict[str, Any] = {"length": length, "probes": len(probes)}
    for sharing in ("grafted", "exact"):
        start = time.process_time()
        hs.ablate(loaded, probes, heads, top=[1], each=20, controls=0, sharing=sharing)
        together, start = time.process_time() - start, time.process_time()
        for head in heads[:3]:
            hs.ablate(loaded, probes, [head], top=[1], each=0, controls=0, sharing=sharing)
        apart = (time.process_time() - start) / 3 * 20
        row[sharing] = {
            "one_pass": round(together, 1),
            "separate": round(apart, 1),
            "share": round(together / apart, 3),
        }
        say(
            f"cost, {length} tokens, {sharing}: {together:.0f} CPU s in one pass, {apart:.0f} apart: {together / apart:.2f}"
        )
    return row


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--lengths", type=int, nargs="+", default=[256, 1024])
    arguments.add_argument("--rows", choices=["answer", "question,answer", "all"], default="answer")
    arguments.add_argument(
        "--only", choices=["novel", "number", "cost"], nargs="+", default=["novel", "number", "cost"]
    )
    arguments.add_argument("--name", default="causal", help="of the file of results")
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    top = [K] if options.rows == "all" else [1, 2, 5, K, 20]
    rows = []
    for length in options.lengths:
        if "novel" in options.only:
            rows.append(part(loaded, "sentence", "nll_novel", length, options.rows, top))
        if "number" in options.only:
            rows.append(part(loaded, "number", "exact_match", length, options.rows, top))
    results: dict[str, Any] = {"model": loaded.model_id, "fingerprint": loaded.fingerprint, "rows": rows}
    if "cost" in options.only:
        results["cost"] = cost(loaded, 1024)
    say(write_results(options.name, results, found).name)


if __name__ == "__main__":
    main()
