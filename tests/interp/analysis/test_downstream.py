"""Scores from a CSV: what is read, how it is matched, and errors that say what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headscope.interp.analysis.downstream import Downstream, DownstreamError, correlate_downstream, read_downstream
from headscope.interp.analysis.evolution import panel
from headscope.interp.analysis.statistics import holm
from headscope.interp.analysis.trajectory import Trajectory
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


# Files of RULER and lm-eval, one a checkpoint


def ruler(path: Path, *, header: bool = True, **scores: object) -> Path:
    """As RULER's scripts/eval/evaluate.py writes it: a data frame without names, and so numbers as its header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [["Tasks", *scores], ["Score", *scores.values()], ["Nulls", *["0/500"] * len(scores)]]
    lines = [",".join(map(str, row)) for row in ([list(range(len(scores) + 1))] if header else []) + rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def lm_eval(path: Path, results: dict, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"results": results, "n-shot": {}, **more}))
    return path


def table(found: Downstream) -> dict[str, list]:
    """Name -> scores by step, None where there is none."""
    return {name: [None if np.isnan(v) else v for v in values] for name, (_, values) in found.items()}


def test_rulers_summaries_in_folders_of_checkpoints(tmp_path: Path):
    for step, single, vt in ((2000, 98.2, 80), (500, 91.5, "nan"), (10000, 99, "")):
        ruler(
            tmp_path / f"checkpoint-{step}" / "synthetic" / "4096" / "pred" / "summary.csv", niah_single_1=single, vt=vt
        )
    (tmp_path / "checkpoint-500" / "tokenizer.json").write_text("{}")
    found = read_downstream(tmp_path)
    assert found.by == "step" and found["vt"][0].tolist() == [500, 2000, 10000]
    assert table(found) == {"niah_single_1": [91.5, 98.2, 99], "vt": [None, 80, None]}
    assert table(read_downstream(str(tmp_path / "*" / "**" / "summary.csv"))) == table(found)


def test_rulers_lengths_are_told_apart_and_are_no_steps(tmp_path: Path):
    for step in (100, 200):
        for length in (4096, 131072):
            ruler(tmp_path / str(step) / "synthetic" / str(length) / "pred" / "summary.csv", vt=step / length, cwe=1)
        ruler(tmp_path / str(step) / "synthetic" / "4096" / "pred" / "summary-fwe.csv", header=False, fwe=step)
    found = read_downstream(tmp_path)
    assert table(found) == {
        "cwe 131072": [1, 1],
        "vt 131072": [100 / 131072, 200 / 131072],
        "fwe": [100, 200],
        "vt 4096": [100 / 4096, 200 / 4096],
        "cwe 4096": [1, 1],
    }


def test_files_without_a_name_are_given_their_step(tmp_path: Path):
    files = [ruler(tmp_path / name / "summary.csv", vt=i, qa_1=2 * i) for i, name in enumerate("ab", 1)]
    found = read_downstream([f"1000={files[0]}", f"2000={files[1]}"])
    assert table(found) == {"vt": [1, 2], "qa_1": [2, 4]} and found["vt"][0].tolist() == [1000, 2000]
    with pytest.raises(DownstreamError, match=rf"nor a folder above it tells.* --downstream 2000={files[0]}"):
        read_downstream(files[0])


def test_a_score_without_a_question_is_none(tmp_path: Path):
    path = tmp_path / "step300.csv"
    path.write_text("Task,vt,cwe\nScore,0.0,55.5\nNulls,0/0,3/500\n")
    assert table(read_downstream(path)) == {"cwe": [55.5]}


def test_lm_evals_results(tmp_path: Path):
    """The model tells the step: a folder, a revision, an adapter. Metrics and filters of a task are told apart."""
    for i, (step, more) in enumerate(
        {
            500: {"model_name": "/ckpts/run/checkpoint-500", "config": {"model_args": None}},
            1000: {"config": {"model_args": "pretrained=org/pythia,revision=step1000,dtype=float"}},
            1500: {"config": {"model_args": {"pretrained": "org/base", "peft": "lora/checkpoint-1500/"}}},
        }.items()
    ):
        entry = {"alias": "gsm8k", "exact_match,strict-match": 0.1 * i, "exact_match_stderr,strict-match": 0.01}
        entry |= {"exact_match,flexible-extract": 0.2 * i, "sample_len": 1319}
        results = {"gsm8k": entry, "piqa": {"alias": "piqa", "acc,none": 0.5, "acc_stderr,none": "N/A"}}
        results |= {"ruler_vt": {"alias": "ruler_vt", "4096,none": step / 1e4, "8192,none": -1, "8192_stderr,none": -1}}
        lm_eval(tmp_path / f"m{i}" / f"results_2026-01-0{i + 1}T12-00-00.123456.json", results, **more)
    found = read_downstream(tmp_path)
    assert found["piqa"][0].tolist() == [500, 1000, 1500]
    assert table(found) == {
        "gsm8k exact_match (strict-match)": [0, 0.1, 0.2],
        "gsm8k exact_match (flexible-extract)": [0, 0.2, 0.4],
        "piqa": [0.5, 0.5, 0.5],
        "ruler_vt": [0.05, 0.1, 0.15],
    }


def test_lm_evals_folders_tell_as_well(tmp_path: Path):
    for step in (1, 2):
        name = f"__data__my-run__step{step}"
        lm_eval(tmp_path / name / "results_2026-01-01T00-00-00.000000.json", {"piqa": {"acc,none": step / 4}})
    assert table(read_downstream(tmp_path)) == {"piqa": [0.25, 0.5]}
    for tokens in ("2B", "4B"):
        lm_eval(tmp_path / "t" / f"{tokens}-tokens" / "results_x.json", {"piqa": {"acc,none": 0.5}})
    found = read_downstream(tmp_path / "t")
    assert found.by == "tokens" and found["piqa"][0].tolist() == [2e9, 4e9]


def test_a_groups_score_stands_for_its_subtasks(tmp_path: Path):
    results = {"mmlu": {"acc,none": 0.4}, "mmlu_law": {"acc,none": 0.3}, "mmlu_art": {"acc,none": 0.5}}
    results |= {"niah": {"alias": "niah"}, "niah_1": {"4096,none": 0.9}}  # a group without a score of its own
    path = lm_eval(
        tmp_path / "step7" / "results.json",
        results,
        group_subtasks={"mmlu": ["mmlu_law", "mmlu_art"], "niah": ["niah_1"], "piqa": []},
    )
    assert table(read_downstream(path)) == {"mmlu": [0.4], "niah_1": [0.9]}


def test_files_of_several_kinds_make_one_table(tmp_path: Path):
    lm_eval(tmp_path / "step20" / "results_1.json", {"piqa": {"acc,none": 0.5}})
    ruler(tmp_path / "step20" / "summary.csv", vt=70)
    by_hand = tmp_path / "by_hand.csv"
    by_hand.write_text("checkpoint,MRCR\nrun/checkpoint-20,31\nrun/checkpoint-30,32\n")
    found = read_downstream([tmp_path / "step20", by_hand])
    assert table(found) == {"piqa": [0.5, None], "vt": [70, None], "MRCR": [31, 32]}
    assert table(read_downstream(by_hand)) == {"MRCR": [31, 32]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("step1.json", '{"a": 1}', "is JSON, but not of lm-eval"),
        ("step1.json", "[1, 2]", "is JSON, but not of lm-eval"),
        ("step1.json", '{"results": [1]}', "is JSON, but not of lm-eval"),
        ("step1.json", '{"results": {', "is not JSON"),
        ("step1.json", '{"results": {"a": {"acc,none": NaN}}}', "every one is missing or NaN"),
        ("step1.txt", '{"results": {}}', "every one is missing or NaN"),
        ("step1.csv", "Tasks,vt,vt\nScore,1,2\n", "a name of its own and one score"),
        ("step1.csv", "Tasks,vt,cwe\nScore,1\n", "a name of its own and one score"),
        ("step1.csv", "Tasks,vt\nScore,good\n", "task 'vt': 'good' is not a number"),
        ("step1.csv", "checkpoint,vt\nfinal,3\n", "'final' tells no step; give a column step"),
        ("results.json", '{"results": {"a": {"acc,none": 1}}}', "tells the step"),
        (
            "step1.json",
            '{"results": {"a": {"acc,none": 1}}, "model_name": "run/step2"}',
            "model of step 2, and its own",
        ),
    ],
)
def test_other_files_cost_one_short_line(tmp_path: Path, name: str, text: str, message: str):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DownstreamError, match=message) as refused:
        read_downstream([path])
    assert len(str(refused.value).replace(str(path), "")) < 250 and "acc,none" not in str(refused.value)


def test_what_does_not_go_together_is_refused(tmp_path: Path):
    first, second = (ruler(tmp_path / f"{side}-step5" / "summary.csv", vt=vt) for side, vt in (("a", 1), ("b", 2)))
    with pytest.raises(DownstreamError, match="vt at step 5 is 1 in .*a-step5.* and 2 in .*b-step5.*leave one"):
        read_downstream([first, second])
    assert table(read_downstream([first, first])) == {"vt": [1]}
    tokens = ruler(tmp_path / "9B-tokens" / "summary.csv", vt=3)
    with pytest.raises(DownstreamError, match="only its tokens; say the step: --downstream 2000="):
        read_downstream([first, tokens])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DownstreamError, match="holds neither RULER's summary.csv nor lm-eval's"):
        read_downstream(tmp_path / "empty")
    with pytest.raises(DownstreamError, match="matches no file"):
        read_downstream(str(tmp_path / "*.json"))
    steps = written(tmp_path, "step,RULER\n1,2\n")
    with pytest.raises(DownstreamError, match="tells its steps itself; leave out 7="):
        read_downstream(f"7={steps}")


def test_steps_in_names_are_those_of_a_stage():
    """Two stages: 0 to 1500, and 100 to 400 on top of that."""
    own = np.array([0, 500, 1000, 1500, 100, 200, 300, 400])
    run = replace(make_trajectory(), steps=np.array([0, 500, 1000, 1500, 1600, 1700, 1800, 1900]))
    run = replace(run, stages=np.repeat(["8k", "32k"], 4), own_steps=own)
    scores = np.array([1.0, 2.0, 4.0, 3.0])

    def points(steps: list[int], *, named: bool, of: Trajectory = run) -> int:
        told = Downstream(RULER=(np.array(steps, float), scores[: len(steps)]))
        told.named = named
        return correlate_downstream(of, told)[0].correlation.n

    assert points([500, 1500, 200, 1900], named=True) == 4
    assert points([500, 1500, 200, 1900], named=False) == 3, "a column step counts over all stages"
    again = replace(run, own_steps=np.array([0, 500, 1000, 1500, 100, 500, 600, 700]))
    with pytest.raises(DownstreamError, match=r"500 may be 8k step 500 \(500 in the file\) and 32k step 500 \(1700 in"):
        points([500, 1500, 700], named=True, of=again)
    assert points([500, 1500, 1700], named=False, of=again) == 3
