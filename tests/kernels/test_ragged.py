"""Packed rows and keys, and keys in pages: the same evidence as of every sequence alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from headscope.kernels import row_evidence_paged, row_evidence_varlen, sequences
from ragged import Batch, joined

ROWS, KEYS = [3, 1, 5, 0], [0, 40, 33, 7]


@pytest.mark.parametrize("page", [0, 1, 4, 16, 64])
def test_packed_equals_every_sequence_alone(page: int) -> None:
    batch = Batch(0, ROWS, KEYS, heads=6, kv_heads=2, dim=8)
    spans = torch.tensor([[[0, 4], [2, 90]], [[5, 9], [38, 50]], [[-3, 8], [9, 9]], [[0, 1], [1, 2]]])
    limits, starts = torch.arange(9) * 5, torch.arange(9) - 4
    options: dict[str, Any] = {"window": 30, "softcap": 4.0, "sinks": torch.linspace(-1, 1, 6), "topk": 3}
    begin = [0, 3, 4, 9]
    each: list[dict[str, Any]] = [
        {"spans": spans[i : i + 1], "key_limits": limits[b : b + r], "key_starts": starts[b : b + r]}
        for i, (b, r) in enumerate(zip(begin, ROWS, strict=True))
    ]
    found = batch.packed("reference", page, spans=spans, key_limits=limits, key_starts=starts, **options)
    assert found.lse.shape == (1, 6, 9)
    for name, wanted in joined(batch.alone("reference", each, **options), 2).items():
        assert torch.equal(getattr(found, name), wanted), name


def test_positions_and_spans_of_rows() -> None:
    batch = Batch(1, ROWS, KEYS, heads=2, kv_heads=1, dim=4)
    at, start = torch.tensor([5, 0, 3, 20, 7, 7, 30, 2, 60]), torch.arange(9)
    spans = torch.stack((start, start + 6), -1)[None, :, None]
    begin = [0, 3, 4, 9]
    each: list[dict[str, Any]] = [
        {"q_positions": at[b : b + r], "spans": spans[:, b : b + r]} for b, r in zip(begin, ROWS, strict=True)
    ]
    wanted = joined(batch.alone("reference", each), 2)
    for page in (0, 8):
        found = batch.packed("reference", page, q_positions=at, spans=spans)
        for name, x in wanted.items():
            assert torch.equal(getattr(found, name), x), name


def test_paged_equals_every_sequence_alone() -> None:
    batch = Batch(2, [3, 3, 3], [40, 3, 17], heads=4, kv_heads=2, dim=8)
    spans = torch.tensor([[[0, 4]], [[1, 9]], [[10, 17]]])
    each: list[dict[str, Any]] = [{"spans": spans[i : i + 1]} for i in range(3)]
    found = batch.paged("reference", 16, spans=spans, topk=2)
    for name, wanted in joined(batch.alone("reference", each, topk=2), 0).items():
        assert torch.equal(getattr(found, name), wanted), name
    cache, table, lens = batch.cache(4)
    heads_first = cache.transpose(1, 2).contiguous()  # FlashInfer's HND
    q = torch.stack(batch.q)
    views = [cache, heads_first.transpose(1, 2), cache.clone()]
    a, b, c = (row_evidence_paged(q, view, block_table=table, seq_lens=lens).lse for view in views)
    assert torch.equal(a, b) and torch.equal(a, c)


def test_lengths_are_asked_once_and_again_when_they_changed() -> None:
    batch = Batch(3, [2, 2], [20, 9], heads=2, kv_heads=1, dim=4)
    cache, table, lens = batch.cache(4)
    q = torch.stack(batch.q)
    before = row_evidence_paged(q, cache, block_table=table, seq_lens=lens)
    again = row_evidence_paged(q, cache, block_table=table, seq_lens=lens)
    lens[0] = 12
    after = row_evidence_paged(q, cache, block_table=table, seq_lens=lens)
    assert torch.equal(before.lse, again.lse) and not torch.equal(before.lse[0], after.lse[0])
    table[1, 0] = 10**6
    with pytest.raises(ValueError, match=r"block_table\[1, 0\] is 1000000"):
        row_evidence_paged(q, cache, block_table=table, seq_lens=lens)


BAD: list[tuple[str, dict[str, Any]]] = [
    (r"block_table\[1, 2\] is 7; the cache has 7 pages, so .* 0 to 6", {"block_table": [[0, 1, 2], [3, 4, 7]]}),
    (r"block_table\[0, 1\] is -1", {"block_table": [[0, -1, 2], [3, 4, 5]]}),
    (r"block_table has shape \(1, 3\); pass \[B, most pages", {"block_table": [[0, 1, 2]]}),
    (r"seq_lens\[1\] is 13; block_table has 3 pages of 4 keys a sequence, so pass 0 to 12", {"seq_lens": [12, 13]}),
    (r"seq_lens\[0\] is -2", {"seq_lens": [-2, 3]}),
    (r"seq_lens has shape \(3,\)", {"seq_lens": [1, 2, 3]}),
    ("the cache has pages of 0 keys", {"k_cache": torch.zeros(7, 0, 2, 8)}),
    ("q_positions has shape", {"q_positions": torch.arange(9)}),
    ("scale=0", {"scale": 0}),
]


@pytest.mark.parametrize(("message", "change"), BAD)
def test_tables_and_lengths_that_do_not_fit(message: str, change: dict[str, Any]) -> None:
    q = torch.zeros(2, 4, 3, 8)
    given: dict[str, Any] = {
        "k_cache": torch.zeros(7, 4, 2, 8), "block_table": [[0, 1, 2], [3, 4, 5]], "seq_lens": [12, 9], **change
    }  # fmt: skip
    given = {name: torch.tensor(x) if isinstance(x, list) else x for name, x in given.items()}
    with pytest.raises(ValueError, match=message):
        row_evidence_paged(q, **given)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("cu_seqlens_q goes from 0 to 4; q is packed from 0 to 5", {"cu_seqlens_q": [0, 2, 4]}),
        ("cu_seqlens_q goes from 1 to 5", {"cu_seqlens_q": [1, 2, 5]}),
        ("cu_seqlens_k falls from 9 to 8", {"cu_seqlens_k": [0, 9, 8, 12], "cu_seqlens_q": [0, 1, 1, 5]}),
        ("cu_seqlens_k has 2 entries and cu_seqlens_q 3", {"cu_seqlens_k": [0, 12]}),
        (r"cu_seqlens_q has shape \(1, 2\)", {"cu_seqlens_q": [[0, 5]]}),
        ("pass where the keys are", {"seq_lens": [5, 7]}),
        ("pass where the keys are", {"cu_seqlens_k": None}),
        (r"spans has shape \(3, 1, 2\); .*\[B, S, 2\] = \[2, S, 2\], or per row", {"spans": [[[0, 1]]] * 3}),
        (r"q has shape \(1, 5, 4, 8\); pass \[total_q, Hq, D\]", {"q": torch.zeros(1, 5, 4, 8)}),
        ("k is torch.bfloat16 on cpu, q is torch.float32", {"k": torch.zeros(12, 2, 8).bfloat16()}),
        ("the keys have D = 6 and q has D = 8", {"k": torch.zeros(12, 2, 6)}),
        ("q has 4 heads and k has 3", {"k": torch.zeros(12, 3, 8)}),
    ],
)
def test_packed_batches_that_do_not_fit(message: str, change: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "q": torch.zeros(5, 4, 8),
        "k": torch.zeros(12, 2, 8),
        "cu_seqlens_q": [0, 2, 5],
        "cu_seqlens_k": [0, 4, 12],
        **change,
    }
    given = {name: torch.tensor(x) if isinstance(x, list) else x for name, x in given.items()}
    with pytest.raises((ValueError, TypeError), match=message):
        row_evidence_varlen(**given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_sequences(dtype: torch.dtype) -> None:
    none = torch.zeros(1, dtype=torch.int32)
    ev = row_evidence_varlen(
        torch.zeros(0, 2, 4, dtype=dtype), torch.zeros(0, 1, 4, dtype=dtype), cu_seqlens_q=none, cu_seqlens_k=none
    )
    assert ev.lse.shape == (1, 2, 0) and ev.lse.dtype == dtype


def test_what_is_known_is_known_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of a model may lie on several, and be given the same lengths."""
    q, k, lengths = torch.zeros(1, 2, 3, 4), torch.zeros(1, 1, 3, 4), torch.tensor([0, 3])
    looked, look = [], sequences._looked_at
    monkeypatch.setattr(sequences, "_looked_at", lambda x, *rest: looked.append(x.device.type) or look(q, *rest))
    for device in ("cpu", "cpu", "meta"):
        sequences.ragged(q.to(device), k.to(device), cu_seqlens_q=lengths, cu_seqlens_k=lengths)
    assert looked == ["cpu", "meta"]


def test_lengths_are_whole_numbers() -> None:
    with pytest.raises(TypeError, match="seq_lens is torch.float32"):
        row_evidence_paged(
            torch.zeros(1, 1, 1, 4),
            torch.zeros(2, 4, 1, 4),
            block_table=torch.zeros(1, 1).int(),
            seq_lens=torch.ones(1),
        )


def test_what_is_known_of_a_table_goes_with_it() -> None:
    """A server makes a table a step."""
    known = len(sequences._known)
    batch = Batch(4, [1], [9], heads=1, kv_heads=1, dim=4)
    for _ in range(3):
        cache, table, lens = batch.cache(4)
        row_evidence_paged(torch.stack(batch.q), cache, block_table=table, seq_lens=lens)
        batch.packed("reference")
    del table
    assert len(sequences._known) == known
