"""A TransformerLens 4 TransformerBridge.

The bridge wraps the Hugging Face model in place and recomputes attention with a materialised pattern, so a registered
attention function would be called zero times, silently. For the length of a run each attention bridge's `forward` is
therefore replaced by: hook_in, the original Hugging Face attention (which asks the interface), hook_out. Hooks on
queries, keys, values and head outputs still fire; hooks on scores and patterns cannot, and are refused when set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..capture import CaptureError
from .hugging_face import HuggingFaceModel

_CANNOT_FIRE = ("hook_attn_scores", "hook_pattern", "hook_rot_q", "hook_rot_k", "hook_result")


class BridgeModel(HuggingFaceModel):
    """A TransformerBridge, run through the Hugging Face model that it wraps; its hooks fire.

    Args:
        bridge: the TransformerBridge.
    """

    def __init__(self, bridge: Any):
        super().__init__(bridge.original_model)
        self.bridge = bridge

    @contextmanager
    def routed(self, length: int) -> Iterator[None]:
        """As for the Hugging Face model, with the bridge's attention swapped for the one that it wraps."""
        from transformer_lens.model_bridge.generalized_components import AttentionBridge

        attentions = [m for m in self.bridge.modules() if isinstance(m, AttentionBridge)]
        for attention in attentions:
            self._check(attention)
        try:
            for attention in attentions:
                attention.forward = _original(attention)
            with super().routed(length):
                yield
        finally:
            for attention in attentions:
                attention.__dict__.pop("forward", None)

    def _check(self, attention: Any) -> None:
        for name in _CANNOT_FIRE:
            hook = getattr(attention, name, None)
            if hook is not None and (hook.fwd_hooks or hook.bwd_hooks):
                raise CaptureError(
                    f"a hook is set on {name} of {attention.name!r}, which cannot fire without a materialised attention "
                    "pattern; remove it (bridge.reset_hooks()) or hook q, k, v or z instead"
                )


def _original(attention: Any) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        if "hidden_states" in kwargs:
            kwargs["hidden_states"] = attention.hook_in(kwargs["hidden_states"])
        else:
            args = (attention.hook_in(args[0]), *args[1:])
        out, *rest = attention.original_component(*args, **kwargs)
        return (attention.hook_out(out), *rest)

    return forward
