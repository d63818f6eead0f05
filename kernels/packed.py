"""Row evidence of sequences packed one behind another, and of keys in the pages of a server's cache."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import ArgumentError
from .api import run
from .arguments import INTS, checked, floats, integers, usual_scale
from .evidence import RowEvidence
from .rules import Rules
from .sequences import ragged


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
    and not changed, later calls do not (tensors made under ``torch.inference_mode`` are looked at every time). A change
    that torch does not see, by a kernel of your own or through NumPy, goes unnoticed: pass another tensor. A CUDA graph
    keeps the lengths that it was captured with.

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
    floats("q", q, "[total_q, Hq, D]")
    floats("k", k, "[total_k, Hkv, D]" if block_table is None else "[pages, page_size, Hkv, D]")
    if (cu_seqlens_k is None) == (block_table is None) or (block_table is None) != (seq_lens is None):
        raise ArgumentError(
            "pass where the keys are: cu_seqlens_k of packed keys, or block_table and seq_lens of a cache"
        )
    q = q.transpose(0, 1)[None]
    rules = Rules(
        q_positions=torch.zeros(q.shape[2], dtype=torch.int64, device=q.device) if q_positions is None else q_positions,
        scale=usual_scale(q) if scale is None else scale,
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
    return _of_ragged(q, packed, rules, spans, q_positions is None, lengths, impl)


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
    floats("q", q, "[B, Hq, R, D]")
    floats("k_cache", k_cache, "[pages, page_size, Hkv, D]")
    rules = Rules(
        q_positions=torch.zeros(q.shape[2], dtype=torch.int64, device=q.device) if q_positions is None else q_positions,
        scale=usual_scale(q) if scale is None else scale,
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
    if k.shape[-1] != q.shape[-1]:
        raise ArgumentError(f"the keys have D = {k.shape[-1]} and q has D = {q.shape[-1]}; they must be alike")
    for name, x in lengths.items():
        if x is not None and not (isinstance(x, Tensor) and x.dtype in INTS):
            integers(name, x, q.device)
    at = ragged(q, k, **lengths)
    if spans is not None and at.of_row is not None:
        spans = integers("spans", spans, q.device)
        if spans.dim() == 3 and len(spans) == at.batch:
            spans = spans[at.of_row][None]
        elif spans.dim() == 3:
            raise ArgumentError(
                f"spans has shape {tuple(spans.shape)}; pass [start, end) pairs as [B, S, 2] = [{at.batch}, S, 2], or "
                f"per row as [1, total_q, S, 2] = [1, {q.shape[2]}, S, 2]"
            )
    none = k.new_empty(len(q), k.shape[1], 0, k.shape[3])  # how many keys there are is not the rules' affair
    rules = checked(q, none, None, replace(rules, spans=spans))
    if at_the_end:
        rules = replace(rules, q_positions=at.positions)
    return run("row_evidence", q, k, None, at.rules(rules), impl, at)[1]
