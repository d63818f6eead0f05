"""Which models work? Every causal language model that the installed transformers has, tiny and at random.

    python -m benchmarks.families [NAME ...]

Four layers of eight heads where the family's config says so, weights enlarged so that attention is peaked. Each is
scored in chunks with shared prefills and held against its own eager attention maps (tests/oracle.py): argmax keys of
every answer row, and their probabilities. One of four outcomes: scored with shared prefills; scored with every probe
in a forward of its own; refused, with the reason; or not built, where this script's shape does not fit the family's
config. Anything else is a mistake of headscope and fails the command.
"""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from headscope.interp.engine.engine import Engine
from headscope.interp.engine.plan import plan
from headscope.interp.engine.preflight import preflight
from headscope.interp.model.adapt import adapt
from headscope.interp.model.attention import CaptureError
from headscope.probes import Probe, ProbeSet
from tests import oracle

from .machine import machine, one_line, write_results
from .smollm2 import say

VOCAB, SECONDS, LARGEST = 199, 90, 3e8
# field -> value, for every config that has such a field
SHAPE: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "attention_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads"), 8),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 512),
    **dict.fromkeys(("head_dim", "rotary_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "mamba_d_head", "chunk_size"), 16),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_d_state", "mamba_n_heads"), 8),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "mamba_n_groups"), 1),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "linear_num_key_heads", "num_key_value_heads"), 2),
    **{"linear_num_value_heads": 4, "sliding_window": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
# what the shape alone does not say
MORE: dict[str, dict[str, Any]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1, 3]},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4}, "ffn_config": {"ffn_hidden_size": 32}},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 128},
    "gemma3n_text": {
        **{"num_kv_shared_layers": 2, "layer_types": _ALTERNATING, "intermediate_size": [96] * 4, "laurel_rank": 4},
        **{"hidden_size_per_layer_input": 8, "activation_sparsity_pattern": [0.0] * 4},
    },
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"] * 2, "shared_intermediate_size": 32},
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 2, "mamba_expand": 1, "mamba_dt_rank": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "longcat_flash": {
        **{"num_layers": 2, "num_hidden_layers": None, "ffn_hidden_size": 96, "expert_ffn_hidden_size": 32},
        **{"zero_expert_num": 2, "head_dim": 8},
    },
}
_QUERY_KEY = ("q_proj", "k_proj", "qkv", "query_key_value", "c_attn")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("names", nargs="*", metavar="NAME", help="model types, such as llama; default: all")
    names = arguments.parse_args().names or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    found = machine()
    say(one_line(found))
    rows = []
    for name in names:
        row = {"family": name, **outcome(name)}
        rows.append(row)
        say(f"{name:>28}  {row['outcome']:<8} {row.get('keys', ''):>5} {row.get('words', '')[:150]}")
    counts = Counter(str(row["outcome"]) for row in rows)
    say(f"{len(rows)} families: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    say(f"-> {write_results('families', {'counts': counts, 'rows': rows}, found).name}")
    if counts["wrong"] or counts["error"]:
        sys.exit(1)


def outcome(name: str) -> dict[str, Any]:
    """outcome: shared, alone, refused, unbuilt, wrong or error; words: why. keys: compared; margin, p: the largest
    distances from eager attention, in nats below its best key and in probability."""
    try:
        with limited():
            model = build(name)
    except Exception as error:
        return {"outcome": "unbuilt", "words": first_line(error)}
    probes = ProbeSet([probe(60, 12, seed=0), probe(90, 50, seed=1)])
    try:
        with limited():
            return compare(model, probes)
    except CaptureError as error:
        return {"outcome": "refused", "words": first_line(error)}
    except Exception as error:
        try:
            with torch.no_grad():
                model(input_ids=torch.from_numpy(probes[0].input_ids.astype(np.int64))[None])
        except Exception as own:  # of the family's code on a shape that does not suit it
            return {"outcome": "unbuilt", "words": first_line(own)}
        return {"outcome": "error", "words": first_line(error)}


def build(name: str) -> Any:
    kind = CONFIG_MAPPING[name]
    usual = kind()
    text = usual.get_text_config(decoder=True)
    known = {**text.to_dict(), **getattr(type(text), "attribute_map", {})}
    fields = {field: value for field, value in SHAPE.items() if field in known} | MORE.get(name, {})
    if "kv_lora_rank" in fields or name == "zamba2":  # latent attention: a key for every head
        fields["num_key_value_heads"] = 8
        fields.pop("head_dim", None) if "head_dim" not in MORE.get(name, {}) else None
    fields = {field: value for field, value in fields.items() if value is not None}
    inside = next((part for part, value in vars(usual).items() if value is text), None)
    config = AutoConfig.for_model(name, **fields) if inside is None else kind(**{inside: type(text)(**fields)})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if sum(parameter.numel() for parameter in model.parameters()) > LARGEST:
        raise ValueError("the shape leaves it too large")
    with torch.no_grad():
        for full, parameter in model.named_parameters():
            if parameter.dim() > 1 and "expert" not in full:
                parameter.mul_(12.0 if any(part in full for part in _QUERY_KEY) else 6.0)
    return model


def probe(length: int, needle: int, seed: int) -> Probe:
    """Random tokens; the answer repeats eight tokens of the prompt."""
    ids = np.random.default_rng(seed).integers(3, VOCAB, length)
    ids[-8:] = ids[needle : needle + 8]
    return Probe.from_ids(ids, prompt_len=length - 8, needles=[(needle, needle + 8)], id=f"{length}")


def compare(model: Any, probes: ProbeSet) -> dict[str, Any]:
    adapted = adapt(model)
    alone = preflight(adapted, probes[0])
    with adapted.routed(max(one.length for one in probes)):
        engine = Engine(adapted, probes, chunk=48)
        found = dict(engine.run_alone(range(len(probes))) if alone else engine.run(plan(probes, "exact")))
    keys, margin, p = 0, 0.0, 0.0
    for i, one in enumerate(probes):
        truth, ours = oracle.run(model, one), found[i]
        seen = truth.argmax >= 0
        keys += int(seen.sum())
        different = seen & (ours.argmax_key != truth.argmax)
        if different.any():
            margin = max(margin, float(np.abs(truth.margin(np.maximum(ours.argmax_key, 0))[different]).max()))
        p = max(p, float(np.abs(np.where(seen, ours.p_max - truth.p_max, 0)).max()))
    kind = "wrong" if margin > 1e-3 or not p < 1e-2 else "alone" if alone else "shared"
    return {"outcome": kind, "keys": keys, "margin": margin, "p": p, "words": alone or ""}


@contextmanager
def limited() -> Iterator[None]:
    """TimeoutError after SECONDS: some families build more than was asked for."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:300]}"


if __name__ == "__main__":
    main()
