"""Evidence over disjoint sets of keys merges into the evidence over all of them, in any order and grouping."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import reduce

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headscope.kernels import RowEvidence, evidence_attention, merge, row_evidence
from headscope.kernels.sdpa import merge_attention_states

B, HQ, HKV, R, D, TOPK = 2, 4, 2, 5, 3, 3
SPANS = torch.tensor([[[0, 4], [10, 12]], [[5, 5], [3, 30]]])


def make(seed: int, n: int, whole: bool) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and row positions. Whole numbers are full of ties; the others have ten bits, so that sums of their products
    are exact in float32 as well, and keys in the same order on every processor.
    """
    gen = torch.Generator().manual_seed(seed)
    shape_q, shape_k = (B, HQ, R, D), (B, HKV, n, D)
    if whole:
        q, k = (
            torch.randint(-2, 3, shape_q, generator=gen).float(),
            torch.randint(-2, 3, shape_k, generator=gen).float(),
        )
    else:
        q, k = (torch.randn(shape, generator=gen).mul_(128).round_().div_(128) for shape in (shape_q, shape_k))
    return q, k, torch.randint(-1, n + 1, (B, R), generator=gen)


def part(q: Tensor, k: Tensor, rows: Tensor, keys: Tensor, sinks: Tensor | None = None) -> RowEvidence:
    return row_evidence(
        q, k[:, :, keys], q_positions=rows, k_positions=keys, spans=SPANS, topk=TOPK, scale=0.5, sinks=sinks
    )


def same(a: RowEvidence, b: RowEvidence) -> None:
    for field in fields(RowEvidence):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if x.dtype == torch.int64:
            assert torch.equal(x, y), field.name
        else:
            torch.testing.assert_close(
                x, y, rtol=2e-6, atol=2e-6, equal_nan=True, msg=lambda m, f=field: f"{f.name}: {m}"
            )


@st.composite
def splits(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """A problem whose keys are dealt to three parts, as runs or one by one; parts may be empty."""
    n = draw(st.integers(0, 24))
    q, k, rows = make(draw(st.integers(0, 9999)), n, draw(st.booleans()))
    owner = torch.tensor(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), dtype=torch.long)
    if draw(st.booleans()):
        owner = owner.sort().values
    return q, k, rows, [(owner == i).nonzero().squeeze(1) for i in range(3)]


@settings(deadline=None, max_examples=80)
@given(split=splits(), sink=st.booleans())
def test_parts_merge_into_the_whole_in_any_order(
    split: tuple[Tensor, Tensor, Tensor, list[Tensor]], sink: bool
) -> None:
    q, k, rows, keys = split
    sinks = torch.linspace(-1, 2, HQ) if sink else None
    whole = part(q, k, rows, torch.arange(k.shape[2]), sinks)
    a, b, c = (part(q, k, rows, own, sinks if i == 1 else None) for i, own in enumerate(keys))
    same(merge(merge(a, b), c), whole)
    same(merge(a, merge(b, c)), whole)
    same(merge(c, merge(a, b)), whole)
    same(merge(b, merge(c, a)), whole)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 9999), whole=st.booleans())
def test_nothing_is_the_identity(seed: int, whole: bool) -> None:
    q, k, rows = make(seed, 9, whole)
    ev = part(q, k, rows, torch.arange(9))
    none = RowEvidence.empty(B, HQ, R, spans=SPANS.shape[1], topk=TOPK)
    same(merge(ev, none), ev)
    same(merge(none, ev), ev)
    same(merge(none, none), none)
    same(part(q, k, rows, torch.arange(0)), none)


def test_a_tie_goes_to_the_lowest_position_whichever_side_it_is_on() -> None:
    q, k = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 8, 1)
    at = torch.tensor([7])
    low, high = (
        row_evidence(q, k[:, :, :2], q_positions=at, k_positions=torch.tensor(where), topk=2)
        for where in ([2, 3], [4, 6])
    )
    for merged in (merge(low, high), merge(high, low)):
        assert merged.argmax_key.item() == 2
        assert merged.topk_key is not None and merged.topk_key.flatten().tolist() == [2, 3]
        assert merged.p_max.item() == pytest.approx(0.25)


def test_position_zero_is_a_key_and_minus_one_is_none() -> None:
    q, k = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    seen = row_evidence(q, k, q_positions=torch.tensor([0]), topk=2)
    unseen = row_evidence(q, k, q_positions=torch.tensor([0]), k_positions=torch.tensor([1]), topk=2)
    for merged in (merge(seen, unseen), merge(unseen, seen)):
        assert merged.argmax_key.item() == 0
        assert merged.topk_key is not None and merged.topk_key.flatten().tolist() == [0, -1]


def test_nan_on_either_side_stays() -> None:
    q, k, _ = make(0, 6, False)
    rows = torch.full((R,), 5)
    good, bad = part(q, k, rows, torch.arange(3)), part(q, k * torch.nan, rows, torch.arange(3, 6))
    for merged in (merge(good, bad), merge(bad, good)):
        assert merged.lse.isnan().all() and merged.max_logit.isnan().all() and merged.span_mass.isnan().all()
        assert (merged.argmax_key == -1).all()
        assert merged.topk_key is not None and merged.topk_logit is not None
        assert (merged.topk_key == -1).all() and merged.topk_logit.isnan().all()
        assert merged.p_max.isnan().all()


def test_double_precision_is_kept() -> None:
    q, k, rows = make(0, 6, False)
    a, b = (part(q.double(), k.double(), rows, keys) for keys in torch.arange(6).split(3))
    assert merge(a, b).lse.dtype == merge(a, b).span_mass.dtype == torch.float64


def test_sides_that_do_not_fit_are_refused() -> None:
    ev = RowEvidence.empty(1, 2, 3, spans=1, topk=2)
    with pytest.raises(ValueError, match=r"lse is \(1, 2, 3\) in a and \(1, 2, 4\) in b"):
        merge(ev, RowEvidence.empty(1, 2, 4, spans=1, topk=2))
    with pytest.raises(ValueError, match="span_mass"):
        merge(ev, RowEvidence.empty(1, 2, 3, spans=2, topk=2))
    with pytest.raises(ValueError, match=r"topk_key is \(1, 2, 3, 2\) in a and None in b"):
        merge(ev, replace(ev, topk_key=None, topk_logit=None))


@settings(deadline=None, max_examples=40)
@given(split=splits(), seed=st.integers(0, 99))
def test_outputs_merge_like_evidence(split: tuple[Tensor, Tensor, Tensor, list[Tensor]], seed: int) -> None:
    q, k, rows, keys = split
    v = torch.randn(B, HKV, k.shape[2], 4, generator=torch.Generator().manual_seed(seed))
    whole, ev = evidence_attention(q, k, v, q_positions=rows)
    parts = []
    for own in keys:
        out, found = evidence_attention(q, k[:, :, own], v[:, :, own], q_positions=rows, k_positions=own)
        parts.append((out, found.lse))
    for order in (parts, parts[::-1]):
        out, lse = reduce(lambda a, b: merge_attention_states(*a, *b), order)
        torch.testing.assert_close(out, whole, rtol=2e-6, atol=2e-6)
        torch.testing.assert_close(lse, ev.lse, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sink", [4.0, 8.0, 12.0])
def test_an_attention_sink_leaves_the_other_side_its_digits(sink: float, dtype: torch.dtype) -> None:
    """Key 0 takes nearly all mass and has a value of nearly nothing: the output is what little the other keys say."""
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, n, 16, generator=gen) for n in (50, 300, 300))
    k[..., 0], q[..., 0] = 0, 4.0
    k[:, :, 0, 0] = sink
    v[:, :, 0] *= 1e-4
    q, k, v = (x.to(dtype) for x in (q, k, v))
    weights = (q.double() @ k.double().mT / 4).softmax(-1)
    wanted, size = weights @ v.double(), weights @ v.double().abs()
    at = torch.full((50,), 300)

    def of(begin: int, end: int) -> tuple[Tensor, Tensor]:
        out, ev = evidence_attention(q, k[:, :, begin:end], v[:, :, begin:end], q_positions=at)
        return out, ev.lse

    # Each part is rounded, and so is every merge of two: half a unit of the magnitudes that went into it.
    half = torch.finfo(dtype).eps / 2
    parts = [of(0, 100), of(100, 200), of(200, 300)]
    for order in (parts, parts[::-1], [parts[1], parts[0], parts[2]]):
        out, _ = reduce(lambda a, b: merge_attention_states(*a, *b), order)
        error = (out.double() - wanted).abs()
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # what float16 rounds small numbers to
        assert (error <= 3 * half * size + 1e-5 * size + 3 * smallest).all(), float((error / size).max())


def test_outputs_keep_nan_and_dtype() -> None:
    out, lse = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16), torch.zeros(1, 1, 2)
    bad_out, bad_lse = out * torch.nan, lse * torch.nan
    for merged, total in (
        merge_attention_states(out, lse, bad_out, bad_lse),
        merge_attention_states(bad_out, bad_lse, out, lse),
    ):
        assert merged.isnan().all() and total.isnan().all()
    assert merge_attention_states(out, lse, out, lse)[0].dtype == torch.bfloat16
