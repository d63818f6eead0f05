"""Are the arguments of an evidence operation what they must be? One line says what is not."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import ArgumentError, ArgumentTypeError
from .rules import Rules

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_NO_LIMIT = 2**62  # keys; positions are int64
INTS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def checked(q: Tensor, k: Tensor, v: Tensor | None, rules: Rules) -> Rules:
    """The rules with all integers as int64 on q's device; raises if anything does not fit."""
    batch, heads, rows, n = _check_heads(q, k, v)
    whole("topk", rules.topk, least=0)
    if rules.window is not None:
        whole("window", rules.window, least=1)
    if not isinstance(rules.causal, bool):
        raise ArgumentTypeError(f"causal is {rules.causal!r}; pass True or False")
    sinks, spans, k_positions = rules.sinks, rules.spans, rules.k_positions
    if sinks is not None:
        floats("sinks", sinks, "[Hq]")
        if sinks.shape != (heads,):
            raise ArgumentError(f"sinks has shape {tuple(sinks.shape)}; pass one logit per query head, [{heads}]")
    if spans is not None:
        spans = integers("spans", spans, q.device)
        if spans.dim() not in (3, 4) or spans.shape[-1] != 2 or spans.shape[:-2] not in ((batch,), (batch, rows)):
            raise ArgumentError(
                f"spans has shape {tuple(spans.shape)}; pass [start, end) pairs as [B, S, 2] = [{batch}, S, 2], or per "
                f"row as [B, R, S, 2] = [{batch}, {rows}, S, 2]"
            )
    if k_positions is not None:
        k_positions = integers("k_positions", k_positions, q.device, ("N", n), batch)

    def per_row(name: str, x: Tensor | None) -> Tensor | None:
        return None if x is None else integers(name, x, q.device, ("R", rows), batch)

    return Rules(
        q_positions=integers("q_positions", rules.q_positions, q.device, ("R", rows), batch),
        scale=_positive("scale", rules.scale),
        causal=rules.causal,
        window=None if rules.window is None else min(rules.window, _NO_LIMIT),
        softcap=None if rules.softcap is None else _positive("softcap", rules.softcap),
        sinks=None if sinks is None else sinks.detach().to(q.device),
        key_limits=per_row("key_limits", rules.key_limits),
        key_starts=per_row("key_starts", rules.key_starts),
        k_positions=k_positions,
        spans=spans,
        topk=rules.topk,
    )


def usual_scale(q: Tensor) -> float:
    floats("q", q, "[B, Hq, R, D]")
    return max(1, q.shape[-1]) ** -0.5


def _check_heads(q: Tensor, k: Tensor, v: Tensor | None) -> tuple[int, int, int, int]:
    """B, Hq, R and N of inputs that fit each other."""
    floats("q", q, "[B, Hq, R, D]")
    floats("k", k, "[B, Hkv, N, D]")
    batch, heads, rows, dim = q.shape
    if k.shape[0] != batch or k.shape[3] != dim:
        raise ArgumentError(
            f"k has shape {tuple(k.shape)} and q {tuple(q.shape)}; k must be [B, Hkv, N, D] with q's B = {batch} and "
            f"D = {dim}"
        )
    if heads == 0 or dim == 0 or k.shape[1] == 0 or heads % k.shape[1]:
        raise ArgumentError(
            f"q has {heads} heads and k has {k.shape[1]}, of dimension {dim}; the query heads must be a multiple of "
            f"the key heads"
        )
    if v is not None:
        floats("v", v, "[B, Hkv, N, Dv]")
        if v.shape[:3] != k.shape[:3]:
            raise ArgumentError(
                f"v has shape {tuple(v.shape)} and k {tuple(k.shape)}; they may differ in the last axis only"
            )
    for name, x in (("k", k), ("v", v)):
        if x is not None and (x.dtype != q.dtype or x.device != q.device):
            raise ArgumentTypeError(
                f"{name} is {x.dtype} on {x.device}, q is {q.dtype} on {q.device}; convert {name} to match q"
            )
    return batch, heads, rows, k.shape[2]


def floats(name: str, x: Tensor, shape: str) -> None:
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(f"{name} is {type(x).__name__}; pass a torch.Tensor {shape}")
    if x.dtype not in _FLOATS:
        raise ArgumentTypeError(f"{name} is {x.dtype}; pass float64, float32, bfloat16 or float16")
    if x.dim() != shape.count(",") + 1:
        raise ArgumentError(f"{name} has shape {tuple(x.shape)}; pass {shape}")


def integers(name: str, x: Tensor, device: torch.device, axis: tuple[str, int] | None = None, batch: int = 1) -> Tensor:
    """As int64 on the device; with an axis also checked to be [axis] or [B, axis], and given its batch axis."""
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(f"{name} is {type(x).__name__}; pass an integer torch.Tensor")
    if x.dtype not in INTS:
        raise ArgumentTypeError(f"{name} is {x.dtype}; pass int64 or int32")
    x = x.to(device, torch.int64)
    if axis is None:
        return x
    letter, length = axis
    if x.shape not in ((length,), (batch, length)):
        raise ArgumentError(
            f"{name} has shape {tuple(x.shape)}; pass [{letter}] = [{length}] or [B, {letter}] = [{batch}, {length}]"
        )
    return x if x.dim() == 2 else x[None]


def check_order(k_positions: Tensor | None) -> None:
    """The one check of values: a trace has none."""
    if k_positions is not None and not _increasing(k_positions):
        raise ArgumentError(
            "k_positions must increase strictly along the keys; sort the keys by position and drop repeats"
        )


# Positions known to increase, with the version and the part that was looked at: a GPU must be waited for to ask, and
# every layer of a model passes the same tensor. A view of it, as [N] is given its batch axis, has the same memory.
_known = WeakIdKeyDictionary()


def _increasing(positions: Tensor) -> bool:
    owner = positions if positions._base is None else positions._base
    looked_at = None
    if not positions.is_inference():
        looked_at = (positions._version, positions.storage_offset(), positions.shape, positions.stride())
        if _known.get(owner) == looked_at:
            return True
    found = not bool((positions.diff(dim=-1) <= 0).any())
    if found and looked_at is not None:
        _known[owner] = looked_at
    return found


def whole(name: str, value: int, least: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ArgumentTypeError(f"{name}={value!r}; pass a whole number")
    if least is not None and value < least:
        raise ArgumentError(f"{name}={value}; pass at least {least}")


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentTypeError(f"{name} is {type(value).__name__}; pass a number above 0")
    if not (value > 0 and math.isfinite(value)):
        raise ArgumentError(f"{name}={value}; pass a finite number above 0")
    return float(value)
