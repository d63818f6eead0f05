"""One adapter per kind of model: how to run it, route its attention, and ask what it is."""

from __future__ import annotations

from typing import Any

from .hugging_face import HuggingFaceModel

__all__ = ["HuggingFaceModel", "adapt"]


def adapt(model: Any) -> HuggingFaceModel:
    """Wrap a model that a user handed over.

    Args:
        model: a transformers causal LM, or a TransformerLens 4 `TransformerBridge`.

    Raises:
        TypeError: anything else.
    """
    from transformers import PreTrainedModel

    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper; compiled code would not be routed
    if isinstance(model, PreTrainedModel):
        return HuggingFaceModel(model)
    if isinstance(getattr(model, "original_model", None), PreTrainedModel):
        from .transformer_lens import BridgeModel

        return BridgeModel(model)
    raise TypeError(
        f"model is a {type(model).__module__}.{type(model).__name__}; give a transformers causal LM, a TransformerLens "
        "TransformerBridge (boot_transformers), or a path or hub id"
    )
