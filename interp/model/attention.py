"""Routes a Hugging Face model's attention through headscope for the length of a `with`, and puts everything back.

Two registrations are needed. `AttentionInterface` hands us the queries, keys and values after RoPE, without expanded
heads. `AttentionMaskInterface` hands us the model's mask as a *function* of positions: without it padding, packing and
chunked masks would vanish silently, and with it no mask of size N x N is ever built: we return a small `Visibility`
that says how far back a row can see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...errors import HeadscopeError
from .temperature import tempered

NAME = "headscope"  # must contain neither "flash" nor "sdpa": transformers treats such names in its own way

# Extra arguments that change which keys are seen or how they score, and that we do not implement.
_UNSUPPORTED = ("position_bias", "indices", "block_indices", "attention_bias", "alibi", "cache")


class CaptureError(HeadscopeError, ValueError):
    """The model does something with its attention that headscope cannot follow exactly."""


@dataclass(frozen=True)
class Visibility:
    """How far back a row at position t sees: everything, the last `window` keys, or its own chunk of `chunk` keys."""

    window: int | None = None
    chunk: int | None = None

    def first_visible(self, positions: Tensor) -> Tensor:
        """Lowest key position visible from each row position."""
        if self.chunk is not None:
            return positions // self.chunk * self.chunk
        if self.window is not None:
            return (positions - self.window + 1).clamp_min(0)
        return torch.zeros_like(positions)


@dataclass(frozen=True)
class Scoring:
    """How a layer turns q.k into attention: what `kernels` needs besides the tensors."""

    scale: float
    softcap: float | None
    sinks: Tensor | None


class Pass(Protocol):
    """One forward pass: what every layer's attention is to do."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        """q [B, Hq, Q, D], k [B, Hkv, K, D], v [B, Hkv, K, Dv] -> output [B, Hq, Q, Dv]."""
        ...


class Alteration(Protocol):
    """What is done with a layer's attention before the model goes on with it: heads are looked at, or changed."""

    def __call__(
        self, this: Pass, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring, out: Tensor
    ) -> Tensor:
        """The pass that was asked, the arguments of its `attend`, and its output -> what the model goes on with."""
        ...


@dataclass(frozen=True)
class _Altered:
    this: Pass
    alteration: Alteration

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        out = self.this.attend(layer, q, k, v, sees, how)
        return self.alteration(self.this, layer, q, k, v, sees, how, out)


_current: ContextVar[Pass | None] = ContextVar("headscope_pass", default=None)
_alteration: ContextVar[Alteration | None] = ContextVar("headscope_alteration", default=None)


@contextmanager
def altering(alteration: Alteration) -> Iterator[None]:
    """Let `alteration` have the output of every attention call inside the block, whatever pass answers it.

    Here, and not in a hook on a module: attention comes by here in every model that can be scored, heads are still
    apart, and the user's own hooks fire before and behind it as they always do.
    """
    token = _alteration.set(alteration)
    try:
        yield
    finally:
        _alteration.reset(token)


@contextmanager
def running(this: Pass) -> Iterator[None]:
    """Let `this` answer every attention call of the forward pass inside the block."""
    token = _current.set(this)
    try:
        yield
    finally:
        _current.reset(token)


def current_pass() -> Pass:
    """The pass that answers attention calls now. Raises CaptureError where none runs."""
    this = _current.get()
    if this is None:
        raise CaptureError("this model is being scored by headscope; run it elsewhere only after score_heads returns")
    alteration = _alteration.get()
    return this if alteration is None else _Altered(this, alteration)


class _Stopped(BaseException):
    """No error: the forward has come as far as it is wanted."""


_last_layer: ContextVar[int | None] = ContextVar("headscope_last_layer", default=None)


@contextmanager
def stopping_after(layer: int | None) -> Iterator[None]:
    """End the forward inside the block with this layer's attention, if any: what lies behind it is not computed."""
    token = _last_layer.set(layer)
    try:
        yield
    except _Stopped:
        pass
    finally:
        _last_layer.reset(token)


def may_stop(model: nn.Module, layer: int) -> bool:
    """Whether no layer lies behind this one, and nothing waits for the end of a module's forward: what FSDP, DeepSpeed
    and accelerate fetch before it they give back behind it, and a user's hook may do the like.
    """

    def waits(m: nn.Module) -> bool:
        return bool(m._forward_hooks) or hasattr(m, "_hf_hook") or (getattr(m, "layer_idx", None) or 0) > layer

    return not torch.nn.modules.module._global_forward_hooks and not any(map(waits, model.modules()))


def classify(mask_function: Callable[..., Any], length: int, device: torch.device | str) -> Visibility:
    """Recognise a mask by what it does on a few rows of a sequence of `length`, not by its private name.

    Args:
        mask_function: transformers' (batch, head, query position, key position) -> bool, broadcasting.
        length: how many positions this run uses; a window longer than that is full attention.
        device: where the function's own tensors live.

    Raises:
        CaptureError: the visible keys are not one interval that ends at the row itself, or follow no known rule.
    """
    if any(size < length for size in _sizes_within(mask_function)):
        # asking it beyond its tensors would be an IndexError, and on a GPU the end of the process
        raise CaptureError(
            "the model's attention mask depends on what each token is (blocks that see all of themselves, as for "
            "images?) and not on positions alone; headscope reads causal, sliding-window and chunked attention"
        )
    keys = torch.arange(length, device=device)
    zero = torch.zeros((), dtype=torch.long, device=device)

    def first_seen(rows: list[int]) -> list[int]:
        row = torch.tensor(rows, device=device)[:, None]
        seen = mask_function(zero, zero, row, keys[None, :])
        seen = torch.as_tensor(seen, device=device).expand(len(rows), length)
        first = seen.int().argmax(dim=1)
        interval = (keys >= first[:, None]) & (keys <= row)
        if not torch.equal(seen, interval):
            raise CaptureError(
                "the model's attention mask is not causal over one interval of keys (bidirectional, packed or prefix "
                "attention?); headscope reads causal, sliding-window and chunked attention"
            )
        return first.tolist()  # at once: a GPU must be waited for

    rows = sorted({r for r in (0, 1, length // 5, length // 3, length // 2, length - 2, length - 1) if 0 <= r < length})
    first = first_seen(rows)
    if not any(first):
        return Visibility()
    window = rows[-1] - first[-1] + 1
    if all(f == max(0, r - window + 1) for r, f in zip(rows, first, strict=True)):
        return Visibility(window=window)
    start = max(first)
    chunk = start - first_seen([start - 1])[0]
    if all(f == r // chunk * chunk for r, f in zip(rows, first, strict=True)):
        return Visibility(chunk=chunk)
    raise CaptureError(
        f"the model's attention mask follows no rule that headscope knows: rows {rows} of {length} start at keys "
        f"{first}; known are full, sliding-window and chunked causal attention"
    )


def _sizes_within(function: Callable[..., Any]) -> Iterator[int]:
    """Lengths of tensors with a value for each token that a mask function, or one that it is made of, holds."""
    for cell in getattr(function, "__closure__", None) or ():
        held = cell.cell_contents
        for each in held if isinstance(held, (tuple, list)) else (held,):
            if isinstance(each, Tensor) and each.dim() > 1:
                yield each.shape[-1]
            elif callable(each) and each is not function:
                yield from _sizes_within(each)


@dataclass(frozen=True)
class Unreadable:
    """A mask that follows no rule we know: an error where a layer uses it. Some that models make are never used."""

    reason: str


@dataclass(frozen=True)
class _Run:
    """Of one `routed`: how many positions matter, and the rules that are known already."""

    length: int
    known: dict[tuple[Hashable, torch.device], Visibility | Unreadable] = field(default_factory=dict)


_run: ContextVar[_Run] = ContextVar("headscope_run")


def _made_of(mask_function: Any) -> Hashable | None:
    """What decides a mask: functions and the numbers they hold. Every forward makes new ones of the same.

    None where there is something else within, such as tensors, whose values may be others the next time.
    """
    if mask_function is None or isinstance(mask_function, (bool, int, float, str)):
        return (type(mask_function), mask_function)
    if isinstance(mask_function, (tuple, list)):
        parts: list[Any] = list(mask_function)
        held: Any = len(parts)
    elif isinstance(mask_function, FunctionType):
        cells = mask_function.__closure__ or ()
        parts = [*(x for c in cells if (x := c.cell_contents) is not mask_function), mask_function.__defaults__]
        parts += (mask_function.__kwdefaults__ or {}).values()
        held = mask_function.__code__
    else:
        return None
    inner = [_made_of(part) for part in parts]
    return None if None in inner else (held, *inner)


def _mask(
    *args: Any,
    mask_function: Callable[..., Any],
    attention_mask: Tensor | None = None,
    device: Any = "cpu",
    **kwargs: Any,
) -> Visibility | Unreadable:
    if attention_mask is not None and not bool(attention_mask.all()):
        raise CaptureError("a padding mask was passed while headscope scores this model; headscope runs unpadded rows")
    run, made_of = _run.get(), _made_of(mask_function)
    # asked once a run: the answer makes the processor wait for a GPU
    if made_of is None or (found := run.known.get((made_of, torch.device(device)))) is None:
        try:
            found = classify(mask_function, run.length, device)
        except CaptureError as error:
            found = Unreadable(str(error))
        if made_of is not None:
            run.known[made_of, torch.device(device)] = found
    return found


def autocasted(x: Tensor) -> Tensor:
    """What attention computes with: inside autocast `x` in its dtype, as scaled_dot_product_attention has it."""
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(x.device.type):
        return x
    return x.to(torch.get_autocast_dtype(x.device.type))


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    this = current_pass()
    for name in _UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise CaptureError(
                f"{type(module).__name__} passes {name!r} to its attention, which headscope cannot reproduce"
            )
    if isinstance(attention_mask, Unreadable):
        raise CaptureError(attention_mask.reason)
    if not isinstance(attention_mask, Visibility):
        raise CaptureError(
            f"{type(module).__name__} builds its own attention mask ({type(attention_mask).__name__}) instead of "
            "asking transformers' mask interface; headscope cannot know which keys its rows see"
        )
    how = Scoring(query.shape[-1] ** -0.5 if scaling is None else float(scaling), softcap, s_aux)
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    query, key, value = (autocasted(x) for x in (tempered(module, query), key, value))
    # off, or the float32 sums of the kernels would be cast down too
    with torch.autocast(query.device.type, enabled=False):
        out = this.attend(layer, query, key, value, attention_mask, how)
    if layer == _last_layer.get():
        raise _Stopped
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def attending(model: nn.Module, implementation: str) -> Iterator[None]:
    """Run a transformers model with another attention implementation, in eval mode, without gradients and uncompiled.

    Afterwards the attention implementation of every config and the training flag of every module are what they were,
    whatever happened.

    Raises:
        CaptureError: the model's attention does not go through transformers' attention interface.
    """
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = {i: getattr(c, "_attn_implementation_internal", None) for i, c in configs.items()}
    training = [(m, m.training) for m in model.modules()]
    try:
        _switch(model, implementation)
        model.eval()
        # no_grad, not inference_mode: FSDP's next training step breaks on inference tensors
        with torch.no_grad(), _uncompiled():
            yield
    finally:
        for m, flag in training:
            m.training = flag
        for i, config in configs.items():
            if hasattr(config, "_attn_implementation_internal"):
                config._attn_implementation_internal = before[i]


def _uncompiled() -> AbstractContextManager[Any]:
    """In a model that was compiled in place our forwards would be compiled anew for every shape, and use up the number
    of times that its own may be."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def routed_length() -> int | None:
    """Tokens of the longest sequence that the model is routed for now; None outside."""
    run = _run.get(None)
    return None if run is None else run.length


@contextmanager
def routed(model: nn.Module, length: int) -> Iterator[None]:
    """Route the attention of `model` through the running `Pass`; see `attending`.

    Args:
        model: a transformers model.
        length: how many positions a sequence of this run has at most.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
    token = _run.set(_Run(length))
    try:
        with attending(model, NAME):
            yield
    finally:
        _run.reset(token)


def _switch(model: Any, implementation: str) -> None:
    name = type(model).__name__
    if not hasattr(model, "set_attn_implementation"):
        raise CaptureError(f"{name} is no transformers model: it has no set_attn_implementation")
    if not getattr(model, "_can_set_attn_implementation", lambda: True)():
        raise CaptureError(
            f"{name} computes attention in its own code instead of transformers' attention interface; headscope cannot "
            "see its keys. Use a model class that supports `attn_implementation` (most decoder-only models do)"
        )
    model.set_attn_implementation(implementation)
    text = model.config.get_text_config(decoder=True)
    if text._attn_implementation != implementation:
        raise CaptureError(
            f"{name} did not accept another attention implementation (still {text._attn_implementation!r})"
        )
