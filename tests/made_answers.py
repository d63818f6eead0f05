"""Answers made by arithmetic, without a model: the same in every process and for ever, as the golden file needs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from headscope.interp.store import append
from headscope.interp.tasks import Answers
from made_scores import with_chance


def make_answers(step: int = 0, *, n_probes: int = 4, n_samples: int = 2, **changes: Any) -> Answers:
    """Answers that change with the step, to two tasks of one needle each two probes."""
    order, drawn = np.arange(n_probes), 1 + n_samples
    number = (order[:, None] * drawn + np.arange(drawn) + step) % 5
    said = np.vectorize(lambda n: f"the number is {n} ✓\n", otypes=[object])(number)
    fields: dict[str, Any] = {
        "model_id": f"toy/model-{step}",
        "said": {
            "text": said,
            "end": np.array(["eos", "stop", "length"], object)[number % 3],
            "score": (number / 4).astype(np.float32),
            "precision": np.where(number == 0, np.nan, 1 / np.maximum(number, 1)).astype(np.float32),
            "above_chance": np.full(number.shape, np.nan, np.float32),
            "logprob": -number.astype(np.float32) / 2,
            "rival": (number % 3 - 1).astype(np.int32),
            "n_tokens": (3 + number).astype(np.int32),
        },
        "nll": ((order + step) % 3 / 2).astype(np.float32),
        "exact_match": (order + step) % 3 == 0,
        "probes": {
            "id": np.array([f"item-{i}" for i in order]),
            "family": np.full(n_probes, "toy"),
            "task": np.array(["one", "two"])[order // 2 % 2],
            "needle_id": np.array([f"needle-{i % 3}" for i in order]),
            "metric": np.full(n_probes, "string_match_all"),
            "question": np.array([f"Which number is {i}?" for i in order]),
            "golds": np.array([json.dumps([str(i), "ünï"], ensure_ascii=False) for i in order]),
            "rivals": np.full(n_probes, json.dumps(["7", "8"])),
            "length": np.array([1024, 2048])[order % 2],
            "n_answer": 3 + order,
            "depth": order / n_probes,
        },
        "probe_set_name": "toy tasks",
        "probe_set_hash": "fedcba9876543210" * 2,
        "provenance": {"samples": n_samples, "seed": 0, "created_at": "2026-01-02T03:04:05+00:00"},
    }
    return Answers(**{**fields, **changes})


def assert_same_answers(found: Answers | None, expected: Answers) -> None:
    """Every field is equal, arrays in dtype and bit by bit."""
    assert found is not None
    for name in ("model_id", "probe_set_name", "probe_set_hash", "provenance"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("nll", "exact_match"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
    for mine, theirs in ((found.said, expected.said), (found.probes, expected.probes)):
        assert sorted(mine) == sorted(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(mine[name], values, err_msg=name)
            assert mine[name].dtype.kind == values.dtype.kind, name


def write_golden(path: Path) -> None:
    """What tests/golden/store-1.2.h5 was written by: of two checkpoints the second has answers."""
    for step in (0, 1000):
        scores, answers = with_chance(step, n_probes=4, n_layers=2), make_answers(step) if step else None
        append(path, scores, step, step * 4.2e6, answers=answers)
