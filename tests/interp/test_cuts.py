"""Attention of a prefill in calls of few shapes: nothing is left out, nothing twice, and the result is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builders import random_grid
from headscope.interp.engine import cuts, passes
from headscope.interp.engine.cuts import attend_in_blocks, blocks, unit_of
from headscope.interp.scoring import score_heads
from headscope.kernels import attend
from tiny_models import build


@pytest.fixture
def as_if_cudnn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The CPU's kernel taken for one that plans; returns (rows, keys) of the calls that it would have planned for."""
    planned: list[tuple[int, int]] = []

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **how: Any) -> Any:
        if torch.backends.cuda.cudnn_sdp_enabled():
            assert q.stride(0) == q.stride(1) * q.shape[1] or q.shape[1] == 1, "the stride of a batch of one"
            planned.append((q.shape[2], k.shape[2]))
        return attend(q, k, v, **how)

    for module in (passes, cuts):
        monkeypatch.setattr(module, "plans_shapes", lambda *_: True)
    monkeypatch.setattr(cuts, "attend", watched)
    monkeypatch.setattr(cuts, "LEAST", 1)
    return planned


@settings(deadline=None, max_examples=50)
@given(start=st.integers(0, 1 << 18), rows=st.integers(1, 1 << 16), unit=st.sampled_from([1024, 2048, 4096]))
@example(start=0, rows=1 << 18, unit=4096)
@example(start=8192, rows=4096, unit=4096)
def test_every_key_is_seen_once(start: int, rows: int, unit: int) -> None:
    at, end = start, start + rows
    for block in blocks(start, end, unit):
        assert block.start == at and 0 < block.end - block.start <= unit
        at = block.end
        if block.whole:
            edges = [0, *(last for _, last in block.before)]
            assert [first for first, _ in block.before] == edges[:-1] and edges[-1] == block.start
            assert block.end - block.start == unit and block.start % unit == 0
        else:
            assert block.end - block.start < unit and not block.before
    assert at == end


def test_a_prefill_of_any_length_has_few_shapes() -> None:
    """64 of them before: one for every chunk of 256K tokens, and others in another run."""
    runs = [(0, 2**18), (0, 2**18 - 12345), (0, 2**18 - 77), (131, 2**18 - 1)]
    shapes = set()
    for start, end in runs:
        whole = [block for block in blocks(start, end, 4096) if block.whole]
        shapes |= {last - first for block in whole for first, last in block.before}
        rest = [block for block in blocks(start, end, 4096) if not block.whole]
        assert len(rest) <= 2 and all(block.end - block.start < 4096 for block in rest)
    assert shapes == {4096 << i for i in range(6)}  # and the square of a chunk


def test_small_chunks_are_not_worth_a_plan() -> None:
    assert not any(block.whole for block in blocks(0, 4096, 512))
    assert [unit_of(chunk) for chunk in (1, 48, 64, 4095, 4096, 5000)] == [1, 32, 64, 2048, 4096, 4096]


@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize(("rows", "keys"), [(64, 448), (150, 500), (33, 33), (1, 70)])
def test_blocks_are_attention(as_if_cudnn: list[tuple[int, int]], rows: int, keys: int, with_sinks: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    q, k, v = (torch.randn(1, h, n, 16, generator=generator) for h, n in ((6, rows), (2, keys), (2, keys)))
    sinks = torch.randn(6, generator=generator) * 3 if with_sinks else None
    found = attend_in_blocks(3 * q, k, v, 0.25, sinks, 64)
    expected, _ = attend(3 * q.double(), k.double(), v.double(), scale=0.25, causal=True, sinks=sinks)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_bfloat16_parts_are_merged_in_float32(as_if_cudnn: list[tuple[int, int]]) -> None:
    """With a sink, nearly all of the weight on a key of a small value, rounded weights would be all of the error."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, h, n, 16, generator=generator) for h, n in ((4, 64), (2, 512), (2, 512)))
    k[:, :, 0], v[:, :, 0] = 0, 0
    k[..., 0], q[..., 0] = 0, 1
    k[:, :, 0, 0] = 30
    q, k, v = (x.bfloat16() for x in (q, k, v))
    expected, _ = attend(q.double(), k.double(), v.double(), causal=True)
    in_blocks = attend_in_blocks(q, k, v, 0.25, None, 64)
    error = (in_blocks.double() - expected).norm() / expected.norm()
    assert error < 3 * 2**-8, "of the rounding of values and of each part"


def test_a_run_asks_for_few_shapes_whatever_its_lengths(as_if_cudnn: list[tuple[int, int]]) -> None:
    """Same scores, and two sets of probes of other lengths are attended to in the same shapes."""
    model, seen = build("llama"), []
    for lengths in ((60, 330), (77, 339)):
        probes = random_grid(lengths=lengths, depths=(0.0, 0.6))
        as_if_cudnn.clear()
        found = {sharing: score_heads(model, probes, sharing=sharing, chunk=32) for sharing in ("exact", "grafted")}
        seen.append(set(as_if_cudnn))
        with pytest.MonkeyPatch.context() as usual:
            usual.setattr(passes, "plans_shapes", lambda *_: False)
            for sharing, scores in found.items():
                expected = score_heads(model, probes, sharing=sharing, chunk=32)
                np.testing.assert_allclose(scores.nll, expected.nll, atol=1e-4)
                np.testing.assert_allclose(scores["needle_mass"], expected["needle_mass"], atol=1e-4)
    assert seen[0] == {(32, 32), (32, 64), (32, 128), (32, 256)} == seen[1]
