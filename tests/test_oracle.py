"""The oracle itself, on attention maps small enough to score by hand, and against transformers' own output."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import oracle
from headscope.probes import Probe
from tiny_models import ALL, FAMILIES, VOCAB, WINDOW, WINDOWED, build

# position        0  1  2  3  4  5  6  7  8  9 10 | 11 12 13
HAND_IDS = np.array([1, 50, 51, 7, 8, 9, 52, 53, 7, 54, 55, 7, 8, 60], dtype=np.int32)


def hand_probe(**changes) -> Probe:
    """Needle 7 8 9 at [3, 6); answer 7 8 60, of which 7 and 8 can be copied; a stray 7 at 8, outside the needle."""
    fields = {"prompt_len": 11, "needles": [(3, 6)], **changes}
    return Probe.from_ids(HAND_IDS, **fields)


def one_head(*peaks: int, p: float = 0.5) -> np.ndarray:
    """[1, 1, R, T]: each answer row puts p on its peak and spreads the rest over the other keys it sees."""
    length = len(HAND_IDS)
    maps = np.zeros((1, 1, len(peaks), length))
    for row, peak in enumerate(peaks):
        seen = 11 + row
        maps[0, 0, row, :seen] = (1 - p) / (seen - 1)
        maps[0, 0, row, peak] = p
    return maps


def score(maps: np.ndarray, probe: Probe | None = None) -> dict[str, float]:
    return {name: values[0, 0] for name, values in oracle.score_maps(maps, probe or hand_probe()).items()}


def test_perfect_copy_head():
    scores = score(one_head(3, 4, 0))
    assert scores["retrieval"] == 1.0  # 3 and 4, of the two positions whose token the answer has
    assert scores["wu_count"] == pytest.approx(2 / 3)
    assert scores["aligned_copy"] == 1.0  # both tokens that have a source
    assert scores["needle_mass"] == pytest.approx(((0.5 + 2 * 0.05) + (0.5 + 2 * 0.5 / 11) + 3 * 0.5 / 12) / 3)
    assert scores["source_mass"] == pytest.approx(0.5)
    assert scores["sink_mass"] == pytest.approx(((3 * 0.05 + 0.5) + 4 * 0.5 / 11 + (0.5 + 3 * 0.5 / 12)) / 3)


def test_half_the_needle():
    scores = score(one_head(3, 0, 0))
    assert (scores["retrieval"], scores["aligned_copy"]) == (0.5, 0.5)
    assert scores["wu_count"] == pytest.approx(1 / 3)


def test_right_token_outside_the_needle_is_no_hit():
    scores = score(one_head(8, 0, 0))
    assert (scores["retrieval"], scores["wu_count"]) == (0.0, 0.0)


def test_wrong_token_inside_the_needle_is_no_hit():
    scores = score(one_head(4, 3, 5))
    assert (scores["retrieval"], scores["wu_count"], scores["aligned_copy"]) == (0.0, 0.0, 0.0)


def test_ties_go_to_the_lowest_position():
    maps = one_head(3, 4, 0)
    maps[0, 0, 0] = 1 / 14  # all equal: position 0 wins
    assert score(maps)["retrieval"] == 0.5


def test_a_position_counts_once_for_retrieval_and_twice_for_wu():
    ids = HAND_IDS.copy()
    ids[12] = 7  # the answer is 7 7 60
    probe = Probe.from_ids(ids, prompt_len=11, needles=[(3, 6)])
    scores = score(one_head(3, 3, 0), probe)
    assert scores["retrieval"] == 1.0  # one of the one copyable position
    assert scores["wu_count"] == pytest.approx(2 / 3)


def test_two_needles_count_by_their_own_lengths():
    probe = hand_probe(needles=[(3, 4), (4, 6)])
    assert score(one_head(3, 4, 0), probe)["wu_count"] == pytest.approx(1 + 1 / 2)


def test_hidden_needle_is_not_a_number():
    maps = one_head(8, 9, 9)
    maps[..., :6] = 0
    scores = score(maps)
    assert np.isnan([scores[name] for name in oracle.ESTIMATORS if name != "sink_mass"]).all()
    assert scores["sink_mass"] == 0
    maps[0, 0, 0, 5] = 1e-9  # one row sees one needle token: observable
    assert score(maps)["retrieval"] == 0


def test_a_layer_without_a_map_is_not_a_number():
    assert np.isnan(list(score(np.zeros((1, 1, 3, 14))).values())).all()


def random_probe(length: int = 72, n_answer: int = 6, needle: tuple[int, int] = (50, 60)) -> Probe:
    """Few distinct tokens, so that random heads hit now and then; the answer is the needle's beginning."""
    ids = np.random.default_rng(0).integers(3, 9, length).astype(np.int32)
    ids[length - n_answer :] = ids[needle[0] : needle[0] + n_answer]
    return Probe.from_ids(ids, prompt_len=length - n_answer, needles=[needle])


@pytest.mark.parametrize("family", ALL)
def test_maps_are_those_of_output_attentions(family: str):
    model, probe = build(family), random_probe()
    truth = oracle.run(model, probe)
    model.set_attn_implementation("eager")
    ids = torch.tensor(probe.input_ids.astype(np.int64))[None]
    with torch.no_grad():
        output = model(ids, output_attentions=True, use_cache=False)
    rows = probe.answer_rows
    with_map = [layer for layer in range(len(truth.probs)) if truth.argmax[layer].min() >= 0]
    assert len(with_map) == len(output.attentions)
    for layer, full in zip(with_map, output.attentions, strict=True):
        np.testing.assert_array_equal(truth.probs[layer], full[0, :, rows].numpy())
    np.testing.assert_allclose(truth.logits, output.logits[0, rows].numpy(), atol=1e-6)
    loss = torch.nn.functional.cross_entropy(output.logits[0, rows], ids[0, probe.prompt_len :], reduction="none")
    np.testing.assert_allclose(truth.nll, loss.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_sum_to_one_and_see_no_future(family: str):
    probe = random_probe()
    truth = oracle.run(build(family), probe)
    sums = truth.probs.sum(axis=-1)
    if family == "gpt_oss":
        assert (sums < 1 + 1e-5).all() and sums.min() < 0.5 < sums.max()  # the learned sink takes the rest
    else:
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    for row, position in enumerate(probe.answer_rows):
        assert not truth.probs[:, :, row, position + 1 :].any()
    assert np.isfinite(truth.nll).all()
    assert (truth.margin(truth.argmax) == 0).all()


@pytest.mark.parametrize("family", WINDOWED)
def test_a_needle_outside_the_window_is_unobservable(family: str):
    probe = random_probe(length=3 * WINDOW, needle=(5, 15))
    scores = oracle.run(build(family), probe).scores
    hidden = np.isnan(scores["retrieval"])
    assert (hidden.all(axis=1) == hidden.any(axis=1)).all()
    assert hidden[0].all()
    assert hidden.all() if family == "mistral" else not hidden[-1].any()
    for name in ("wu_count", "aligned_copy", "needle_mass", "source_mass"):
        np.testing.assert_array_equal(np.isnan(scores[name]), hidden)
    assert not np.isnan(scores["sink_mass"]).any()


def test_float64_agrees_and_leaves_the_model_alone():
    model, probe = build("llama"), random_probe()
    model.train()
    implementation = model.config._attn_implementation
    single, double = oracle.run(model, probe), oracle.run(model, probe, torch.float64)
    assert double.probs.dtype == double.logits.dtype == np.float64
    np.testing.assert_allclose(single.probs, double.probs, atol=1e-5)
    np.testing.assert_allclose(single.nll, double.nll, atol=1e-5)
    assert (single.margin(double.argmax) < 1e-4).all()
    assert model.training and model.dtype == torch.float32
    assert model.config._attn_implementation == implementation != "eager"


def test_dynamic_rope_does_not_depend_on_what_ran_before():
    model, probe = build("llama_dynamic"), random_probe()
    fresh = oracle.run(model, probe)
    oracle.run(model, random_probe(length=200))
    np.testing.assert_array_equal(oracle.run(model, probe).probs, fresh.probs)


def test_exact_match_is_all_or_nothing():
    model, probe = build("llama"), random_probe()
    assert not oracle.run(model, probe).exact_match
    ids = probe.input_ids.copy()
    for row in probe.answer_rows:  # write down what the model would say
        with torch.no_grad():
            logits = model(torch.tensor(ids[: row + 1].astype(np.int64))[None]).logits[0, -1]
        ids[row + 1] = logits.argmax()
    said = Probe.from_ids(ids, prompt_len=probe.prompt_len, needles=[(50, 60)])
    assert oracle.run(model, said).exact_match
    ids[-1] = (ids[-1] + 1) % VOCAB
    assert not oracle.run(model, Probe.from_ids(ids, prompt_len=probe.prompt_len, needles=[(50, 60)])).exact_match
