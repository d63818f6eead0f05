"""torch's own attention, backend by backend."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .stage import Stage


def prefill_ms(stage: Stage, q: Tensor, k: Tensor, v: Tensor, *, repeats: int = 10) -> dict[str, float]:
    """Median milliseconds of causal attention of all rows by every backend that takes it."""
    names = ("MATH",) if stage.toy else ("CUDNN_ATTENTION", "FLASH_ATTENTION")
    found = {}
    for name in names:
        try:
            found[name.removesuffix("_ATTENTION").lower()] = stage.ms(
                _call(name, q, k, v), repeats=repeats, seconds=2.0
            )
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # "No available kernel": this build or device does not have it
            continue
    return found


def _call(name: str, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with sdpa_kernel(getattr(SDPBackend, name)):
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

    return run
