"""One adapter per kind of model: how to run it, route its attention, and ask what it is."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from .hugging_face import HuggingFaceModel

__all__ = ["HuggingFaceModel", "adapt", "unwrapped"]


def adapt(model: Any) -> HuggingFaceModel:
    """Wrap a model that a user handed over.

    Args:
        model: a transformers causal LM, also inside what `unwrapped` takes off, or a TransformerLens 4
            `TransformerBridge`.

    Raises:
        TypeError: anything else; also FSDP version 1, on every rank alike.
    """
    from transformers import PreTrainedModel

    model = unwrapped(model)
    if _has_fsdp1(model):
        raise TypeError(
            "model is sharded by FullyShardedDataParallel (FSDP version 1): what lies outside its layers exists only "
            'inside its own forward; shard with fully_shard (in a Trainer: fsdp_config={"version": 2, ...})'
        )
    if isinstance(model, PreTrainedModel):
        return HuggingFaceModel(model)
    if isinstance(getattr(model, "original_model", None), PreTrainedModel):
        from .transformer_lens import BridgeModel

        return BridgeModel(model)
    raise TypeError(
        f"model is a {type(model).__module__}.{type(model).__name__}; give a transformers causal LM, a TransformerLens "
        "TransformerBridge (boot_transformers), or a path or hub id"
    )


def _has_fsdp1(model: Any) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who shards has imported it
    return fsdp is not None and any(isinstance(m, fsdp.FullyShardedDataParallel) for m in model.modules())


def unwrapped(model: Any) -> Any:
    """The model inside DistributedDataParallel, DataParallel, torch.compile and PEFT.

    LoRA and its kin stay active: they live inside the layers.

    Raises:
        TypeError: a PEFT method that puts tokens of its own before the input, which the layers alone do not know.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # compiled code would not be routed
        elif hasattr(model, "get_base_model"):
            method: Any = getattr(model, "active_peft_config", None)
            if getattr(method, "is_prompt_learning", False):
                raise TypeError(
                    f"model has a {method.peft_type.value} adapter, which puts virtual tokens before the input; "
                    "headscope scores adapters inside the layers (LoRA, ...), or a model without one"
                )
            model = model.get_base_model()
        else:
            return model
