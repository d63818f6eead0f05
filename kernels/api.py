"""The two evidence operations: argument checks and the choice of implementation."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from numbers import Integral, Real
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import ArgumentError, ArgumentTypeError
from . import reference, traced
from .dispatch_log import note
from .errors import KernelError
from .evidence import RowEvidence
from .rules import Rules
from .sequences import Ragged, ragged

log = logging.getLogger(__name__)
Found = TypeVar("Found")

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_INTS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
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
        scale=_usual_scale(q) if scale is None else scale,
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
    return _ask("row_evidence", q, k, None, _checked(q, k, None, rules), impl)[1]


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
        _whole("q_offset", q_offset)
        _floats("q", q, "[B, Hq, R, D]")
        q_positions = q_offset + torch.arange(q.shape[2], device=q.device)
    elif q_offset != 0:
        raise ArgumentError(f"q_offset={q_offset} and q_positions were both given; pass one of them")
    _floats("v", v, "[B, Hkv, N, Dv]")
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in (q, k, v)):
        raise ArgumentError(
            "q, k or v requires grad, but evidence_attention has no backward; call it under torch.no_grad()"
        )
    rules = Rules(
        q_positions=q_positions,
        scale=_usual_scale(q) if scale is None else scale,
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
    out, ev = _ask("evidence_attention", q, k, v, _checked(q, k, v, rules), impl)
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
        scale=_usual_scale(q) if scale is None else scale,
        causal=causal,
        window=window,
        softcap=softcap,
        key_limits=key_limits,
        key_starts=key_starts,
        k_positions=k_positions,
    )
    rules = _checked(q, k, None, rules)
    _floats("lse", lse, "[B, Hq, R]")
    if lse.shape != q.shape[:3] or lse.device != q.device:
        raise ArgumentError(
            f"lse has shape {tuple(lse.shape)} on {lse.device}; pass one number per row and head of q, "
            f"{list(q.shape[:3])} on {q.device}"
        )
    if traced.is_traced(q):
        return traced.key_mass(q, k, lse, rules, impl)
    return _key_mass(q, k, lse.detach(), rules, impl)


def row_evidence_varlen(
    q: Tensor,
    k: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None = None,
    block_table: Tensor | None = None,
    seq_lens: Tensor | None = None,
    q_positions: Tensor | None = None,
    spans: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    key_limits: Tensor | None = None,
    key_starts: Tensor | None = None,
    topk: int = 0,
    causal: bool = True,
    impl: str = "auto",
) -> RowEvidence:
    """``row_evidence`` of B sequences whose rows are packed one behind another, as in FlashAttention's varlen.

    Every sequence has positions of its own from 0, and its rows see its keys only. Keys are packed as well (with
    ``cu_seqlens_k``), or lie in pages of a cache (with ``block_table`` and ``seq_lens``), as vLLM calls FlashAttention.
    The first call with some lengths or table checks them, and waits for the device; while these tensors are the same
    and not changed, later calls do not (tensors made under ``torch.inference_mode`` are looked at every time). A CUDA
    graph keeps the lengths that it was captured with.

    Other arguments and errors as in ``row_evidence``; further:

    Args:
        q: [total_q, Hq, D]; any strides.
        k: [total_k, Hkv, D], or with a table the cache [pages, page_size, Hkv, D]; any strides.
        cu_seqlens_q, cu_seqlens_k: int [B + 1], from 0 to total_q and total_k: where sequence b begins and ends.
        block_table: int [B, most]: the page of the cache that holds keys p * page_size .. of sequence b is
            ``block_table[b, p]``; entries behind a sequence's last key may be anything.
        seq_lens: int [B], keys of each sequence in the cache.
        q_positions: int [total_q]; default: the last row of a sequence is at its last key, as in FlashAttention.
        spans: int [B, S, 2] in positions of sequence b, or per row [1, total_q, S, 2].
        key_limits, key_starts: int [total_q].

    Returns:
        Evidence of one batch entry, [1, Hq, total_q]; positions are those within the sequence.
    """
    _floats("q", q, "[total_q, Hq, D]")
    _floats("k", k, "[total_k, Hkv, D]" if block_table is None else "[pages, page_size, Hkv, D]")
    if (cu_seqlens_k is None) == (block_table is None) or (block_table is None) != (seq_lens is None):
        raise ArgumentError(
            "pass where the keys are: cu_seqlens_k of packed keys, or block_table and seq_lens of a cache"
        )
    rules = Rules(
        q_positions=torch.zeros(len(q), dtype=torch.int64, device=q.device) if q_positions is None else q_positions,
        scale=max(1, q.shape[-1]) ** -0.5 if scale is None else scale,
        causal=causal,
        window=window,
        softcap=softcap,
        sinks=sinks,
        key_limits=key_limits,
        key_starts=key_starts,
        topk=topk,
    )
    lengths = {
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
        "block_table": block_table,
        "seq_lens": seq_lens,
    }
    packed = k.transpose(0, 1)[None] if block_table is None else k.transpose(1, 2)
    return _of_ragged(q.transpose(0, 1)[None], packed, rules, spans, q_positions is None, lengths, impl)


def row_evidence_paged(
    q: Tensor,
    k_cache: Tensor,
    *,
    block_table: Tensor,
    seq_lens: Tensor,
    q_positions: Tensor | None = None,
    spans: Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    key_limits: Tensor | None = None,
    key_starts: Tensor | None = None,
    topk: int = 0,
    causal: bool = True,
    impl: str = "auto",
) -> RowEvidence:
    """``row_evidence`` of B sequences with R rows each against the pages of a cache, as inference servers keep it.

    The cache is [pages, page_size, Hkv, D], as in FlashAttention, vLLM and FlashInfer's NHD; of HND pass
    ``transpose(1, 2)``, of SGLang's pool of single tokens ``[:, None]``. Keys are read where they lie; the reference
    copies one sequence's at a time. ``block_table`` and ``seq_lens`` as in ``row_evidence_varlen``, which has them for
    rows that are packed.

    Other arguments, errors and result as in ``row_evidence``; q_positions default to the last R positions of each
    sequence.
    """
    _floats("q", q, "[B, Hq, R, D]")
    _floats("k_cache", k_cache, "[pages, page_size, Hkv, D]")
    rules = Rules(
        q_positions=torch.zeros(q.shape[2], dtype=torch.int64, device=q.device) if q_positions is None else q_positions,
        scale=_usual_scale(q) if scale is None else scale,
        causal=causal,
        window=window,
        softcap=softcap,
        sinks=sinks,
        key_limits=key_limits,
        key_starts=key_starts,
        topk=topk,
    )
    lengths: dict[str, Tensor | None] = {"block_table": block_table, "seq_lens": seq_lens}
    return _of_ragged(q, k_cache.transpose(1, 2), rules, spans, q_positions is None, lengths, impl)


def _of_ragged(
    q: Tensor,
    k: Tensor,
    rules: Rules,
    spans: Tensor | None,
    at_the_end: bool,
    lengths: dict[str, Tensor | None],
    impl: str,
) -> RowEvidence:
    """q and k as described in ``sequences.Sequences``; rules without spans, and without positions if at_the_end."""
    if k.dtype != q.dtype or k.device != q.device or k.shape[-1] != q.shape[-1]:
        raise ArgumentError(
            f"keys are {k.dtype} on {k.device} with D = {k.shape[-1]}, q is {q.dtype} on {q.device} with D = "
            f"{q.shape[-1]}; they must be alike"
        )
    for name, x in lengths.items():
        if x is not None and not (isinstance(x, Tensor) and x.dtype in _INTS):
            _integers(name, x, q.device)
    at = ragged(q, k, **lengths)
    if spans is not None and at.of_row is not None:
        spans = _integers("spans", spans, q.device)
        if spans.dim() == 3 and len(spans) == at.batch:
            spans = spans[at.of_row][None]
        elif spans.dim() == 3:
            raise ArgumentError(
                f"spans has shape {tuple(spans.shape)}; pass [start, end) pairs as [B, S, 2] = [{at.batch}, S, 2], or "
                f"per row as [1, total_q, S, 2] = [1, {q.shape[2]}, S, 2]"
            )
    none = k.new_empty(len(q), k.shape[1], 0, k.shape[3])  # how many keys there are is not the rules' affair
    rules = _checked(q, none, None, replace(rules, spans=spans))
    if at_the_end:
        rules = replace(rules, q_positions=at.positions)
    return run("row_evidence", q, k, None, at.rules(rules), impl, at)[1]


def _usual_scale(q: Tensor) -> float:
    _floats("q", q, "[B, Hq, R, D]")
    return max(1, q.shape[-1]) ** -0.5


def _checked(q: Tensor, k: Tensor, v: Tensor | None, rules: Rules) -> Rules:
    """The rules with all integers as int64 on q's device; raises if anything does not fit."""
    batch, heads, rows, n = _check_heads(q, k, v)
    _whole("topk", rules.topk, least=0)
    if rules.window is not None:
        _whole("window", rules.window, least=1)
    if not isinstance(rules.causal, bool):
        raise ArgumentTypeError(f"causal is {rules.causal!r}; pass True or False")
    sinks, spans, k_positions = rules.sinks, rules.spans, rules.k_positions
    if sinks is not None:
        _floats("sinks", sinks, "[Hq]")
        if sinks.shape != (heads,):
            raise ArgumentError(f"sinks has shape {tuple(sinks.shape)}; pass one logit per query head, [{heads}]")
    if spans is not None:
        spans = _integers("spans", spans, q.device)
        if spans.dim() not in (3, 4) or spans.shape[-1] != 2 or spans.shape[:-2] not in ((batch,), (batch, rows)):
            raise ArgumentError(
                f"spans has shape {tuple(spans.shape)}; pass [start, end) pairs as [B, S, 2] = [{batch}, S, 2], or per "
                f"row as [B, R, S, 2] = [{batch}, {rows}, S, 2]"
            )
    if k_positions is not None:
        k_positions = _integers("k_positions", k_positions, q.device, ("N", n), batch)

    def per_row(name: str, x: Tensor | None) -> Tensor | None:
        return None if x is None else _integers(name, x, q.device, ("R", rows), batch)

    return Rules(
        q_positions=_integers("q_positions", rules.q_positions, q.device, ("R", rows), batch),
        scale=_positive("scale", rules.scale),
        causal=rules.causal,
        window=rules.window,
        softcap=None if rules.softcap is None else _positive("softcap", rules.softcap),
        sinks=None if sinks is None else sinks.detach().to(q.device),
        key_limits=per_row("key_limits", rules.key_limits),
        key_starts=per_row("key_starts", rules.key_starts),
        k_positions=k_positions,
        spans=spans,
        topk=rules.topk,
    )


def _ask(
    operation: str, q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, impl: str
) -> tuple[Tensor | None, RowEvidence]:
    if traced.is_traced(q):
        return traced.evidence(q, k, v, rules, impl)
    return _evidence(operation, q, k, v, rules, impl)


def _evidence(
    operation: str, q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, impl: str
) -> tuple[Tensor | None, RowEvidence]:
    _check_order(rules.k_positions)
    return run(operation, q, k, v, rules, impl)


def _key_mass(q: Tensor, k: Tensor, lse: Tensor, rules: Rules, impl: str) -> Tensor:
    _check_order(rules.k_positions)
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


def _check_heads(q: Tensor, k: Tensor, v: Tensor | None) -> tuple[int, int, int, int]:
    """B, Hq, R and N of inputs that fit each other."""
    _floats("q", q, "[B, Hq, R, D]")
    _floats("k", k, "[B, Hkv, N, D]")
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
        _floats("v", v, "[B, Hkv, N, Dv]")
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


def _floats(name: str, x: Tensor, shape: str) -> None:
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(f"{name} is {type(x).__name__}; pass a torch.Tensor {shape}")
    if x.dtype not in _FLOATS:
        raise ArgumentTypeError(f"{name} is {x.dtype}; pass float64, float32, bfloat16 or float16")
    if x.dim() != shape.count(",") + 1:
        raise ArgumentError(f"{name} has shape {tuple(x.shape)}; pass {shape}")


def _integers(
    name: str, x: Tensor, device: torch.device, axis: tuple[str, int] | None = None, batch: int = 1
) -> Tensor:
    """As int64 on the device; with an axis also checked to be [axis] or [B, axis], and given its batch axis."""
    if not isinstance(x, Tensor):
        raise ArgumentTypeError(f"{name} is {type(x).__name__}; pass an integer torch.Tensor")
    if x.dtype not in _INTS:
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


def _check_order(k_positions: Tensor | None) -> None:
    """The one check of values: a trace has none."""
    if k_positions is not None and not _increasing(k_positions):
        raise ArgumentError(
            "k_positions must increase strictly along the keys; sort the keys by position and drop repeats"
        )


# Positions known to increase, with the version that was looked at: a GPU must be waited for to ask, and every layer of
# a model passes the same tensor.
_known = WeakIdKeyDictionary()


def _increasing(positions: Tensor) -> bool:
    version = None if positions.is_inference() else positions._version
    if version is not None and _known.get(positions) == version:
        return True
    found = not bool((positions.diff(dim=-1) <= 0).any())
    if found and version is not None:
        _known[positions] = version
    return found


def _whole(name: str, value: int, least: int | None = None) -> None:
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
