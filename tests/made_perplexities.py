"""Perplexities made by arithmetic, without a model: the same in every process and for ever, as a golden needs."""

from typing import Any

import numpy as np

from headscope.interp.perplexity import Perplexity


def make_perplexity(step: int = 0, *, n_documents: int = 3, **changes: Any) -> Perplexity:
    """The loss on two corpora that falls with the step; the last document is short, and has no key token."""
    order = np.arange(n_documents)
    last = order == n_documents - 1
    tokens = np.where(last[:, None] & (np.arange(3) == 2), 0, 40 + order[:, None] + np.arange(3))
    tail_tokens = np.where(last[:, None], 0, np.full((n_documents, 2), 8))
    level = 3 + order / 7 - np.log1p(step) / 10
    fields: dict[str, Any] = {
        "model_id": f"toy/model-{step}",
        "corpora": np.array(["en", "zh ✓"])[order % 2],
        "documents": np.array([f"text-{i}.txt" for i in order]),
        "n_tokens": 64 * (1 + order),
        "buckets": np.array([1, 16, 32]),
        "nll": np.where(tokens > 0, level[:, None] - np.arange(3) / 10, np.nan),
        "tokens": tokens,
        "lengths": np.array([16, 64]),
        "tail_nll": np.where(tail_tokens > 0, level[:, None] - np.arange(2) / 5, np.nan),
        "tail_tokens": tail_tokens,
        "key_nll": np.where(last, np.nan, level + 1),
        "key_tokens": np.where(last, 0, 5 + order),
        "tail": 8,
        "stride": 0,
        "texts_hash": "fedcba9876543210" * 2,
        "tokenizer_fp": "0123456789ab",
        "keys_hash": "0011223344556677" * 2,
        "provenance": {"created_at": "2026-01-02T03:04:05+00:00", "dtype": "float32"},
    }
    return Perplexity(**{**fields, **changes})


def assert_same_perplexity(found: Perplexity | None, expected: Perplexity) -> None:
    """Every field is equal, arrays in dtype and bit by bit."""
    assert found is not None
    for name, wanted in vars(expected).items():
        if isinstance(wanted, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), wanted, err_msg=name)
            assert getattr(found, name).dtype.kind == wanted.dtype.kind, name
        else:
            assert getattr(found, name) == wanted, name
