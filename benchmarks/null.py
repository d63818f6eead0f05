"""Heads above a null of their own (`HeadScores.null_p`): how often none is one, and whether those are found that copy.

    python -m benchmarks.null [--runs 40]

Made-up heads, 300 a run, look at copyable tokens of the needle in a share of their rows, at a random one each time or
always at the same one, alike for all probes of a needle, whatever token comes next. Stated is that at most 5 % of runs
name any of them (false discovery rate, all nulls true). Then 30 of them copy in a share of their rows, and are to be
found. Last, models with random weights, of which none has a head that retrieves; each run has other weights.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from headscope.interp.estimators import ESTIMATORS
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.levels import above_null, null_p
from headscope.interp.scoring import score_heads
from headscope.probes import Probe

from .machine import machine, one_line, write_results
from .smollm2 import say

HEADS, COPYING = 300, 30
NAMES = ("retrieval", "dealt_mean", "dealt_sd")
# needles, probes each, tokens of the answer, share of rows that look at the needle
SETTINGS = ((2, 5, 30, 0.05), (4, 5, 20, 0.2), (4, 5, 20, 1.0), (12, 3, 8, 0.5), (12, 1, 7, 1.0), (8, 4, 36, 0.3))
COPIES = 0.2  # share of rows in which those copy that do


def p_of_made_up_heads(
    rng: np.random.Generator,
    setting: tuple[int, int, int, float],
    *,
    fixed: bool = False,
    copying: int = 0,
    heads: int = HEADS,
) -> np.ndarray:
    """float64 [heads]: `null_p` of heads that look at the needle whatever comes next, but for the first ones."""
    needles, each, n, rate = setting
    found: dict[str, list[np.ndarray]] = {name: [] for name in NAMES}
    for needle in range(needles):
        place = rng.integers(0, n, (heads, 1 if fixed else n))
        look, copy = rng.random((heads, n)) < rate, rng.random((heads, n)) < COPIES
        copy[copying:] = False
        probe = _probe(rng, n, needle)
        key = np.where(copy, np.arange(n), np.where(look, place, -1)) + probe.needle_spans[0][0]
        evidence = ProbeEvidence(
            argmax_key=key[None].astype(np.int32),
            p_max=np.ones((1, heads, n), np.float32),
            mass={},
            visible=np.ones((1, heads), bool),
            logprob=np.zeros(n, np.float32),
            correct=np.ones(n, bool),
        )
        for name in NAMES:  # the same in all probes of the needle: the hardest case of what is stated
            found[name] += [ESTIMATORS[name](probe, evidence)] * each
    scores, mean, sd = (np.array(found[name]) for name in NAMES)
    return null_p(scores, mean, sd, np.repeat(np.arange(needles).astype(str), each))[0]


def _probe(rng: np.random.Generator, n: int, needle: int) -> Probe:
    """An answer that is the needle, n random tokens of 200; some of them repeat."""
    ids = rng.integers(0, 200, n)
    whole = np.concatenate([[1, 2], ids, [3, 4], ids])
    return Probe.from_ids(whole, prompt_len=n + 4, needles=[(2, 2 + n)], needle_id=f"needle-{needle}")


def random_model(seed: int) -> list[tuple[int, int]]:
    """Heads above their null of a Llama with random weights, on random probes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=256, num_key_value_heads=4, max_position_embeddings=512, **sizes))
    rng, probes = np.random.default_rng(seed), []
    for needle in range(6):
        ids, hay, asked = (rng.integers(5, 256, size) for size in (16, 120, 6))
        for at in (20, 70, 110):
            whole = np.concatenate([hay[:at], ids, hay[at:], asked, ids])
            named = {"id": f"{needle}-{at}", "needle_id": f"needle-{needle}"}
            probes.append(Probe.from_ids(whole, prompt_len=len(whole) - 16, needles=[(at, at + 16)], **named))
    return score_heads(model, probes, estimators=[*NAMES]).heads_above_null()


def measure(runs: int) -> dict[str, Any]:
    """Runs that name a head although none copies, and the share of copying heads that is found."""
    rng, rows = np.random.default_rng(0), []
    for setting in SETTINGS:
        row: dict[str, Any] = dict(zip(("needles", "each", "answer", "looks"), setting, strict=True))
        for fixed in (False, True):
            p = [p_of_made_up_heads(rng, setting, fixed=fixed) for _ in range(runs)]
            name = "one place" if fixed else "any place"
            row[f"runs that name a head, {name}"] = sum(bool(above_null(each, 0.05).any()) for each in p)
            row[f"p <= .01, {name}"] = float((np.array(p) <= 0.01).mean())
        named = [above_null(p_of_made_up_heads(rng, setting, copying=COPYING), 0.05) for _ in range(runs)]
        row["copying heads found"] = float(np.mean([each[:COPYING].mean() for each in named]))
        row["false among named"] = float(np.mean([each[COPYING:].sum() / max(each.sum(), 1) for each in named]))
        rows.append(row)
        say("  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    models = sum(bool(random_model(seed)) for seed in range(runs))
    say(f"random models that have a head above its null: {models} of {runs}")
    return {"runs": runs, "heads": HEADS, "settings": rows, "random_models_named": models}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    found, about = measure(parser.parse_args().runs), machine()
    say(f"{one_line(about)}\n{write_results('null', found, about)}")


if __name__ == "__main__":
    main()
