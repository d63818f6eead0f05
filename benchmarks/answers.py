"""Answers decoded beside shared prefixes, held against transformers' `generate`, one prompt at a time.

    python -m benchmarks.answers [MODEL]
    python -m benchmarks.answers [MODEL] --only niah_single_1 --every 1

Number needles at 1K and 4K, 32 prompts a length, asked in two ways; an answer has up to 24 tokens, to its line end.

questions: 32 needles in one context, a question about each. Sharing is exact: answers are to be those of `generate`.
grid: a needle a context, 8 depths x 4 needles, one prefill of the haystack for all ("grafted"), an approximation.
niah_single_1: RULER's task, 64 items at 1K and 8 at 4K, each with a context of its own (exact); only where asked for.

Where sharing is exact, the greedy answer is to begin with the right one wherever the teacher-forced pass says so.

Ours answers all prompts, transformers every k-th of each length. Costs are CPU seconds, of `generate` counted for all
prompts of a length, so that a machine in use gives the same ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch

from headscope import probes as hp
from headscope import score_heads
from headscope.interp.engine import Decoded, decode, longest_answered, plan
from headscope.interp.engine.engine import Engine
from headscope.interp.model import adapt
from headscope.probes import Codec, Probe, Task
from headscope.probes.haystack import standard_library

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

LENGTHS, DEPTHS, NEEDLES = (1024, 4096), 8, 4
ITEMS = {1024: 64, 4096: 8}  # of niah_single_1
BUDGET, STOP = 24, "\n"
SETS = ("questions", "grid")
SIZES, THINGS = (
    ("small", "large", "old", "new"),
    ("river", "garden", "window", "forest", "harbor", "castle", "market", "bridge"),
)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--every", type=int, default=8, help="of these prompts transformers answers each k-th")
    arguments.add_argument("--only", choices=[*SETS, "niah_single_1"], help="one of the sets; default: the first two")
    arguments.add_argument("--items", type=int, help="of niah_single_1, at most so many of each length")
    options = arguments.parse_args()
    found, loaded = machine(), load(options.model)
    say(one_line(found))
    results: dict[str, Any] = {"model": loaded.model_id, "fingerprint": loaded.fingerprint, "lengths": list(LENGTHS)}
    for name in [options.only] if options.only else SETS:
        sharing, probes = chosen(name, loaded.tokenizer, options.items)
        results[name] = compare(loaded, name, sharing, [_asking(probe) for probe in probes], options.every)
    say(write_results("answers" + (f"-{options.only}" if options.only else ""), results, found).name)


def chosen(name: str, tokenizer: Any, items: int | None) -> tuple[str, list[Probe]]:
    """How prefills are shared, and the prompts."""
    if name == "grid":
        return "grafted", [*hp.build("grid", tokenizer, lengths=LENGTHS, depths=DEPTHS, needles=NEEDLES, kind="number")]
    if name == "questions":
        return "exact", [probe for length in LENGTHS for probe in questions(tokenizer, length)]
    return "exact", [
        probe
        for length, n in ITEMS.items()
        for probe in hp.build("ruler", tokenizer, tasks=["niah_single_1"], lengths=[length], items=min(n, items or n))
    ]


def compare(loaded: Any, name: str, sharing: str, probes: Sequence[Probe], every: int) -> dict[str, Any]:
    """Answer all of the probes, let transformers answer some, and say how both compare."""
    codec, adapted = Codec(loaded.tokenizer), adapt(loaded.model)
    began, began_cpu = perf_counter(), process_time()
    with adapted.routed(longest_answered(adapted.context, probes, codec)):
        ours = {i: each[0] for i, each in decode(Engine(adapted, probes), plan(probes, sharing), codec=codec)}
    seconds, cpu = perf_counter() - began, process_time() - began_cpu
    say(f"{name} ({sharing}): {len(probes)} prompts, {cpu:.1f} CPU s, {seconds:.1f} s")
    equal, all_of_theirs = [], 0.0
    for length in LENGTHS:
        near = [i for i, probe in enumerate(probes) if abs(probe.length - length) < length // 4]
        spent = []
        for i in near[::every]:
            began_cpu = process_time()
            theirs = generate(loaded.model, loaded.tokenizer, probes[i])
            spent.append(process_time() - began_cpu)
            equal.append(_equal(ours[i], theirs))
            say(f"  generate, {probes[i].length} tokens: {spent[-1]:.1f} CPU s, {codec.decode(theirs)!r}, {equal[-1]}")
        all_of_theirs += statistics.mean(spent) * len(near)
    right = float(np.mean([probe.value in ours[i].text for i, probe in enumerate(probes)]))
    tokens = float(np.mean([len(answer.ids) for answer in ours.values()]))
    ratio = cpu / all_of_theirs
    say(
        f"{name} ({sharing}): equal token for token {sum(equal)} of {len(equal)}; right {right:.0%}, "
        f"{tokens:.1f} tokens; cost {ratio:.3f} of generate's (1 / {1 / ratio:.1f})"
    )
    forced = score_heads(loaded, probes, sharing=sharing).exact_match
    begun = [ours[i].ids[: probe.n_answer].tolist() == probe.answer_ids.tolist() for i, probe in enumerate(probes)]
    agree = int(np.sum(forced == begun))
    say(f"{name}: teacher-forced exact {np.mean(forced):.0%}; the greedy answer begins so in {agree} of {len(probes)}")
    told = {"sharing": sharing, "prompts": len(probes), "forced": float(np.mean(forced)), "agree": agree}
    told |= {"compared": len(equal), "equal": sum(equal), "cpu_s": cpu}
    return told | {"s": seconds, "generate_cpu_s": all_of_theirs, "ratio": ratio, "right": right, "tokens": tokens}


def questions(tokenizer: Any, length: int) -> list[Probe]:
    """Of one context of about `length` tokens with a needle in every 32nd of it, a question about each needle."""
    keys = [f"{size} {thing}" for size, thing in product(SIZES, THINGS)]
    rng = np.random.default_rng(length)
    values = dict(zip(keys, map(str, rng.choice(np.arange(10**6, 10**7), len(keys), replace=False)), strict=True))
    sentences = {key: f"The special magic number for the {key} is {value}." for key, value in values.items()}
    held = length - sum(len(tokenizer.encode(" " + sentence)) for sentence in sentences.values())
    text = "".join(text for _, text in zip(range(40), standard_library().documents(0), strict=False))
    ids = tokenizer.encode(text, add_special_tokens=False)[: held - 40]
    parts = [tokenizer.decode(ids[len(ids) * i // 32 : len(ids) * (i + 1) // 32]) for i in range(32)]
    context = "".join(f"{part} {sentence} " for part, sentence in zip(parts, sentences.values(), strict=True))
    return [
        replace(
            Probe.from_text(
                tokenizer,
                context=context,
                needle=sentences[key],
                question=f"What is the special magic number for the {key}?",
                answer=values[key],
                id=f"{length}-{key}",
            ),
            value=values[key],
        )
        for key in keys
    ]


def _asking(probe: Probe) -> Probe:
    return replace(probe, task=Task("string_match_all", (probe.value,), BUDGET, (STOP,)))


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


def _equal(ours: Decoded, theirs: Sequence[int]) -> bool:
    """The same tokens, and after them nothing but an end: theirs keep the token that ended the answer."""
    n = len(ours.ids)
    rest = len(theirs) - n == (0 if ours.end == "length" else 1)
    return ours.ids.tolist() == list(theirs[:n]) and rest


if __name__ == "__main__":
    main()
