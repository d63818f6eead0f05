"""Ablations made by arithmetic, without a model: the same in every process and for ever, as the golden file needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from headscope.interp.ablation import MEASURES, Ablation, HeadSet
from headscope.interp.store import append
from made_answers import make_answers
from made_scores import with_chance

HARM = {"top": 1.0, "layer_matched": 0.1, "mass_matched": 0.3, "one": 0.2}


def make_ablation(step: int = 0, *, needles: int = 4, controls: int = 3, **changes: Any) -> Ablation:
    """Of 2 layers x 4 heads; the two leading ones do ten times the harm of the layer-matched controls."""
    sets = [HeadSet("none", 0, 0, ())]
    sets += [HeadSet("top", k, 0, ((1, 0), (0, 1))[:k], 0.9) for k in (1, 2)]
    for kind in ("layer_matched", "mass_matched"):
        sets += [
            HeadSet(kind, k, draw, ((1, 1 + draw), (0, 2 - draw % 2))[:k], 0.05) for k in (1, 2) for draw in range(3)
        ]
    sets += [HeadSet("one", 1, rank, (((1, 0), (0, 1))[rank],), 0.95 - rank / 10) for rank in range(2)]
    needle, order = np.arange(2 * needles) // 2, np.arange(2 * needles)
    harm = np.array([HARM.get(one.kind, 0.0) * one.k * (1 + one.draw / 10) for one in sets])[:, None]
    nll = 0.25 + (needle + step % 3) / 16 + harm * (1 + needle / 8)
    measured = dict.fromkeys(MEASURES, np.full(nll.shape, np.nan, np.float32))
    measured |= {"nll": nll / 2, "nll_novel": nll, "logprob": -nll * 4, "exact_match": (nll < 1.5).astype(float)}
    fields: dict[str, Any] = {
        "model_id": f"toy/model-{step}",
        "mode": "zero",
        "rows": ("answer",),
        "unit": "head",
        "sets": tuple(sets),
        "measured": measured,
        "probes": {
            "id": np.array([f"probe-{i}" for i in order]),
            "family": np.full(len(order), "toy"),
            "variant": np.full(len(order), "plain ✓"),
            "needle_id": np.array([f"needle-{i}" for i in needle]),
            "length": np.array([1024, 2048])[order % 2],
            "n_answer": 3 + order,
            "depth": order / len(order),
        },
        "probe_set_name": "toy",
        "probe_set_hash": "0123456789abcdef" * 2,
        "provenance": {"controls": controls, "seed": 0, "created_at": "2026-01-02T03:04:05+00:00"},
    }
    return Ablation(**{**fields, **changes})


def assert_same_ablation(found: Ablation | None, expected: Ablation) -> None:
    """Every field is equal, arrays in dtype and bit by bit; a score in float32, as the file has it."""
    assert found is not None
    for name in ("model_id", "mode", "rows", "unit", "probe_set_name", "probe_set_hash", "provenance"):
        assert getattr(found, name) == getattr(expected, name), name
    assert [str(one) for one in found.sets] == [str(one) for one in expected.sets]
    for mine, theirs in zip(found.sets, expected.sets, strict=True):
        assert (mine.kind, mine.k, mine.draw, mine.heads) == (theirs.kind, theirs.k, theirs.draw, theirs.heads)
        np.testing.assert_equal(np.float32(mine.score), np.float32(theirs.score))
    for name, values in expected.measured.items():
        np.testing.assert_array_equal(found.measured[name], values, err_msg=name, strict=True)
    for name, values in expected.probes.items():
        np.testing.assert_array_equal(found.probes[name], values, err_msg=name)


def write_golden(path: Path) -> None:
    """What tests/golden/store-1.3.h5 was written by: of two checkpoints the second has answers and an ablation."""
    for step in (0, 1000):
        more = {"answers": make_answers(step), "ablation": make_ablation(step)} if step else {}
        append(path, with_chance(step, n_probes=4, n_layers=2), step, step * 4.2e6, **more)
