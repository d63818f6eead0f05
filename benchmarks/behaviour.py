"""What `make behaviour-demo` found: scores before and after the light fine-tune, task by task, with the seeds' spread.

The demo's file is read, nothing is run: `make behaviour-demo`, then `python -m benchmarks.behaviour demo/behaviour.h5`.

Goals: multikey exact match +.4 or more; at least 4 of the 6 tasks better, by every seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from headscope import SftProbe
from headscope.interp.report import sft_notes, sft_table

from .machine import machine, one_line, write_results
from .smollm2 import say


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("file", type=Path, help="the demo's results file")
    found, probe = machine(), SftProbe.load(arguments.parse_args().file)
    say(one_line(found))
    Console(highlight=False).print(sft_table(probe))
    told = results(probe)
    for line in (*sft_notes(probe), *(f"{goal}: {met}" for goal, met in told["goals"].items())):
        say(line)
    say(write_results("behaviour", told, found).name)


def results(probe: SftProbe) -> dict[str, Any]:
    """By task the means of score, exact match and NLL before, and by each seed after; what it took, and the goals."""
    tasks = {}
    for measure in ("score", "exact_match", "nll"):
        for row in probe.by_task(measure).to_dict("records"):
            of = tasks.setdefault(row["task"], {"length": row["length"], "n": row["n"]})
            of[measure] = {"before": row["before"], "seeds": list(row["seeds"]), "stderr_of_change": row["stderr"]}
    gain = np.mean(tasks["niah_multikey_2"]["exact_match"]["seeds"]) - tasks["niah_multikey_2"]["exact_match"]["before"]
    better = sum(min(of["score"]["seeds"]) > of["score"]["before"] for of in tasks.values())
    return {
        "recipe": probe.recipe_hash,
        "made_with": {name: probe.provenance.get(name) for name in ("git_commit", "cpu", "torch", "threads", "dtype")},
        "tasks": tasks,
        "loss": [[round(float(value), 4) for value in curve] for curve in probe.loss],
        "cost": {name: [float(value) for value in values] for name, values in probe.cost.items()},
        "goals": {"multikey exact match +.4": bool(gain >= 0.4), "4 of 6 tasks better": bool(better >= 4)},
    }


if __name__ == "__main__":
    main()
