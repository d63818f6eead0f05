"""Plain attention and its log-sum-exp against the whole map, on torch's kernel and on the fallback."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from headscope.kernels import dispatch_log as choices
from headscope.kernels import first_use, reference
from headscope.kernels import sdpa as plain
from headscope.kernels.sdpa import attend
from naive_attention import naive_map


def problem(
    heads: int, kv_heads: int, rows: int, n: int, dim: int = 8, batch: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(heads + rows + n)
    shapes = ((batch, heads, rows, dim), (batch, kv_heads, n, dim), (batch, kv_heads, n, dim))
    return tuple(torch.randn(shape, generator=gen) for shape in shapes)  # type: ignore[return-value]


def check(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, tol: float = 3e-6, out_tol: float = 3e-6, **options: Any
) -> None:
    n = k.shape[2]
    _, _, p, lse, _ = naive_map(q, k, q_positions=torch.arange(n - q.shape[2], n), causal=causal, **options)
    wanted = p @ v.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    out, got = attend(q, k, v, causal=causal, **options)
    assert out.shape == wanted.shape and out.dtype == q.dtype
    assert got.shape == lse.shape and got.dtype == torch.promote_types(q.dtype, torch.float32)
    torch.testing.assert_close(out.double(), wanted, rtol=out_tol, atol=out_tol)
    torch.testing.assert_close(got.double(), lse, rtol=tol, atol=tol)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (1, 50), (7, 50), (50, 50), (49, 50), (600, 700)])
def test_causal_rows_are_the_last_of_the_keys(heads: int, kv_heads: int, rows: int, n: int) -> None:
    check(*problem(heads, kv_heads, rows, n))


@pytest.mark.parametrize(("rows", "n"), [(1, 1), (5, 3), (70, 600)])
def test_every_row_sees_every_key(rows: int, n: int) -> None:
    check(*problem(6, 2, rows, n, batch=2), causal=False, scale=0.7)


@settings(deadline=None, max_examples=100)
@given(n=st.integers(1, 60), rows=st.integers(1, 60), window=st.integers(1, 70), sinks=st.booleans())
def test_any_window(n: int, rows: int, window: int, sinks: bool) -> None:
    extra = {"sinks": torch.tensor([-1.0, 0.0, 1.0, 8.0])} if sinks else {}
    check(*problem(4, 2, min(rows, n), n), window=window, **extra)


@pytest.mark.parametrize("causal", [True, False])
def test_sinks(causal: bool) -> None:
    check(*problem(4, 2, 9, 30), causal=causal, sinks=torch.tensor([-40.0, 0.0, 3.0, 90.0]))


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype, window: int | None) -> None:
    """Half precision: p is rounded to q's dtype once, the output once for each of up to four parts that are merged, and
    torch's kernel takes a faster exp, good to about 3e-5.
    """
    q, k, v = (x.to(dtype) for x in problem(4, 2, 90, 120))
    eps = torch.finfo(dtype).eps
    check(q, k, v, window=window, tol=64 * eps if dtype == torch.float64 else 1e-4, out_tol=16 * eps)


def test_strided_views_of_a_cache() -> None:
    gen = torch.Generator().manual_seed(0)
    cache = torch.randn(1, 64, 2, 2, 8, generator=gen)
    k, v = (cache[:, :40, i].transpose(1, 2) for i in (0, 1))
    q = torch.randn(1, 10, 4, 8, generator=gen).transpose(1, 2)
    check(q, k, v)
    check(q, k, v, window=16)
    across = torch.randn(1, 2, 8, 40, generator=gen).mT  # the last axis is not the contiguous one
    check(q, across, v)


def test_other_head_dimension_of_v_and_no_keys_take_the_reference() -> None:
    q, k, v = problem(4, 2, 9, 30)
    check(q, k, v[..., :3], window=7, sinks=torch.zeros(4))
    out, lse = attend(q, k[:, :, :0], v[:, :, :0], causal=False)
    assert (out == 0).all() and (lse == -torch.inf).all()
    assert attend(q[:, :, :0], k, v)[0].shape == (1, 4, 0, 8)


def test_the_kernel_is_what_runs_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("fell back to the reference")

    monkeypatch.setattr(reference, "evidence", refuse)
    q, k, v = problem(4, 2, 30, 50)
    for options in ({}, {"causal": False}, {"window": 7}, {"sinks": torch.zeros(4)}):
        attend(q, k, v, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("where", ["q", "k", "all of k"])
def test_nan_is_never_silent(where: str, window: int | None) -> None:
    """torch's CPU kernel answers 0 for a row whose scores are all NaN; we do not."""
    q, k, v = problem(2, 1, 20, 20)
    if where == "q":
        q[0, 1, 7] = torch.nan
    else:
        k[:, :, 7 if where == "k" else slice(None)] = torch.nan
    _, _, _, lse, _ = naive_map(q, k, q_positions=torch.arange(20), window=window)
    out, got = attend(q, k, v, window=window)
    assert torch.equal(got.isnan(), lse.isnan())
    assert torch.equal(out.isnan().all(-1), lse.isnan())
    assert torch.equal(out.isnan().any(-1), lse.isnan())


def test_a_score_of_exactly_zero_is_no_nan() -> None:
    q, k, v = problem(2, 1, 3, 3)
    check(torch.zeros_like(q), k, v)


def test_bad_arguments() -> None:
    q, k, v = problem(2, 1, 5, 3)
    with pytest.raises(ValueError, match="q has 5 rows but k only 3 keys"):
        attend(q, k, v)
    with pytest.raises(ValueError, match="window=4 needs causal=True"):
        attend(q, k, v, causal=False, window=4)


def test_single_rows_and_keys_are_kept_from_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN exists on a GPU only; what it would be asked for shows here."""
    asked = []

    def flash(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
        asked.append((q.shape[2], k.shape[2], causal))
        return plain._cpu(q, k, v, scale, causal)

    monkeypatch.setattr(plain, "flash", flash)
    monkeypatch.setattr(plain, "_kernel", lambda *_: plain.cudnn)
    check(*problem(4, 2, 1, 50))  # decoding, and a last chunk of one token: in one piece
    check(*problem(4, 2, 1, 1))
    assert asked == [(1, 50, False), (1, 1, False)]


HOPPER, CURRENT = (9, 0), 91900


@pytest.mark.parametrize(
    ("chosen", "capability", "version", "kv_heads", "rows", "keys"),
    [
        (True, HOPPER, CURRENT, 8, 4096, 65536),
        (True, HOPPER, CURRENT, 1, 77, 1001),
        (True, HOPPER, 91500, 8, 77, 1001),
        (False, HOPPER, 91400, 8, 4096, 1001),  # wrong before 9.15
        (False, HOPPER, 91400, 8, 77, 65536),
        (True, HOPPER, 90100, 8, 128, 256),
        (True, (10, 0), CURRENT, 8, 4096, 65536),
        (False, (10, 0), CURRENT, 7, 4096, 65536),  # silently wrong
        (False, (10, 0), CURRENT, 1, 4096, 65536),
        (False, (10, 0), 91400, 8, 4096, 65537),
        (False, (8, 0), CURRENT, 8, 4096, 65536),  # flash is faster
        (False, (8, 9), CURRENT, 8, 4096, 65536),
        (False, (12, 0), CURRENT, 8, 4096, 65536),
        (False, (12, 1), CURRENT, 8, 4096, 65536),
        (False, (10, 3), CURRENT, 8, 4096, 65536),  # nothing is known
        (False, (11, 0), CURRENT, 8, 4096, 65536),
        (False, HOPPER, None, 8, 4096, 65536),  # no cuDNN
    ],
)
def test_cudnn_is_chosen_where_it_is_known_good(
    chosen: bool, capability: tuple[int, int], version: int | None, kv_heads: int, rows: int, keys: int
) -> None:
    assert plain.cudnn_is_known_good(capability, version, kv_heads, rows, keys) is chosen


def of_other_heads(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Plausible and wrong: every group of query heads reads the next group's keys."""
    return plain._cpu(q, k.roll(1, 1), v.roll(1, 1), scale, causal)


def off_in_one_row(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """The log-sum-exp is right."""
    out, lse = plain._cpu(q, k, v, scale, causal)
    out[:, :, -1] += 0.5 * v.abs().max()
    return out, lse


def without_the_first_key(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    if causal:
        return plain._cpu(q, k, v, scale, causal)
    return plain._cpu(q, k[:, :, 1:], v[:, :, 1:], scale, causal)


@pytest.mark.usefixtures("_never_used")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [of_other_heads, off_in_one_row, without_the_first_key])
def test_a_backend_that_is_wrong_here_is_replaced_by_the_next(
    wrong: plain.Kernel, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    q, k, v = (x.to(dtype) for x in problem(4, 2, 30, 90))
    k[:, :, 0] *= 3  # so that a key less shows
    wanted, lse = attend(q, k, v)
    calls = []

    def counted(*inputs: Any) -> tuple[Tensor, Tensor]:
        calls.append(inputs)
        return wrong(*inputs)

    monkeypatch.setitem(plain.NAMES, counted, "sdpa:wrong")
    for following, then in (([plain._cpu], "sdpa:cpu"), ([], "reference")):
        monkeypatch.setattr(plain, "_candidates", lambda *_, after=following: [counted, *after])
        for _ in range(2):
            with choices.recording() as used:
                out, got = attend(q, k, v)
            assert then in used["attend"] and (wrong is without_the_first_key) == ("sdpa:wrong" in used["attend"])
            torch.testing.assert_close(out, wanted, rtol=0, atol=8 * torch.finfo(dtype).eps)
            torch.testing.assert_close(got, lse, rtol=1e-4, atol=1e-4)
    kinds = 2 if wrong is not without_the_first_key else 1  # the keys before, and the rows' own square
    assert len(caplog.records) == kinds and "sdpa:wrong kernels disagree with the definition" in caplog.text
    assert len(calls) == (2 if kinds == 2 else 1 + 4), "what was found wrong is not tried again"


@pytest.mark.usefixtures("_never_used")
def test_torchs_own_kernels_pass_and_are_compared_once_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    truth = first_use.compare
    monkeypatch.setattr(first_use, "compare", lambda *a: (compared.append(a[1].shape[2]), truth(*a))[1])
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        q, k, v = (x.to(dtype) for x in problem(8, 2, 40, 1000, dim=64))
        for _ in range(2):
            attend(10 * q, k, v)
            attend(q, k, v, causal=False)
    assert len(compared) == 4 * 2, "the keys before, and the square: another call of a kind that is known is free"
    attend(q, k[:, :, :400], v[:, :, :400])
    assert len(compared) == 4 * 2 + 1, "fewer keys are another kind"
    assert not first_use._refused


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def check_on_a_gpu(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True, **options: Any) -> None:
    n = k.shape[2]
    at = torch.arange(n - q.shape[2], n) if causal else torch.full((q.shape[2],), n)
    _, _, p, lse, _ = naive_map(q, k, q_positions=at, **options)
    moved = {name: x.cuda() if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    out, got = attend(q.cuda(), k.cuda(), v.cuda(), causal=causal, **moved)
    torch.testing.assert_close(got.cpu().double(), lse, rtol=1e-4, atol=1e-4)
    values = v.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    # weights, partial outputs and the merged output are each rounded
    unit = torch.finfo(q.dtype).eps
    error = (out.cpu().double() - p @ values).abs()
    assert (error <= 4 * unit * (p @ values.abs()) + 1e-4).all(), float(error.max())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", ["cudnn", "flash"])
@pytest.mark.parametrize("window", [None, 100])
def test_each_backend_on_a_gpu(name: str, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (x.bfloat16() for x in problem(8, 2, 300, 1000, dim=128))
    monkeypatch.setattr(plain, "_kernel", lambda *_: getattr(plain, name))
    check_on_a_gpu(q, k, v, window=window)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [64, 80, 128, 256])
def test_the_chosen_backend_on_a_gpu(dim: int, dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in problem(8, 2, 300, 1000, dim=dim))
    for options in ({}, {"causal": False}, {"sinks": torch.linspace(-2, 2, 8)}, {"window": 64}):
        check_on_a_gpu(q, k, v, **options)
    assert plain._candidates(q.cuda(), k.cuda(), v.cuda())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (1, 1000), (2, 2), (2, 3), (3, 1000)])
def test_a_few_rows_on_a_gpu(rows: int, n: int) -> None:
    q, k, v = (x.bfloat16() for x in problem(8, 2, rows, n, dim=128))
    check_on_a_gpu(q, k, v)
    check_on_a_gpu(q, k, v, causal=False)


@pytest.mark.gpu
@needs_gpu
def test_what_torch_has_no_kernel_for_runs_ours_on_a_gpu() -> None:
    q, k, v = problem(8, 2, 300, 1000, dim=64)
    for values in (v, v[..., :32]):
        with choices.recording() as used:
            for options in ({}, {"causal": False}, {"sinks": torch.linspace(-2, 2, 8)}, {"window": 64}):
                check_on_a_gpu(q, k, values, **options)
        assert used == {"attend": "triton"}


@pytest.mark.gpu
@needs_gpu
def test_a_view_of_a_cache_on_a_gpu() -> None:
    q, k, v = (x.bfloat16() for x in problem(8, 2, 300, 1000, dim=128))
    check_on_a_gpu(q[:, :, :200], k[:, :, :777], v[:, :, :777])
    longer = k.cuda(), v.cuda()
    out, lse = attend(q.cuda(), longer[0][:, :, :777], longer[1][:, :, :777])
    wanted, same = attend(q.cuda(), k[:, :, :777].contiguous().cuda(), v[:, :, :777].contiguous().cuda())
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(lse, same)
