"""One adapter per kind of model: how to run it, route its attention, and ask what it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ...errors import ArgumentTypeError
from .adapter import Adapter
from .hugging_face import HuggingFaceModel

__all__ = ["HuggingFaceModel", "adapt", "check_kind", "described", "unwrapped"]


def adapt(model: Any) -> Adapter:
    """Wrap a model that a user handed over.

    Args:
        model: a transformers causal LM, also inside what `unwrapped` takes off, or a TransformerLens 4
            `TransformerBridge`; or an `Adapter`, which is taken as it is.

    Raises:
        TypeError: anything else; also FSDP version 1, on every rank alike.
    """
    from transformers import PreTrainedModel

    model = unwrapped(model)
    if isinstance(model, Adapter):
        return model
    check_kind(model)
    if _has_fsdp1(model):
        raise ArgumentTypeError(
            "model is sharded by FullyShardedDataParallel (FSDP version 1): what lies outside its layers exists only "
            'inside its own forward; shard with fully_shard (in a Trainer: fsdp_config={"version": 2, ...})'
        )
    if isinstance(model, PreTrainedModel):
        return HuggingFaceModel(model)
    from .transformer_lens import BridgeModel

    return BridgeModel(model)


def check_kind(model: Any) -> None:
    """Raise TypeError unless `adapt` knows such a model."""
    from transformers import PreTrainedModel

    model = unwrapped(model)
    if isinstance(model, PreTrainedModel) or isinstance(getattr(model, "original_model", None), PreTrainedModel):
        return
    if _has_fsdp1(model):
        return  # of any class; `adapt` says what to do about it
    raise ArgumentTypeError(
        f"model is {described(model)}; give a transformers causal LM, a TransformerLens TransformerBridge "
        "(boot_transformers), or, to score_heads or copy_profile, a path or hub id"
    )


def described(model: Any) -> str:
    """What somebody gave instead of a model, in words, with where the model may be."""
    from transformers import PreTrainedModel

    kind = f"{type(model).__module__}.{type(model).__name__}"
    if isinstance(model, type):
        return f"the class {model.__name__}, not a model of that class"
    if isinstance(model, Mapping) and any(isinstance(value, torch.Tensor) for value in model.values()):
        return "a state_dict, weights without a model (load them into one: model.load_state_dict)"
    for name in ("model", "module"):
        if isinstance(getattr(model, name, None), PreTrainedModel):  # pipelines, trainers, engines
            return f"a {kind}, which holds the model: give its attribute .{name}"
    return f"a {kind}"


def _has_fsdp1(model: Any) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # who shards has imported it
    if fsdp is None or not isinstance(model, nn.Module):
        return False
    return any(isinstance(m, fsdp.FullyShardedDataParallel) for m in model.modules())


def unwrapped(model: Any) -> Any:
    """The model inside DistributedDataParallel, DataParallel, torch.compile, PEFT and nnsight's LanguageModel.

    LoRA and its kin stay active: they live inside the layers.

    Raises:
        TypeError: a PEFT method that puts tokens of its own before the input, which the layers alone do not know; edits
            of nnsight's, which only its own traces apply.
    """
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif _is_nnsight(model):
            if getattr(model, "_edits", None):
                raise ArgumentTypeError(
                    "model has nnsight edits, which only its own traces apply; take them off, clear_edits()"
                )
            model = model._module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # compiled code would not be routed
        elif hasattr(model, "get_base_model"):
            method: Any = getattr(model, "active_peft_config", None)
            if getattr(method, "is_prompt_learning", False):
                raise ArgumentTypeError(
                    f"model has a {method.peft_type.value} adapter, which puts virtual tokens before the input; "
                    "headscope scores adapters inside the layers (LoRA, ...), or a model without one"
                )
            model = model.get_base_model()
        else:
            return model


def _is_nnsight(model: Any) -> bool:
    ours = any(kind.__module__.partition(".")[0] == "nnsight" for kind in type(model).__mro__)
    return ours and isinstance(vars(model).get("_module"), nn.Module)
