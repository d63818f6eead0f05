"""What does a GPU wait for? The work of the host for 308 probes at 256K tokens: 7 lengths x 11 depths x 4 needles.

    python -m benchmarks.host

CPU seconds of one thread, no model: plan and checks, hash of the set, chance levels, the layout of the suffixes, scores
of made-up evidence of 32 layers x 32 heads, and what provenance says of the machine. Best of the repeats.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from time import process_time
from typing import Any

import numpy as np

from headscope.interp.engine import check_probes
from headscope.interp.engine.suffixes import lay_out
from headscope.interp.environment import for_files
from headscope.interp.estimators import chance, choose, score_probe
from headscope.interp.evidence import STANDARD, ProbeEvidence
from headscope.probes import Probe, ProbeSet

from .machine import machine, one_line, write_results
from .smollm2 import say

LENGTHS, DEPTHS, NEEDLES = 7, 11, 4


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--length", type=int, default=1 << 18)
    arguments.add_argument("--repeats", type=int, default=3)
    options = arguments.parse_args()
    found = machine()
    say(one_line(found))
    probes = _probes(options.length)
    say(f"{len(probes)} probes of up to {options.length} tokens, CPU seconds")
    estimators = choose(None)
    evidence = [_evidence(probe) for probe in probes]
    planned = check_probes(probes, "grafted")

    def lay_out_all() -> None:
        for prefix in planned.prefixes:
            lay_out(prefix.suffixes, [probes[suffix.probe] for suffix in prefix.suffixes], STANDARD)

    work: dict[str, Callable[[], Any]] = {
        "check and plan, grafted": lambda: check_probes(probes, "grafted"),
        "check and plan, exact": lambda: check_probes(probes, "exact"),
        "lay out the suffixes": lay_out_all,
        "hash of the set": lambda: ProbeSet(probes.probes).hash,
        "the same hash again": lambda: probes.hash,
        "chance levels": lambda: [chance(probe) for probe in probes],
        "scores": lambda: [score_probe(probe, each, estimators) for probe, each in zip(probes, evidence, strict=True)],
        "describe the machine": for_files,
    }
    _ = probes.hash
    rows = {name: min(_seconds(step) for _ in range(options.repeats)) for name, step in work.items()}
    for name, seconds in rows.items():
        say(f"  {name:26} {seconds:8.3f}   {seconds / len(probes) * 1e3:6.2f} ms a probe")
    once = sum(seconds for name, seconds in rows.items() if "exact" not in name)
    say(f"  a grafted run              {once:8.3f}")
    say(write_results("host", {"length": options.length, "n_probes": len(probes), "rows": rows}, found).name)


def _seconds(step: Callable[[], Any]) -> float:
    began = process_time()
    step()
    return process_time() - began


def _probes(longest: int) -> ProbeSet:
    """A grid of random ids."""
    haystack = np.random.default_rng(0).integers(3, 50000, longest)
    probes = []
    for length in np.linspace(longest / 8, longest, LENGTHS).astype(int):
        for depth in np.linspace(0, 1, DEPTHS):
            for n in range(NEEDLES):
                rng = np.random.default_rng(n)
                needle, question = rng.integers(3, 50000, 20 + n % 2), rng.integers(3, 50000, 30)
                held = length - len(needle) - len(question) - 8
                at = round(depth * held)
                context = np.concatenate([haystack[:at], needle, haystack[at:held]])
                probe = Probe.from_ids(
                    np.concatenate([context, question, needle[-8:]]),
                    prompt_len=len(context) + len(question),
                    needles=[(at + 1, at + len(needle))],
                    question_start=len(context),
                    id=f"{length}-{depth:.1f}-{n}",
                )
                probes.append(replace(probe, graft=(at, at + len(needle)), haystack_id="random"))
    return ProbeSet(probes, name="random grid")


def _evidence(probe: Probe) -> ProbeEvidence:
    """A third of the top keys in the needle."""
    rng = np.random.default_rng(0)
    shape = (32, 32, probe.n_answer)
    ((start, end),) = probe.needle_spans
    inside = rng.random(shape) < 1 / 3
    key = np.where(inside, rng.integers(start, end, shape), rng.integers(0, probe.prompt_len, shape)).astype(np.int32)
    mass = {name: rng.random(shape, np.float32) for name in STANDARD}
    visible, logprob = np.ones(shape[:2], bool), -rng.random(probe.n_answer, np.float32)
    return ProbeEvidence(key, rng.random(shape, np.float32), mass, visible, logprob, logprob > -0.5)


if __name__ == "__main__":
    main()
