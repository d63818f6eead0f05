"""SFT probes made by arithmetic, without a model: the same in every process and for ever, as a golden file needs."""

from typing import Any

import numpy as np

from headscope.interp.finetuned import AFTER, BEFORE, COST, SftProbe
from headscope.interp.tasks import SAID
from made_answers import make_answers

STEPS = 5


def make_sft_probe(step: int = 0, *, n_probes: int = 4, seeds: tuple[int, ...] = (0, 1), **changes: Any) -> SftProbe:
    """An SFT probe that changes with the step, on the items of `make_answers`; seeds and items differ."""
    said = [make_answers(step + seed + 1, n_probes=n_probes, n_samples=0) for seed in seeds]
    order = np.arange(len(seeds))
    base = make_answers(step, n_probes=n_probes, n_samples=0)
    after = {name: np.stack([each.said[name][:, 0] for each in said]) for name in SAID}
    after |= {
        "nll": np.stack([each.nll for each in said]),
        "exact_match": np.stack([each.exact_match for each in said]),
    }
    fields: dict[str, Any] = {
        "model_id": f"toy/model-{step}",
        "seeds": seeds,
        "before": {"score": base.score, "nll": base.nll, "exact_match": base.exact_match},
        "after": {name: after[name] for name in AFTER},
        "loss": np.float32(2.0) / (1 + np.arange(STEPS) + order[:, None] + step % 3),
        "cost": {name: np.arange(1, len(seeds) + 1) * 2.0 * (1 + i) for i, name in enumerate(COST)},
        "probes": base.probes,
        "recipe": '{"steps": 5}',
        "recipe_hash": "0123456789ab",
        "probe_set_name": base.probe_set_name,
        "probe_set_hash": base.probe_set_hash,
        "provenance": {"threads": 1, "created_at": "2026-01-02T03:04:05+00:00"},
    }
    return SftProbe(**{**fields, **changes})


def assert_same_sft_probe(found: SftProbe | None, expected: SftProbe) -> None:
    """Every field is equal, arrays in dtype and bit by bit."""
    assert found is not None
    for name in ("model_id", "seeds", "recipe", "recipe_hash", "probe_set_name", "probe_set_hash", "provenance"):
        assert getattr(found, name) == getattr(expected, name), name
    np.testing.assert_array_equal(found.loss, expected.loss, strict=True)
    for name, known in (("before", BEFORE), ("after", AFTER), ("cost", COST)):
        for each in known:
            np.testing.assert_array_equal(getattr(found, name)[each], getattr(expected, name)[each], err_msg=each)
    for name, values in expected.probes.items():
        np.testing.assert_array_equal(found.probes[name], values, err_msg=name)
