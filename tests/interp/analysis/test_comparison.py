"""Two runs side by side: what differs is found, what does not is not, and what cannot be compared is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

import headscope as hs
from command_line import fail, succeed
from headscope.errors import ArgumentError, StoreError
from headscope.interp.analysis import paired_difference
from headscope.interp.results import HeadScores
from headscope.interp.store import append
from made_answers import make_answers
from made_scores import make_scores

NEEDLES, EACH, LAYERS, HEADS = 16, 3, 4, 6
CHANGED = ((1, 2), (3, 4))


def made(shift: float = 0.0, *, easier: float = 0.0, seed: int = 0, layers: int = LAYERS, **more: Any) -> HeadScores:
    """Scores of heads with needles' own luck; `shift` moves two heads, `easier` lowers every NLL."""
    rng, n = np.random.default_rng(0), NEEDLES * EACH
    needle = np.repeat(np.arange(NEEDLES), EACH)
    base = np.linspace(0.05, 0.6, layers * HEADS).reshape(layers, HEADS)
    scores = base + 0.05 * rng.normal(size=(NEEDLES, layers, HEADS))[needle]
    nll = 1 + 0.3 * rng.random(NEEDLES)[needle]
    own = np.random.default_rng(seed)
    scores = scores + 0.03 * own.normal(size=scores.shape)
    for layer, head in CHANGED if layers == LAYERS else ():
        scores[:, layer, head] += shift
    nll = (nll - easier + 0.02 * own.normal(size=n)).astype(np.float32)
    plain = make_scores(n_probes=n, n_layers=layers, n_heads=HEADS)
    fields = {"needle_id": needle.astype(str)}
    return make_scores(
        n_probes=n,
        n_layers=layers,
        n_heads=HEADS,
        per_probe={"retrieval": scores.clip(0, 1).astype(np.float32)},
        nll=nll,
        nll_novel=nll * 2,
        exact_match=nll < 1.0,
        probes=plain.probes | fields,
        **more,
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs with the steps 100 to 300 and 200 to 400; from 300 on, b is better. Both have answers at 300."""
    folder = tmp_path_factory.mktemp("runs")
    a, b = folder / "a.h5", folder / "b.h5"
    n = NEEDLES * EACH
    needles = {"needle_id": np.repeat(np.arange(NEEDLES), EACH).astype(str)}
    for path, steps in ((a, (100, 200, 300)), (b, (200, 300, 400))):
        for step in steps:
            better = path == b and step >= 300
            scores = made(0.2 * better, easier=0.15 * better, seed=step + len(str(better)))
            answers = make_answers(0, n_probes=n) if step == 300 else None
            if answers is not None:
                answers.probes.update(needles)
                answers.said["score"][:] = np.clip(0.5 + 0.25 * better + 0 * answers.said["score"], 0, 1)
                answers.said["score"][::5] = 0.5
            append(path, scores, step, answers=answers)
    return a, b


def test_what_differs_is_found(files: tuple[Path, Path]) -> None:
    found = hs.compare(*files)
    assert (found.a.step, found.b.step) == (300, 300), "the last step that both have"
    novel, nll, match = found.levels
    assert novel.change.high < 0 and novel.better == "b" and not novel.higher_is_better
    assert nll.change.low < -0.15 < nll.change.high and nll.p < 0.001
    assert match.better == "b" and match.n_needles == NEEDLES
    assert found.heads is not None and {tuple(each) for each in np.argwhere(found.heads.changes.changed)} == {*CHANGED}
    assert [name for name, _, _ in found.heads.named()] in (["L1H2", "L3H4"], ["L3H4", "L1H2"])
    assert found.heads.spearman.low < found.heads.spearman.estimate < 0.99
    assert found.heads.counts is not None and found.heads.count_change is not None
    both, one, two = found.tasks
    assert (both.name, one.name, two.name) == ("answers", "one", "two") and both.better == "b"
    assert len(found.tasks_holm) == 2 and max(found.tasks_holm) < 0.01
    assert found.course is not None and found.course.steps.tolist() == [200, 300]
    assert [each.better for each in found.course.differences["nll"]] == ["", "b"]
    assert "answers" not in found.course.differences, "step 200 has none"
    for words in ("NLL of novel tokens -0.", "exact match +0.", "2 are higher and 0 lower", "after Holm over 2"):
        assert words in found.verdict


def test_what_does_not_differ_is_not_found(files: tuple[Path, Path]) -> None:
    found = hs.compare(*files, checkpoint=200)
    assert (found.a.step, found.b.step, found.course) == (200, 200, None)
    assert found.heads is not None and not found.heads.changes.changed.any()
    assert found.heads.spearman.estimate > 0.98 and not any(each.better for each in found.levels)
    assert found.verdict.startswith("No difference can be told")
    same = hs.compare(made(), made())
    assert same.heads is not None and same.heads.spearman.estimate == 1 and [each.p for each in same.levels] == [1] * 3


def test_the_same_file_twice_compares_its_checkpoints(files: tuple[Path, Path]) -> None:
    _, b = files
    found = hs.compare(b, str(b), checkpoint=200, with_checkpoint=400)
    assert found.levels[0].better == "b" and (found.a.step, found.b.step) == (200, 400)
    turned = hs.compare(b, b, checkpoint=400, with_checkpoint=200)
    assert turned.levels[0].better == "a"
    assert turned.levels[0].change.low == pytest.approx(-found.levels[0].change.high)
    for steps in ({}, {"checkpoint": 200}, {"checkpoint": 200, "with_checkpoint": 200}):
        with pytest.raises(ArgumentError, match="same file; name two of its checkpoints.*200, 300, 400"):
            hs.compare(b, b, **steps)
    with pytest.raises(StoreError, match=re.escape("b.h5 has no checkpoint 7; it has 200, 300, 400")):
        hs.compare(*files, checkpoint=200, with_checkpoint=7)


def test_no_common_checkpoint_compares_the_last_ones(tmp_path: Path) -> None:
    for name, step in (("a", 10), ("b", 20)):
        append(tmp_path / f"{name}.h5", made(seed=step), step)
    found = hs.compare(tmp_path / "a.h5", tmp_path / "b.h5")
    assert (found.a.step, found.b.step, found.course) == (10, 20, None)


def test_other_probes_are_refused_and_other_shapes_are_compared_above_the_heads(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"not measured on the same probes.*toy.*0123.*ffff.*48 ids in common"):
        hs.compare(made(), made(probe_set_hash="f" * 64))
    found = hs.compare(made(), made(easier=0.2, layers=2))  # heads of one are not those of the other
    assert found.heads is None and found.levels[0].better == "b"
    assert "4 x 6 and 2 x 6 layers x heads: heads are not compared" in found.notes[0]
    with pytest.raises(ArgumentError, match="were not compared"):
        hs.plot.head_scatter(found)
    with pytest.raises(ArgumentError, match="top must be 1 to 24"):
        hs.compare(made(), made(seed=1), top=0)


def test_the_command_prints_writes_and_draws(files: tuple[Path, Path], tmp_path: Path) -> None:
    text = succeed("compare", *files, "--figures", tmp_path / "f")
    for words in ("b beside a:", "NLL, novel tokens", "L1H2", "score of answers", "2 common checkpoints", "toy/model"):
        assert words in text, words
    assert (tmp_path / "f" / "compare_heads.svg").read_text().count("L3H4")
    plain = json.loads(succeed("compare", *files, "--json"))
    assert plain["heads"]["changed_heads"][0]["head"] in ("L1H2", "L3H4") and plain["levels"][0]["better"] == "b"
    assert plain["verdict"] == hs.compare(*files).verdict
    assert "no checkpoint 7" in fail("compare", *files, "--checkpoint", 7)
    assert "give an optimizer step" in fail("compare", *files, "--with-checkpoint", -1)
    axes = plt.subplots()[1]
    assert hs.plot.head_scatter(hs.compare(*files, checkpoint=300), ax=axes) is axes
    plt.close("all")


def test_paired_differences_of_few_that_move() -> None:
    """None of 24 needles differs: at most 17 % do; one does: the interval still is far from a coin's."""
    needles, a = np.repeat(np.arange(24), 2), np.ones(48)
    still = paired_difference("match", a, a, needles, bounds=(0, 1))
    bound = 1 - 0.0125 ** (1 / 24)
    assert (still.p, still.n_moved, still.better) == (1.0, 0, "")
    np.testing.assert_allclose([still.change.low, still.change.high], [-bound, bound])
    one = paired_difference("match", a, np.where(needles == 3, 0, a), needles, bounds=(0, 1))
    assert one.p == 1 and -0.3 < one.change.low < one.change.estimate < 0 < one.change.high < 0.2
    assert np.isnan(paired_difference("nll", a, a, needles).change.low), "of an NLL nothing bounds what was not seen"
    with pytest.raises(ArgumentError, match="no item has a value"):
        paired_difference("nll", a, a * np.nan, needles)
    with pytest.raises(ArgumentError, match="alike"):
        paired_difference("nll", a, a[:3], needles)
