"""Scratch never grows with rows x keys, and keys are never repeated for the heads that share them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from headscope.kernels import evidence_attention, key_mass, reference, row_evidence
from headscope.kernels.sdpa import attend


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside were holding at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.largest = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage().data_ptr() for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in tree_flatten(made)[0]:
            if not isinstance(x, Tensor):
                continue
            storage = x.untyped_storage()
            where, size = storage.data_ptr(), storage.nbytes()
            if size == 0 or where in given or where in self.known:
                continue  # a view, or written in place
            self.known.add(where)
            self.live += size
            self.peak, self.largest = max(self.peak, self.live), max(self.largest, size)
            weakref.finalize(storage, self._gone, where, size)
        return made

    def _gone(self, where: int, size: int) -> None:
        self.known.discard(where)
        self.live -= size


def scratch(run: Callable[[], Any]) -> int:
    """Bytes held at the peak, less those of the result."""
    with LiveBytes() as held:
        result = run()
    parts = [x if isinstance(x, Tensor) else list(vars(x).values()) for x in tree_flatten(result)[0]]
    storages = [x.untyped_storage() for x in tree_flatten(parts)[0] if x is not None]
    return held.peak - sum({x.data_ptr(): x.nbytes() for x in storages}.values())


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SCORES", SCORES)
    monkeypatch.setattr(reference, "KEYS", 128)


SCORES = 1 << 14
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(rows: int, n: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """q, k, v and positions that do not depend on n, so that the same number of blocks is partly hidden."""
    q, k, v = torch.randn(1, 4, rows, 16), torch.randn(1, 2, n, 16), torch.randn(1, 2, n, 16)
    return q.to(dtype), k.to(dtype), v.to(dtype), n - 1 - torch.arange(rows) % 1000


def window_spans(at: Tensor, length: int) -> Tensor:
    return torch.stack((at - length, at), -1)[None, :, None]


RUNS: dict[str, Callable[[Inputs], Any]] = {
    "evidence": lambda x: row_evidence(x[0], x[1], q_positions=x[3]),
    "window": lambda x: row_evidence(x[0], x[1], q_positions=x[3], window=300),
    "top-k": lambda x: row_evidence(x[0], x[1], q_positions=x[3], topk=3),
    "soft-cap": lambda x: row_evidence(x[0], x[1], q_positions=x[3], softcap=20.0),
    "short spans": lambda x: row_evidence(x[0], x[1], q_positions=x[3], spans=window_spans(x[3], 9)),
    "long spans": lambda x: row_evidence(x[0], x[1], q_positions=x[3], spans=window_spans(x[3], x[1].shape[2])),
    "one long span": lambda x: row_evidence(x[0], x[1], q_positions=x[3], spans=torch.tensor([[[0, x[1].shape[2]]]])),
    "key mass": lambda x: key_mass(x[0], x[1], torch.zeros(1, 4, len(x[3])), q_positions=x[3]),
    "attention": lambda x: evidence_attention(x[0], x[1], x[2], q_positions=x[3]),
}
each_run = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())


def test_the_meter_sees_an_attention_map() -> None:
    q, k, _, _ = inputs(100, 1000)
    full = scratch(lambda: (q @ k.repeat_interleave(2, 1).mT).amax())
    assert full >= 4 * 4 * 100 * 1000 + 2 * k.nbytes - 4  # the result is not scratch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_run
def test_scratch_does_not_depend_on_the_number_of_keys(run: Callable[[Inputs], Any], dtype: torch.dtype) -> None:
    few, many = inputs(64, 1_024, dtype), inputs(64, 3_072, dtype)
    assert scratch(lambda: run(many)) <= 1.01 * scratch(lambda: run(few))


@each_run
def test_scratch_per_row_is_a_few_numbers(run: Callable[[Inputs], Any]) -> None:
    few, many = inputs(100, 1_000), inputs(500, 1_000)
    more = (scratch(lambda: run(many)) - scratch(lambda: run(few))) / 400
    assert more <= 8 * 32  # 32 integers; a row of the map would be 4 heads x 1000 x 4 bytes


@each_run
def test_scratch_is_a_small_multiple_of_the_block(run: Callable[[Inputs], Any]) -> None:
    data = inputs(64, 4_000)
    assert scratch(lambda: run(data)) <= 4 * 6 * SCORES


def test_keys_are_not_repeated_for_the_heads_that_share_them() -> None:
    q, k = torch.randn(1, 32, 2, 16), torch.randn(1, 1, 16_000, 16)
    assert scratch(lambda: row_evidence(q, k, q_positions=torch.tensor([9_000, 15_999]))) < k.nbytes


def test_plain_attention_builds_no_mask_and_repeats_no_key() -> None:
    q, k, v = torch.randn(1, 8, 500, 16), torch.randn(1, 1, 16_000, 16), torch.randn(1, 1, 16_000, 16)
    out = q.nbytes
    assert scratch(lambda: attend(q, k, v)) <= 6 * out
    assert scratch(lambda: attend(q, k, v, window=1_000)) <= 6 * out
    assert 6 * out < min(k.nbytes * 8, 500 * 1_000 * 8 * 4)
