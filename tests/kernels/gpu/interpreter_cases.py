"""Both Triton kernels, interpreted on CPU tensors, against the whole attention map in float64.

Run by test_without_gpu.py with TRITON_INTERPRET=1. Everything torch.empty hands out is filled with NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import interpreter_shim  # noqa: F401
import numpy as np
import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import InterpreterBuilder

import ragged
from benchmark_modules import benchmark
from builders import random_probe
from headscope.interp.engine import passes
from headscope.interp.engine import suffixes as suffixes
from headscope.interp.engine.engine import Engine
from headscope.interp.engine.plan import plan
from headscope.interp.model.adapt import adapt
from headscope.kernels import (
    KernelError,
    RowEvidence,
    api,
    evidence_attention,
    first_use,
    merge,
    row_evidence,
    row_evidence_varlen,
)
from headscope.kernels import dispatch_log as choices
from headscope.kernels import reference as definition
from headscope.kernels import sdpa as plain
from headscope.kernels.api import implementation
from headscope.kernels.gpu import clear_blocks, configs, launch
from headscope.kernels.gpu import row_evidence as rows_module
from headscope.kernels.gpu.evidence_attention import evidence_attention as fused
from headscope.kernels.gpu.split_attention import split_attention
from headscope.kernels.rules import Rules
from headscope.kernels.sequences import Sequences
from headscope.probes import ProbeSet
from naive_attention import naive_map, naive_span_mass, naive_topk
from tiny_models import build

random_cases = benchmark("random_cases")
# Scores are sums of products in float32, of inputs that are exact in it: some roundings of a value of size max(1, |x|).
TOL = 32 * torch.finfo(torch.float32).eps


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def empty(*args: Any, **kwargs: Any) -> Tensor:
            x = make(*args, **kwargs)
            return x.fill_(torch.nan if x.is_floating_point() else 77)

        return empty

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def integers(*shape: int, seed: int, high: int = 3) -> Tensor:
    """Small whole numbers: every product is exact, and ties are everywhere."""
    return torch.randint(-high, high + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def normal(*shape: int, seed: int) -> Tensor:
    """Random numbers of up to ten bits, more than bfloat16 holds: sums of their products are exact in float32, in any
    order, so which key is the highest does not depend on how a processor adds.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(128).round_().div_(128)


def close(got: Tensor, wanted: Tensor, tol: float | Tensor) -> None:
    assert got.shape == wanted.shape
    error = (got.double() - wanted.double()).abs()
    ok = (error <= tol * wanted.abs().clamp_min(1)) | (got.double() == wanted.double())
    assert ok.all(), f"off by {error[~ok].max().item()} at {(~ok).nonzero()[0].tolist()}"


def compare(
    q: Tensor, k: Tensor, v: Tensor | None = None, *, spans: Tensor | None = None, tol: float = TOL, **options: Any
) -> RowEvidence:
    """Hold everything both kernels return (only the first without v) against the map."""
    raw, logits, p, lse, position = naive_map(q, k, **options)
    ev = row_evidence(q, k, spans=spans, impl="triton", **options)
    found = [ev]
    if v is not None:
        out, fused = evidence_attention(q, k, v, spans=spans, impl="triton", **options)
        found.append(fused)
        values = v.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        assert out.dtype == q.dtype
        # Weights are rounded to v's dtype for the product, and so is the output: by a whole unit, because the
        # interpreter cuts bfloat16 off.
        wanted, unit = p @ values, torch.finfo(q.dtype).eps
        close(out, wanted, tol * (1 + values.abs().amax()) + unit * (p @ values.abs() + wanted.abs()))
    for got in found:
        key, value = naive_topk(raw, logits, position, 1)
        assert torch.equal(got.argmax_key, key[..., 0])
        assert got.lse.dtype == got.max_logit.dtype == got.span_mass.dtype == torch.float32
        assert got.topk_key is None
        close(got.lse, lse, tol)
        close(got.max_logit, value[..., 0], tol)
        close(got.p_max, p.amax(-1), tol)
        close(
            got.span_mass, lse.new_zeros(*lse.shape, 0) if spans is None else naive_span_mass(p, position, spans), tol
        )
    return ev


def compare_topk(q: Tensor, k: Tensor, topk: int, **options: Any) -> RowEvidence:
    raw, logits, _, _, position = naive_map(q, k, **options)
    ev = row_evidence(q, k, topk=topk, impl="triton", **options)
    key, value = naive_topk(raw, logits, position, topk)
    assert ev.topk_key is not None and ev.topk_logit is not None
    assert torch.equal(ev.topk_key, key) and torch.equal(ev.argmax_key, key[..., 0])
    close(ev.topk_logit, value, TOL + (0 if options.get("softcap") is None else 1e-6))
    return ev


def qkv(batch: int, kv_heads: int, group: int, rows: int, n: int, dim: int, seed: int = 0) -> tuple[Tensor, ...]:
    return (
        normal(batch, kv_heads * group, rows, dim, seed=seed),
        normal(batch, kv_heads, n, dim, seed=seed + 1),
        normal(batch, kv_heads, n, dim, seed=seed + 2),
    )


@pytest.mark.parametrize("group", [1, 3, 8])  # 2 nearly everywhere else
def test_query_heads_share_key_heads(group: int) -> None:
    compare(*qkv(2, 2, group, 3, 37, 8), q_positions=torch.arange(34, 37), spans=torch.tensor([[[3, 9]], [[0, 37]]]))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 77])
def test_odd_lengths(n: int) -> None:
    compare(*qkv(1, 1, 2, 3, n, 5, seed=n), q_positions=torch.tensor([n - 1, 0, n // 2]))


def test_rows_that_fill_no_tile_walk_their_own_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pads a tile is its last row once more: a row at position 0 would have all keys before the window walked."""
    monkeypatch.setattr(rows_module, "splits_for", lambda *_: 1)
    blocks, dot = [], InterpreterBuilder.create_dot
    monkeypatch.setattr(InterpreterBuilder, "create_dot", lambda *args: blocks.append(1) or dot(*args))
    q, k, _ = qkv(1, 1, 3, 1, 96, 8)
    compare(q, k, q_positions=torch.tensor([95]), window=16)
    assert len(blocks) == 1
    compare(q, k, q_positions=torch.tensor([torch.iinfo(torch.int64).max]))


@pytest.mark.parametrize("tile", [(16, 32, 4, 1), (32, 16, 4, 1)])
def test_causal_square_in_other_tiles(tile: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "INTERPRETED", configs.Tile(*tile))
    compare(*qkv(1, 1, 2, 45, 45, 16), q_positions=torch.arange(45), spans=torch.tensor([[[0, 4], [20, 31]]]))


def test_early_rows_see_nothing() -> None:
    ev = compare(*qkv(1, 1, 2, 6, 9, 4), q_positions=torch.tensor([-3, -1, 0, 4, 8, 1000]))
    assert (ev.argmax_key[0, :, :2] == -1).all() and (ev.lse[0, :, :2] == -torch.inf).all()


def test_a_row_that_sees_nothing_among_rows_that_see_whole_blocks() -> None:
    """Blocks that all seeing rows see are walked without a mask; the blind row must not come by keys that way."""
    ev = compare(*qkv(1, 1, 2, 4, 50, 8), q_positions=torch.tensor([40, -1, 45, 30]), spans=torch.tensor([[[0, 9]]]))
    assert (ev.argmax_key[0, :, 1] == -1).all() and (ev.argmax_key[0, :, 0] >= 0).all()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 7, 30, 1000])
def test_window(window: int, causal: bool) -> None:
    rows = torch.tensor([49, 3, 0, 17, 18, 60, 5, 31, 16])
    spans = torch.tensor([[[0, 4], [10, 20]]])
    compare(*qkv(1, 1, 2, 9, 50, 8), q_positions=rows, window=window, causal=causal, spans=spans)


def test_wide_window_has_clear_blocks_between_two_masked_edges() -> None:
    compare(*qkv(1, 1, 1, 20, 120, 8), q_positions=torch.arange(100, 120), window=80, spans=torch.tensor([[[20, 60]]]))


def test_softcap_does_not_hide_the_order_of_saturated_scores() -> None:
    q = torch.full((1, 1, 1, 1), 100.0)
    k = torch.tensor([1.0, 3.0, 7.0, 5.0]).view(1, 1, 4, 1)
    ev = compare(q, k, k, q_positions=torch.tensor([3]), scale=1.0, softcap=2.0)
    assert ev.argmax_key.item() == 2 and ev.max_logit.item() == pytest.approx(2.0)


@pytest.mark.parametrize("softcap", [0.5, 50.0])
def test_softcap(softcap: float) -> None:
    q, k, v = qkv(1, 2, 2, 9, 33, 8)
    rows = torch.tensor([-2, 5, 32, 0, 16, 15, 31, 20, 9])
    spans = torch.tensor([[[0, 4], [10, 20]]])
    # tanh by way of exp is off by a rounding or two of 1, times the cap.
    compare(6 * q, k, v, q_positions=rows, softcap=softcap, window=18, spans=spans, tol=TOL + 2e-7 * softcap)


def test_sinks_take_probability_but_are_no_keys() -> None:
    sinks = torch.tensor([-3.0, 0.0, 2.0, 50.0])
    rows = torch.tensor([-1, 0, 10, 20, 32])
    ev = compare(*qkv(2, 2, 2, 5, 33, 8), q_positions=rows, sinks=sinks, spans=torch.tensor([[[0, 33]]] * 2))
    assert (ev.argmax_key[:, :, 0] == -1).all() and (ev.p_max[:, :, 0] == 0).all()
    assert torch.equal(ev.lse[0, :, 0], sinks), "a row without keys keeps the sink"


@pytest.mark.parametrize("causal", [True, False])
def test_limits_and_starts_differ_by_row_and_batch(causal: bool) -> None:
    gen = torch.Generator().manual_seed(0)
    limits, starts = torch.randint(-5, 50, (3, 11), generator=gen), torch.randint(-5, 45, (3, 11), generator=gen)
    rows = torch.randint(0, 45, (3, 11), generator=gen)
    spans = torch.tensor([[[0, 4]], [[30, 50]], [[-5, 12]]])
    options = {"q_positions": rows, "key_limits": limits, "key_starts": starts}
    compare(*qkv(3, 1, 2, 11, 40, 8), **options, causal=causal, spans=spans)


def test_key_positions_with_holes() -> None:
    gen = torch.Generator().manual_seed(0)
    q, k, v = qkv(2, 1, 2, 12, 20, 8)
    places = torch.stack([torch.randperm(100, generator=gen)[:20].sort().values - 10 for _ in range(2)])
    rows = torch.arange(-12, 96, 9)
    spans = torch.tensor([[[0, 30], [50, 51], [-20, 200]], [[5, 5], [60, 99], [7, 3]]])
    compare(q, k, v, q_positions=rows, k_positions=places, window=60, spans=spans)
    compare(q, k, v, q_positions=rows, k_positions=places[0], key_limits=rows + 3, causal=False, spans=spans)


def test_spans_far_apart_in_one_tile() -> None:
    gen = torch.Generator().manual_seed(0)
    q, k, _ = qkv(1, 1, 2, 14, 300, 8)
    start = torch.randint(-3, 298, (14, 3), generator=gen)
    spans = torch.stack((start, start + torch.randint(-1, 30, (14, 3), generator=gen)), -1)[None]
    rows = torch.randint(0, 300, (14,), generator=gen)
    compare(q, k, q_positions=rows, spans=spans, key_limits=torch.randint(0, 300, (14,), generator=gen))
    window = torch.stack((rows - 9, rows + 1), -1)[None, :, None]
    compare(q, k, q_positions=rows, spans=window)


@pytest.mark.parametrize(
    ("dtype", "dim", "value_dim"),
    [
        (torch.float32, 64, 64),
        (torch.float32, 192, 128),
        (torch.bfloat16, 80, 80),
        (torch.bfloat16, 192, 128),
        (torch.float16, 80, 80),
    ],
)
def test_dtypes_and_head_dimensions(dtype: torch.dtype, dim: int, value_dim: int) -> None:
    q, k, v = (x.to(dtype) for x in qkv(1, 1, 2, 9, 65, dim))
    rows = torch.arange(56, 65)
    compare(q, k, v[..., :value_dim], q_positions=rows, spans=torch.tensor([[[0, 4], [10, 50]]]))


@pytest.mark.parametrize("dim", [33, 256])
def test_more_head_dimensions(dim: int) -> None:
    q, k, v = (x.bfloat16() for x in qkv(1, 1, 1, 3, 40, dim))
    compare(q, k, v, q_positions=torch.tensor([39, 7, 20]), spans=torch.tensor([[[5, 17]]]))


@pytest.mark.parametrize("n", [12, 81])
def test_ties_inside_and_across_blocks_go_to_the_lowest_position(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = integers(1, 4, 6, 3, seed=n), integers(1, 2, n, 3, seed=n + 1, high=1)
    rows = torch.tensor([n - 1, n // 2, 0, 5, 7, n - 1])
    compare(q, k, k, q_positions=rows)
    monkeypatch.setattr(rows_module, "splits_for", lambda *_: 3)
    compare(q, k, q_positions=rows)
    same = k[:, :, :1].expand(1, 2, n, 3)
    ev = compare(q, same, same, q_positions=rows)
    assert (ev.argmax_key == 0).all()
    ev = compare(q, same, same, q_positions=rows, window=2)
    assert torch.equal(ev.argmax_key, (rows - 1).clamp_min(0).expand_as(ev.argmax_key))


@pytest.mark.parametrize("splits", [1, 2, 5, 7])
def test_splits(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "splits_for", lambda *_: splits)
    q, k, _ = qkv(1, 2, 2, 5, 100, 8)
    rows = torch.tensor([99, -1, 0, 40, 99])
    compare(q, k, q_positions=rows, spans=torch.tensor([[[3, 90]]]), sinks=torch.tensor([0.0, -9.0, 3.0, 40.0]))
    compare(q, k, q_positions=rows, window=37, softcap=5.0, tol=TOL + 1e-6)


def test_splits_follow_the_work() -> None:
    q, k = torch.zeros(1, 4, 3, 8), torch.zeros(1, 1, 1000, 8)
    ev = row_evidence(q, k, q_positions=torch.tensor([999, 0, 500]), impl="triton")
    assert ev.argmax_key.eq(0).all()
    at = Sequences.of(q, k)
    assert rows_module.layout(q, k, at) == (configs.INTERPRETED, 2, False), "two programs fit on the one processor"
    assert rows_module.layout(q, k, at, tile=configs.Tile(16, 1024, 4, 1)).splits == 1, "one block"


@pytest.fixture(params=[False, True], ids=["keys", "blocks"])
def _in_the_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loop of row_evidence remembers."""
    monkeypatch.setattr(rows_module, "LONG_WALK", 1 if request.param else 1 << 30)


@pytest.mark.usefixtures("_in_the_loop")
def test_leading_scores_of_minus_infinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole blocks of them, which no mask has touched: they weigh nothing, and a row of nothing else has no key."""
    q, k = torch.ones(1, 2, 3, 4), normal(1, 1, 100, 4, seed=1)
    k[0, 0, :40, 0] = -torch.inf
    options = {"q_positions": torch.tensor([99, 30, 45]), "spans": torch.tensor([[[0, 44]]])}
    for splits in (1, 3):
        monkeypatch.setattr(rows_module, "splits_for", lambda *_, splits=splits: splits)
        ev, wanted = (row_evidence(q, k, impl=impl, **options) for impl in ("triton", "reference"))
        assert torch.equal(ev.argmax_key, wanted.argmax_key) and ev.argmax_key[0, 0].tolist()[1] == -1
        for name in ("lse", "max_logit", "span_mass"):
            close(getattr(ev, name), getattr(wanted, name), TOL)


@pytest.mark.usefixtures("_in_the_loop")
@pytest.mark.parametrize("splits", [1, 3])
def test_keys_by_a_second_look_at_blocks(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "splits_for", lambda *_: splits)
    rows = torch.tensor([89, -1, 0, 40, 89])
    same = integers(1, 1, 1, 3, seed=2).expand(1, 1, 90, 3)
    compare(integers(1, 4, 5, 3, seed=0), same, q_positions=rows, window=60)
    q, k = integers(1, 4, 5, 3, seed=0), integers(1, 2, 90, 3, seed=1, high=1)
    compare(q, k, q_positions=rows, key_starts=rows // 3, softcap=5.0, tol=TOL + 1e-6)
    k[0, 1, 30] = torch.nan
    ev, wanted = (row_evidence(q, k, q_positions=rows, impl=impl) for impl in ("triton", "reference"))
    assert torch.equal(ev.argmax_key, wanted.argmax_key) and torch.equal(ev.lse.isnan(), wanted.lse.isnan())


def test_strided_views_of_a_cache() -> None:
    cache = normal(2, 50, 2, 2, 8, seed=0)  # [B, N, kv, Hkv, D], longer than what is filled
    cache[:, 33:] = torch.nan
    k, v = (cache[:, :, i].transpose(1, 2) for i in (0, 1))
    q = normal(2, 5, 4, 8, seed=1).transpose(1, 2)
    compare(q, k[:, :, :33], v[:, :, :33], q_positions=torch.arange(28, 33), spans=torch.tensor([[[3, 20]], [[0, 4]]]))
    # Keys behind every row's limit are not read: the rest of a cache may hold anything.
    out, ev = evidence_attention(q, k, v, q_positions=torch.arange(28, 33), impl="triton")
    same_out, same = evidence_attention(q, k[:, :, :33], v[:, :, :33], q_positions=torch.arange(28, 33), impl="triton")
    close(out, same_out, TOL)
    close(ev.lse, same.lse, TOL)
    assert torch.equal(ev.argmax_key, same.argmax_key)
    k_last = normal(2, 2, 8, 33, seed=2).mT  # keys along the last axis in memory
    compare(q, k_last, k_last, q_positions=torch.arange(28, 33))


def test_nothing_to_see() -> None:
    q, k = normal(2, 4, 3, 8, seed=0), normal(2, 2, 0, 8, seed=1)
    spans = torch.tensor([[[0, 4]], [[1, 2]]])
    for sinks in (None, torch.ones(4)):
        out, fused = evidence_attention(q, k, k, q_positions=torch.arange(3), spans=spans, sinks=sinks, impl="triton")
        assert (out == 0).all()
        for ev in (fused, row_evidence(q, k, q_positions=torch.arange(3), spans=spans, sinks=sinks, impl="triton")):
            assert (ev.lse == (-torch.inf if sinks is None else 1)).all() and (ev.argmax_key == -1).all()
            assert (ev.max_logit == -torch.inf).all() and (ev.p_max == 0).all() and (ev.span_mass == 0).all()
    none = row_evidence(q[:, :, :0], normal(2, 2, 5, 8, seed=1), q_positions=torch.arange(0), impl="triton")
    assert none.lse.shape == (2, 4, 0)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("where", ["q", "k"])
def test_nan_is_reported_by_the_rows_that_see_it_and_only_by_them(where: str, softcap: float | None) -> None:
    q, k, v = qkv(1, 2, 1, 6, 30, 8)
    rows = torch.tensor([4, 9, 10, 11, 29, -1])
    (q if where == "q" else k)[0, 1, 2 if where == "q" else 10, 3] = torch.nan
    broken = torch.zeros(1, 2, 6, dtype=torch.bool)
    broken[0, 1, [2] if where == "q" else [2, 3, 4]] = True
    options = {"q_positions": rows, "spans": torch.tensor([[[0, 3], [9, 12], [5, 5]]]), "softcap": softcap}
    clean = row_evidence(q.nan_to_num(), k.nan_to_num(), impl="reference", **options)
    out, fused = evidence_attention(q, k, v, impl="triton", **options)
    assert torch.equal(out.isnan().all(-1), broken) and torch.equal(out.isnan().any(-1), broken)
    for ev in (fused, row_evidence(q, k, impl="triton", **options)):
        assert torch.equal(ev.lse.isnan(), broken) and torch.equal(ev.max_logit.isnan(), broken)
        assert (ev.argmax_key[broken] == -1).all()
        assert torch.equal(ev.argmax_key[~broken], clean.argmax_key[~broken])
        assert ev.span_mass[broken].isnan().all() and not ev.span_mass[~broken].isnan().any()
        close(ev.lse[~broken], clean.lse[~broken], TOL if softcap is None else TOL + 1e-6)


def test_an_infinite_score_is_reported_too() -> None:
    q, k = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 9, 2)
    k[0, 0, 5, 0] = torch.inf
    _, fused = evidence_attention(q, k, torch.ones_like(k), q_positions=torch.tensor([4, 8]), impl="triton")
    for ev in (fused, row_evidence(q, k, q_positions=torch.tensor([4, 8]), impl="triton")):
        assert ev.lse.isnan().flatten().tolist() == [False, True]
        assert ev.argmax_key.flatten().tolist() == [0, -1]


def test_large_scores_do_not_overflow() -> None:
    q, k = 100 * integers(1, 2, 4, 4, seed=0), 100 * integers(1, 1, 50, 4, seed=1)
    # A log-sum-exp near 1e5 is itself only known to 4e-3 in float32, and so is a probability that is read off it.
    compare(q, k, k, q_positions=torch.arange(46, 50), scale=1.0, spans=torch.tensor([[[0, 25]]]), tol=1e-2)


def test_prefix_of_many_suffixes() -> None:
    """Rows of three suffixes against one prefix, each up to where its suffix leaves it, merged with their own keys."""
    heads, own, branch = 2, 6, torch.tensor([7, 30, 41])
    q, k, v = qkv(1, 1, heads, 3 * own, 50, 8)
    suffix_k = normal(3, 1, own, 8, seed=9)
    rows = (branch[:, None] + torch.arange(own)).flatten()
    limits = branch.repeat_interleave(own)
    spans = torch.tensor([[[2, 9], [35, 43]]])
    options = {"q_positions": rows, "key_limits": limits, "spans": spans}
    compare(q, k, v, **options)
    prefix = row_evidence(q, k, impl="triton", **options)
    _, fused = evidence_attention(q, k, v, impl="triton", **options)
    by_suffix = q.view(heads, 3, own, 8).transpose(0, 1)
    positions = rows.view(3, own)
    suffixes = row_evidence(
        by_suffix, suffix_k, q_positions=positions, k_positions=positions, spans=spans.expand(3, 2, 2), impl="triton"
    )
    for part in (prefix, fused):
        split = RowEvidence(*(
            x.view(heads, 3, own, *x.shape[3:]).transpose(0, 1)
            for x in (part.lse, part.argmax_key, part.max_logit, part.span_mass)
        ))  # fmt: skip
        whole = merge(split, suffixes)
        for i, at in enumerate(branch.tolist()):
            keys = torch.cat((k[:, :, :at], suffix_k[i : i + 1]), 2)
            wanted = row_evidence(by_suffix[i : i + 1], keys, q_positions=positions[i], spans=spans, impl="reference")
            assert torch.equal(whole.argmax_key[i], wanted.argmax_key[0])
            close(whole.lse[i], wanted.lse[0], TOL)
            close(whole.span_mass[i], wanted.span_mass[0], TOL)


@pytest.mark.parametrize(("page", "walk"), [(0, 1), (0, 1 << 16), (1, 1 << 16), (16, 1)])
def test_packed_and_paged_calls_are_the_reference_s(page: int, walk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "splits_for", lambda *_: 2)
    monkeypatch.setattr(rows_module, "LONG_WALK", walk)
    batch = ragged.Batch(page, [3, 1, 9, 0], [0, 40, 53, 7], heads=4, kv_heads=2, dim=5)
    options: dict[str, Any] = {
        "spans": torch.tensor([[[0, 4], [2, 90]], [[5, 9], [38, 50]], [[-3, 60], [9, 9]], [[0, 1], [1, 2]]]),
        **({"window": 30, "key_starts": torch.arange(13) * 6 - 4, "sinks": torch.linspace(-1, 1, 4)} if page else {}),
    }
    same_evidence(batch.packed("triton", page, **options), batch.packed("reference", page, **options))
    if page == 16:
        same_evidence(batch.packed("triton", page, topk=3), batch.packed("reference", topk=3))
        rows = ragged.Batch(1, [2, 2], [20, 50], heads=2, kv_heads=1, dim=8)
        same_evidence(rows.paged("triton", 16), rows.paged("reference", 16))


def test_no_sequences() -> None:
    none = torch.zeros(1, dtype=torch.int32)
    q = torch.zeros(0, 2, 4)
    assert row_evidence_varlen(q, q, cu_seqlens_q=none, cu_seqlens_k=none, impl="triton").lse.shape == (1, 2, 0)


def same_evidence(got: RowEvidence, wanted: RowEvidence) -> None:
    for name in ("argmax_key", "topk_key"):
        assert getattr(wanted, name) is None or torch.equal(getattr(got, name), getattr(wanted, name)), name
    for name in ("lse", "max_logit", "span_mass", "topk_logit"):
        if getattr(wanted, name) is not None:
            close(getattr(got, name), getattr(wanted, name), TOL)


@pytest.mark.parametrize(("topk", "splits"), [(1, 2), (3, 1), (3, 5), (5, 2)])
def test_topk_through_splits(topk: int, splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "splits_for", lambda *_: splits)
    q, k, v = qkv(1, 2, 2, 6, 90, 8, seed=topk)
    rows = torch.tensor([89, -1, 0, 2, 40, 71])
    compare_topk(q, k, topk, q_positions=rows)
    compare_topk(q, k, topk, q_positions=rows, window=20, softcap=4.0, key_limits=rows - 3)
    ev = compare_topk(integers(1, 4, 6, 3, seed=1), integers(1, 2, 90, 3, seed=2, high=1), topk, q_positions=rows)
    assert (ev.topk_key[0, :, 1] == -1).all() and (ev.topk_logit[0, :, 1] == -torch.inf).all()
    if splits == 2:
        _, fused = evidence_attention(q, k, v, q_positions=rows, topk=topk, impl="triton")
        assert torch.equal(fused.topk_key, row_evidence(q, k, q_positions=rows, topk=topk, impl="triton").topk_key)
        assert torch.equal(fused.topk_key[..., 0], fused.argmax_key)


def test_topk_of_equal_scores_and_of_keys_with_holes() -> None:
    q, k = integers(2, 2, 5, 2, seed=0, high=1), integers(2, 1, 70, 2, seed=1, high=1)
    places = torch.randint(1, 4, (70,), generator=torch.Generator().manual_seed(3)).cumsum(0) - 5
    compare_topk(q, k, 7, q_positions=torch.tensor([150, 60, -5, 0, 33]), k_positions=places)
    same = k[:, :, :1].expand(2, 1, 70, 2)
    ev = compare_topk(q, same, 5, q_positions=torch.tensor([69, 3, 1, 40, 0]))
    assert ev.topk_key[0, 0, 0].tolist() == [0, 1, 2, 3, 4] and ev.topk_key[0, 0, 2].tolist() == [0, 1, -1, -1, -1]


def test_topk_of_a_broken_row() -> None:
    q, k, _ = qkv(1, 2, 1, 3, 40, 8)
    k[0, 1, 10, 3] = torch.nan
    ev = row_evidence(q, k, q_positions=torch.tensor([9, 10, 39]), topk=4, impl="triton")
    wanted = row_evidence(q, k, q_positions=torch.tensor([9, 10, 39]), topk=4, impl="reference")
    assert torch.equal(ev.topk_key, wanted.topk_key) and torch.equal(ev.topk_logit.isnan(), wanted.topk_logit.isnan())


@pytest.mark.parametrize("number", range(100, 106))
def test_a_sample_of_the_random_cases(number: int) -> None:
    assert random_cases.wrong(number) == []


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_options(seed: int) -> None:
    gen = torch.Generator().manual_seed(1000 + seed)

    def draw(low: int, high: int, *shape: int) -> Any:
        x = torch.randint(low, high, shape, generator=gen)
        return x if shape else int(x)

    batch, kv_heads, group, rows, n, dim = draw(1, 3), draw(1, 3), draw(1, 4), draw(1, 12), draw(1, 90), draw(1, 20)
    q, k, v = qkv(batch, kv_heads, group, rows, n, dim, seed=seed)
    if draw(0, 2):
        q, k = q.round(), k.round()  # ties
    options: dict[str, Any] = {"q_positions": draw(-3, 100, batch, rows), "causal": bool(draw(0, 2))}
    for name, value in {
        "scale": 0.25,
        "window": draw(1, 60),
        "sinks": normal(kv_heads * group, seed=seed),
        "key_limits": draw(-3, 100, rows),
        "key_starts": draw(-3, 60, batch, rows),
        "k_positions": draw(1, 4, n).cumsum(0) - 3,
    }.items():
        if draw(0, 2):
            options[name] = value
    start = draw(-5, 90, batch, rows, 2)
    compare(q, k, v, spans=torch.stack((start, start + draw(-2, 20, batch, rows, 2)), -1), **options)


WAYS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "clear": partial(fused, ways=configs.Ways(clear=configs.INTERPRETED)),
    "prefetch": partial(fused, ways=configs.Ways(prefetch=True)),
    "few rows": partial(split_attention, tile=configs.INTERPRETED, splits=3),
}


@pytest.mark.parametrize(
    ("way", "options"),
    [
        *((way, {"softcap": 5.0, "sinks": torch.tensor([0.0, -9.0])}) for way in WAYS),
        ("clear", {}),
        ("few rows", {"window": 37}),
    ],
)
def test_other_ways_to_the_same(way: str, options: dict[str, Any]) -> None:
    """What a GPU is to choose from. With ties, a row that sees nothing, a NaN, and values of another dimension."""
    q, k, v = (x.round() for x in qkv(1, 1, 2, 20, 70, 8))
    v, at = v[..., :5], torch.arange(50, 70)
    at[3] = -1
    k[0, 0, :18, 3], k[0, 0, 66, 0] = -torch.inf, torch.nan
    rules = Rules(q_positions=at[None], scale=0.3, **options)
    problem = launch.KernelArgs.of(q, k, rules)
    assert way != "clear" or clear_blocks.takes(q, k, v)
    wanted_out, wanted = definition.evidence(q, k, v, rules)
    out, lse, key, max_logit = WAYS[way](problem, v)
    assert torch.equal(key, wanted.argmax_key)
    for got, want in ((out, wanted_out), (lse, wanted.lse), (max_logit, wanted.max_logit)):
        assert torch.equal(got.isnan(), want.isnan())
        close(got.nan_to_num(), want.nan_to_num(), TOL + 1e-6)


def test_the_same_attention_without_evidence() -> None:
    q, k, v = qkv(1, 1, 2, 20, 50, 8)
    problem = launch.KernelArgs.of(q, k, Rules(q_positions=torch.arange(30, 50)[None], scale=0.3))
    out, lse, at, _ = launch.evidence_attention(problem, v)
    plain, plain_lse, untouched, _ = launch.evidence_attention(problem, v, evidence=False)
    close(out, plain, TOL)
    close(lse, plain_lse, TOL)
    assert (untouched == 77).all() and (at >= 0).all()


@pytest.mark.parametrize("options", [{}, {"causal": False}, {"window": 7}, {"sinks": torch.tensor([-1.0, 4.0])}])
def test_attention_that_torch_has_no_kernel_for(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that is float32, and values of another dimension: not for the reference, which takes minutes there."""
    monkeypatch.setattr(plain, "_kernel", lambda *_: None)
    monkeypatch.setattr(api, "implementation", lambda q, v, **_: "triton")
    q, k, v = qkv(1, 1, 2, 20, 50, 8)
    _, _, p, lse, _ = naive_map(q, k, q_positions=torch.arange(30, 50), **options)
    with choices.recording() as used:
        out, got = plain.attend(q, k, v[..., :5], **options)
    assert used == {"attend": "triton"}
    close(got, lse, TOL)
    close(out, p @ v[..., :5].double(), 4 * TOL)


def test_gradients_elsewhere_are_not_disturbed() -> None:
    q = normal(1, 2, 3, 4, seed=0).requires_grad_()
    ev = row_evidence(q, normal(1, 2, 9, 4, seed=1), q_positions=torch.arange(6, 9), impl="triton")
    assert not ev.lse.requires_grad and torch.is_grad_enabled()


@pytest.fixture
def _triton_in_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: "auto" is Triton; and tiles that take few steps of the interpreter."""
    for module in (api, passes, suffixes):
        monkeypatch.setattr(module, "implementation", lambda q, v=None, *, topk=0, impl="auto": "triton")
    monkeypatch.setattr(configs, "INTERPRETED", configs.Tile(64, 64, 4, 1))


@pytest.mark.usefixtures("_triton_in_the_engine")
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "gemma2"])
def test_the_engine_with_our_kernels_equals_the_engine_without(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer_types = {} if family == "llama" else {"layer_types": ["sliding_attention", "full_attention"]}
    model = adapt(build(family, num_hidden_layers=2, num_attention_heads=4, **layer_types))
    probes = ProbeSet([random_probe(n, depth, seed=n) for n, depth in ((75, 0.0), (80, 0.6))])
    launches = []
    monkeypatch.setattr(launch, "evidence_attention", lambda *a: (launches.append(a[0].q.shape), fused(*a))[1])

    def run() -> tuple[dict[int, Any], dict[str, str]]:
        with model.routed(80), choices.recording() as used:
            return dict(Engine(model, probes, topk=3).run(plan(probes, "grafted"))), used

    ours, used = run()
    plain_layers = {"llama": 2, "gpt_oss": 1, "gemma2": 0}[family]
    # A suffix's pass: one launch a layer for the prefix; one for itself, and one a chunk of the prefix but for the last
    # layer's, where torch's own kernels do not know the rule.
    last_is_plain = family != "gemma2"
    layers = model.n_layers
    assert len(launches) == layers + 2 * (layers - plain_layers) - (not last_is_plain)
    assert used["evidence_attention"] == used["row_evidence"] == "triton"
    assert used.get("attend") == (None if plain_layers == 0 else "sdpa:cpu")
    monkeypatch.undo()
    theirs, used = run()
    assert used["row_evidence"] == "reference"
    for i in range(len(probes)):
        different = ours[i].argmax_key != theirs[i].argmax_key
        assert np.abs(ours[i].p_max - theirs[i].p_max)[different].max(initial=0) < 1e-4  # keys that tie to rounding
        assert different.mean() < 0.01
        np.testing.assert_array_equal(ours[i].visible, theirs[i].visible)
        for name in ("p_max", "logprob", "topk_p"):
            np.testing.assert_allclose(getattr(ours[i], name), getattr(theirs[i], name), rtol=1e-3, atol=1e-4)
        for name, mass in theirs[i].mass.items():
            np.testing.assert_allclose(ours[i].mass[name], mass, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("_never_used")
@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ("lse", "log-sum-exp"),
        ("max_logit", "highest logit"),
        ("argmax_key", "highest key"),
        ("span_mass", "mass of spans"),
        ("topk_logit", "logits of the highest keys"),
        ("out", "output"),
        (None, "cannot run (Failed to find C compiler)"),
    ],
)
def test_kernels_that_fail_on_a_machine_are_not_used(
    broken: str | None, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last row of one head is wrong, as by a compiler that is; "auto" goes on with the reference and says so."""
    right, calls = launch.run_kernels, []

    def wrong(*args: Any) -> tuple[Tensor | None, RowEvidence]:
        calls.append(args)
        if broken is None:
            raise RuntimeError("Failed to find C compiler\nPlease specify via CC environment variable")
        out, ev = right(*args)
        result = out if broken == "out" else getattr(ev, broken)
        result[-1, 1, -1] += 1 if result.dtype == torch.int64 else 0.01
        return out, ev

    monkeypatch.setattr(launch, "run_kernels", wrong)
    q, k, v = (normal(2, heads, n, 16, seed=n).half() for heads, n in ((2, 10), (1, 31), (1, 31)))
    options = {"q_positions": torch.arange(21, 31), "spans": torch.tensor([[[3, 9]], [[3, 30]]]), "topk": 3}
    for _ in range(2):
        with pytest.raises(KernelError, match=re.escape(told)):
            evidence_attention(q, k, v, impl="triton", **options)
    monkeypatch.setattr(api, "implementation", lambda q, v=None, *, topk=0, impl="auto": "triton")
    with choices.recording() as used:
        for _ in range(2):
            out, ev = evidence_attention(q, k, v, **options)
    assert used == {"evidence_attention": "reference"}
    assert len(calls) == 1, "asked once"
    assert len(caplog.records) == 1 and told in caplog.text and "uses the reference" in caplog.text
    monkeypatch.undo()
    wanted_out, wanted = evidence_attention(q, k, v, impl="reference", **options)
    assert torch.equal(out, wanted_out) and torch.equal(ev.argmax_key, wanted.argmax_key)


@pytest.mark.usefixtures("_never_used")
def test_what_is_trusted_after_its_first_use() -> None:
    q, k = normal(1, 2, 5, 16, seed=0), normal(1, 1, 300, 16, seed=1)

    def use(n: int, **options: Any) -> int:
        row_evidence(q, k[:, :, :n], q_positions=torch.arange(n - 5, n), impl="triton", **options)
        return len(first_use._trusted)

    assert [use(n) for n in (100, 120, 130, 260)] == [1, 1, 2, 3], "every doubling of the keys is asked once"
    assert [use(100, window=7), use(100, window=9), use(100, softcap=2.0)] == [4, 4, 5]
    row_evidence(q, k * torch.nan, q_positions=torch.arange(5), topk=2, impl="triton")
    row_evidence(q, k, q_positions=torch.arange(-9, -4), topk=2, impl="triton")
    assert len(first_use._trusted) == 5 and not first_use._refused, "nothing could be compared: neither is it wrong"


def test_what_the_kernels_do_not_take() -> None:
    for message, q, options in (
        ("q is torch.float64; pass float32", torch.zeros(1, 1, 1, 8).double(), {}),
        ("the head dimension is 257; the kernels take up to 256", torch.zeros(1, 1, 1, 257), {}),
        ("topk=17; the kernels keep up to 16 keys of a row", torch.zeros(1, 1, 1, 8), {"topk": 17}),
    ):
        with pytest.raises(ValueError, match=message):
            row_evidence(q, q, q_positions=torch.zeros(1).long(), impl="triton", **options)
        assert implementation(q, **options) == "reference"
        row_evidence(q, q, q_positions=torch.zeros(1).long(), **options)
    q = torch.zeros(1, 1, 1, 8)
    assert implementation(q) == "reference", "auto leaves CPU tensors to the reference, interpreter or not"
    assert implementation(q, impl="triton") == "triton"
