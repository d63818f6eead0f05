"""A run of checkpoints whose copy heads are known: which they are, when they are born, and how strong they get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import headscope as hs
from headscope.interp.analysis.heads import changes, life
from headscope.interp.analysis.trajectory import Trajectory, read_trajectory
from headscope.interp.analysis.verdicts import judge
from headscope.interp.store.exporting import qrhead_string
from planted import HEADS, LAYERS, WORDS, build_planted, expected, number_probes, planted_probes, save_checkpoint

PROBES = planted_probes(depths=(0.0, 0.7), lengths=(120,))
STEPS = (0, 100, 200, 300, 400, 500)
# after how many of the 43 words each head copies, by checkpoint
PLANTED = {
    (1, 2): (0, 9, 17, 26, 34, 43),  # born at the second checkpoint
    (2, 0): (0, 0, 0, 13, 22, 39),  # born at the fourth
    (3, 1): (22, 24, 27, 30, 36, 42),  # there from the start
    (3, 3): (0, 1, 2, 3, 9, 15),  # grows, and is a retrieval head from the fifth on
    (2, 2): (30, 20, 10, 0, 0, 0),  # fades, and is gone at the fourth
}
BORN = {(1, 2): 1, (2, 0): 3, (3, 3): 4}
DIED = {(2, 2): 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    for i, step in enumerate(STEPS):
        save_checkpoint(folder / f"checkpoint-{step}", {head: n[i] / WORDS for head, n in PLANTED.items()})
    return folder


@pytest.fixture(scope="module")
def trajectory(run: Path) -> Trajectory:
    """From the folders to the file to the arrays, as a user goes."""
    found = hs.sweep(run, PROBES, run / "run.h5")
    assert found.done == STEPS and not found.failed
    return read_trajectory(run / "run.h5")


def truth() -> np.ndarray:
    """[C, n_planted]: mean scores by theory."""
    return np.array([[expected(PROBES, n / WORDS).mean() for n in row] for row in zip(*PLANTED.values(), strict=True)])


def places() -> tuple[np.ndarray, ...]:
    return tuple(np.array(list(PLANTED)).T)


def test_the_theory_covers_the_scale() -> None:
    assert truth().min() == 0 and truth().max() == 1
    assert np.abs(truth() - 0.1).min() > 0.005, "no planted score lies so near the threshold that rounding decides"


def test_every_probe_of_every_planted_head_scores_what_theory_says(trajectory: Trajectory) -> None:
    for (layer, head), strengths in PLANTED.items():
        for i, n in enumerate(strengths):
            wanted = expected(PROBES, n / WORDS)
            np.testing.assert_allclose(trajectory.scores[i, :, layer, head], wanted, atol=1e-6)


def test_no_other_head_is_a_retrieval_head(trajectory: Trajectory) -> None:
    others = np.ones((LAYERS, HEADS), bool)
    others[places()] = False
    assert trajectory.maps[:, others].max() < 0.06  # random attention hits a needle's word by chance now and then
    assert (trajectory.maps[:, others] > 0).any(), "the others are not all silent"
    for i in range(len(STEPS)):
        found = {(int(layer), int(head)) for layer, head in np.argwhere(trajectory.maps[i] > 0.1)}
        assert found == {place for place, value in zip(PLANTED, truth()[i], strict=True) if value > 0.1}


def test_births_and_deaths(trajectory: Trajectory) -> None:
    found = life(trajectory)
    assert {head: i for i, heads in enumerate(found.births) for head in heads} == BORN
    assert {head: i for i, heads in enumerate(found.deaths) for head in heads} == DIED


def test_strengths_and_their_order(trajectory: Trajectory) -> None:
    measured = trajectory.maps[(slice(None), *places())]
    for column, strengths in zip(measured.T, PLANTED.values(), strict=True):
        assert (np.sign(np.diff(column)) == np.sign(np.diff(strengths))).all()
    ranks = life(trajectory).ranks[(-1, *places())]
    assert [place for _, place in sorted(zip(ranks, PLANTED, strict=True))][:4] == [(1, 2), (3, 1), (2, 0), (3, 3)]


def test_only_planted_heads_changed(trajectory: Trajectory) -> None:
    found = changes(trajectory)
    assert {(int(layer), int(head)) for layer, head in np.argwhere(found.changed)} == set(PLANTED)
    np.testing.assert_allclose(found.difference[places()], truth()[-1] - truth()[0], atol=1e-6)


def test_the_model_answers_better_the_more_its_heads_copy(trajectory: Trajectory) -> None:
    """What the heads write reaches the logits: it is a real forward pass."""
    nll = trajectory.nll["nll"].mean(axis=1)
    copied = truth().sum(axis=1)
    assert np.corrcoef(nll, copied)[0, 1] < -0.95
    everything = hs.score_heads(build_planted({(1, 2): 1.0, (2, 1): 1.0}), PROBES)
    assert everything.exact_match.all() and everything.nll.max() < 1e-4


@pytest.mark.parametrize("sharing", ["exact", "grafted"])
def test_sharing_does_not_matter(run: Path, sharing: str) -> None:
    scores = hs.score_heads(run / "checkpoint-300", PROBES, sharing=sharing)
    for (layer, head), strengths in PLANTED.items():
        wanted = expected(PROBES, strengths[3] / WORDS)
        np.testing.assert_allclose(scores.per_probe["retrieval"][:, layer, head], wanted, atol=1e-6)
    assert {(h.layer, h.head) for h in scores.top(3)} == {(1, 2), (2, 0), (3, 1)}
    assert [str(head) for head in scores.top(1)] == ["L3H1"]


ANY_DIGIT, FIRST_DIGIT, COPIES = ((1, 0), (2, 1), (3, 1)), ((2, 2), (2, 3)), {(1, 3): 1.0}


@pytest.fixture(scope="module")
def with_numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints on number needles: at the second, heads that find the digits are born, and one that copies."""
    path = tmp_path_factory.mktemp("numbers") / "run.h5"
    probes = number_probes()
    hs.score_heads(build_planted({}), probes).save(path, checkpoint=0)
    late = build_planted(COPIES, any_digit=ANY_DIGIT, first_digit=FIRST_DIGIT)
    hs.score_heads(late, probes).save(path, checkpoint=100)
    return path


def test_a_head_that_looks_at_any_digit_is_above_the_papers_threshold_and_does_not_count(with_numbers: Path) -> None:
    scores = hs.interp.store.read_scores(with_numbers)
    for head in ANY_DIGIT:
        assert 0.1 < scores.retrieval[head] < 0.3
        assert len(set(scores.per_probe["retrieval"][:, *head])) > 2, "it looks at other digits in other probes"
    np.testing.assert_allclose([scores.retrieval[head] for head in FIRST_DIGIT], 1 / 7, atol=1e-6)
    assert scores.retrieval_heads() == list(COPIES)
    assert set(scores.retrieval_heads(plain=True)) == {*COPIES, *ANY_DIGIT, *FIRST_DIGIT}
    assert qrhead_string(scores) == "1-3"
    found = hs.open(with_numbers)
    assert found.n_heads_above_chance.values.tolist() == [0, 1]
    assert found.n_retrieval_heads.values.tolist() == [0, 6]


def test_only_the_copying_head_is_born(with_numbers: Path) -> None:
    run = read_trajectory(with_numbers)
    assert life(run).births == [[], list(COPIES)]
    growth = judge(run)[0]
    assert (growth.numbers["first"], growth.numbers["last"], growth.numbers["last_plain"]) == (0, 1, 6)
    assert "above chance (level 0." in growth.words and "with 12 needles)" in growth.words
    assert "By the paper's plain count, above 0.1: 0 to 6." in growth.words
