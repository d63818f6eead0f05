"""Estimators of one's own: what they ask for, what they get, and what is said of those that cannot work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from builders import random_grid
from headscope.interp.estimators import DEFAULT, ESTIMATORS, Estimator, estimator
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.scoring import score_heads
from headscope.interp.store import read_scores
from headscope.probes import Probe
from tiny_models import build

GRID = random_grid(lengths=(60, 121), depths=(0.0, 0.4, 1.0))


def half(probe: Probe) -> int:
    return probe.length // 2


@estimator(spans={"first_half": lambda probe: np.array([[0, half(probe)]])})
def first_half_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    return evidence.mass["first_half"].mean(axis=-1)


@estimator(spans={"rest": lambda probe: np.array([[half(probe), 3 * half(probe) // 2], [3 * half(probe) // 2, 9999]])})
def rest_mass(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    return evidence.mass["rest"].mean(axis=-1)


@estimator(name="self_mass", spans={"self": lambda p: np.stack([p.answer_rows, p.answer_rows + 1], axis=1)[:, None]})
def looks_at_itself(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    return evidence.mass["self"].mean(axis=-1)


def no_sink(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
    """A plain function; it may use what every run measures."""
    return evidence.hidden_as_nan((evidence.mass["needle"] / (1.5 - evidence.mass["sink"])).mean(axis=-1))


OWN = [first_half_mass, rest_mass, looks_at_itself, no_sink]


@pytest.mark.parametrize(("family", "sharing"), [("llama", "grafted"), ("llama", "exact"), ("llama_dynamic", "auto")])
def test_mass_on_spans_of_ones_own_is_complete(family: str, sharing: str) -> None:
    """Whatever is grafted, moved or shared: attention on all parts of a probe adds up to one."""
    scores = score_heads(build(family), GRID, sharing=sharing, estimators=OWN)
    assert scores.estimators == ("retrieval", "first_half_mass", "rest_mass", "self_mass", "no_sink")
    whole = scores.per_probe["first_half_mass"] + scores.per_probe["rest_mass"]
    np.testing.assert_allclose(whole, 1, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_mass_on_spans_of_ones_own_equals_eager_attention(family: str) -> None:
    model = build(family)
    scores = score_heads(model, GRID, sharing="exact", estimators=OWN)
    model.set_attn_implementation("eager")
    for i, probe in enumerate(GRID):
        with torch.no_grad():
            ids = torch.from_numpy(probe.input_ids.astype(np.int64))[None]
            maps = torch.stack(model(ids, output_attentions=True).attentions)[:, 0]
        rows = maps[:, :, torch.from_numpy(probe.answer_rows.astype(np.int64))]
        first = rows[..., : half(probe)].sum(-1).mean(-1)
        itself = torch.stack([rows[:, :, a, row] for a, row in enumerate(probe.answer_rows)]).mean(0)
        np.testing.assert_allclose(scores.per_probe["first_half_mass"][i], first, atol=1e-4)
        np.testing.assert_allclose(scores.per_probe["self_mass"][i], itself, atol=1e-4)


def test_standard_estimators_do_not_change_beside_others() -> None:
    model = build("mistral")
    plain, more = score_heads(model, GRID), score_heads(model, GRID, estimators=[*DEFAULT, *OWN])
    few = score_heads(model, GRID, estimators=["source_mass"])
    assert plain.estimators == DEFAULT == tuple(ESTIMATORS)[: len(DEFAULT)]
    assert few.estimators == ("retrieval", "source_mass"), "counts, ranking and file rest on retrieval"
    for name in few.estimators:
        assert few.per_probe[name].tobytes() == plain.per_probe[name].tobytes()
    for name in DEFAULT:  # more spans a product may round otherwise
        np.testing.assert_allclose(more.per_probe[name], plain.per_probe[name], rtol=0, atol=1e-6)
    needle, no_sink = plain.per_probe["needle_mass"], more.per_probe["no_sink"]
    np.testing.assert_array_equal(np.isnan(no_sink), np.isnan(needle))
    assert np.all((needle / 1.5 - 1e-6 <= no_sink) | np.isnan(needle))


def test_estimators_of_ones_own_are_in_the_file(tmp_path: Path) -> None:
    scores = score_heads(build("llama"), GRID, estimators=[*DEFAULT, looks_at_itself])
    scores.save(tmp_path / "run.h5", checkpoint=1)
    read = read_scores(tmp_path / "run.h5")
    assert read.estimators == (*DEFAULT, "self_mass")
    assert read.per_probe["self_mass"].tobytes() == scores.per_probe["self_mass"].tobytes()
    score_heads(build("llama"), GRID, estimators=[]).save(tmp_path / "run.h5", checkpoint=2)
    assert np.isnan(read_scores(tmp_path / "run.h5", 2).per_probe["self_mass"]).all()


def asking(spans: object, name: str = "odd") -> Estimator:
    return Estimator("own", no_sink, {name: lambda probe: spans})


@pytest.mark.parametrize(
    ("estimators", "error", "message"),
    [
        ("retrieval", TypeError, "must be a list"),
        (["retreival"], ValueError, "did you mean 'retrieval'"),
        ([3], TypeError, "got int 3"),
        ([lambda p, e: 0], ValueError, "cannot name an estimator"),
        ([Estimator("length", no_sink)], ValueError, "something else in a results file"),
        ([Estimator("wu_count", no_sink)], ValueError, "name of a built-in one"),
        ([no_sink, no_sink], ValueError, "'no_sink' is there twice"),
        ([asking([[0, 1]], "needle")], ValueError, "other spans by 'needle' than every run"),
        ([asking([[0.5, 2]])], ValueError, "must be integers"),
        ([asking([0, 2])], ValueError, r"must be integers \[S, 2\]"),
        ([asking(np.zeros((99, 1, 2), int))], ValueError, "are of 99 rows, not 5"),
    ],
)
def test_what_cannot_work_is_said_before_the_model_runs(estimators: list, error: type, message: str) -> None:
    model = build("llama", num_hidden_layers=1)
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was run"))
    with pytest.raises(error, match=message):
        score_heads(model, GRID, estimators=estimators)


def test_an_estimator_that_gives_another_shape_is_named() -> None:
    def totals(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        return evidence.p_max.mean(axis=-1)[0]

    with pytest.raises(ValueError, match=r"estimator 'totals' gave float32 \(8,\).*\(4, 8\), \[n_layers, n_heads\]"):
        score_heads(build("llama"), GRID, estimators=[totals])
