"""`headscope report`: one page, pictures where asked for, and one line for every mistake."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from command_line import fail, run
from made_up_scores import make_scores


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "run.h5"
    for step, score in ((0, 0.05), (500, 0.6)):
        scores = make_scores(6, 4, 2, leading=((2, 1, score), (3, 3, 0.5)), lengths=(512,))
        scores.save(path, checkpoint=step, tokens_seen=step * 1e6)
    return path


def test_it_writes_a_page_beside_the_file_and_prints_the_verdicts(file):
    result = run("report", file)
    assert result.exit_code == 0 and result.stderr == "", (result.stderr, result.exception)
    page = file.with_suffix(".html")
    assert f"Report   {page}" in result.stdout.replace("\n", "").replace("Report", "\nReport").replace("\n", "", 1)
    assert "Are retrieval heads growing?" in result.stdout and "insufficient" in result.stdout
    assert "2 of 24 heads score above 0.1 (chance unknown) at step 500" in page.read_text(encoding="utf-8")


def test_pictures_alone_and_one_checkpoint(tmp_path):
    file = tmp_path / "one.h5"
    make_scores(4, 4, 2, leading=((2, 1, 0.5),), lengths=(512,)).save(file, checkpoint=0)
    result = run("report", file, "--figures", tmp_path / "figures")
    assert result.exit_code == 0, (result.stderr, result.exception)
    assert not file.with_suffix(".html").exists()
    kinds = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert kinds == {".png", ".svg", ".pdf"} and (tmp_path / "figures" / "heads.png").exists()
    assert run("report", file, "-o", tmp_path / "page.html").exit_code == 0
    assert "one checkpoint" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_downstream_scores_are_set_against_the_heads(file, tmp_path):
    csv = tmp_path / "scores.csv"
    csv.write_text("step,RULER\n0,50\n500,70\n")
    result = run("report", file, "--downstream", csv)
    assert result.exit_code == 0 and "downstream" in result.stdout, (result.stderr, result.exception)
    assert "RULER" in file.with_suffix(".html").read_text(encoding="utf-8")


def test_what_evaluation_tools_write_is_taken(file, tmp_path):
    for step in (0, 500):
        folder = tmp_path / "eval" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "summary.csv").write_text(f"0,1,2\nTasks,niah_single_1,vt\nScore,{50 + step},7\nNulls,0/9,0/9\n")
    unnamed = [tmp_path / "results_a.json", tmp_path / "results_b.json"]
    for path in unnamed:
        path.write_text('{"results": {"piqa": {"alias": "piqa", "acc,none": 0.5}}}')
    given = ["--downstream", tmp_path / "eval", "--downstream", f"0={unnamed[0]}", "--downstream", f"500={unnamed[1]}"]
    result = run("report", file, *given)
    assert result.exit_code == 0 and "niah_single_1 (n = 2)" in result.stdout, (result.stderr, result.exception)
    page = file.with_suffix(".html").read_text(encoding="utf-8")
    assert "niah_single_1" in page and "piqa" in page
    file.with_suffix(".html").unlink()
    assert f"--downstream 2000={unnamed[0]}" in fail("report", file, "--downstream", unnamed[0])


def test_mistakes_cost_one_line_and_touch_nothing(file, tmp_path):
    before = file.read_bytes()
    assert "does not exist" in fail("report", tmp_path / "none.h5")
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as other:
        other["x"] = [1]
    assert "not written by headscope" in fail("report", foreign)
    assert "is a folder" in fail("report", file, "-o", tmp_path)
    assert "does not exist" in fail("report", file, "-o", tmp_path / "none" / "page.html")
    assert "is the results file itself" in fail("report", file, "-o", file)
    assert "is a file; give a folder" in fail("report", file, "--figures", file)
    csv = tmp_path / "scores.csv"
    assert "scores.csv" in fail("report", file, "--downstream", csv)
    csv.write_text("RULER\n50\n")
    assert "column named step or tokens" in fail("report", file, "--downstream", csv)
    csv.write_text("step,RULER\n7,50\n")
    assert "no checkpoint of the run has a score" in fail("report", file, "--downstream", csv)
    csv.write_text("step,RULER\n0,fifty\n")
    assert "line 2" in fail("report", file, "--downstream", csv)
    assert not file.with_suffix(".html").exists()
    assert file.read_bytes() == before
