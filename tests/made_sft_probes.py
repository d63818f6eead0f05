"""SFT probes made by arithmetic, the same in every process and for ever; and a tiny model that can be fine-tuned."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headscope.interp.finetuned import AFTER, BEFORE, COST, SftProbe
from headscope.interp.tasks import SAID
from headscope.probes import ProbeSet, build
from made_answers import make_answers

STEPS = 5
TEXT = "Locker opens with . What opens locker? One of the special magic numbers for is : 0123456789 - " * 3
QUICK: dict[str, Any] = {"steps": 2, "sequences": 2, "length": 224, "rank": 2, "mix": {"practice/lockers": 1}}
"""A recipe of two steps."""


def make_writer(folder: Path, *, seed: int = 0) -> Path:
    """A random model of two layers on disk, with a tokenizer that can write any text."""
    from tiny_bpe import tiny_bpe
    from tiny_models import build as build_model

    tokenizer = tiny_bpe(TEXT, 300)
    tokenizer.eos_token = "<s>"
    shape = {"num_hidden_layers": 2, "vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0}
    build_model("llama", seed=seed, **shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def ask(tokenizer: Any) -> ProbeSet:
    """Three of RULER's, answered in four tokens."""
    built = build("ruler", tokenizer, tasks=["niah_multikey_2"], lengths=[448], items=3)
    short = (replace(probe, task=replace(probe.task, max_new_tokens=4)) for probe in built if probe.task)
    return ProbeSet(tuple(short), "asked")


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
