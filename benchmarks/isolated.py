"""What does one isolated probe cost beside the plain forward of the same tokens?

    python -m benchmarks.isolated [MODEL] --length 4096

The isolated probe is scored as `score_heads` does it, preflight included, with every estimator; the plain forward is
SDPA with one row of logits. Alternating, median of the ratios.
"""

from __future__ import annotations

import statistics
from time import perf_counter

from headscope import probes as hp
from headscope.interp.scoring import score_heads

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say
from .usual import plain_forward


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--length", type=int, default=4096)
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    probes = hp.build("grid", loaded.tokenizer, lengths=options.length, depths=[0.5], needles=1)
    say(one_line(found))
    plain_forward(loaded.model, probes[0].input_ids)  # warm up
    ours, plain = [], []
    for _ in range(options.repeats):
        plain.append(plain_forward(loaded.model, probes[0].input_ids))
        began = perf_counter()
        score_heads(loaded, probes)
        ours.append(perf_counter() - began)
        say(f"  plain forward {plain[-1]:6.2f} s   isolated probe {ours[-1]:6.2f} s   ratio {ours[-1] / plain[-1]:.3f}")
    ratio = statistics.median(x / y for x, y in zip(ours, plain, strict=True))
    say(f"one {options.length}-token probe costs {ratio:.3f} x the plain forward")
    results = {"model": loaded.model_id, "length": options.length, "ours": ours, "plain": plain, "ratio": ratio}
    say(write_results("isolated", results, found).name)


if __name__ == "__main__":
    main()
