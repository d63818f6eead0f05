"""Attention without evidence, by the fastest kernel torch has, with the log-sum-exp needed to merge it with other keys.

The kernels are only asked for two things they all agree on: every row sees every key, and the causal square (as many
rows as keys). Everything else is put together from these with ``merge_attention_states``: no mask is ever built.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import ArgumentError
from . import first_use
from .api import run, warn_once
from .dispatch_log import note
from .errors import KernelError
from .rules import Rules

Kernel = Callable[[Tensor, Tensor, Tensor, float, bool], tuple[Tensor, Tensor]]
"""(q, k, v, scale, causal square) -> (out, lse)"""
FAST_EXP = 1e-3  # nats: how well torch's kernels know a log-sum-exp in half precision; weights are rounded by more


@torch.no_grad()
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    sinks: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of consecutive rows that end where the keys end, or of rows that see every key.

    Args:
        q: [B, Hq, Q, D]; with ``causal`` the rows are the last Q of the N positions.
        k: [B, Hkv, N, D], any strides, Hq a multiple of Hkv; never expanded to Hq.
        v: [B, Hkv, N, Dv].
        scale: score = scale * q.k; default D ** -0.5.
        causal: row t sees keys 0 .. t; else every row sees every key.
        window: with ``causal``, row t sees only keys > t - window.
        sinks: float [Hq], one more logit per head that takes probability but is no key.

    Returns:
        The output [B, Hq, Q, Dv] in q's dtype, and the log-sum-exp [B, Hq, Q] in nats with the sink included, float32
        (float64 for float64 inputs). Without keys they are 0 and -inf. Infinite scores and broken values count as in
        ``evidence_attention``; of a score of -inf, torch's kernels for GPUs may make NaN.

    Raises:
        ValueError: causal with more rows than keys, or a window without causal.
    """
    rows, n = q.shape[2], k.shape[2]
    if causal and rows > n:
        raise ArgumentError(
            f"q has {rows} rows but k only {n} keys; causal rows are the last of the keys, so need rows <= keys"
        )
    if window is not None and not causal:
        raise ArgumentError(f"window={window} needs causal=True; use evidence_attention for other rules")
    if scale is None:
        scale = q.shape[-1] ** -0.5
    kernel = _kernel(q, k, v)
    if kernel is None:
        return _by_evidence(q, k, v, scale, causal, window, sinks)
    if not causal:
        out, lse = kernel(q, k, v, scale, False)
    elif window is None or window >= n:
        out, lse = _last_rows(kernel, q, k, v, scale)
    else:
        out, lse = _windowed(kernel, q, k, v, scale, window)
    if sinks is not None:
        sink = sinks.to(lse.dtype)[:, None]
        out = (out * torch.sigmoid(lse - sink)[..., None]).to(q.dtype)
        lse = torch.logaddexp(lse, sink)
    return out, lse


def merge_attention_states(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two disjoint sets of keys: out [..., D] and lse [...] of both, for the same rows.

    A learned sink must be part of exactly one side.
    """
    # Both weights in full precision: beside an attention sink the other side's is small, and all of what is seen.
    of_a = torch.sigmoid(lse_a - lse_b).masked_fill_(lse_a == -torch.inf, 0)
    of_b = torch.sigmoid(lse_b - lse_a).masked_fill_(lse_b == -torch.inf, 0)
    out = (out_a * of_a[..., None]).addcmul_(out_b, of_b[..., None])
    return out.to(out_a.dtype), torch.logaddexp(lse_a, lse_b)


def _last_rows(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Causal rows at the end of the keys: all of the prefix, and a square. One row sees every key."""
    if q.shape[2] == 1:
        return kernel(q, k, v, scale, False)
    prefix = k.shape[2] - q.shape[2]
    own = kernel(q, k[:, :, prefix:], v[:, :, prefix:], scale, True)
    if prefix == 0:
        return own
    return merge_attention_states(*kernel(q, k[:, :, :prefix], v[:, :, :prefix], scale, False), *own)


def _windowed(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> tuple[Tensor, Tensor]:
    """Sliding window, in blocks of positions [c * window, (c + 1) * window).

    A row in the middle of its block sees the block up to itself, and of the block before it the keys that are less than
    a window away: a causal square, and a causal square read backwards.
    """
    n, rows = k.shape[2], q.shape[2]
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    lse = q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    begin = n - rows
    while begin < n:
        block = begin // window * window
        end = min(block + window, n)
        here = q[:, :, begin - n + rows : end - n + rows]
        part_out, part_lse = _last_rows(kernel, here, k[:, :, block:end], v[:, :, block:end], scale)
        reach = min(end, block + window - 1) - begin  # the last row of a whole block sees nothing before it
        if block and reach > 0:
            earlier = slice(begin - window + 1, block)
            far_out, far_lse = _last_rows(
                kernel, here[:, :, :reach].flip(2), k[:, :, earlier].flip(2), v[:, :, earlier].flip(2), scale
            )
            part_out[:, :, :reach], part_lse[:, :, :reach] = merge_attention_states(
                part_out[:, :, :reach], part_lse[:, :, :reach], far_out.flip(2), far_lse.flip(2)
            )
        out[:, :, begin - n + rows : end - n + rows], lse[:, :, begin - n + rows : end - n + rows] = part_out, part_lse
        begin = end
    return out, lse


def _kernel(q: Tensor, k: Tensor, v: Tensor) -> Kernel | None:
    """torch's attention; None where it has no kernel that leaves the log-sum-exp: float32 on a GPU, values of another
    dimension than keys.
    """
    return _first_right if _candidates(q, k, v) else None


def _candidates(q: Tensor, k: Tensor, v: Tensor) -> list[Kernel]:
    """torch's kernels for these inputs, the fastest first."""
    if 0 in (q.numel(), k.numel(), v.numel()) or q.shape[-1] != v.shape[-1]:
        return []
    if q.device.type != "cuda":
        return [_cpu] if q.device.type == "cpu" else []
    backends = torch.backends.cuda
    inputs = backends.SDPAParams(q, k, v, None, 0.0, False, q.shape[1] != k.shape[1])
    found: list[Kernel] = []
    version = None if torch.version.hip else torch.backends.cudnn.version()
    where = torch.cuda.get_device_capability(q.device)
    if cudnn_is_known_good(where, version, k.shape[1], q.shape[2], k.shape[2]) and (
        backends.can_use_cudnn_attention(inputs)
    ):
        found.append(cudnn)
    if backends.can_use_flash_attention(inputs) and q.shape[-1] % 8 == 0:
        found.append(flash)
    return found


def cudnn_is_known_good(capability: tuple[int, int], version: int | None, kv_heads: int, rows: int, keys: int) -> bool:
    """Whether cuDNN's attention is right there, and faster than flash, by what is known; version as torch tells it."""
    if version is None:
        return False
    if version < 91500 and (rows % 128 or keys % 128):  # wrong, pytorch #171627
        return False
    if capability == (10, 0):  # silently wrong with fewer key heads, pytorch #193893
        return kv_heads >= 8
    return capability == (9, 0)  # flash is faster before Hopper and on 12.x (transformers #48163); others are not known


def _first_right(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """By the fastest kernel that agrees with the definition on its first use, or else by our own."""
    for kernel in _candidates(q, k, v):
        try:
            found = _checked(kernel, q, k, v, scale, causal)
        except KernelError as error:
            warn_once(str(error))
        else:
            note("attend", NAMES[kernel])
            return found
    return _by_evidence(q, k, v, scale, causal, None, None)


def _checked(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """The kernel's result; KernelError where its first call of a kind fails or is wrong."""
    name, rows, n = NAMES[kernel], q.shape[2], k.shape[2]
    kind: tuple[object, ...] = (name, q.device, q.dtype, causal, q.shape[1], k.shape[1], q.shape[3], n.bit_length())
    if q.is_cuda:
        kind += (min(rows, 128).bit_length(), rows % 128 == 0, n % 128 == 0)

    def compare(found: tuple[Tensor, Tensor]) -> tuple[bool, list[str]]:
        rules = Rules(q_positions=torch.arange(n - rows, n, device=q.device)[None], scale=scale, causal=causal)
        rounding = first_use.ROUNDING if q.dtype in (torch.float64, torch.float32) else FAST_EXP
        return first_use.compare(q, k, v, rules, {"out": found[0], "lse": found[1]}, rounding)

    def told(what: str) -> str:
        device = torch.cuda.get_device_name(q.device) if q.is_cuda else str(q.device)
        shape = f"{q.dtype}, d_head {q.shape[3]}, {q.shape[1]} and {k.shape[1]} heads, {rows} rows, {n} keys"
        return f"torch's {name} kernels {what}; {device}, torch {torch.__version__}, {shape}. Others are used instead"

    failures = (RuntimeError,) if q.is_cuda else ()  # on a CPU they are errors of the caller, or of memory
    return first_use.checked(kind, lambda: kernel(q, k, v, scale, causal), compare, told, failures)


def _cpu(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))  # the kernel assumes it
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    if bool((lse == 0).any()):
        # What the kernel returns, with output 0, for a row whose scores are all NaN. The reference tells.
        return _by_evidence(q, k, v, scale, causal, None, None)
    return out, lse


def cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """A `Kernel`: cuDNN's, for GPUs; one key it does not take, and in decoding it would plan anew for every token."""
    if 1 in (q.shape[2], k.shape[2]):
        return flash(q, k, v, scale, causal)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, scale=scale)
    return out, lse.view(q.shape[:3])


def flash(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """A `Kernel`: FlashAttention-2 as torch has it, for GPUs."""
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return out, lse


NAMES: dict[Kernel, str] = {_cpu: "sdpa:cpu", cudnn: "sdpa:cudnn", flash: "sdpa:flash"}
"""As in `headscope env`."""


def _by_evidence(
    q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, window: int | None, sinks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """By our own kernels on a GPU, else by the reference."""
    at = torch.arange(k.shape[2] - q.shape[2], k.shape[2], device=q.device)[None]
    out, ev = run("attend", q, k, v, Rules(q_positions=at, scale=scale, causal=causal, window=window, sinks=sinks))
    assert out is not None
    return out, ev.lse


def plans_shapes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attend` takes a kernel that plans anew for every shape and stride that it has not seen: cuDNN's."""
    return cudnn in _candidates(*(x[:, :, :128] for x in (q, k, v)))  # a length that is no multiple of 128 is cut
