"""What heads score that look at random needle positions, and how often one of them is counted as a retrieval head.

    python -m benchmarks.chance [--models 2000]

For every family of needles, tokenised for SmolLM2, heads are simulated that draw their top key anew at every answer
row, uniformly over the copyable tokens. Their mean and standard deviation stand beside the closed form of
interp/estimators/chance.py. Then they are gathered into made-up models of 32 and of 270 heads, which are asked 1 to 48
needles, three probes each. A model is wrong when any of its heads is above the level of interp/levels.py; stated is 1 %
at most. "by row": a head draws for every probe; "by needle": it draws once, for all probes of the needle, the hardest
case of what is stated. Beside it, the share of these models with a head above .1: the paper's plain count.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from headscope import probes
from headscope.interp.estimators.chance import chance
from headscope.interp.levels import FALSE_COUNT, counting_level
from headscope.interp.results import RETRIEVAL_THRESHOLD
from headscope.probes import Probe

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

NEEDLES = (1, 2, 4, 12, 48)
HEADS = (32, 270)
EACH = 3  # probes of one needle
FAMILIES: dict[str, dict[str, Any]] = {
    "sentence": {"kind": "sentence"},
    "number": {"kind": "number"},
    "number, sentence": {"kind": "number", "answer": "sentence"},
    "uuid": {"kind": "uuid"},
    "uuid, sentence": {"kind": "uuid", "answer": "sentence"},
    "biography": {"kind": "biography"},
}


def needles_of(tokenizer: Any) -> dict[str, list[Probe]]:
    """Family -> a probe of each of its needles, at most 48; length, depth and haystack do not matter here."""
    asked: dict[str, Any] = {"lengths": 256, "depths": [0.5], "haystack": "noise"}
    found = {
        name: list(probes.build("grid", tokenizer, needles=30 if name == "sentence" else 48, **asked, **options))
        for name, options in FAMILIES.items()
    }
    induction = probes.build("heads", tokenizer, needles=30, **asked).subset(lambda probe: probe.family == "induction")
    return found | {"induction": list(induction)}


def simulated(rng: np.random.Generator, probe: Probe, heads: int) -> np.ndarray:
    """float32 [heads]: the retrieval score of each, its top key drawn at every answer row."""
    ids = probe.input_ids[probe.needle_mask]
    copyable = ids[np.isin(ids, probe.answer_ids)]
    hit = np.zeros((heads, len(copyable)), bool)
    for gold in probe.answer_ids:
        key = rng.integers(0, len(copyable), heads)
        right = np.flatnonzero(copyable[key] == gold)
        hit[right, key[right]] = True
    return hit.mean(axis=1).astype(np.float32)


def family(rng: np.random.Generator, name: str, needles: list[Probe], models: int) -> dict[str, Any]:
    """One row of the table, printed: chance as computed and simulated, and false counts by number of needles."""
    count = models * max(HEADS)
    scores = np.stack([simulated(rng, probe, count) for probe in needles])  # [needle, head]
    told = np.array([chance(probe) for probe in needles])
    mean, spread = scores.mean(axis=1, dtype=np.float64), scores.std(axis=1, dtype=np.float64)
    row: dict[str, Any] = {
        "family": name,
        "chance": float(told[:, 0].mean()),
        "simulated": float(mean.mean()),
        "largest_error_of_mean": float(np.abs(mean / told[:, 0] - 1).max()),
        "largest_error_of_sd": float(np.abs(spread / told[:, 1] - 1).max()),
        "counts": [],
    }
    errors = f"needle by needle within {row['largest_error_of_mean']:.2%}, sd {row['largest_error_of_sd']:.2%}"
    say(f"{name}: chance {row['chance']:.4f}, simulated {row['simulated']:.4f}; {errors}")
    for n in NEEDLES:
        if n > len(needles):
            continue
        columns = {"needle_id": np.repeat(np.arange(n), EACH)}
        columns |= {"chance": np.repeat(told[:n, 0], EACH), "chance_sd": np.repeat(told[:n, 1], EACH)}
        # the draws of other heads are as good as fresh ones
        drawn = [scores[:n, rng.permutation(count)].mean(axis=0) for _ in range(EACH)]
        means = {"by needle": scores[:n].mean(axis=0), "by row": np.mean(drawn, axis=0)}
        for heads in HEADS:
            seen = np.ones((n * EACH, 1, heads), bool)
            level = float(counting_level(seen, columns, RETRIEVAL_THRESHOLD).max())
            whole = count // heads * heads
            best = {how: values[:whole].reshape(-1, heads).max(axis=1) for how, values in means.items()}
            found = {
                "needles": n,
                "heads": heads,
                "level": level,
                "models": count // heads,
                "false": {how: float((values > level).mean()) for how, values in best.items()},
                "false_plain": {how: float((values > RETRIEVAL_THRESHOLD).mean()) for how, values in best.items()},
            }
            row["counts"].append(found)
            rates = "  ".join(f"{how} {rate:.2%}" for how, rate in found["false"].items())
            plain = found["false_plain"]["by needle"]
            say(f"  {n:2} needles, {heads:3} heads: level {level:.3f}  false counts {rates}  (plain count {plain:.0%})")
    return row


def main() -> None:
    arguments = parser(__doc__)
    arguments.formatter_class = argparse.RawDescriptionHelpFormatter
    arguments.add_argument("--models", type=int, default=2000, help="made-up models of 270 heads")
    options = arguments.parse_args()
    found = machine()
    say(one_line(found))
    say(f"false counts: share of models with one or more heads above the level; stated: at most {FALSE_COUNT:.0%}")
    rng = np.random.default_rng(0)
    needles = needles_of(load(options.model).tokenizer)
    rows = [family(rng, name, probes, options.models) for name, probes in needles.items()]
    say(write_results("chance", {"models": options.models, "false_count": FALSE_COUNT, "families": rows}, found).name)


if __name__ == "__main__":
    main()
