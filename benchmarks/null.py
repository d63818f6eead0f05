"""Heads above a null of their own (`HeadScores.null_p`): how often none is one, and whether those are found that copy.

    python -m benchmarks.null [--runs 40]

Made-up heads, 300 a run, look at copyable tokens of the needle in a share of their rows, at a random one each time or
always at the same one, alike for all probes of a needle, whatever token comes next. Stated is that at most 5 % of runs
name any of them (false discovery rate, all nulls true). Then 30 of them copy in a share of their rows, and are to be
found. Then models with random weights, of which none has a head that retrieves; each run has other weights. Last, what
the p-values rest on: for heads of random models any order of the answer's tokens is as likely as the true one. The rank
of the true order's score among 128 dealt ones, ties broken at random, is uniform if that holds (Kolmogorov-Smirnov; one
head a model, of those that look at the needle). The p-values themselves are not: they are bounds, 1 for a score of 0.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np
from scipy.stats import kstest

from headscope.interp.estimators import ESTIMATORS
from headscope.interp.estimators.chance import copyable_positions
from headscope.interp.estimators.retrieval import distinct
from headscope.interp.evidence import ProbeEvidence, copies
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
    return score_heads(*random_run(seed), estimators=[*NAMES]).heads_above_null()


def random_run(seed: int) -> tuple[Any, list[Probe]]:
    """A Llama with random weights and 18 probes of 6 random needles."""
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
    return model, probes


def rank_of_true_order(seed: int) -> float:
    """Where the true order of an answer's tokens stands among dealt ones, in [0, 1], by one head of a random model.

    NaN where no head of it looks at a token of the needle that any order could hit.
    """
    rng, ranks = np.random.default_rng(seed), []

    def rank(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        positions, keys, tokens = copyable_positions(probe), evidence.argmax_key, probe.answer_ids
        looks = np.argwhere(np.isin(keys, positions).any(axis=-1))
        if len(looks):
            own = keys[tuple(looks[rng.integers(len(looks))])]
            orders = [tokens, *(rng.permutation(tokens) for _ in range(128))]
            found = np.array([distinct(own, copies(probe, own, order)) for order in orders])
            ranks.append((np.sum(found > found[0]) + rng.random() * np.sum(found == found[0])) / len(found))
        return evidence.unscored()

    model, probes = random_run(seed)
    score_heads(model, probes, estimators=[rank])
    return float(rng.choice(ranks)) if ranks else math.nan


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
    ranks = np.array([rank_of_true_order(seed) for seed in range(5 * runs)])
    ranks = ranks[~np.isnan(ranks)]
    uniform = {
        "models": len(ranks),
        "p": float(kstest(ranks, "uniform").pvalue),
        "below .05": float((ranks < 0.05).mean()),
    }
    say("rank of the true order, heads of random models: " + "  ".join(f"{k} {v:.3g}" for k, v in uniform.items()))
    return {"runs": runs, "heads": HEADS, "settings": rows, "random_models_named": models, "uniform": uniform}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    found, about = measure(parser.parse_args().runs), machine()
    say(f"{one_line(about)}\n{write_results('null', found, about)}")


if __name__ == "__main__":
    main()
