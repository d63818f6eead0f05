"""The paper's tables from a file's own answers, and from scores of elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from headscope.errors import ArgumentError
from headscope.interp.analysis import Downstream, answers_as_downstream, paper_tables
from headscope.interp.store import append
from made_answers import make_answers
from made_scores import with_chance
from made_up_trajectory import make_trajectory


def test_every_quantity_against_every_task() -> None:
    run = make_trajectory(6)
    answers = {c: make_answers(c, n_probes=8) for c in range(6)}
    told = answers_as_downstream(run, answers)
    assert list(told) == ["answers", "one", "two"]
    which = answers[0].probes["task"] == "two"
    np.testing.assert_allclose(told["two"][1], [answers[c].score[which].mean() for c in range(6)])
    found = paper_tables(run, answers=answers, downstream=Downstream(RULER=(run.steps * 1.0, np.arange(6.0) ** 2)))
    table = found.to_dataframe()
    assert len(table) == 4 * 4 and set(table["n"]) == {6} and table["exact"].all()
    row = table[(table["quantity"] == "NIAH score") & (table["task"] == "RULER")].iloc[0]
    r, p = stats.pearsonr(run.exact_match.mean(1), np.arange(6) ** 2)
    assert row["r"] == pytest.approx(r, abs=1e-6) and row["p"] == pytest.approx(p, abs=1e-6)
    assert (row["table_r"], row["table_p"], row["verdict"]) == (3, 6, "insufficient") and row["p_holm"] >= row[
        "p_permutation"
    ]
    assert set(table[table["quantity"].str.contains("heads")]["table_r"]) == {4}
    after = found.consecutive()
    assert after["from"].tolist() == run.steps[:-1].tolist() and (after["overlap"] <= after["of"]).all()
    text = found.markdown()
    assert "| NIAH score | RULER | 6 |" in text and "insufficient" in text and "| 0 | 500 |" in text


def test_of_a_file_and_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    for step in (0, 100, 200, 300):
        answers = make_answers(step, n_probes=4) if step else None
        append(path, with_chance(step, n_probes=4, n_layers=2), step, answers=answers)
    table = paper_tables(path).to_dataframe()
    assert set(table["n"]) == {3} and set(table["task"]) == {"answers", "one", "two"}
    with pytest.raises(ArgumentError, match="need scores of tasks"):
        paper_tables(make_trajectory(3))
    with pytest.raises(ArgumentError, match="no checkpoint has answers"):
        answers_as_downstream(make_trajectory(3), {})
    other = make_answers(1, n_probes=4)
    other.probes["id"] = other.probes["id"][::-1].copy()
    with pytest.raises(ArgumentError, match="different items"):
        answers_as_downstream(make_trajectory(3), {0: make_answers(), 1: other})
