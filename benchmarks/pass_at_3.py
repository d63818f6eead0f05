"""Is pass@3, worked out from the right answer's probability, what 200 drawn answers say?

    python -m benchmarks.pass_at_3 [MODEL] [--samples 200] [--prompts 12]

Numbers, UUIDs, facts and sentences in contexts of 512 tokens. Of all prompts those are taken whose answer is neither
sure nor hopeless, from the least to the most likely; that is told by the teacher-forced pass, before anything is drawn.
An answer is right where it is the gold to the letter. The standard error is that of the unbiased estimate from so many
answers, if each is right with the probability that the pass says; of prompts that agree, one in twenty is more than two
of them away. The command fails where the mean over all is, or where all together are too far (chi-squared, p < .01).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import binom, chi2

from headscope import evaluate
from headscope import probes as hp
from headscope.interp.tasks import pass_at_k
from headscope.probes import Probe, ProbeSet

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

LENGTH, K = 512, 3
KINDS, NEEDLES = ("number", "uuid", "sentence"), 5
SURE = 0.98  # and what is below 1 - SURE is hopeless


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--samples", type=int, default=200)
    arguments.add_argument("--prompts", type=int, default=12)
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    asked = pool(loaded.tokenizer)
    likely = evaluate(loaded, asked, sharing="exact").analytic_pass_at(K)
    open_ones = [i for i in np.argsort(likely) if 1 - SURE < likely[i] < SURE]
    every = np.linspace(0, len(open_ones) - 1, min(options.prompts, len(open_ones))).round().astype(int)
    chosen = ProbeSet(tuple(asked[open_ones[i]] for i in every))
    say(f"{len(asked)} prompts, {len(open_ones)} neither sure nor hopeless, {len(chosen)} taken")
    answers = evaluate(loaded, chosen, sharing="exact", samples=options.samples)
    rows = [
        row(probe, float(p), [str(text).strip() == probe.answer_text for text in texts])
        for probe, p, texts in zip(chosen, answers.analytic_pass_at(1), answers.sample_text, strict=True)
    ]
    for each in rows:
        say("  ".join(f"{name} {value}" for name, value in each.items()))
    z = np.array([each["z"] for each in rows])
    told = {
        "within_2": int((abs(z) <= 2).sum()),
        "chi_squared_p": float(chi2.sf((z**2).sum(), len(z))),
        "mean_analytic": float(np.mean([each["analytic"] for each in rows])),
        "mean_drawn": float(np.mean([each["drawn"] for each in rows])),
        "mean_stderr": float(np.sqrt(np.sum([each["stderr"] ** 2 for each in rows])) / len(rows)),
    }
    far = abs(told["mean_drawn"] - told["mean_analytic"]) / told["mean_stderr"]
    say(
        f"pass@{K}: {told['mean_analytic']:.4f} analytic, {told['mean_drawn']:.4f} drawn, {far:.2f} standard errors "
        f"apart; {told['within_2']} of {len(rows)} prompts within two, all together p {told['chi_squared_p']:.2f}"
    )
    results = {"model": loaded.model_id, "fingerprint": loaded.fingerprint, "samples": options.samples}
    say(write_results("pass-at-3", {**results, **told, "rows": rows}, found).name)
    sys.exit(bool(far > 2 or told["chi_squared_p"] < 0.01))


def pool(tokenizer: Any) -> ProbeSet:
    """Prompts whose only right answer is a text, word for word; those of a kind ask about one context."""
    nested = [
        hp.build("grid_nested", tokenizer, kind=kind, lengths=[LENGTH], depths=NEEDLES, needles=1) for kind in KINDS
    ]
    facts = hp.build("longbio", tokenizer, tasks=["standard", "paraphrase", "pronoun"], lengths=[LENGTH], items=4)
    return ProbeSet(tuple(replace(probe, task=None) for each in (*nested, facts) for probe in each))


def row(probe: Probe, p: float, right: list[bool]) -> dict[str, Any]:
    """What the pass says, what was drawn, and how many standard errors lie between."""
    n, hits = len(right), sum(right)
    analytic, drawn = 1 - (1 - p) ** K, pass_at_k(n, hits, K)
    counts = np.arange(n + 1)
    every, weight = np.array([pass_at_k(n, int(c), K) for c in counts]), binom.pmf(counts, n, p)
    stderr = float(np.sqrt(weight @ (every - weight @ every) ** 2))
    figures = {"p": p, "right": hits / n, "analytic": analytic, "drawn": drawn, "stderr": stderr}
    rounded = {name: round(value, 4) for name, value in figures.items()}
    return {"id": probe.id, "tokens": probe.n_answer, **rounded, "z": round((drawn - analytic) / stderr, 2)}


if __name__ == "__main__":
    main()
