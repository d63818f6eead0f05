"""Estimators of one's own: what they ask for, what they get, and what is said of those that cannot work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import oracle
from builders import random_grid
from headscope.interp.estimators import DEFAULT, ESTIMATORS, Estimator, estimator
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.scoring import score_heads
from headscope.interp.store import read_scores
from headscope.probes import Probe, Span
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


@pytest.mark.parametrize("sharing", ["exact", "grafted"])
def test_attention_on_distractors(sharing: str) -> None:
    """On every second probe there are two decoys; the others have none, which is NaN and not 0."""
    decoys = [Span(2, 9, "distractor"), Span(30, 41, "distractor", 1)]
    grid = [
        replace(probe, spans=(*probe.spans, *decoys))
        if i % 2
        and not any(decoy.start < end and start < decoy.end for decoy in decoys for start, end in probe.needle_spans)
        else probe
        for i, probe in enumerate(GRID)
    ]
    has = np.array([len(probe.spans) > len(plain.spans) for probe, plain in zip(grid, GRID, strict=True)])
    assert has.any() and not has.all()

    @estimator(spans={"decoys": lambda probe: np.array([[2, 9], [30, 41]])})
    def by_hand(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        return evidence.mass["decoys"].mean(axis=-1)

    scores = score_heads(build("llama"), grid, sharing=sharing, estimators=["distractor_mass", by_hand])
    found, expected = scores.per_probe["distractor_mass"], scores.per_probe["by_hand"]
    np.testing.assert_allclose(found[has], expected[has], rtol=0, atol=1e-6)
    assert np.isnan(found[~has]).all() and (found[has] > 0).all()
    assert "distractor_mass" not in DEFAULT


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


def keeping(k: int, kept: dict[str, ProbeEvidence]) -> Estimator:
    def keep(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        kept[probe.id] = evidence
        return evidence.topk_p[..., -1].mean(axis=-1)

    return Estimator(f"top{k}", keep, topk=k)


@pytest.mark.parametrize(
    ("family", "sharing"),
    [("llama", "exact"), ("llama", "grafted"), ("gpt_oss", "exact"), ("gemma2", "exact"), ("llama_dynamic", "auto")],
)
def test_top_keys_equal_eager_attention(family: str, sharing: str) -> None:
    """Merged of prefix and suffix, behind windows, soft-caps and sinks, and of one forward."""
    model, grid = build(family), random_grid(lengths=(60, 90), depths=(0.4,))
    few: dict[str, ProbeEvidence] = {}
    many: dict[str, ProbeEvidence] = {}
    score_heads(model, grid, sharing=sharing, chunk=48, estimators=[keeping(2, few), keeping(12, many)])
    for probe in grid:
        found = many[probe.id]
        key, p = found.topk_key, found.topk_p
        assert key.shape == p.shape == (*found.argmax_key.shape, 12)
        np.testing.assert_array_equal(few[probe.id].topk_key, key[..., :2])
        np.testing.assert_array_equal(key[..., 0], found.argmax_key)
        np.testing.assert_array_equal(p[..., 0], found.p_max)
        assert (np.diff(p) <= 0).all() and (p[key < 0] == 0).all()
        if sharing == "grafted":  # an approximation of separate forwards; its keys are positions in the probe
            assert key.max() < probe.length and all(len({*row}) == 12 for row in key.reshape(-1, 12))
            continue
        truth = oracle.run(model, probe).probs
        np.testing.assert_allclose(p, -np.sort(-truth)[..., :12], rtol=1e-3, atol=1e-4)
        there = np.take_along_axis(truth, np.maximum(key, 0).astype(np.int64), axis=-1)
        np.testing.assert_allclose(p, np.where(key < 0, 0, there), rtol=1e-3, atol=1e-4)


def test_a_hit_among_five_top_keys_counts_once() -> None:
    (probe,) = random_grid(lengths=(60,), depths=(0.5,))
    (start, end), source = probe.needle_spans[0], probe.sources[:, 0]
    key = np.full((1, 3, probe.n_answer, 6), -1, np.int32)
    key[0, 0, 1, 3] = source[1]  # fourth behind nothing
    key[0, 0, 2, :2] = source[2], source[2]
    key[0, 1, 0, 5] = source[0]  # sixth, and not asked for
    key[0, 1, 3, 0] = source[2]  # of another token
    shape, rows = key.shape[:3], np.zeros(probe.n_answer)
    visible = np.array([[True, True, False]])
    evidence = ProbeEvidence(key[..., 0], np.ones(shape), {}, visible, rows, rows > 0, key, np.ones(key.shape))
    np.testing.assert_allclose(ESTIMATORS["wu_count_top5"](probe, evidence), [[2 / (end - start), 0, np.nan]])
    with pytest.raises(ValueError, match="'wu_count_top5' needs the top 5 keys, and the evidence has 2"):
        ESTIMATORS["wu_count_top5"](probe, evidence.top(2))


def test_the_count_of_top_keys_is_never_below_that_of_one() -> None:
    scores = score_heads(build("mistral"), GRID, estimators=["wu_count", "wu_count_top5"])
    one, five = scores.per_probe["wu_count"], scores.per_probe["wu_count_top5"]
    np.testing.assert_array_equal(np.isnan(one), np.isnan(five))
    seen = ~np.isnan(one)
    assert (five[seen] >= one[seen]).all() and (five[seen] > one[seen]).any()


@pytest.mark.parametrize("sharing", ["exact", "grafted"])
def test_a_span_that_a_probe_lacks_is_nan(sharing: str) -> None:
    """Not at all, or only for some rows; where a probe has it nothing changes."""
    short = min(probe.length for probe in GRID)

    @estimator(spans={"long": lambda probe: None if probe.length == short else np.array([[0, half(probe)]])})
    def of_the_long(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        return evidence.mass["long"].mean(axis=-1)

    @estimator(spans={"late": lambda p: np.stack([[[0, half(p) * (row > 0)]] for row in range(p.n_answer)])})
    def first_row_lacks(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        assert np.isnan(evidence.mass["late"][..., 0]).all()
        return evidence.mass["late"][..., 1:].mean(axis=-1)

    asked = [of_the_long, first_row_lacks, first_half_mass]
    scores = score_heads(build("llama"), GRID, sharing=sharing, estimators=asked)
    lacks = scores.probes["length"] == short
    assert lacks.any() and not lacks.all()
    expected = np.where(lacks[:, None, None], np.nan, scores.per_probe["first_half_mass"])
    np.testing.assert_allclose(scores.per_probe["of_the_long"], expected, rtol=0, atol=1e-6)
    assert not np.isnan(scores.per_probe["first_row_lacks"]).any()


@pytest.mark.parametrize("topk", [-1, 0.5, "5"])
def test_a_number_of_keys_is_a_whole_one(topk: object) -> None:
    with pytest.raises(ValueError, match="'own': topk must be a number of keys from 0 up, got"):
        Estimator("own", no_sink, topk=topk)  # type: ignore[arg-type]
