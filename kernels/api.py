"""The evidence operations, and the choice of implementation."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import ArgumentError
from . import reference, traced
from .arguments import check_order, checked, floats, usual_scale, whole
from .dispatch_log import note
from .errors import KernelError
from .evidence import RowEvidence
from .rules import Rules
from .sequences import Ragged

log = logging.getLogger(__name__)
Found = TypeVar("Found")

_TRITON_DIM = 256  # a block holds all of a key
_TRITON_TOPK = 16  # kept in registers, for every row of a tile


def row_evidence(
    q: Tensor,
    k: Tensor,
    *,
    q_positions: Tensor,
    spans: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    key_limits: Tensor | None = None,
    key_starts: Tensor | None = None,
    k_positions: Tensor | None = None,
    topk: int = 0,
    causal: bool = True,
    impl: str = "auto",
) -> RowEvidence:
    """What every head did at the given query rows, without building their attention map.

    A row at position t sees the key at position j iff all of these hold::

        j <= t               (causal)
        j <  key_limits[row] (if given)
        j >= key_starts[row] (if given)
        j >  t - window      (if given)

    A key whose q.k is -inf counts as one that the row does not see, with a soft-cap too. A row that sees a NaN score,
    or a q.k of +inf, has NaN for evidence (and output) and no key. What a row does not see has no part in its evidence.

    Args:
        q: [B, Hq, R, D] float64, float32, bfloat16 or float16; any strides.
        k: [B, Hkv, N, D], same dtype and device; any strides (a view of a cache). Hq is a multiple of Hkv and query
            head h uses key head h // (Hq // Hkv); k is never expanded to Hq.
        q_positions: int [R] or [B, R], in any order.
        spans: int [B, S, 2] or per row [B, R, S, 2], half-open [start, end) in key positions; may be empty or reach
            outside the keys.
        scale: score = scale * q.k, > 0; default D ** -0.5.
        window: sliding window in tokens, the row's own position included.
        softcap: score = softcap * tanh(score / softcap), > 0 (Gemma 2, arXiv 2408.00118).
        sinks: float [Hq], one more logit per head that takes probability but is no key (gpt-oss).
        key_limits, key_starts: int [R] or [B, R].
        k_positions: int [N] or [B, N], strictly increasing; default 0 .. N-1.
        topk: how many of the highest-scoring keys to keep per row; the Triton kernels keep up to 16.
        causal: whether rows are limited to keys at or before their own position.
        impl: "auto" runs the Triton kernels on a GPU wherever they can (see ``implementation``; on AMD's too, where
            they have not been measured), the PyTorch reference elsewhere; "triton" or "reference" insists. The first
            call of a kind in a process compares a few rows of the kernels' result with the reference; where they fail
            or differ, "auto" warns and uses the reference.

    Raises:
        TypeError: an argument is of the wrong type or dtype.
        ValueError: shapes or values do not fit; the message names the argument.
        KernelError: "triton" was insisted on, and fails or is wrong here.
    """
    rules = Rules(
        q_positions=q_positions,
        scale=usual_scale(q) if scale is None else scale,
        causal=causal,
        window=window,
        softcap=softcap,
        sinks=sinks,
        key_limits=key_limits,
        key_starts=key_starts,
        k_positions=k_positions,
        spans=spans,
        topk=topk,
    )
    return _ask("row_evidence", q, k, None, checked(q, k, None, rules), impl)[1]


def evidence_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_offset: int = 0,
    q_positions: Tensor | None = None,
    spans: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    key_limits: Tensor | None = None,
    key_starts: Tensor | None = None,
    k_positions: Tensor | None = None,
    topk: int = 0,
    causal: bool = True,
    impl: str = "auto",
) -> tuple[Tensor, RowEvidence]:
    """Attention and the evidence of every row in one pass.

    Arguments and errors as in ``row_evidence``; further:

    Args:
        v: [B, Hkv, N, Dv], same dtype and device as k.
        q_offset: position of the first row when the rows are consecutive.
        q_positions: int [R] or [B, R] instead of ``q_offset``.

    Returns:
        The output [B, Hq, R, Dv] in q's dtype (0 for a row that sees no key), and the evidence, in which v has no part.
        Of v nothing is read before the first and behind the last key that any row of a batch entry sees: the rest of a
        cache may hold anything. Between them a NaN or infinite number in the value of a key that a row does not see may
        make that component of its output NaN, as in torch's own attention (0 times NaN is NaN), never another number.
    """
    if q_positions is None:
        whole("q_offset", q_offset)
        floats("q", q, "[B, Hq, R, D]")
        q_positions = q_offset + torch.arange(q.shape[2], device=q.device)
    elif q_offset != 0:
        raise ArgumentError(f"q_offset={q_offset} and q_positions were both given; pass one of them")
    floats("v", v, "[B, Hkv, N, Dv]")
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in (q, k, v)):
        raise ArgumentError(
            "q, k or v requires grad, but evidence_attention has no backward; call it under torch.no_grad()"
        )
    rules = Rules(
        q_positions=q_positions,
        scale=usual_scale(q) if scale is None else scale,
        causal=causal,
        window=window,
        softcap=softcap,
        sinks=sinks,
        key_limits=key_limits,
        key_starts=key_starts,
        k_positions=k_positions,
        spans=spans,
        topk=topk,
    )
    out, ev = _ask("evidence_attention", q, k, v, checked(q, k, v, rules), impl)
    assert out is not None
    return out, ev


def key_mass(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    *,
    q_positions: Tensor,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    key_limits: Tensor | None = None,
    key_starts: Tensor | None = None,
    k_positions: Tensor | None = None,
    causal: bool = True,
    impl: str = "auto",
) -> Tensor:
    """Attention probability that every key gets, summed over the rows: what chooses the keys of a smaller cache.

    SnapKV (arXiv 2404.14469) sums over the last rows of a prompt, H2O (arXiv 2306.14048) over all rows, QRHead (arXiv
    2506.09944) over those of a question. Nothing of the size rows x keys is made.

    Arguments and errors as in ``row_evidence``; further:

    Args:
        lse: [B, Hq, R] log-sum-exp of the rows under the same rules, as ``row_evidence`` and ``evidence_attention``
            return it. A learned sink is part of it. Of keys in several parts (other GPUs, pages) give every part the
            log-sum-exp of all.

    Returns:
        float32 [B, Hq, N] (float64 for float64 inputs): the sum over rows of exp(score - lse) where a row sees the key,
        0 where none does, NaN where one does whose lse is NaN.
    """
    rules = Rules(
        q_positions=q_positions,
        scale=usual_scale(q) if scale is None else scale,
        causal=causal,
        window=window,
        softcap=softcap,
        key_limits=key_limits,
        key_starts=key_starts,
        k_positions=k_positions,
    )
    rules = checked(q, k, None, rules)
    floats("lse", lse, "[B, Hq, R]")
    if lse.shape != q.shape[:3] or lse.device != q.device:
        raise ArgumentError(
            f"lse has shape {tuple(lse.shape)} on {lse.device}; pass one number per row and head of q, "
            f"{list(q.shape[:3])} on {q.device}"
        )
    if traced.is_traced(q):
        return traced.key_mass(q, k, lse, rules, impl)
    return _key_mass(q, k, lse.detach(), rules, impl)


def _ask(
    operation: str, q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, impl: str
) -> tuple[Tensor | None, RowEvidence]:
    if traced.is_traced(q):
        return traced.evidence(q, k, v, rules, impl)
    return _evidence(operation, q, k, v, rules, impl)


def _evidence(
    operation: str, q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, impl: str
) -> tuple[Tensor | None, RowEvidence]:
    check_order(rules.k_positions)
    return run(operation, q, k, v, rules, impl)


def _key_mass(q: Tensor, k: Tensor, lse: Tensor, rules: Rules, impl: str) -> Tensor:
    check_order(rules.k_positions)
    return run_key_mass(q, k, lse, rules, impl)


traced.register(_evidence, _key_mass)


def run(
    operation: str,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    rules: Rules,
    impl: str = "auto",
    sequences: Ragged | None = None,
) -> tuple[Tensor | None, RowEvidence]:
    """What every row did and, with v, the output, unchecked. Notes under `operation` which implementation it was."""
    if implementation(q, v, topk=rules.topk, impl=impl) == "triton":
        from .gpu import self_check

        found = _by_kernels(lambda: self_check.checked_evidence(q, k, v, rules, sequences), impl)
        if found is not None:
            note(operation, "triton")
            return found
    note(operation, "reference")
    if sequences is not None:
        return None, sequences.evidence(q, k, rules)
    return reference.evidence(q, k, v, rules)


def run_key_mass(q: Tensor, k: Tensor, lse: Tensor, rules: Rules, impl: str = "auto") -> Tensor:
    """The mass of every key, unchecked."""
    if implementation(q, impl=impl) == "triton":
        from .gpu import self_check

        found = _by_kernels(lambda: self_check.checked_key_mass(q, k, lse, rules), impl)
        if found is not None:
            note("key_mass", "triton")
            return found
    note("key_mass", "reference")
    return reference.key_mass(q, k, lse, rules)


def _by_kernels(call: Callable[[], Found], impl: str) -> Found | None:
    """What the Triton kernels find; None, with a warning, if they fail or are wrong here and nobody insists on them."""
    if torch.version.hip is not None:
        warn_once("the Triton kernels compile for AMD's gfx942 and gfx950, and have not been measured on any AMD GPU")
    try:
        return call()
    except KernelError as error:
        if impl == "triton":
            raise
        warn_once(str(error))
        return None


@cache
def warn_once(message: str) -> None:
    """Log a warning, the first time that it is given."""
    log.warning("%s", message)


def implementation(q: Tensor, v: Tensor | None = None, *, topk: int = 0, impl: str = "auto") -> str:
    """Which implementation such a call runs: "triton" or "reference".

    "auto" is Triton for tensors on a GPU wherever it can be, "triton" raises where it cannot.

    Raises:
        ValueError: impl is unknown, or it is "triton" and something stands in the way; the message says what.
    """
    if impl not in ("auto", "triton", "reference"):
        raise ArgumentError(f'impl={impl!r} is unknown; use "auto", "triton" or "reference"')
    if impl == "reference":
        return "reference"
    obstacle = _obstacle(q, v, topk)
    if obstacle is None:
        return "triton" if impl == "triton" or q.is_cuda else "reference"
    if impl == "triton":
        raise ArgumentError(f'impl="triton": {obstacle}; or use "auto" or "reference"')
    return "reference"


def _obstacle(q: Tensor, v: Tensor | None, topk: int) -> str | None:
    """What keeps the Triton kernels from these inputs, and what to do about it."""
    if q.dtype == torch.float64:
        return "q is torch.float64; pass float32, bfloat16 or float16"
    dim = max(q.shape[-1], 0 if v is None else v.shape[-1])
    if dim > _TRITON_DIM:
        return f"the head dimension is {dim}; the kernels take up to {_TRITON_DIM}"
    if topk > _TRITON_TOPK:
        return f"topk={topk}; the kernels keep up to {_TRITON_TOPK} keys of a row"
    # TRITON_INTERPRET=1 runs the kernels in Python, on tensors of any device: for testing them without a GPU.
    if os.environ.get("TRITON_INTERPRET") != "1":
        if not q.is_cuda:
            return f"q is on {q.device}; move q, k and v to a GPU"
        if torch.version.hip is None and torch.cuda.get_device_capability(q.device) < (8, 0):
            return f"{torch.cuda.get_device_name(q.device)} is older than compute capability 8.0; use a newer GPU"
    if not _has_triton():
        return "the triton package is missing; pip install 'headscope[triton]'"
    return None


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
