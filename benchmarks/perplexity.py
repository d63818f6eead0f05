"""Is the loss on texts what plain forwards give, at what cost of memory, and do the intervals of its laws hold?

python -m benchmarks.perplexity exact      # SmolLM2: loss and LongPPL beside one forward a window, a context a token
python -m benchmarks.perplexity memory     # one text of 32K tokens beside a plain chunked forward of it
python -m benchmarks.perplexity laws       # how often intervals hold what is true, on simulated curves
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .machine import machine, one_line, write_results
from .smollm2 import load, parser, say

CHUNK = 4096


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=("exact", "memory", "laws"))
    options, rest = arguments.parse_known_args()
    {"exact": exact, "memory": memory, "laws": laws}[options.what](rest)


# The same numbers as plain forwards


def exact(given: list[str]) -> None:
    made = parser("Loss and LongPPL of a model beside plain forwards of it, float32.")
    made.add_argument("--length", type=int, default=1024)
    made.add_argument("--short", type=int, default=128)
    made.add_argument("--texts", type=int, default=3)
    made.add_argument("--asked", type=int, default=40, help="tokens a text whose own short context is run")
    options = made.parse_args(given)
    found = machine()
    say(one_line(found))
    loaded = load(options.model)
    from headscope.interp.perplexity import find_key_tokens, perplexity, tokenise
    from headscope.probes import haystack

    source = haystack.standard_library().documents(seed=3)
    written = [text for text in (next(source) for _ in range(60)) if len(text) > 6 * options.length]
    texts = tokenise(written[: options.texts], loaded.tokenizer, [options.length // 4, options.length])
    ours = perplexity(loaded, texts)
    keys = find_key_tokens(loaded, texts, short=options.short, beta=-2.0, alpha=2.0)
    everywhere = perplexity(loaded, texts, key_tokens=keys)

    largest, on_keys, agreed, asked = 0.0, 0.0, 0, 0
    for d, document in enumerate(texts.documents):
        window = texts.windows(document)[0]
        ids = texts.ids(document, window)
        logp = _plain(loaded.model, ids)
        by_bucket = np.searchsorted(texts.buckets, np.arange(1, len(ids)), side="right") - 1
        for b in range(len(texts.buckets)):
            if (by_bucket == b).any():
                largest = max(largest, abs(-logp[by_bucket == b].mean() - ours.nll[d, b]))
        for number, short in texts.shorter(window):
            mine = -_plain(loaded.model, texts.ids(document, short))[-texts.tail :].mean()
            largest = max(largest, abs(mine - ours.tail_nll[d, number]))
        marked = np.flatnonzero(keys.marks(document)[: window.end])
        if len(marked):
            on_keys = max(on_keys, abs(-logp[marked + len(texts.head) - 1].mean() - everywhere.key_nll[d]))
        # every token that the set calls key, and others that it does not, each with a forward of its own
        rng = np.random.default_rng(d)
        others = np.setdiff1d(np.arange(options.short + 1, window.end), marked)
        for i in [*marked[: options.asked // 2], *rng.choice(others, options.asked // 2, replace=False)]:
            long = logp[i + len(texts.head) - 1]
            context = np.concatenate([np.array(texts.head, int), document.ids[i - options.short : i + 1]])
            key = long > keys.beta and long - _plain(loaded.model, context)[-1] > keys.alpha
            agreed, asked = agreed + (key == (i in marked)), asked + 1
    say(f"{len(texts.documents)} texts, {options.length} tokens: largest difference of a mean loss {largest:.2g} nats")
    say(f"{len(keys)} key tokens; largest difference of a text's loss on them {on_keys:.2g} nats")
    say(f"key or not, by a forward of each token's own {options.short} tokens: {agreed} of {asked} alike")
    numbers = {
        "loss": float(largest),
        "key_loss": float(on_keys),
        "keys": len(keys),
        "alike": int(agreed),
        "asked": asked,
    }
    settings = {"length": options.length, "short": options.short, "model": loaded.model_id}
    say(write_results("perplexity-exact", numbers | settings, found).name)


def _plain(model: Any, ids: np.ndarray) -> np.ndarray:
    """float64 [n - 1] of every token but the first, from one eager forward."""
    import torch

    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        tokens = torch.as_tensor(ids, dtype=torch.long)
        logits = model(tokens[None], use_cache=False).logits[0, :-1].double()
    model.set_attn_implementation(before)
    logp: np.ndarray = (logits.gather(1, tokens[1:, None])[:, 0] - logits.logsumexp(-1)).numpy()
    return logp


# Memory


def memory(given: list[str]) -> None:
    made = argparse.ArgumentParser(description="Peak memory of one text beside a plain chunked forward, float32.")
    made.add_argument("--length", type=int, default=32768)
    made.add_argument("--side", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = made.parse_args(given)
    if options.side:
        say(json.dumps(_peak(options.side, options.length)))
        return
    found = machine()
    say(one_line(found))
    sides = {}
    for side in ("plain", "ours"):
        run = [sys.executable, "-m", "benchmarks.perplexity", "memory", "--length", str(options.length), "--side", side]
        told = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        sides[side] = json.loads(told.splitlines()[-1])
        say(f"{side:>6}: peak {sides[side]['peak']:7.0f} MiB, {sides[side]['rise']:7.0f} MiB above the loaded model")
    peak = sides["ours"]["peak"] / sides["plain"]["peak"]
    rise = sides["ours"]["rise"] / sides["plain"]["rise"]
    say(f"at {options.length} tokens: peak {peak:.3f} x the plain chunked forward; rise above the model {rise:.3f} x")
    results = {"length": options.length, "chunk": CHUNK, "sides": sides, "peak_ratio": peak, "rise_ratio": rise}
    say(write_results("perplexity-memory", results, found).name)


def _peak(side: str, length: int) -> dict[str, float]:
    """Peak resident memory of one side, in MiB. The plain one computes one row's logits a chunk, and no loss."""
    import resource

    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    from headscope.interp.perplexity import Texts, perplexity
    from headscope.interp.perplexity.texts import Document

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    torch.manual_seed(0)
    shape = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=32000, num_hidden_layers=2, max_position_embeddings=length, **shape)
    model = LlamaForCausalLM(config).eval()
    ids = np.random.default_rng(0).integers(3, 32000, length).astype(np.int32)
    with torch.no_grad():  # both sides pay for torch's own first-use buffers before the count starts
        model(torch.tensor(ids[:64])[None], use_cache=False, logits_to_keep=1)
    before = peak()
    if side == "ours":
        at = np.arange(length)
        document = Document("text", "random", ids, at, at + 1, "")
        perplexity(model, Texts((document,), (length,), None, np.array([1, length // 2]), (), ""), chunk=CHUNK)
    else:
        cache = DynamicCache(config=config)
        with torch.no_grad():
            for start in range(0, length, CHUNK):
                tokens = torch.tensor(ids[start : start + CHUNK])[None]
                model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return {"peak": peak(), "rise": peak() - before}


# Laws

FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log": lambda n: 4 - 0.08 * np.log(n),
    "power": lambda n: 2 + 0.5 * (n / 1e9) ** -0.4,
    "exponential": lambda n: 2 + 0.5 * np.exp(-n / 3e10),
}
A, B = -0.08, 4.0
# how documents differ in their slopes and from checkpoint to checkpoint, and how checkpoints scatter for all of them
NOISE = {"documents": (0.1, 0.0), "both": (0.1, 0.01), "checkpoints": (0.02, 0.02)}


@dataclass(frozen=True)
class Row:
    """Shares of `runs` curves. a, b: whose interval holds the true one, where the law is A log N + B. gain: likewise of
    what twice the tokens bring. right: whose best law is the true one. width: median, of the gain's interval, nats."""

    law: str
    noise: str
    checkpoints: int
    documents: int
    a: float | None
    b: float | None
    gain: float
    right: float
    width: float
    true_gain: float


def laws(given: list[str]) -> None:
    made = argparse.ArgumentParser(description="How often intervals of laws hold what is true.")
    made.add_argument("--runs", type=int, default=1000)
    made.add_argument("--draws", type=int, default=399)
    options = made.parse_args(given)
    found, rows = machine(), []
    say(one_line(found))
    say(f"{options.runs} curves a row, standard error at .95: {np.sqrt(0.05 * 0.95 / options.runs):.3f}")
    for row in _rows(options.runs, options.draws):
        rows.append(asdict(row))
        on_line = "" if row.a is None else f"A {row.a:.3f}  B {row.b:.3f}  "
        what = f"{row.law:>11} {row.noise:>11} {row.checkpoints:3d} checkpoints {row.documents:4d} texts"
        say(f"{what}: {on_line}gain {row.gain:.3f} ({row.true_gain:.4f}, {row.width:.4f} wide)  right {row.right:.2f}")
    held = np.array([[row["a"], row["b"]] for row in rows if row["a"] is not None])
    gains = np.array([row["gain"] for row in rows])
    say(f"A {held[:, 0].min():.3f} to {held[:, 0].max():.3f}, mean {held[:, 0].mean():.3f}")
    say(f"B {held[:, 1].min():.3f} to {held[:, 1].max():.3f}, mean {held[:, 1].mean():.3f}")
    say(f"gain {gains.min():.3f} to {gains.max():.3f}, mean {gains.mean():.3f}")
    results = {"runs": options.runs, "draws": options.draws, "rows": rows}
    say(write_results("perplexity-laws", results, found).name)


def _rows(runs: int, draws: int) -> Iterator[Row]:
    from headscope.interp.analysis import fit_laws

    for law in FORMS:
        for name, (own, shared) in NOISE.items():
            for n, g in ((8, 24), (12, 50), (20, 100)):
                rng = np.random.default_rng([len(law), len(name), n, g])
                held, right, widths, true = np.zeros(3), 0, [], 0.0
                for _ in range(runs):
                    of, true = _curve(rng, law, n, g, own, shared)
                    fit = fit_laws(of, draws=draws)
                    pairs = ((fit.a, A), (fit.b, B), (fit.gain, true))
                    held += [interval.low <= value <= interval.high for interval, value in pairs]
                    right += fit.laws[0].name == law
                    widths.append(fit.gain.high - fit.gain.low)
                a, b, gain = (held / runs).tolist()
                line = (a, b) if law == "log" else (None, None)
                yield Row(law, name, n, g, *line, gain, right / runs, float(np.median(widths)), true)


def _curve(rng: np.random.Generator, law: str, n: int, g: int, own: float, shared: float) -> tuple[Any, float]:
    """Losses of g documents at n checkpoints over seven doublings, and what one more doubling would bring."""
    from headscope.interp.analysis import Losses

    tokens = np.geomspace(1e9, 1.28e11, n)
    counts = np.round(np.exp(rng.normal(8, 0.6, g))).astype(int)
    way = np.log(tokens / tokens.mean()) / np.log(128)
    y = FORMS[law](tokens)[:, None] + rng.normal(0, 0.5, g) + way[:, None] * rng.normal(0, own, g)
    y += rng.normal(0, own, (n, g)) + rng.normal(0, shared, (n, 1))
    left, right = FORMS[law](tokens[-1:] * np.array([1, 2]))
    return Losses(y * counts, counts, np.arange(n), tokens, law), float(left - right)


if __name__ == "__main__":
    main()
