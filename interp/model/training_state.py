"""A measurement inside a training run leaves nothing behind: random numbers, modes and caches are put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def preserve_training_state(model: nn.Module, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Run forwards of a model that is being trained, as if nothing had happened.

    Put back: random states (torch on CPU and the model's CUDA devices, numpy, Python), the training flag of every
    module, every config's use_cache and attention implementation, RoPE that remembers the longest sequence it has
    seen, autocast.
    Inside: no gradients; `capture.attending` sets eval mode, which also turns dropout and gradient checkpointing off,
    and leaves compiled graphs alone.

    Args:
        model: the model.
        dtype: autocast to this dtype; None leaves autocast as it is.
    """
    kind = next(model.parameters()).device.type
    modules = list(model.modules())
    training = [(m, m.training) for m in modules]
    configs = {id(c): c for m in modules if (c := getattr(m, "config", None)) is not None}.values()
    settings = [(c, name, getattr(c, name)) for c in configs for name in _SETTINGS if hasattr(c, name)]
    ropes = [(m, dict(m._buffers), _lengths(m)) for m in modules if any("inv_freq" in name for name in m._buffers)]
    with ExitStack() as stack:
        stack.enter_context(_random_states({p.device.index for p in model.parameters() if p.device.type == "cuda"}))
        if dtype is not None:
            stack.enter_context(torch.autocast(kind, dtype=dtype))
        stack.enter_context(torch.no_grad())
        try:
            yield
        finally:
            for module, flag in training:
                module.training = flag
            for config, name, value in settings:
                setattr(config, name, value)
            for module, buffers, lengths in ropes:
                module._buffers.update(buffers)
                module.__dict__.update(lengths)


_SETTINGS = ("use_cache", "_attn_implementation_internal")


def _lengths(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in module.__dict__.items() if name.endswith("max_seq_len_cached")}


@contextmanager
def _random_states(devices: set[int | None]) -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=list(devices)):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
