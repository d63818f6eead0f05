"""Infinite scores and values that are NaN, as the contract has them, on every path.

test_without_gpu.py runs this file once more with TRITON_INTERPRET=1, for the Triton kernels.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from headscope.kernels import RowEvidence, attend, evidence_attention, reference, row_evidence
from naive_attention import naive_map, naive_span_mass, naive_topk

IMPL = "reference"
if os.environ.get("TRITON_INTERPRET") == "1":
    import interpreter_shim  # noqa: F401

    IMPL = "triton"
TOL = 1e-5  # of numbers near 1: sums of a few dozen products in float32, and exp2
SPANS = torch.tensor([[[0, 22], [25, 40]]])


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "KEYS", 16)
    monkeypatch.setattr(reference, "CHUNK", 8)


def qkv(rows: int, n: int, batch: int = 1, kv_heads: int = 2, group: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(rows + n)
    shapes = (group * kv_heads, rows), (kv_heads, n), (kv_heads, n)
    q, k, v = (torch.randn(batch, *shape, 8, generator=gen) for shape in shapes)
    q[..., 0] = 1  # so that an infinite k[..., 0] is an infinite score
    return q, k, v


def close(got: Tensor | None, wanted: Tensor) -> None:
    assert got is not None
    torch.testing.assert_close(got.double(), wanted.double(), rtol=TOL, atol=TOL)


@pytest.mark.parametrize(
    ("hidden", "softcap", "options"),
    [
        (slice(0, 20), None, {}),  # the blocks that every row sees begin with it
        (slice(0, 20), 3.0, {}),
        (slice(14, 34), 3.0, {"window": 30}),
        (slice(None), None, {"sinks": torch.tensor([0.0, 3.0])}),
        (slice(None), 3.0, {}),
    ],
)
def test_a_score_of_minus_infinity_is_a_key_that_is_not_seen(
    hidden: slice, softcap: float | None, options: dict[str, Any]
) -> None:
    q, k, v = qkv(3, 40, kv_heads=1, group=2)
    at = torch.tensor([39, 36, 38])
    seen = torch.ones(40, dtype=torch.bool)
    seen[hidden] = False
    without = {"q_positions": at, "k_positions": seen.nonzero().flatten(), "softcap": softcap, **options}
    raw, logits, p, lse, position = naive_map(q, k[:, :, seen], **without)
    k[:, :, hidden, 0] = -torch.inf
    options = {"q_positions": at, "spans": SPANS, "softcap": softcap, "impl": IMPL, **options}
    out, fused = evidence_attention(q, k, v, **options)
    close(out, p @ v[:, :, seen].double().repeat_interleave(2, dim=1))
    key, logit = naive_topk(raw, logits, position, 3)
    for ev in (fused, row_evidence(q, k, topk=3, **options)):
        close(ev.lse, lse)
        close(ev.max_logit, logit[..., 0])
        close(ev.span_mass, naive_span_mass(p, position, SPANS))
        assert torch.equal(ev.argmax_key, key[..., 0])
    close(ev.topk_logit, logit)
    assert ev.topk_key is not None and torch.equal(ev.topk_key, key)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_a_score_of_plus_infinity_is_reported(softcap: float | None) -> None:
    q, k, v = qkv(2, 32)
    k[0, 1, 25, 0] = torch.inf
    broken = torch.zeros(1, 2, 2, dtype=torch.bool)
    broken[0, 1, 1] = True  # the head of that key, where the row comes after it
    options = {"q_positions": torch.tensor([24, 30]), "spans": SPANS, "softcap": softcap, "impl": IMPL}
    out, fused = evidence_attention(q, k, v, **options)
    assert torch.equal(out.isnan().all(-1), broken) and torch.equal(out.isnan().any(-1), broken)
    for ev in (fused, row_evidence(q, k, topk=2, **options)):
        for x in (ev.lse, ev.max_logit, ev.p_max, ev.span_mass[..., 0]):
            assert torch.equal(x.isnan(), broken)
        assert torch.equal(ev.argmax_key == -1, broken)
    assert ev.topk_key is not None and torch.equal((ev.topk_key == -1).all(-1), broken)


def test_a_broken_value_reaches_no_evidence_and_no_row_as_a_number() -> None:
    q, k, v = qkv(4, 48)
    limits = torch.tensor([48, 30, 41, 5])
    options = {"q_positions": torch.full((4,), 47), "key_limits": limits, "spans": SPANS, "impl": IMPL}
    wanted, clean = evidence_attention(q, k, v, **options)
    seen = torch.zeros(wanted.shape, dtype=torch.bool)
    seen[0, 1, [0, 2], 3] = True
    other = torch.ones_like(seen)
    other[0, 1, :, 3] = False
    for bad in (torch.nan, torch.inf):
        v[0, 1, 40, 3] = bad
        out, ev = evidence_attention(q, k, v, **options)
        assert_same(ev, clean)
        assert not out[seen].isfinite().any()
        same_or_nan(out[~seen], wanted[~seen])
        close(out[other], wanted[other])


@pytest.mark.parametrize("options", [{}, {"window": 9}])
def test_nothing_is_read_of_values_that_no_row_of_the_batch_entry_reaches(options: dict[str, Any]) -> None:
    q, k, v = qkv(2, 40, batch=2, kv_heads=1)
    limits = torch.tensor([[36, 35], [20, 19]])  # the entries' own: what one reaches, the other does not
    options = {"q_positions": limits - 1, "key_limits": limits, "impl": IMPL, **options}
    wanted, _ = evidence_attention(q, k, v, **options)
    v[0, :, 36:], v[1, :, 20:] = torch.nan, torch.inf
    if "window" in options:
        v[0, :, :26], v[1, :, :10] = torch.inf, torch.nan
    close(evidence_attention(q, k, v, **options)[0], wanted)


@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("window", [None, 30])
def test_plain_attention_keeps_to_it(window: int | None, rows: int) -> None:
    q, k, v = qkv(rows, 70)
    k[:, :, :20, 0] = -torch.inf
    wanted, ev = evidence_attention(q, k, v, q_offset=70 - rows, window=window, impl="reference")
    out, lse = attend(q, k, v, window=window)
    close(lse, ev.lse)
    close(out, wanted)
    v[0, 1, 66, 3] = torch.nan
    broken, same = attend(q, k, v, window=window)
    close(same, ev.lse)
    same_or_nan(broken, wanted)
    assert broken[0, 1, -1, 3].isnan() and not broken[0, 0].isnan().any()
    k[0, 1, 69, 0] = torch.inf
    out, lse = attend(q, k, v, window=window)
    assert out[0, 1, -1].isnan().all() and lse[0, 1, -1].isnan() and not lse[0, 0].isnan().any()


def assert_same(a: RowEvidence, b: RowEvidence) -> None:
    assert torch.equal(a.argmax_key, b.argmax_key)
    for name in ("lse", "max_logit", "span_mass"):
        close(getattr(a, name), getattr(b, name))


def same_or_nan(got: Tensor, wanted: Tensor) -> None:
    close(torch.where(got.isnan(), wanted, got), wanted)
