"""Planted circuits: what is done to their heads takes the copy away, what is done to others does not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headscope as hs
from builders import random_grid
from headscope.errors import AblationError, ArgumentError, ArgumentTypeError
from headscope.interp.causal import run_sets
from headscope.interp.causal.recording import outputs_elsewhere
from headscope.interp.causal.sets import layer_matched, mass_matched, sets_of, units_of
from headscope.interp.engine import Engine, plan
from headscope.interp.model import adapt
from headscope.probes import Probe, ProbeSet
from planted import FILLER, VOCAB, build_planted, planted_probes, save_checkpoint
from tiny_models import build

COPIES = (2, 1)
OTHERS = [(layer, head) for layer in range(4) for head in range(4) if (layer, head) != COPIES]


@cache
def model() -> Any:
    return build_planted({COPIES: 1.0})


@cache
def probes() -> ProbeSet:
    return planted_probes(needles=4, depths=(0.5,), lengths=(40,), words=6)


@cache
def scores() -> hs.HeadScores:
    return hs.score_heads(model(), probes())


def other_value(probe: Probe) -> Probe:
    """The probe with other words after the cue, in the needle and in the answer."""
    (start, end), ids = probe.needle_spans[0], probe.input_ids.copy()
    left = np.setdiff1d(np.arange(FILLER + 1, VOCAB), ids[start:end])
    ids[start + 1 : end] = left[: end - start - 1]
    ids[probe.prompt_len :] = ids[start + 1 : end]
    return Probe.from_ids(
        ids,
        prompt_len=probe.prompt_len,
        needles=[(start, end)],
        question_start=probe.question_start,
        id=f"{probe.id}/other",
        needle_id=probe.needle_id,
    )


def exact(ablation: hs.Ablation, kind: str) -> np.ndarray:
    return ablation.measured["exact_match"][ablation.of(kind)]


@pytest.mark.parametrize(("mode", "rows"), [("zero", "answer"), ("zero", "all"), ("resample", "answer")])
def test_the_planted_head_takes_the_copy_away_and_no_others_do(mode: str, rows: str) -> None:
    found = hs.ablate(model(), probes(), scores(), mode=mode, rows=rows, top=[1], controls=2, each=1)
    assert len(found) == 2 and set(found.provenance["chosen_on"]).isdisjoint(found.probes["needle_id"])
    assert [str(found.sets[i]) for i in (*found.of("top"), *found.of("one"))] == ["L2H1", "L2H1"]
    assert exact(found, "none").all() and not exact(found, "top").any()
    assert exact(found, "layer_matched").all() and exact(found, "mass_matched").all()
    assert (found.change("nll_novel")[found.of("top")] > 0.5).all()
    assert np.abs(found.change("nll_novel")[found.of("layer_matched")]).max() < 1e-3
    mine = np.isin(scores().probes["id"], found.probes["id"])
    np.testing.assert_allclose(found.measured["nll"][0], scores().nll[mine], atol=1e-5)


@pytest.mark.parametrize("sharing", ["exact", "grafted"])
@pytest.mark.parametrize("mode", ["needle_only", "from_needle"])
def test_hiding_the_needle_and_patching_recover_the_circuit(mode: str, sharing: str) -> None:
    twins = [other_value(probe) for probe in probes()] if mode == "from_needle" else None
    heads = [OTHERS[0], COPIES, *OTHERS[1:7]]
    how: dict[str, Any] = {"mode": mode, "sharing": sharing, "twins": twins}
    found = hs.ablate(model(), probes(), heads, top=[2], controls=0, each=8, **how)
    effect = found.change("nll_novel")[found.of("one")].mean(axis=1)
    moved = {found.sets[i].heads[0] for i, change in zip(found.of("one"), effect, strict=True) if abs(change) > 1e-3}
    assert moved == {COPIES}
    if mode == "from_needle":
        by_itself = found.of("one")[1]
        assert found.measured["twin_logprob"][by_itself].min() > -1e-3 > -1 > found.measured["twin_logprob"][0].max()
        assert not found.measured["exact_match"][by_itself].any()


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_oss", "llama4_text", "llama_dynamic"])
def test_a_row_with_all_heads_from_the_twin_says_what_the_twin_says(family: str) -> None:
    """The last token of the prompt is the same in both, so nothing else is left of the probe."""
    probe = random_grid()[5]
    ids = probe.input_ids.copy()
    start, end = probe.needle_spans[0]
    ids[start:end], ids[probe.prompt_len :] = (ids[start:end] + 40) % 150 + 3, (ids[probe.prompt_len :] + 40) % 150 + 3
    other = Probe.from_ids(
        ids, prompt_len=probe.prompt_len, needles=[(start, end)], question_start=probe.question_start
    )
    adapted = adapt(build(family))
    heads = [(layer, head) for layer in range(adapted.n_layers) for head in range(8)]
    with adapted.routed(probe.length):
        engine = Engine(adapted, [probe], chunk=48)
        of = [None if family == "llama_dynamic" else plan([each], "exact") for each in (probe, other)]
        change = outputs_elsewhere(engine, of[1], [other], np.array([0]), [probe], range(adapted.n_layers))
        found, _ = run_sets(engine, of[0], [probe], [[], heads], change, ("answer",), [other.answer_ids])
        truth, _ = run_sets(engine, of[1], [other], [[]], change, ("answer",))
    np.testing.assert_allclose(found[1, 0].target[0], truth[0, 0].logprob[0], rtol=1e-4, atol=1e-4)
    assert abs(found[0, 0].target[0] - truth[0, 0].logprob[0]) > 1e-3


def test_groups_are_chosen_and_changed_whole() -> None:
    found = hs.ablate(model(), probes(), scores(), kv_groups=True, top=[1], controls=2)
    assert found.unit == "kv_group" and str(found.sets[1]) == "L2H0 L2H1"
    assert [str(found.sets[i]) for i in found.of("layer_matched")] == ["L2H2 L2H3"]  # all there are
    assert not exact(found, "top").any() and exact(found, "layer_matched").all()


def test_by_default_half_of_the_heads_are_left_for_controls() -> None:
    found = hs.ablate(model(), probes(), scores(), controls=1, each=0)
    assert found.top == [1, 2, 5] and len(found.of("layer_matched")) == 3 and not found.of("one")


def test_all_sets_beside_one_prefix_are_what_separate_runs_give() -> None:
    together = hs.ablate(model(), probes(), [COPIES, (1, 2)], top=[2], controls=1, each=1)
    assert together.provenance["prefix_shared_by_sets"]
    for i, one in enumerate(together.sets):
        if one.heads:
            alone = hs.ablate(model(), probes()[:1], one.heads, top=[len(one.heads)], each=0, controls=0)
            np.testing.assert_allclose(alone.measured["nll"][1], together.measured["nll"][i, :1], rtol=1e-4, atol=1e-5)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mode": "half"}, "mode must be one of zero, mean, resample, needle_only, from_needle, got 'half'"),
    ({"rows": "prompt"}, "rows must be 'all' or some of context, question, answer, got 'prompt'"),
    ({"mode": "needle_only", "rows": "all"}, "is defined in the rows of question and answer, not in those of context"),
    ({"mode": "resample", "rows": "question,answer"}, "is defined in the rows of answer, not in those of question"),
    ({"mode": "resample", "answers": True}, "has no output for rows of an answer that the model writes"),
    ({"answers": True}, "answers=True needs tokenizer"),
    ({"mode": "from_needle"}, "mode='from_needle' needs tokenizer"),
    ({"mode": "from_needle", "twins": []}, "twins must be as many as the probes, in their order: 0 for 4"),
    ({"twins": []}, "twins are for mode='from_needle', got mode='zero'"),
    ({"top": [0]}, "top must hold numbers from 1 on"),
    ({"top": [99]}, "top asks for 99 and there are 16 heads or groups with a score"),
    ({"controls": -1}, "controls and each must be 0 or more"),
    ({"top": [9], "controls": 1}, "9 of 16 heads or groups are changed, which leaves 7 for a control"),
    ({"heads": []}, "heads is empty"),
    ({"heads": [(0, 4)]}, "there is no L0H4; layer 0 has 4 heads"),
    ({"probes": "first"}, "there is one needle"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"probes": probes(), "heads": scores(), **changes}
    if asked["probes"] == "first":
        asked["probes"] = probes()[:1]
        asked["heads"] = hs.score_heads(model(), asked["probes"])
    with pytest.raises(ArgumentError) as caught:
        hs.ablate(model(), **asked)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_odd_heads_and_scores_of_another_model_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match="heads is a int; give HeadScores"):
        hs.ablate(model(), probes(), 3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="the scores are of 4 layers x 4 heads and LlamaForCausalLM has 4 x 8"):
        hs.ablate(build("llama"), probes(), scores())


def test_a_leading_head_that_nothing_is_done_to_is_an_error() -> None:
    far = ProbeSet(random_grid()[8:9], "far")  # beyond every window
    with pytest.raises(AblationError, match=r"the output of L0H1 is what it was before after mode 'needle_only'"):
        hs.ablate(build("mistral"), far, [(0, 1)], mode="needle_only", controls=0)


def test_controls_are_like_the_leading_heads() -> None:
    rng = np.random.default_rng(0)
    units = units_of({layer: 8 for layer in range(4) if layer != 2}, 2, False, None, np.empty(0, bool))
    chosen = [(1, 0), (1, 3), (3, 7), *((0, head) for head in range(6))]
    for _ in range(20):
        drawn = layer_matched(chosen, units, rng)
        assert not {*drawn} & {*chosen} and len({*drawn}) == 9
        assert all(units.exists[place] for place in drawn)
        # two are left in layer 0; the other four come from the nearest layer
        assert [sum(layer == at for layer, _ in drawn) for at in range(4)] == [2, 6, 0, 1]
    known = replace(units, mass=np.where(units.exists, np.arange(32).reshape(4, 8) / 32, np.nan))
    for _ in range(20):
        drawn = mass_matched([(0, 4), (1, 4)], known, rng)
        gaps = [min(abs(known.mass[place] - known.mass[one]) for one in ((0, 4), (1, 4))) for place in drawn]
        assert max(gaps) <= 5 / 32 and len(drawn) == 2
    kinds = [(one.kind, one.k, one.draw) for one in sets_of(units, chosen, [1, 2], 2, 2, seed=3)]
    assert kinds[:3] == [("none", 0, 0), ("top", 1, 0), ("top", 2, 0)] and kinds[-1] == ("one", 1, 1)
    assert len({*kinds}) == len(kinds) == 9
    first, again = ([str(one) for one in sets_of(units, chosen, [2], 0, 4, seed=3)] for _ in range(2))
    assert first == again


def test_written_answers_change_with_the_heads(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "model", {COPIES: 1.0})
    found = hs.ablate(str(folder), probes(), [COPIES], answers=True, top=[1], controls=1)
    said = found.measured["answer_score"]
    assert (said[0] == 1).all() and not said[found.of("top")].any() and (said[found.of("layer_matched")] == 1).all()
    assert np.isnan(said[found.of("one")]).all()  # one by one they are not asked
    blind = hs.ablate(
        str(folder), probes()[:1], [COPIES], mode="needle_only", answers=True, top=[1], controls=0, each=0
    )
    assert blind.measured["answer_score"].tolist() == [[1.0], [0.0]]
    how: dict[str, Any] = {"rows": "all", "alone": True, "answers": True, "top": [1], "controls": 0, "each": 0}
    apart = hs.ablate(str(folder), probes()[:1], [COPIES], **how)
    assert apart.measured["answer_score"].tolist() == [[1.0], [0.0]]
    assert apart.provenance["sharing"] == "alone"
