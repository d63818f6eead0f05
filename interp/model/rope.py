"""What a config says about RoPE: its types, and the longest sequence that it is made for. RoPE of a longer sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# max_position_embeddings is the extended length already, whatever the factor.
_EXTENDED = {"default", "llama3", "longrope"}


def rope_types(config: Any) -> set[str]:
    return {type_of(rope) for rope in ropes(config).values()}


def longest_sequence(config: Any) -> int | None:
    """Longest sequence that a model with this text config is made for, or None when the config does not say.

    Recipes leave max_position_embeddings at the length before scaling (Qwen's YaRN, "linear", "dynamic") or raise it to
    the length after it (DeepSeek, gpt-oss); either way what counts is the larger of it and of original length x factor.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None  # XLNet says -1
    longest = float(positions)
    for rope in ropes(config).values():
        # Gemma 3's "linear" is of its full layers only, and counted in max_position_embeddings.
        if type_of(rope) in _EXTENDED or str(config.model_type).startswith("gemma3"):
            continue
        start = positions
        if type_of(rope) != "dynamic":  # that one grows from max_position_embeddings
            original = rope.get("original_max_position_embeddings")
            start = original or getattr(config, "original_max_position_embeddings", None) or positions
        longest = max(longest, start * float(rope.get("factor") or 1))
    return int(longest)


def type_of(rope: dict[str, Any]) -> str:
    return str(rope.get("rope_type") or rope.get("type") or "default")


def ropes(config: Any) -> dict[str, dict[str, Any]]:
    """RoPE parameters by type of layer; those of the model by ""."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return {layers: r for layers, r in rope.items() if isinstance(r, dict)} or {"": rope}


def keys_last(config: Any) -> int | None:
    """Tokens up to which a sequence grows behind the keys that it has; those of a longer one are all others. None: any.

    LongRoPE (arXiv 2402.13753) has two sets of frequencies, and the total length says which.
    """
    ends = [
        int(rope["original_max_position_embeddings"]) for rope in ropes(config).values() if type_of(rope) == "longrope"
    ]
    return min(ends, default=None)


@contextmanager
def rope_of(model: nn.Module, length: int) -> Iterator[None]:
    """Inside, RoPE that depends on the total length is that of `length` tokens, whichever of their positions are run.

    It takes the total from the highest position that it is given: so it is given the last one as well, every time.
    """
    ropes = [m for m in model.modules() if any("inv_freq" in name for name in m._buffers)]
    before = [m.__dict__.get("forward") for m in ropes]
    try:
        for m in ropes:
            object.__setattr__(m, "forward", _with_last(m.forward, length - 1))
        yield
    finally:
        for m, forward in zip(ropes, before, strict=True):
            del m.__dict__["forward"]
            if forward is not None:
                object.__setattr__(m, "forward", forward)


def _with_last(forward: Callable[..., Any], last: int) -> Callable[..., Any]:
    def extended(x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        end = position_ids.new_full((*position_ids.shape[:-1], 1), last)
        found = forward(x, torch.cat([position_ids, end], dim=-1), *args, **kwargs)
        return tuple(each[..., :-1, :] for each in found)  # cos and sin [B, m + 1, D]

    return extended
