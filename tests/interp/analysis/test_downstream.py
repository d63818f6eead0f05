"""Scores from a CSV: what is read, how it is matched, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headscope.interp.analysis.downstream import DownstreamError, correlate_downstream, read_downstream
from headscope.interp.analysis.evolution import panel
from headscope.interp.analysis.statistics import holm
from made_up_trajectory import make_trajectory


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "scores.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_reading(tmp_path: Path):
    found = read_downstream(
        written(tmp_path, "\ufeffstep, RULER ,MRCR\r\n500,71.5,\r\n\r\n0,68.7,31.2\r\n1000,n/a,33\r\n")
    )
    assert found.by == "step" and list(found) == ["RULER", "MRCR"]
    steps, scores = found["RULER"]
    assert steps.tolist() == [0, 500, 1000]
    np.testing.assert_array_equal(scores, [68.7, 71.5, np.nan])
    np.testing.assert_array_equal(found["MRCR"][1], [31.2, np.nan, 33])
    assert read_downstream(written(tmp_path, "RULER,Tokens\n1,2e9\n")).by == "tokens"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; it needs a header"),
        ("step,RULER\n", "has a header but no line"),
        ("RULER,MRCR\n1,2\n", "exactly one column named step or tokens; it has the columns RULER, MRCR"),
        ("step;RULER\n1;2\n", "it has the columns step;RULER"),
        ("step,tokens,RULER\n1,2,3\n", "both step and tokens"),
        ("step\n1\n", "no column of scores beside 'step'"),
        ("step,RULER,RULER\n1,2,3\n", "a name of its own"),
        ("step,RULER,\n1,2,3\n", "a name of its own"),
        ("step,RULER\n1,2,3\n", "line 2: 3 cells, but the header has 2"),
        ("step,RULER\n1,good\n", "line 2, column 'RULER': 'good' is not a number"),
        ("step,RULER\n\n,7\n", "line 3, column 'step': a number is needed"),
        ("step,RULER\n1,inf\n", "not a finite number"),
        ("step,RULER\n1,2\n1,3\n", "step 1 is there more than once"),
        ("step,RULER\n-1,2\n", "must not be negative"),
    ],
)
def test_errors_say_what_is_wrong(tmp_path: Path, text: str, message: str):
    with pytest.raises(DownstreamError, match=message):
        read_downstream(written(tmp_path, text))


def test_not_text(tmp_path: Path):
    with pytest.raises(DownstreamError, match="not a text file in UTF-8"):
        read_downstream(written(tmp_path, "step,Ü\n1,2\n", "utf-16"))
    with pytest.raises(FileNotFoundError):
        read_downstream(tmp_path / "nowhere.csv")


def test_correlations_by_step(tmp_path: Path):
    run = make_trajectory(8)
    lines = "".join(f"{step},{50 + i**1.5},{i % 3}\n" for i, step in enumerate([0, 500, 1500, 2500, 3500, 99999]))
    found = correlate_downstream(run, read_downstream(written(tmp_path, "step,RULER,other\n" + lines)))
    assert len(found) == 8
    assert {item.score for item in found} == {"RULER", "other"}
    by_name = {(item.quantity, item.score): item.correlation for item in found}
    niah = by_name["NIAH score", "RULER"]
    assert niah.n == 5
    there = panel(run).niah_score.estimate[[0, 1, 3, 5, 7]]
    assert niah.pearson == pytest.approx(np.corrcoef(there, [50 + i**1.5 for i in range(5)])[0, 1])
    assert by_name["NLL of the answer", "RULER"].pearson < 0
    p = [item.correlation.p_permutation for item in found]
    np.testing.assert_allclose([item.p_holm for item in found], holm(np.array(p)))
    assert all(item.correlation.verdict == "insufficient" for item in found)


def test_correlations_by_tokens(tmp_path: Path):
    run = make_trajectory(4)
    tokens = run.tokens * np.array([1, 1.0005, 1.0005, 1.01])  # the last is no checkpoint of the run
    text = "tokens,RULER\n" + "".join(f"{t},{i}\n" for i, t in enumerate(tokens))
    found = correlate_downstream(run, read_downstream(written(tmp_path, text)))
    assert found[0].correlation.n == 3


def test_scores_of_another_run(tmp_path: Path):
    run = make_trajectory(4)
    with pytest.raises(DownstreamError, match="no checkpoint of the run has a score.*7.*0, 500, 1000, 1500"):
        correlate_downstream(run, read_downstream(written(tmp_path, "step,RULER\n7,1\n")))
    from dataclasses import replace

    unknown = replace(run, tokens=np.full(4, np.nan))
    with pytest.raises(DownstreamError, match="tokens seen are not known"):
        correlate_downstream(unknown, read_downstream(written(tmp_path, "tokens,RULER\n7,1\n")))
