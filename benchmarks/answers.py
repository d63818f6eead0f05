"""Answers decoded beside shared prefixes, held against transformers' `generate`, one prompt at a time.

    python -m benchmarks.answers [MODEL]
    python -m benchmarks.answers [MODEL] --every 4

Grids of number needles at 1K and 4K, a task each: up to 24 tokens, to the end of the line. Ours: all prompts, greedily,
with every probe's own context prefilled as far as it is not another's ("exact") and with the haystack prefilled once
("grafted", an approximation). Theirs: every k-th prompt of each length, the same stop. Costs are CPU seconds a prompt,
lengths weighed as in the whole set, so that a machine in use gives the same ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from headscope import probes as hp
from headscope.interp.engine import Decoded, decode, longest_answered, plan
from headscope.interp.engine.engine import Engine
from headscope.interp.model import adapt
from headscope.probes import Codec, Probe, Task

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

LENGTHS = (1024, 4096)
BUDGET, STOP = 24, "\n"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--depths", type=int, default=8)
    arguments.add_argument("--needles", type=int, default=4)
    arguments.add_argument("--every", type=int, default=8, help="of these prompts transformers answers each k-th")
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    grid = hp.build(
        *("grid", loaded.tokenizer), lengths=LENGTHS, depths=options.depths, needles=options.needles, kind="number"
    )
    probes = [replace(p, task=Task("string_match_all", (p.value or p.answer_text,), BUDGET, (STOP,))) for p in grid]
    codec, adapted = Codec(loaded.tokenizer), adapt(loaded.model)
    ours: dict[str, dict[int, Decoded]] = {}
    costs: dict[str, dict[str, float]] = {}
    with adapted.routed(longest_answered(adapted.context, probes, codec)):
        for sharing in ("exact", "grafted"):
            began, began_cpu = perf_counter(), process_time()
            engine = Engine(adapted, probes)
            ours[sharing] = {i: each[0] for i, each in decode(engine, plan(probes, sharing), codec=codec)}
            costs[sharing] = {"s": perf_counter() - began, "cpu_s": process_time() - began_cpu}
            say(f"{sharing:8} {len(probes)} prompts: {costs[sharing]['cpu_s']:.1f} CPU s, {costs[sharing]['s']:.1f} s")
    chosen = [i for length in LENGTHS for i in _of_length(probes, length)[:: options.every]]
    theirs, cpu = {}, {}
    for i in chosen:
        began_cpu = process_time()
        theirs[i] = generate(loaded.model, loaded.tokenizer, probes[i])
        cpu[i] = process_time() - began_cpu
        say(f"  generate at {probes[i].length}: {cpu[i]:.1f} CPU s  {_text(codec, theirs[i])!r}")
    all_of_theirs = sum(
        len(_of_length(probes, length)) * statistics.mean(cpu[i] for i in chosen if probes[i].length == length)
        for length in LENGTHS
    )
    results: dict[str, Any] = {"model": loaded.model_id, "fingerprint": loaded.fingerprint, "lengths": list(LENGTHS)}
    results |= {"prompts": len(probes), "compared": len(chosen), "generate_cpu_s": all_of_theirs, "sharing": {}}
    for sharing, answers in ours.items():
        right = np.mean([p.value in answers[i].text for i, p in enumerate(probes)])
        equal = [_equal(codec, probes[i], answers[i], theirs[i]) for i in chosen]
        ratio = costs[sharing]["cpu_s"] / all_of_theirs
        results["sharing"][sharing] = {
            **costs[sharing],
            "equal": sum(equal),
            "cost_of_generate": ratio,
            "right": float(right),
            "tokens": float(np.mean([len(answer.ids) for answer in answers.values()])),
        }
        say(
            f"{sharing:8} equal token for token {sum(equal)} of {len(chosen)}; right {right:.0%} of {len(probes)}; "
            f"cost {ratio:.3f} of generate's (1 / {1 / ratio:.1f})"
        )
    same = np.mean([ours["exact"][i].ids.tolist() == ours["grafted"][i].ids.tolist() for i in range(len(probes))])
    say(f"grafted = exact, token for token: {same:.1%} of {len(probes)}")
    results["grafted_as_exact"] = float(same)
    say(write_results("answers", results, found).name)


def generate(model: Any, tokenizer: Any, probe: Probe) -> list[int]:
    """transformers' greedy answer, to the same end."""
    prompt = torch.from_numpy(probe.input_ids[: probe.prompt_len].astype(np.int64))[None].to(model.device)
    with torch.no_grad():
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=BUDGET,
            stop_strings=[STOP],
            tokenizer=tokenizer,
            pad_token_id=0,
        )
    return [int(token) for token in out[0, prompt.shape[1] :]]


def _equal(codec: Codec, probe: Probe, ours: Decoded, theirs: Sequence[int]) -> bool:
    """The same tokens, and after them nothing but an end: theirs keep the token that ended the answer."""
    n = len(ours.ids)
    rest = len(theirs) - n == (0 if ours.end == "length" else 1)
    return ours.ids.tolist() == list(theirs[:n]) and rest


def _text(codec: Codec, ids: Sequence[int]) -> str:
    return codec.decode(list(ids))


def _of_length(probes: Sequence[Probe], length: int) -> list[int]:
    return [i for i, probe in enumerate(probes) if probe.length == length]


if __name__ == "__main__":
    main()
