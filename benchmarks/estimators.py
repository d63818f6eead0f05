"""What estimators cost: the same grid with the six that are always there, and with others beside them.

    python -m benchmarks.estimators [MODEL] [--lengths 512,1024] [--depths 5] [--needles 2] [--repeats 3]

CPU seconds of whole passes (prefill, suffixes, scores), in turn, after one pass to warm up; each repeat runs all of
them, and a ratio is that of the medians. LOCOS may cost 1.15 x.
"""

from __future__ import annotations

from statistics import median
from time import process_time
from typing import Any

import headscope as hs
from headscope.interp.estimators import DEFAULT, ESTIMATORS

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--lengths", default="512,1024")
    arguments.add_argument("--depths", type=int, default=5)
    arguments.add_argument("--needles", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    lengths = [int(length) for length in options.lengths.split(",")]
    probes = hs.probes.build("grid", loaded.tokenizer, lengths=lengths, depths=options.depths, needles=options.needles)
    added = [name for name in ESTIMATORS if name not in DEFAULT]
    cases: dict[str, list[str]] = {"the six": list(DEFAULT)}
    cases |= {name: [*DEFAULT, name] for name in added} | {"all": ["all"]}
    rows: dict[str, Any] = {}
    for sharing in ("grafted", "exact"):
        seconds: dict[str, list[float]] = {name: [] for name in cases}
        hs.score_heads(loaded, probes, sharing=sharing)
        for _ in range(options.repeats):
            for name, asked in cases.items():
                start = process_time()
                hs.score_heads(loaded, probes, sharing=sharing, estimators=asked)
                seconds[name].append(process_time() - start)
        base = median(seconds["the six"])
        rows[sharing] = {name: {"seconds": of, "ratio": median(of) / base} for name, of in seconds.items()}
        say(f"{sharing}: {len(probes)} probes, {base:.1f} CPU s with the six")
        for name, row in rows[sharing].items():
            say(f"  {name:18s} {row['ratio']:.2f} x   {' '.join(f'{s:.1f}' for s in row['seconds'])}")
    config = {"lengths": lengths, "depths": options.depths, "needles": options.needles, "model": loaded.model_id}
    say(write_results("estimators", {"config": config, "passes": rows}, found).name)


if __name__ == "__main__":
    main()
