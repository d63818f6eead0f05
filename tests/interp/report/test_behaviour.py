"""What a model answered, in figures and on the page: scores with intervals, wrong answers beside where heads look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from headscope.interp.analysis import MIN_NEEDLES
from headscope.interp.report import evolve
from headscope.interp.report.behaviour import LOOKED, looked, looks_of
from headscope.interp.report.evolution import Evolution
from headscope.interp.report.figures import evolution as evolution_figures
from headscope.interp.report.figures import score_beside_nll, task_scores
from headscope.interp.report.page import write_report
from headscope.interp.report.page.sections import sections
from headscope.interp.store import append
from made_answers import make_answers
from made_scores import make_scores
from made_up_trajectory import make_trajectory

ITEMS, NEEDLES = 4 * MIN_NEEDLES, 2 * MIN_NEEDLES
LEADS = (2, 3)  # the one head that looks anywhere in the table below
NASTY = "<script>alert(1)</script>\u202e"


def answers_of(step: int):
    """Half of the items right at step 100, three quarters at step 200; item 0 names a rival and holds a script."""
    order = np.arange(ITEMS)
    right = order % 4 >= (2 if step == 100 else 1)
    made = make_answers(step, n_probes=ITEMS, n_samples=0)
    probes = {**made.probes, "needle_id": np.array([f"n{i % NEEDLES}" for i in order])}
    probes |= {"task": np.where(order < ITEMS // 2, "early", "late"), "length": np.where(order % 2, 2048, 1024)}
    said = {**made.said, "score": right[:, None].astype(np.float32), "precision": np.ones((ITEMS, 1), np.float32)}
    said["text"] = np.array([[NASTY] if i == 0 else [f"said {i}"] for i in order], object)
    said["rival"] = np.where(order == 0, 1, -1)[:, None]
    return make_answers(step, n_probes=ITEMS, n_samples=0, probes=probes, said=said)


def scores_of(step: int):
    """Head LEADS is the only retrieval head; in item 0 it looks at a distractor, in item 4 at the sink."""
    made = make_scores(step, n_probes=ITEMS, estimators=("retrieval", *LOOKED))
    retrieval = np.full_like(made.per_probe["retrieval"], 0.02)
    retrieval[:, *LEADS] = 0.9
    masses = {name: np.full_like(retrieval, value) for name, value in zip(LOOKED, (0.6, np.nan, 0.1), strict=True)}
    for item, told in ((0, (0.2, 0.5, 0.1)), (4, (0.1, np.nan, 0.7))):
        for name, value in zip(LOOKED, told, strict=True):
            masses[name][item, *LEADS] = value
    probes = {**made.probes, "id": np.array([f"item-{i}" for i in range(ITEMS)])}
    per_probe = {"retrieval": retrieval, **masses}
    return make_scores(step, n_probes=ITEMS, estimators=("retrieval", *LOOKED), per_probe=per_probe, probes=probes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints; the first was scored and not asked."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    for step in (0, 100, 200):
        append(path, scores_of(step), step, answers=answers_of(step) if step else None)
    return path


@pytest.fixture(scope="module")
def evolution(run: Path) -> Evolution:
    return evolve(run)


@pytest.fixture
def ax():
    return Figure(figsize=(6, 4), layout="constrained").add_subplot()


def test_scores_have_intervals_over_needles(evolution: Evolution) -> None:
    found = evolution.behaviour
    assert found is not None and found.last == 2
    overall = found.mean()
    np.testing.assert_allclose(overall.estimate, [np.nan, 0.5, 0.75])
    assert (overall.n, overall.n_clusters) == (ITEMS, NEEDLES)
    assert np.isnan(overall.low[0]) and overall.low[2] < 0.75 < overall.high[2]
    assert list(found.by_task()) == ["early", "late"] and list(found.by_task(length=2048)) == ["early", "late"]
    assert found.by_task(length=4096) == {}
    rows = [(task, length, n, round(float(mean.estimate[2]), 3)) for task, length, n, mean in found.table()]
    half = ITEMS // 4
    assert rows == [
        *[("early", 1024, half, 0.5), ("early", 2048, half, 1.0)],
        *[("late", 1024, half, 0.5), ("late", 2048, half, 1.0)],
    ]


def test_more_tasks_than_colours_are_drawn_by_benchmark(evolution: Evolution) -> None:
    found = evolution.behaviour
    assert found is not None
    items = {**found.items, "task": np.array([f"task {i % 9}" for i in range(ITEMS)])}
    found.answers[2].probes.update(items)
    try:
        assert list(found.by_task()) == ["toy"] and len({task for task, *_ in found.table()}) == 9
    finally:
        found.answers[2].probes.update(answers_of(200).probes)


def test_wrong_answers_say_where_the_leading_heads_looked(evolution: Evolution) -> None:
    assert evolution.behaviour is not None and evolution.looking == [LEADS]
    wrong = {answer.id: answer for answer in evolution.behaviour.wrong()}
    assert list(wrong) == [f"item-{i}" for i in range(0, ITEMS, 4)]
    first = wrong["item-0"]
    assert (first.asked, first.golds, first.said, first.rival) == ("Which number is 0?", ("0", "ünï"), NASTY, "8")
    assert first.looked.most == "wrong sibling" and first.looked.shares["elsewhere"] == pytest.approx(0.2)
    assert wrong["item-4"].looked.most == "sink"
    assert wrong["item-8"].looked.most == "right needle" and np.isnan(wrong["item-8"].looked.shares["wrong sibling"])
    assert wrong["item-8"].looked.shares["elsewhere"] == pytest.approx(0.3)


def test_what_nobody_measured_is_not_told() -> None:
    assert looked({}).most == "" and "elsewhere" not in looked({}).shares
    assert "elsewhere" not in looked({"needle_mass": np.array([0.4])}).shares
    masses = {"needle_mass": np.arange(8, dtype=np.float32).reshape(2, 2, 2)}
    found = looks_of(masses, [(1, 0), (0, 1)], ["a", "b"], ["b", "c"])["needle_mass"]
    np.testing.assert_array_equal(found, [[6, 5], [np.nan, np.nan]])


def test_the_figures(evolution: Evolution, ax) -> None:
    assert task_scores(evolution, ax) is ax
    assert [line.get_label() for line in ax.lines] == ["early", "late"]
    np.testing.assert_allclose(ax.lines[0].get_ydata()[1:], [0.5, 0.75])
    assert len(ax.collections) == 2 and ax.get_ylim()[1] > 1
    none = task_scores(evolution, Figure().add_subplot(), length=77)
    assert "77 tokens" in none.texts[0].get_text()
    left = score_beside_nll(evolution, Figure().add_subplot())
    right = next(other for other in left.figure.axes if other is not left)
    np.testing.assert_allclose(left.lines[0].get_ydata()[1:], [0.5, 0.75])
    np.testing.assert_allclose(right.lines[0].get_ydata(), evolution.mean(evolution.nll_name).estimate)
    np.testing.assert_array_equal(left.lines[0].get_xdata(), right.lines[0].get_xdata())
    assert right.get_legend() is not None and len(right.get_legend().get_texts()) == 2


def test_without_answers_they_say_so(ax) -> None:
    bare = evolve(make_trajectory(3))
    assert bare.behaviour is None and "no checkpoint has answers" in task_scores(bare, ax).texts[0].get_text().lower()
    score_beside_nll(bare, other := Figure().add_subplot())
    np.testing.assert_allclose(other.lines[0].get_ydata(), bare.panel.niah_score.estimate)
    assert "behaviour" not in [section.id for section in sections(bare)]


def test_the_files(evolution: Evolution, run: Path, tmp_path: Path) -> None:
    assert {"task_scores": task_scores, "score_beside_nll": score_beside_nll}.items() <= {
        name: draw for name, (draw, _) in evolution_figures._pictures(evolution).items()
    }.items()
    write_report(run, tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text("utf-8")
    assert "own answers score 0.75 at step 200" in page
    assert "<script>alert(1)" not in page and "\u202e" not in page and "&lt;script&gt;alert(1)" in page


def test_the_section(evolution: Evolution) -> None:
    section = next(each for each in sections(evolution) if each.id == "behaviour")
    tasks, wrong = section.tables
    low, high = evolution.behaviour.table()[1][3].low[2], evolution.behaviour.table()[1][3].high[2]
    assert tasks.rows[1] == ["early", "2K", f"{ITEMS // 4}", "1.00", f"{low:.2f} to {high:.2f}", "0.50"]
    assert wrong.rows[0][3].endswith("(another answer of the context: 8)")
    assert wrong.rows[0][4] == "wrong sibling: right needle 20%, wrong sibling 50%, sink 10%, elsewhere 20%"
    assert json.loads(answers_of(200).probes["golds"][0])[0] in wrong.rows[0][2]
    assert f"{ITEMS // 4} of {ITEMS} answers are not wholly right" in section.words and "L2H3" in section.words
