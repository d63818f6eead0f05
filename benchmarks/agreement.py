"""Is the evidence right on a real model? Every answer row against an eager forward with materialised attention.

    python -m benchmarks.agreement [MODEL] --lengths 512 1024 2048 4096

The oracle (tests/oracle.py) shares no code with the engine. Both run in float32. Identical argmax keys are counted over
every (row, layer, head); for the others the table gives how far apart, in logits, the two keys are by the oracle.
"""

from __future__ import annotations

import numpy as np

from headscope import probes as hp
from headscope.interp.engine.engine import Engine
from headscope.interp.engine.plan import plan
from headscope.interp.model.adapt import adapt
from headscope.interp.scoring import score_heads
from tests import oracle

from .machine import machine, one_line, write_results
from .smollm2 import LEADING, load, parser, say


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    sets = [
        hp.build("grid", loaded.tokenizer, lengths=options.lengths, depths=[0.0, 0.6], needles=1, kind=kind)
        for kind in ("sentence", "number")
    ]
    probes = hp.ProbeSet([probe for one in sets for probe in one], name="agreement")
    model = adapt(loaded.model)
    say(one_line(found))
    say(f"{loaded.model_id}, {len(probes)} probes, exact sharing")
    with model.routed(max(probe.length for probe in probes)):
        evidence = dict(Engine(model, probes).run(plan(probes, "exact")))
    say(f"{'probe':>30} {'keys':>8} {'different':>9} {'largest margin':>14} {'NLL difference':>14}")
    rows = []
    for i, probe in enumerate(probes):
        truth = oracle.run(loaded.model, probe)
        different = evidence[i].argmax_key != truth.argmax
        margin = float(truth.margin(np.maximum(evidence[i].argmax_key, 0))[different].max(initial=0))
        nll = float(np.abs(-evidence[i].logprob - truth.nll).max())
        rows.append(
            {"probe": probe.id, "length": probe.length, "keys": different.size, "different": int(different.sum())}
        )
        rows[-1] |= {"margin": margin, "nll": nll}
        label = f"{probe.variant} {probe.length} @ {probe.depth:.2f}"
        say(f"{label:>30} {different.size:8} {different.sum():9} {margin:14.1e} {nll:14.1e}")
    keys, different = sum(r["keys"] for r in rows), sum(r["different"] for r in rows)
    total = {
        "keys": keys,
        "identical": 1 - different / keys,
        "margin": max(r["margin"] for r in rows),
        "nll": max(r["nll"] for r in rows),
    }
    top = [str(head) for head in score_heads(loaded, probes).top(10)]
    say(
        f"identical keys {total['identical']:.5%} of {keys}; largest margin {total['margin']:.1e}; "
        f"NLL within {total['nll']:.1e}"
    )
    say(f"leading heads {' '.join(top)}; of the six known ones {len(set(LEADING) & set(top))} are in the top ten")
    results = {"model": loaded.model_id, "fingerprint": loaded.fingerprint, "total": total, "top": top, "rows": rows}
    say(write_results("agreement", results, found).name)


if __name__ == "__main__":
    main()
