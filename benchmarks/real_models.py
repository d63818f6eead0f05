"""Is every family of probes scored and answered on real models of other architectures?

    python -m benchmarks.real_models [MODEL ...] [--length 512] [--items 2]

Default: SmolLM2-135M-Instruct. Some tasks of every family in one `evaluate`, whose file is then validated. A row a
task: the model's own answers by the task's metric, and the teacher-forced pass over the right one: whether it is the
most probable, its NLL, in how many probes that and the greedy answer agree, and the best head, with the share of heads
that could be observed. The command fails where an answer, an NLL or all heads of a copied answer are missing.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headscope import evaluate
from headscope import probes as hp
from headscope.interp.store import validate
from headscope.interp.tasks import Answers
from headscope.probes import Probe, ProbeSet

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

SUITES = {
    "ruler": ("niah_single_2", "niah_multikey_2", "vt", "qa_1_own"),
    "mrcr": ("mrcr_2",),
    "longbio": ("standard", "idk"),
    "nolit": ("literal", "onehop"),
    "i18n": ("de_number", "zh_sentence"),
}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("models", nargs="*", help="more models")
    arguments.add_argument("--length", type=int, default=512)
    arguments.add_argument("--items", type=int, default=2)
    options = arguments.parse_args()
    found = machine()
    say(one_line(found))
    wrong = 0
    for name in (options.model, *options.models):
        began, loaded = time.process_time(), load(name)
        probes = of_every_family(loaded.tokenizer, options.length, options.items)
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "run.h5"
            answers = evaluate(loaded, probes, output=output)
            told = validate(output)
        rows = list(table(probes, answers))
        config = loaded.model.config
        results = {
            "model": Path(loaded.model_id).name,
            "fingerprint": loaded.fingerprint,
            "architecture": type(loaded.model).__name__,
            "layers_heads": [config.num_hidden_layers, config.num_attention_heads],
            "alone_because": answers.provenance["alone_because"],
            "problems_of_the_file": told,
            "cpu_s": round(time.process_time() - began, 1),
            "length": options.length,
            "items": options.items,
            "rows": rows,
        }
        say(f"{results['model']}, {results['architecture']}: {len(probes)} probes, {results['cpu_s']} CPU s")
        for row in rows:
            say("  ".join(f"{key} {value}" for key, value in row.items()))
        wrong += sum(not row["whole"] for row in rows) + len(told)
        say(write_results(f"real-models-{results['model'].lower()}", results, found).name)
    sys.exit(bool(wrong))


def of_every_family(tokenizer: Any, length: int, items: int) -> ProbeSet:
    sets = [
        hp.build("grid", tokenizer, kind=kind, lengths=[length], depths=items, needles=1)
        for kind in ("sentence", "number", "uuid", "biography")
    ]
    quarter = [length // 4, length // 2]
    sets.append(hp.build("interference", tokenizer, distances=quarter, interferences=quarter, needles=1))
    for name, tasks in SUITES.items():
        sets.append(hp.build(name, tokenizer, tasks=list(tasks), lengths=[length], items=items))
    return ProbeSet(tuple(probe for each in sets for probe in each), "every family")


def table(probes: ProbeSet, answers: Answers) -> Iterator[dict[str, Any]]:
    scores = answers.scores
    assert scores is not None
    keys = [(probe.family, probe.variant) for probe in probes]
    for key in dict.fromkeys(keys):
        at = np.array([i for i, other in enumerate(keys) if other == key])
        heads = scores.per_probe["retrieval"][at]
        observed = np.isfinite(heads).any(axis=0)
        best = ""
        if observed.any():
            mean = np.nanmean(heads, axis=0, where=np.isfinite(heads))
            layer, head = np.unravel_index(np.nanargmax(mean), mean.shape)
            best = f"L{layer}H{head} {mean[layer, head]:.2f}"
        forced = answers.exact_match[at]
        said = np.array([begins(probes[i], answers.text[i]) for i in at])
        yield {
            "family": key[0],
            "task": key[1],
            "n": len(at),
            "score": round(float(answers.score[at].mean()), 3),
            "forced": round(float(forced.mean()), 3),
            "agree": int((forced == said).sum()),
            "nll": round(float(answers.nll[at].mean()), 3),
            "best": best,
            "observed": round(float(observed.mean()), 3),
            "whole": bool(
                np.isfinite(answers.score[at]).all()
                and np.isfinite(answers.nll[at]).all()
                and observed.any() == any(probes[i].copyable for i in at)
            ),
        }


def begins(probe: Probe, said: str) -> bool:
    """The greedy answer begins with the right one, to the letter."""
    return said.strip().startswith(probe.answer_text.strip())


if __name__ == "__main__":
    main()
