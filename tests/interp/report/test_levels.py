"""Three levels on one axis: of a file with all of them, and of one that lacks some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from headscope.interp.report import evolve
from headscope.interp.report.evolution import Evolution
from headscope.interp.report.figures import three_levels
from headscope.interp.report.page import write_report
from headscope.interp.report.page.sections import sections
from headscope.interp.results import HeadScores
from headscope.interp.store import append
from made_answers import make_answers
from made_perplexities import make_perplexity
from made_sft_probes import make_sft_probe
from made_up_trajectory import make_trajectory

CHECKPOINTS, ITEMS = 9, 48


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine checkpoints, scored and asked on the same 72 probes, from 24 needles; half of the items lead by two."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    made = make_trajectory(CHECKPOINTS, needles=24, lengths=(1024,), seed=1)
    n = len(made.probes["id"])
    rng = np.random.default_rng(0)
    for place, step in enumerate(made.steps.tolist()):
        scores = HeadScores(
            model_id="org/m",
            n_layers=made.scores.shape[2],
            n_heads=made.scores.shape[3],
            n_kv_heads=2,
            per_probe={"retrieval": made.scores[place]},
            **{name: values[place] for name, values in made.nll.items()},
            exact_match=made.exact_match[place] == 1,
            probes=dict(made.probes),
            probe_set_name="grid",
            probe_set_hash="ab" * 32,
            provenance={},
        )
        answers, sft = make_answers(step, n_probes=n, n_samples=0), make_sft_probe(step, n_probes=n)
        columns = answers.probes | {name: made.probes[name] for name in ("id", "needle_id", "length", "depth")}
        right = (rng.random(n) < 0.1 + 0.8 * place / CHECKPOINTS).astype(np.float32)
        answers = replace(answers, said={**answers.said, "score": right[:, None]}, probes=columns)
        after = {**sft.after, "score": np.stack([right, np.minimum(right + 0.25, 1)])}
        sft = replace(sft, after=after, before={**sft.before, "score": right}, probes=columns)
        texts = make_perplexity(step, n_documents=24)
        append(path, scores, step, step * 4.2e6, answers=answers, sft_probe=sft, perplexity=texts)
    return path


def test_every_level_has_its_curves_and_course(run: Path) -> None:
    found = evolve(run).three
    lanes = {lane.level: lane for lane in found.lanes()}
    assert [*lanes] == ["behaviour", "NLL", "heads"]
    assert [*lanes["behaviour"].curves] == ["the model's own answers", "after the SFT probe"]
    assert [*lanes["NLL"].curves] == ["of what only the needle has", "of texts: en", "of texts: zh ✓"]
    asked, after = lanes["behaviour"].curves.values()
    assert (after.estimate > asked.estimate).all() and np.isfinite(after.low).all()
    behaviour, nll, heads = found.courses
    assert behaviour.last > behaviour.first and nll.last < nll.first and heads.last > heads.first
    assert all(course.advice is not None and course.advice.n == CHECKPOINTS for course in found.courses)
    progress = found.trajectory.progress
    assert all(progress[0] <= course.half <= progress[-1] for course in found.courses)
    assert {*found.laws} == {"en", "zh ✓"} and found.laws["en"].a.estimate < 0


def test_page_and_picture_tell_all_of_it(run: Path, tmp_path: Path) -> None:
    evolution = evolve(run)
    (section,) = (each for each in sections(evolution) if each.id == "levels")
    assert [figure.id for figure in section.figures] == ["level-behaviour", "level-nll", "level-heads"]
    names = [table.name for table in section.tables]
    assert names[0].startswith("From first to last") and names[1].startswith("Before and after the SFT probe")
    assert names[2:] == [
        "Does it tell which items succeed after the SFT probe?",
        "Loss on texts, A log N + B",
        "The paper's tables 3, 4, 6 and 7, with the run's own answers",
    ]
    assert "which level leads: " in section.heading and len(section.tables[0].rows) == 3
    write_report(evolution, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="levels"' in page and "after the SFT probe" in page
    figure = three_levels(evolution, Figure())
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["behaviour", "NLL", "heads"]


def test_without_answers_there_is_exact_match_and_with_one_checkpoint_no_section() -> None:
    evolution = Evolution(make_trajectory(6))
    (lane, *_) = evolution.three.lanes()
    assert [*lane.curves] == ["answered token by token"] and evolution.tables is None
    assert evolution.three.lead is not None and evolution.three.lead.verdict == "cannot tell"
    assert np.isnan([course.half for course in evolution.three.courses]).all()
    one = Evolution(make_trajectory(1))
    assert one.three.lead is None and one.three.advice == {}
    assert "levels" not in [section.id for section in sections(one)]
