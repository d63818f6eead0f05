"""Is a model's RoPE made for the length that it is to work at? Asked of its config, before the first step.

The bound is that of *Base of RoPE Bounds Context Length* (arXiv 2405.14591): with frequencies f_i, a random query
attends more to a key like it than to a random one, m tokens away, as long as sum_i cos(m f_i) >= 0. The first m where
it is negative is how far the frequencies reach; models beyond it kept a low perplexity and lost retrieval.

It is a heuristic, not a law. For heads of 128 it gives the paper's bounds (4K: base 2.7e4, 32K: 6.4e5; fitted there as
0.0424 L^1.628), but Llama 2 works at 2.4 x its reach; for narrower heads it is stricter than what is seen of working
models. So narrower heads count as if they had 128 dimensions, dimensions without RoPE count as they are (their cosine
is 1), windowed layers have to reach no further than their window, and only lengths beyond SLACK x the reach are told.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .rope import longest_sequence, ropes, type_of

SLACK = 4.0  # Mistral Nemo, said to be made for 128K and found to hold 16K (RULER, arXiv 2404.06654), is at 4.8
HALF = 64  # frequencies of a head of 128 dimensions
_BLOCK = 1 << 14  # distances looked at together


def rope_warnings(config: Any, length: int) -> list[str]:
    """What is wrong with a config's RoPE for sequences of `length` tokens: the longest probe's, or of training.

    config: the text config of a transformers model. Returns one line for each finding: a base too small for the length,
    a length beyond what the config is made for, scaling that contradicts max_position_embeddings. [] for none, and for
    models without RoPE.
    """
    found = []
    made_for = longest_sequence(config)
    if made_for is not None and length > made_for:
        found.append(
            f"sequences of {length} tokens are longer than the {made_for} that the config is made for "
            "(max_position_embeddings and RoPE scaling); raise the limit if RoPE allows more, or build shorter probes"
        )
    for layers, rope in ropes(config).items():
        window = getattr(config, "sliding_window", None) if _all_windowed(config, layers) else None
        needed = min(length, window or length)
        reach = _reach(config, layers, rope, int(needed / SLACK))
        if reach is not None:
            found.append(
                f"RoPE with base {_base(config, rope):,.0f}{_scaled(rope)} tells tokens apart up to about "
                f"{reach} tokens, and {needed} are wanted (arXiv 2405.14591, a heuristic bound): "
                "retrieval may fail there however low the perplexity; raise rope_theta or scale RoPE"
            )
        found += _contradictions(config, rope)
    return found


def _reach(config: Any, layers: str, rope: dict[str, Any], most: int) -> int | None:
    """The first distance below `most` where the sum of cosines is negative; None where there is none, or no RoPE."""
    frequencies, still = _frequencies(config, layers, rope)
    if not len(frequencies):
        return None
    wider = max(1.0, HALF / (len(frequencies) + still))
    places = np.linspace(0, len(frequencies), round(wider * len(frequencies)), endpoint=False)
    dense = np.exp(np.interp(places, np.arange(len(frequencies)), np.log(frequencies)))
    for start in range(1, most, _BLOCK):
        apart = np.arange(start, min(start + _BLOCK, most))
        negative = np.cos(np.outer(apart, dense)).sum(axis=1) + wider * still < 0
        if negative.any():
            return int(apart[negative.argmax()])
    return None


def _frequencies(config: Any, layers: str, rope: dict[str, Any]) -> tuple[np.ndarray, int]:
    """float64, those of a head, and how many pairs of its dimensions are not turned; none where the config tells none.

    Where RoPE is scaled, by transformers' own functions.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    heads, hidden = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", None)
    width = getattr(config, "head_dim", None) or (hidden // heads if heads and hidden else None)
    base, compute = _base(config, rope), ROPE_INIT_FUNCTIONS.get(type_of(rope))
    if not base or not width or (compute is None and type_of(rope) != "default"):
        return np.empty(0), 0
    if compute is None:
        turned = int(width * float(rope.get("partial_rotary_factor") or 1))
        found = np.asarray(base ** (-np.arange(0, turned, 2) / turned))
    else:
        values, _ = compute(
            config, "cpu", seq_len=longest_sequence(config), **({"layer_type": layers} if layers else {})
        )
        found = values.double().numpy()
        found = found[found > 0]
    apart = int(getattr(config, "qk_nope_head_dim", None) or 0)  # latent attention has dimensions without RoPE beside
    return found, (width + apart) // 2 - len(found)


def _base(config: Any, rope: dict[str, Any]) -> float:
    return float(rope.get("rope_theta") or getattr(config, "rope_theta", None) or 0)


def _all_windowed(config: Any, layers: str) -> bool:
    """Whether all layers that use this RoPE see a window only."""
    kinds = {layers} if layers else set(getattr(config, "layer_types", None) or ["sliding_attention"])
    return kinds == {"sliding_attention"}


def _contradictions(config: Any, rope: dict[str, Any]) -> list[str]:
    """Lengths that cannot all be meant. Llama 3's factor is none of lengths: its 8 makes 131072 of 8192."""
    positions, original = getattr(config, "max_position_embeddings", None), rope.get("original_max_position_embeddings")
    if not positions or not original:
        return []
    if original > positions:
        return [
            f"RoPE scaling says it starts from {original} tokens (original_max_position_embeddings), and "
            f"max_position_embeddings is {positions}, which is less"
        ]
    factor = float(rope.get("factor") or 0)
    if type_of(rope) == "yarn" and factor and positions > 1.01 * original * factor:
        return [
            f"max_position_embeddings is {positions}, and yarn's factor reaches {factor:g} x {original} = "
            f"{original * factor:.0f} tokens only; raise the factor"
        ]
    return []


def _scaled(rope: dict[str, Any]) -> str:
    return "" if type_of(rope) == "default" else f", scaled ({type_of(rope)}, factor {rope.get('factor')})"
