"""All of RULER on one model, heads scored and questions answered: what it costs, and whether the two levels agree.

    python -m benchmarks.ruler [MODEL] [--length 1024] [--items 8]

The goal is 13 tasks x 8 items at 1K on SmolLM2-135M within six minutes on two quiet cores. In every item the greedy
answer begins with the right one exactly where the teacher-forced pass has every token of it as the most probable.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from headscope import evaluate
from headscope import probes as hp

from .machine import machine, one_line, write_results
from .real_models import begins
from .smollm2 import load, parser, say


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--length", type=int, default=1024)
    arguments.add_argument("--items", type=int, default=8)
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    began, computed = time.monotonic(), time.process_time()
    probes = hp.build("ruler", loaded.tokenizer, lengths=[options.length], items=options.items)
    built = time.monotonic() - began
    answers = evaluate(loaded, probes)
    seconds, cpu = time.monotonic() - began, time.process_time() - computed
    said = np.array([begins(probe, text) for probe, text in zip(probes, answers.text, strict=True)])
    agree = int((said == answers.exact_match).sum())
    columns = ["task", "score", "stderr", "n", "exact_match", "cut"]
    rows = answers.by_task()[columns].round(3).to_dict("records")
    for row in rows:
        say("  ".join(f"{name} {value}" for name, value in row.items()))
    say(f"{len(probes)} items in {seconds:.0f} s ({built:.0f} s of them building), {cpu:.0f} CPU s; agree {agree}")
    results = {"items": len(probes), "tokens": int(sum(probe.length for probe in probes)), "seconds": round(seconds, 1)}
    results |= {"building_s": round(built, 1), "cpu_s": round(cpu, 1), "agree": agree, "tasks": rows}
    say(write_results("ruler", results, found).name)
    sys.exit(agree < len(probes))


if __name__ == "__main__":
    main()
