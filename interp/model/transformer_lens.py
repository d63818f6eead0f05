"""A TransformerLens 4 TransformerBridge.

The bridge wraps the Hugging Face model in place and recomputes attention with a materialised pattern, so a registered
attention function would be called zero times, silently. For the length of a run each attention bridge's `forward` is
therefore replaced by: hook_in, the original Hugging Face attention (which asks the interface), hook_out. Hooks on
projections that the original uses still fire; all others (scores, patterns) cannot, and are refused when set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .attention import CaptureError
from .hugging_face import HuggingFaceModel


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
                # a bridge's own __setattr__ would hand the attribute on to the module that it wraps
                object.__setattr__(attention, "forward", _original(attention))
            with super().routed(length):
                yield
        finally:
            for attention in attentions:
                attention.__dict__.pop("forward", None)

    def _check(self, attention: Any) -> None:
        """Refuse user hooks that would not fire: on scores, patterns, and projections the original does not use."""
        from transformer_lens.hook_points import HookPoint

        fires = {attention.hook_in, attention.hook_out, *attention.original_component.modules()}
        for name, hook in attention.named_modules():
            if isinstance(hook, HookPoint) and (hook.fwd_hooks or hook.bwd_hooks) and hook not in fires:
                raise CaptureError(
                    f"a hook is set on {name} of {attention.name!r}, which does not fire while headscope runs this "
                    "model without an attention pattern; remove it (bridge.reset_hooks()), or hook the output"
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
