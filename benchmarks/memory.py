"""How much memory does scoring take beside a plain chunked prefill of the same tokens?

    python -m benchmarks.memory --length 32768

A random two-layer model, float32, one probe. Each side runs in a process of its own and reports its peak resident
memory, and how much that rose above the loaded model. The plain side is transformers' own chunked prefill into a
DynamicCache with SDPA and one row of logits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from .machine import machine, one_line, write_results
from .smollm2 import say

CHUNK = 4096


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--length", type=int, default=32768)
    arguments.add_argument("--side", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.side:
        say(json.dumps(measure(options.side, options.length)))
        return
    found = machine()
    say(one_line(found))
    sides = {}
    for side in ("plain", "ours"):
        run = [sys.executable, "-m", "benchmarks.memory", "--length", str(options.length), "--side", side]
        sides[side] = json.loads(
            subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
        say(f"{side:>6}: peak {sides[side]['peak']:7.0f} MiB, {sides[side]['rise']:7.0f} MiB above the loaded model")
    peak = sides["ours"]["peak"] / sides["plain"]["peak"]
    rise = sides["ours"]["rise"] / sides["plain"]["rise"]
    say(f"at {options.length} tokens: peak {peak:.3f} x the plain chunked prefill; rise above the model {rise:.3f} x")
    results = {"length": options.length, "chunk": CHUNK, "sides": sides, "peak_ratio": peak, "rise_ratio": rise}
    say(write_results("memory", results, found).name)


def measure(side: str, length: int) -> dict[str, float]:
    """Peak resident memory of one side, in MiB."""
    import resource

    import numpy as np
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    from headscope.interp.scoring import score_heads
    from headscope.probes import Probe, ProbeSet

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=32000, num_hidden_layers=2, max_position_embeddings=length, **shape)
    model = LlamaForCausalLM(config).eval()
    ids = np.random.default_rng(0).integers(3, 32000, length)
    ids[-20:] = ids[100:120]
    # both sides pay for torch's own first-use buffers before the count starts
    with torch.no_grad():
        model(torch.tensor(ids[:64])[None], use_cache=False, logits_to_keep=1)
    before = peak()
    if side == "ours":
        probe = Probe.from_ids(ids, prompt_len=length - 20, needles=[(100, 120)], question_start=length - 40)
        score_heads(model, ProbeSet([probe]), chunk=CHUNK)
    else:
        cache = DynamicCache(config=config)
        with torch.no_grad():
            for start in range(0, length, CHUNK):
                tokens = torch.tensor(ids[start : start + CHUNK])[None]
                model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return {"peak": peak(), "rise": peak() - before}


if __name__ == "__main__":
    main()
