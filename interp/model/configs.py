"""config.json as people publish it -> as this transformers reads it. What the model computes stays the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32", "float": "float32"}


@contextmanager
def readable_configs() -> Iterator[None]:
    """Inside, every config that transformers reads from a file goes through `readable` first."""
    from transformers import PreTrainedConfig

    read = PreTrainedConfig.get_config_dict.__func__

    def get_config_dict(cls: Any, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        config, rest = read(cls, *args, **kwargs)
        return readable(config), rest

    with patch.object(PreTrainedConfig, "get_config_dict", classmethod(get_config_dict)):
        yield


def readable(config: dict[str, Any]) -> dict[str, Any]:
    """The same config without what would keep transformers from building the model.

    An attention that needs a package of its own (flash_attention_2, flex_attention, ...) is left to transformers to
    choose: headscope puts its own in its place. dtypes get torch's names; those to store in, not to compute in, go.
    RoPE of type "su" is called longrope today.
    """
    found = {}
    for name, value in config.items():
        if name in ("attn_implementation", "_attn_implementation") and value not in (None, "eager", "sdpa"):
            continue
        if name in ("dtype", "torch_dtype") and isinstance(value, str):
            plain = value.removeprefix("torch.").lower()
            value = _DTYPES.get(plain, plain)
            if value not in ("bfloat16", "float16", "float32", "float64"):
                continue
        elif name in ("rope_scaling", "rope_parameters") and isinstance(value, dict):
            value = _rope(value)
        elif name.endswith("_config") and name != "quantization_config" and isinstance(value, dict):
            value = readable(value)
        found[name] = value
    return found


def _rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """Also where every type of layer has its own."""
    return {
        name: _rope(value)
        if isinstance(value, dict)
        else "longrope"
        if name in ("type", "rope_type") and value == "su"
        else value
        for name, value in parameters.items()
    }
