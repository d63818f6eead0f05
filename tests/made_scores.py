"""HeadScores made by arithmetic, without a model: the same in every process and for ever, as the golden file needs."""

from typing import Any

import numpy as np

from headscope.interp.results import HeadScores

ESTIMATORS = ("retrieval", "wu_count")


def make_scores(
    step: int = 0,
    *,
    n_probes: int = 6,
    n_layers: int = 3,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    estimators: tuple[str, ...] = ESTIMATORS,
    **changes: Any,
) -> HeadScores:
    """Scores that change with the step. Head (0, 1) is never observable, head (1, 1) not in the first probe."""
    size = n_probes * n_layers * n_heads
    per_probe = {}
    for number, name in enumerate(estimators, start=1):
        values = np.arange(size, dtype=np.int64) * 37 * number + step * 11
        per_probe[name] = (values % 101 / 101).astype(np.float32).reshape(n_probes, n_layers, n_heads)
        per_probe[name][:, 0, 1] = np.nan
        if n_layers > 1:
            per_probe[name][0, 1, 1] = np.nan
    order = np.arange(n_probes)
    nll = ((order + step) % 7 / 4 + 0.125).astype(np.float32)
    fields: dict[str, Any] = {
        "model_id": f"toy/model-{step}",
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "per_probe": per_probe,
        "nll": nll,
        "nll_novel": nll * 2,
        "nll_echo": np.full(n_probes, np.nan, np.float32),
        "nll_first": nll / 2,
        "exact_match": nll < 1,
        "probes": {
            "id": np.array([f"sentence-{i}" for i in order]),
            "family": np.full(n_probes, "sentence"),
            "variant": np.array(["", "ünïcode ✓"])[order % 2],
            "needle_id": np.array([f"needle-{i % 3}" for i in order]),
            "seed": order + 2**40,
            "length": 1024 * (1 + order),
            "distance": 1000 - order,
            "interference": 24 + order,
            "n_answer": 8 + order % 3,
            "depth": order / n_probes,
            "depth_nominal": np.round(order / n_probes, 1),
        },
        "probe_set_name": "toy",
        "probe_set_hash": "0123456789abcdef" * 4,
        "provenance": {
            "created_at": "2026-01-02T03:04:05+00:00",
            "device": "cpu",
            "dtype": "float32",
            "sharing": "grafted",
            "revision": None,
            "versions": {"torch": "2.13.0", "numbers": [1, 2.5, True]},
        },
    }
    return HeadScores(**{**fields, **changes})


def with_chance(step: int = 0, mean: float = 0.2, sd: float = 0.1, **changes: Any) -> HeadScores:
    """The same scores on probes that tell what a head scores by chance, all alike."""
    scores = make_scores(step, **changes)
    told = {name: np.full(scores.n_probes, value) for name, value in (("chance", mean), ("chance_sd", sd))}
    return make_scores(step, probes={**scores.probes, **told}, **changes)


def assert_same(found: HeadScores, expected: HeadScores) -> None:
    """Every field is equal, arrays in dtype and bit by bit."""
    for name in ("model_id", "n_layers", "n_heads", "n_kv_heads", "probe_set_name", "probe_set_hash", "provenance"):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("nll", "nll_novel", "nll_echo", "nll_first", "exact_match"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
    for mine, theirs in ((found.per_probe, expected.per_probe), (found.probes, expected.probes)):
        assert list(mine) == list(theirs)
        for name, values in theirs.items():
            np.testing.assert_array_equal(mine[name], values, strict=True, err_msg=name)
