"""The operations as custom operators of torch, for code that is traced: torch.compile, torch.export, FakeTensor.

Operators take and return plain tensors and numbers, so the rules travel as the fields of `Rules` in their order, and
evidence as the fields of `RowEvidence`, with top-k tensors of width 0 where there are none. Calls that are not traced
do not pass through here: they would pay some tens of microseconds each for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor

from .evidence import RowEvidence
from .rules import Rules

RULES = (
    "Tensor q_positions, float scale, bool causal, SymInt? window, float? softcap, Tensor? sinks, Tensor? key_limits, "
    "Tensor? key_starts, Tensor? k_positions, Tensor? spans, SymInt topk"
)
NAMES = [field.split()[1] for field in RULES.split(", ")]
EVIDENCE = "Tensor lse, Tensor argmax_key, Tensor max_logit, Tensor span_mass, Tensor topk_key, Tensor topk_logit"


def is_traced(q: Tensor) -> bool:
    return torch.compiler.is_compiling() or isinstance(q, FakeTensor)


def register(
    run: Callable[[str, Tensor, Tensor, Tensor | None, Rules, str], tuple[Tensor | None, RowEvidence]],
    run_key_mass: Callable[[Tensor, Tensor, Tensor, Rules, str], Tensor],
) -> None:
    """Define `torch.ops.headscope.row_evidence`, `.evidence_attention` and `.key_mass` by what computes them."""

    def row_evidence(q: Tensor, k: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        *given, impl = rest
        return _fields(run("row_evidence", q, k, None, _rules(given), impl)[1])

    def evidence_attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        *given, impl = rest
        out, ev = run("evidence_attention", q, k, v, _rules(given), impl)
        assert out is not None
        return (out, *_fields(ev))

    def key_mass(q: Tensor, k: Tensor, lse: Tensor, *rest: Any) -> Tensor:
        *given, impl = rest
        return run_key_mass(q, k, lse, _rules(given), impl)

    for name, tensors, returned, real, fake in (
        ("row_evidence", "Tensor q, Tensor k", EVIDENCE, row_evidence, _fake_evidence),
        (
            "evidence_attention",
            "Tensor q, Tensor k, Tensor v",
            f"Tensor out, {EVIDENCE}",
            evidence_attention,
            _fake_all,
        ),
        ("key_mass", "Tensor q, Tensor k, Tensor lse", "Tensor", key_mass, _fake_mass),
    ):
        schema = f"({tensors}, {RULES}, str impl) -> " + (returned if returned == "Tensor" else f"({returned})")
        torch.library.custom_op(f"headscope::{name}", real, mutates_args=(), schema=schema).register_fake(fake)


def evidence(q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, impl: str) -> tuple[Tensor | None, RowEvidence]:
    """By the registered operator."""
    given = [getattr(rules, name) for name in NAMES]
    with torch.no_grad():
        if v is None:
            out, parts = None, torch.ops.headscope.row_evidence.default(q, k, *given, impl)
        else:
            out, *parts = torch.ops.headscope.evidence_attention.default(q, k, v, *given, impl)
    lse, argmax_key, max_logit, span_mass, topk_key, topk_logit = parts
    ev = RowEvidence(lse, argmax_key, max_logit, span_mass)
    return out, RowEvidence(lse, argmax_key, max_logit, span_mass, topk_key, topk_logit) if rules.topk else ev


def key_mass(q: Tensor, k: Tensor, lse: Tensor, rules: Rules, impl: str) -> Tensor:
    """By the registered operator."""
    with torch.no_grad():
        found: Tensor = torch.ops.headscope.key_mass.default(q, k, lse, *(getattr(rules, name) for name in NAMES), impl)
    return found


def _rules(given: list[Any]) -> Rules:
    return Rules(**dict(zip(NAMES, given, strict=True)))


def _fields(ev: RowEvidence) -> tuple[Tensor, ...]:
    none = ev.lse.new_empty(*ev.lse.shape, 0)
    topk_key = none.long() if ev.topk_key is None else ev.topk_key
    topk_logit = none if ev.topk_logit is None else ev.topk_logit
    return ev.lse, ev.argmax_key, ev.max_logit, ev.span_mass, topk_key, topk_logit


def _fake_evidence(q: Tensor, k: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rules = _rules(list(rest[:-1]))
    shape = q.shape[:3]
    lse = q.new_empty(shape, dtype=torch.promote_types(q.dtype, torch.float32))
    key = lse.new_empty(shape, dtype=torch.int64)
    mass = lse.new_empty(*shape, 0 if rules.spans is None else rules.spans.shape[-2])
    highest = lse.new_empty(*shape, rules.topk)
    return lse, key, torch.empty_like(lse), mass, torch.empty_like(highest, dtype=torch.int64), highest


def _fake_all(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return (q.new_empty(*q.shape[:3], v.shape[-1]), *_fake_evidence(q, k, *rest))


def _fake_mass(q: Tensor, k: Tensor, lse: Tensor, *rest: Any) -> Tensor:
    return q.new_empty(*q.shape[:2], k.shape[2], dtype=torch.promote_types(q.dtype, torch.float32))
