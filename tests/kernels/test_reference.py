"""The reference against the whole attention map in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headscope.kernels import RowEvidence, evidence_attention, reference, row_evidence
from naive_attention import naive_map, naive_span_mass, naive_topk

# Every block boundary within reach of small inputs: blocks of one row or a few, of one key or a few, ...
BLOCKS = [(1, 1, 1), (64, 5, 1), (300, 7, 2), (2000, 16, 4), (1 << 20, 1024, 64)]


@pytest.fixture(autouse=True, params=BLOCKS, ids=lambda p: f"scores{p[0]}-keys{p[1]}-chunk{p[2]}")
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    set_blocks(monkeypatch, *request.param)


def set_blocks(monkeypatch: pytest.MonkeyPatch, scores: int, keys: int, chunk: int) -> None:
    monkeypatch.setattr(reference, "SCORES", scores)
    monkeypatch.setattr(reference, "KEYS", keys)
    monkeypatch.setattr(reference, "CHUNK", chunk)
    monkeypatch.setattr(reference, "SPAN_GAP", chunk)
    monkeypatch.setattr(reference, "SPAN_ROWS", max(1, chunk // 2))


def integers(*shape: int, seed: int, high: int = 3) -> Tensor:
    """Small whole numbers: every product is exact, and ties are everywhere."""
    return torch.randint(-high, high + 1, shape, generator=torch.Generator().manual_seed(seed)).float()


def normal(*shape: int, seed: int) -> Tensor:
    """Random numbers of up to ten bits, more than bfloat16 holds: sums of their products are exact in float32, in any
    order, so which key is the highest does not depend on how a processor adds.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul_(128).round_().div_(128)


def compare(
    q: Tensor, k: Tensor, v: Tensor, *, spans: Tensor | None = None, topk: int = 0, tol: float = 2e-6, **options: Any
) -> RowEvidence:
    """Run both operations and hold everything they return against the map; ``tol`` is relative to max(1, |value|)."""
    raw, logits, p, lse, position = naive_map(q, k, **options)
    out, ev = evidence_attention(q, k, v, spans=spans, topk=topk, **options)
    alone = row_evidence(q, k, spans=spans, topk=topk, **options)
    for got in (ev, alone):
        assert got.lse.dtype == got.max_logit.dtype == got.span_mass.dtype
        assert got.lse.dtype == (torch.float64 if q.dtype == torch.float64 else torch.float32)
        close(got.lse, lse, tol)
        key, value = naive_topk(raw, logits, position, 1)
        assert torch.equal(got.argmax_key, key[..., 0])
        close(got.max_logit, value[..., 0], tol)
        close(got.p_max, p.amax(-1) if p.shape[-1] else torch.zeros_like(lse), tol)
        close(
            got.span_mass, lse.new_zeros(*lse.shape, 0) if spans is None else naive_span_mass(p, position, spans), tol
        )
        if topk:
            key, value = naive_topk(raw, logits, position, topk)
            assert got.topk_key is not None and got.topk_logit is not None
            assert torch.equal(got.topk_key, key)
            close(got.topk_logit, value, tol)
        else:
            assert got.topk_key is None and got.topk_logit is None
    values = v.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    assert out.dtype == q.dtype
    # The output is rounded once to q's dtype; p is never rounded to it.
    close(
        out, p @ values, max(tol * (1 + values.abs().max().item() if values.numel() else 1), torch.finfo(q.dtype).eps)
    )
    return ev


def close(got: Tensor, wanted: Tensor, tol: float) -> None:
    assert got.shape == wanted.shape
    torch.testing.assert_close(got.double(), wanted.double(), rtol=tol, atol=tol)


@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize("kv_heads", [1, 3])
def test_query_heads_share_key_heads(group: int, kv_heads: int) -> None:
    q, k, v = (
        normal(2, group * kv_heads, 5, 8, seed=0),
        normal(2, kv_heads, 37, 8, seed=1),
        normal(2, kv_heads, 37, 6, seed=2),
    )
    compare(q, k, v, q_positions=torch.arange(32, 37), spans=torch.tensor([[[3, 9]], [[0, 37]]]))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 33, 64, 77])
def test_odd_lengths(n: int) -> None:
    q, k, v = normal(1, 4, 3, 5, seed=n), normal(1, 2, n, 5, seed=n + 1), normal(1, 2, n, 5, seed=n + 2)
    compare(q, k, v, q_positions=torch.tensor([n - 1, 0, n // 2]), topk=3)


def test_the_causal_offset_lets_early_rows_see_nothing() -> None:
    q, k, v = normal(1, 2, 6, 4, seed=0), normal(1, 1, 9, 4, seed=1), normal(1, 1, 9, 4, seed=2)
    ev = compare(q, k, v, q_positions=torch.tensor([-3, -1, 0, 4, 8, 1000]))
    assert (ev.argmax_key[0, :, :2] == -1).all() and (ev.lse[0, :, :2] == -torch.inf).all()
    assert (ev.argmax_key[0, :, 2] == 0).all()


def test_q_offset_is_the_position_of_the_first_row() -> None:
    q, k, v = normal(1, 2, 4, 4, seed=0), normal(1, 1, 9, 4, seed=1), normal(1, 1, 9, 4, seed=2)
    out, ev = evidence_attention(q, k, v, q_offset=5)
    same_out, same = evidence_attention(q, k, v, q_positions=torch.arange(5, 9))
    assert torch.equal(out, same_out) and torch.equal(ev.argmax_key, same.argmax_key)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 2, 7, 30, 1000])
def test_window(window: int, causal: bool) -> None:
    q, k, v = normal(1, 4, 9, 8, seed=0), normal(1, 2, 33, 8, seed=1), normal(1, 2, 33, 8, seed=2)
    rows = torch.tensor([32, 3, 0, 17, 18, 40, 5, 31, 16])
    compare(q, k, v, q_positions=rows, window=window, causal=causal, spans=torch.tensor([[[0, 4], [10, 20]]]))


def test_softcap_does_not_hide_the_order_of_saturated_scores() -> None:
    """tanh is 1 in float32 from about 9 on: capped scores tie, raw ones do not."""
    q = torch.full((1, 1, 1, 1), 100.0)
    k = torch.tensor([1.0, 3.0, 7.0, 5.0]).view(1, 1, 4, 1)
    ev = compare(q, k, k, q_positions=torch.tensor([3]), scale=1.0, softcap=2.0, topk=4)
    assert ev.argmax_key.item() == 2
    assert ev.topk_key is not None and ev.topk_key.flatten().tolist() == [2, 3, 1, 0]
    assert ev.max_logit.item() == pytest.approx(2.0)


@pytest.mark.parametrize("softcap", [0.5, 30.0])
def test_softcap(softcap: float) -> None:
    q, k, v = 3 * normal(1, 4, 9, 8, seed=0), normal(1, 2, 33, 8, seed=1), normal(1, 2, 33, 8, seed=2)
    rows = torch.randint(-2, 33, (9,), generator=torch.Generator().manual_seed(3))
    compare(q, k, v, q_positions=rows, softcap=softcap, spans=torch.tensor([[[0, 4], [10, 20]]]), window=13)


def test_sinks_take_probability_but_are_no_keys() -> None:
    q, k, v = normal(2, 4, 5, 8, seed=0), normal(2, 2, 33, 8, seed=1), normal(2, 2, 33, 8, seed=2)
    sinks = torch.tensor([-3.0, 0.0, 2.0, 50.0])
    rows = torch.tensor([-1, 0, 10, 20, 32])
    ev = compare(q, k, v, q_positions=rows, sinks=sinks, spans=torch.tensor([[[0, 33]]]).expand(2, 1, 2))
    assert (ev.argmax_key[:, :, 0] == -1).all()
    assert torch.equal(ev.lse[0, :, 0], sinks), "a row without keys keeps the sink"
    assert (ev.p_max[:, :, 0] == 0).all() and (ev.span_mass[:, :, 0] == 0).all()


def test_per_row_limits_and_starts_differ_by_batch() -> None:
    gen = torch.Generator().manual_seed(0)
    q, k, v = normal(3, 4, 11, 8, seed=0), normal(3, 2, 40, 8, seed=1), normal(3, 2, 40, 8, seed=2)
    limits = torch.randint(-5, 50, (3, 11), generator=gen)
    starts = torch.randint(-5, 45, (3, 11), generator=gen)
    rows = torch.randint(0, 45, (3, 11), generator=gen)
    for causal in (True, False):
        compare(
            q, k, v, q_positions=rows, key_limits=limits, key_starts=starts, causal=causal, topk=2,
            spans=torch.tensor([[[0, 4]], [[30, 50]], [[-5, 12]]]),
        )  # fmt: skip
    compare(q, k, v, q_positions=rows, key_limits=limits[0], key_starts=starts[1].int())


def test_key_positions_with_holes() -> None:
    gen = torch.Generator().manual_seed(0)
    q, k, v = normal(2, 2, 12, 8, seed=0), normal(2, 1, 20, 8, seed=1), normal(2, 1, 20, 8, seed=2)
    places = torch.stack([torch.randperm(100, generator=gen)[:20].sort().values - 10 for _ in range(2)])
    rows = torch.arange(-12, 96, 9)
    spans = torch.tensor([[[0, 30], [50, 51], [-20, 200]], [[5, 5], [60, 99], [7, 3]]])
    for where in (places, places[0], places.int()):
        compare(q, k, v, q_positions=rows, k_positions=where, window=60, spans=spans, topk=3)
        compare(q, k, v, q_positions=rows, k_positions=where, key_limits=rows + 3, causal=False, spans=spans)


def test_spans_per_batch_and_per_row_agree() -> None:
    q, k, v = normal(2, 4, 7, 8, seed=0), normal(2, 2, 40, 8, seed=1), normal(2, 2, 40, 8, seed=2)
    rows = torch.arange(33, 40)
    spans = torch.tensor([[[0, 4], [7, 7], [30, 99], [-4, 2]], [[9, 3], [39, 40], [50, 60], [0, 40]]])
    per_batch = compare(q, k, v, q_positions=rows, spans=spans)
    per_row = compare(q, k, v, q_positions=rows, spans=spans[:, None].expand(2, 7, 4, 2))
    torch.testing.assert_close(per_batch.span_mass, per_row.span_mass, rtol=1e-6, atol=1e-7)
    assert (per_batch.span_mass[0, :, :, 1] == 0).all(), "empty"
    assert (per_batch.span_mass[1, :, :, [0, 2]] == 0).all(), "reversed; behind all keys"
    torch.testing.assert_close(per_batch.span_mass[1, :, :, 3], torch.ones(4, 7))


def test_spans_of_every_row_elsewhere() -> None:
    """What the engine asks for: many rows, groups of them with the same few short spans, far from the next group's."""
    gen = torch.Generator().manual_seed(0)
    q, k, v = normal(1, 2, 30, 8, seed=0), normal(1, 1, 150, 8, seed=1), normal(1, 1, 150, 8, seed=2)
    start = torch.randint(0, 140, (6, 3), generator=gen).repeat_interleave(5, 0)
    spans = torch.stack((start, start + torch.randint(0, 20, (30, 3), generator=gen)), -1)[None]
    rows = torch.randint(0, 150, (30,), generator=gen)
    compare(q, k, v, q_positions=rows, spans=spans, key_limits=torch.randint(0, 150, (30,), generator=gen))
    window = torch.stack((rows - 9, rows + 1), -1)[None, :, None]
    compare(q, k, v, q_positions=rows, spans=window)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    """Half-precision inputs are exact in float32, so the map of the same inputs is met to float32's accuracy."""
    q, k, v = normal(1, 4, 9, 16, seed=0), normal(1, 2, 65, 16, seed=1), normal(1, 2, 65, 16, seed=2)
    rows = torch.arange(56, 65)
    tol = 1e-13 if dtype == torch.float64 else 2e-6
    spans = torch.tensor([[[0, 4], [10, 50]]])
    compare(q.to(dtype), k.to(dtype), v.to(dtype), q_positions=rows, spans=spans, softcap=20.0, topk=2, tol=tol)


@pytest.mark.parametrize("n", [12, 64, 129])
def test_ties_inside_and_across_blocks_go_to_the_lowest_position(n: int) -> None:
    q, k = integers(2, 4, 6, 3, seed=n), integers(2, 2, n, 3, seed=n + 1, high=1)
    rows = torch.tensor([n - 1, n // 2, 0, 5, 7, n - 1])
    compare(q, k, k, q_positions=rows, topk=5)
    ev = compare(q, k[:, :, :1].expand(2, 2, n, 3), k, q_positions=rows, topk=3)
    assert (ev.argmax_key == 0).all(), "all keys equal"


def test_strided_views_of_a_cache() -> None:
    cache = normal(2, 50, 2, 2, 8, seed=0)  # [B, N, kv, Hkv, D], longer than what is filled
    cache[:, 33:] = torch.nan
    k, v = (cache[:, :33, i].transpose(1, 2) for i in (0, 1))
    q = normal(2, 5, 4, 8, seed=1).transpose(1, 2)
    compare(q, k, v, q_positions=torch.arange(28, 33), spans=torch.tensor([[[3, 20]], [[0, 4]]]))
    # Keys behind every row's limit are not even read: the rest of a preallocated cache may hold anything.
    whole_k, whole_v = (cache[:, :, i].transpose(1, 2) for i in (0, 1))
    out, ev = evidence_attention(q, whole_k, whole_v, q_positions=torch.arange(28, 33))
    same_out, same = evidence_attention(q, k, v, q_positions=torch.arange(28, 33))
    torch.testing.assert_close(out, same_out)
    assert torch.equal(ev.argmax_key, same.argmax_key)


def test_a_row_at_the_largest_position_sees_every_key() -> None:
    q, k = normal(1, 2, 2, 8, seed=0), normal(1, 1, 40, 8, seed=1)
    largest = torch.full((2,), torch.iinfo(torch.int64).max)
    assert torch.equal(
        row_evidence(q, k, q_positions=largest).argmax_key,
        row_evidence(q, k, q_positions=largest, causal=False).argmax_key,
    )


def test_nothing_to_see() -> None:
    q, k = normal(2, 4, 3, 8, seed=0), normal(2, 2, 0, 8, seed=1)
    spans = torch.tensor([[[0, 4]], [[1, 2]]])
    ev = compare(q, k, k, q_positions=torch.arange(3), spans=spans, topk=2)
    assert (ev.lse == -torch.inf).all() and (ev.argmax_key == -1).all() and (ev.p_max == 0).all()
    compare(q, k, k, q_positions=torch.arange(3), sinks=torch.ones(4), k_positions=torch.zeros(0, dtype=torch.long))
    none = row_evidence(q[:, :, :0], normal(2, 2, 5, 8, seed=1), q_positions=torch.arange(0), topk=2)
    assert none.lse.shape == (2, 4, 0) and none.topk_key is not None and none.topk_key.shape == (2, 4, 0, 2)


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("where", ["q", "k"])
def test_nan_is_reported_by_the_rows_that_see_it_and_only_by_them(where: str, softcap: float | None) -> None:
    q, k, v = normal(1, 2, 6, 8, seed=0), normal(1, 2, 30, 8, seed=1), normal(1, 2, 30, 8, seed=2)
    rows = torch.tensor([4, 9, 10, 11, 29, -1])
    (q if where == "q" else k)[0, 1, 2 if where == "q" else 10, 3] = torch.nan
    broken = torch.zeros(1, 2, 6, dtype=torch.bool)
    broken[0, 1, [2] if where == "q" else [2, 3, 4]] = True
    spans = torch.tensor([[[0, 3], [9, 12], [5, 5]]])
    ev = row_evidence(q, k, q_positions=rows, spans=spans, softcap=softcap, topk=2)
    assert torch.equal(ev.lse.isnan(), broken)
    assert torch.equal(ev.max_logit.isnan(), broken) and torch.equal(ev.p_max.isnan(), broken)
    assert (ev.argmax_key[broken] == -1).all()
    assert ev.topk_key is not None and (ev.topk_key[broken] == -1).all()
    assert ev.span_mass[broken].isnan().all() and not ev.span_mass[~broken].isnan().any()
    clean = row_evidence(q.nan_to_num(), k.nan_to_num(), q_positions=rows, spans=spans, softcap=softcap, topk=2)
    assert torch.equal(ev.argmax_key[~broken], clean.argmax_key[~broken])
    close(ev.lse[~broken], clean.lse[~broken], 1e-6)
    out, _ = evidence_attention(q, k, v, q_positions=rows, softcap=softcap)
    assert out[broken].isnan().all()


def test_an_infinite_score_is_reported_too() -> None:
    q, k = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 9, 2)
    k[0, 0, 5, 0] = torch.inf
    ev = row_evidence(q, k, q_positions=torch.tensor([4, 8]))
    assert ev.lse.isnan().flatten().tolist() == [False, True]
    assert ev.argmax_key.flatten().tolist() == [0, -1]


def test_large_scores_do_not_overflow() -> None:
    q, k = 100 * integers(1, 2, 4, 4, seed=0), 100 * integers(1, 1, 50, 4, seed=1)
    # A log-sum-exp near 1e5 is itself only known to 4e-3 in float32, and so is a probability that is read off it.
    ev = compare(q, k, k, q_positions=torch.arange(46, 50), scale=1.0, spans=torch.tensor([[[0, 25]]]), tol=1e-2)
    assert 2e4 < ev.lse.max() < 2e5


def test_a_computation_that_needs_gradients_is_not_disturbed() -> None:
    q = normal(1, 2, 3, 4, seed=0).requires_grad_()
    ev = row_evidence(q, normal(1, 2, 9, 4, seed=1), q_positions=torch.arange(6, 9))
    assert not ev.lse.requires_grad and torch.is_grad_enabled()


@st.composite
def problems(draw: st.DrawFn) -> dict[str, Any]:
    """Any mixture of the options, on small whole numbers (full of ties) or on real ones."""
    batch, kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    rows, n, dim, seed = (
        draw(st.integers(1, 9)),
        draw(st.integers(0, 40)),
        draw(st.integers(1, 5)),
        draw(st.integers(0, 9999)),
    )
    gen = torch.Generator().manual_seed(seed)
    make = integers if draw(st.booleans()) else normal

    def per_row(low: int, high: int) -> Tensor:
        shape = (batch, rows) if draw(st.booleans()) else (rows,)
        return torch.randint(low, high, shape, generator=gen)

    problem: dict[str, Any] = {
        "q": make(batch, group * kv_heads, rows, dim, seed=seed),
        "k": make(batch, kv_heads, n, dim, seed=seed + 1),
        "v": make(batch, kv_heads, n, draw(st.integers(1, 5)), seed=seed + 2),
        "q_positions": per_row(-3, 60),
        "causal": draw(st.booleans()),
        "topk": draw(st.integers(0, 4)),
    }
    if draw(st.booleans()):
        problem["scale"] = draw(st.sampled_from([0.1, 0.25, 1.0]))
    if draw(st.booleans()):
        problem["window"] = draw(st.integers(1, 50))
    if draw(st.booleans()):
        problem["softcap"] = draw(st.sampled_from([1.0, 30.0]))
    if draw(st.booleans()):
        problem["sinks"] = normal(group * kv_heads, seed=seed + 3)
    if draw(st.booleans()):
        problem["key_limits"] = per_row(-3, 60)
    if draw(st.booleans()):
        problem["key_starts"] = per_row(-3, 40)
    if draw(st.booleans()):
        steps = torch.randint(1, 4, (batch, n), generator=gen).cumsum(1) - 3
        problem["k_positions"] = steps if draw(st.booleans()) else steps[0]
    if draw(st.booleans()):
        shape = (batch, rows, 3) if draw(st.booleans()) else (batch, 3)
        start = torch.randint(-5, 60, shape, generator=gen)
        problem["spans"] = torch.stack((start, start + torch.randint(-2, 20, shape, generator=gen)), -1)
    return problem


@settings(deadline=None, max_examples=40)
@given(problem=problems())
def test_any_mixture_of_options(problem: dict[str, Any]) -> None:
    compare(**problem)
