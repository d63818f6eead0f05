"""The GPU suite's own code, at toy size; and what becomes of a part that fails or hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark_modules import ROOT, benchmark
from headscope.kernels import evidence_attention, key_mass, row_evidence

suite, record = benchmark("gpu.__main__"), benchmark("gpu.record")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(run, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)


def needs_triton() -> None:
    if find_spec("triton") is None:
        pytest.fail("triton is missing") if os.environ.get("CI") else pytest.skip("needs triton")


@pytest.mark.long
def test_a_part_runs_at_toy_size_in_a_process_of_its_own(tmp_path: Path) -> None:
    needs_triton()
    done = command("--dry-run", "--output", str(tmp_path), "--only", "device")
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert content["command"].startswith("python -m benchmarks.gpu --dry-run")
    assert {"torch", "triton", "transformers", "git_commit"} <= set(content["machine"])
    results = content["results"]
    assert results["toy"] and results["not_reached"] == [] and set(results["seconds"]) == {"device"}
    assert {row["part"] for row in results["rows"]} == {"device"}
    assert not [row for row in results["rows"] if row["problem"]]
    assert {row["verdict"] for row in results["rows"]} == {""}, "a toy reaches no target"
    assert "verdicts\ndevice: copy" in done.stdout, "what is said again at the end"


@pytest.mark.long
def test_the_other_parts_run_at_toy_size(tmp_path: Path) -> None:
    """In one process, because most of a toy's time goes into imports."""
    needs_triton()
    others, rows = [name for name in suite.PARTS if name not in ("device", "smoke")], tmp_path / "rows.jsonl"
    run = "import sys; from pathlib import Path; from benchmarks.gpu.__main__ import _run_part; "
    run += "[_run_part(name, Path(sys.argv[1]), True) for name in sys.argv[2:]]"
    done = subprocess.run(
        [sys.executable, "-c", run, str(rows), *others],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = record.read(rows)
    assert {row.part for row in found} == set(others)
    assert not [row for row in found if row.problem]
    at_least_one = [row.measured for row in found if row.at_least is not None and row.part == "tests"]
    assert at_least_one and at_least_one[0] >= 1


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run in this process has kernels interpreted, from then on, and other tests are not to be."""
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="sees no CUDA GPU here.*--dry-run"):
        suite.main()
    assert capsys.readouterr().out == ""


def test_parts_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "--list"])
    suite.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(suite.PARTS)


def test_a_part_that_takes_too_long_is_ended_and_what_it_measured_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(suite.PARTS, "model", replace(suite.PARTS["model"], seconds=0.2))
    file = tmp_path / "rows.jsonl"
    record.Record("model", file).add("weights", 15.0, "GiB")
    record.Record("rows", file).add("another part's", 1.0)
    rows, _ = suite._supervise("model", 100.0, True, file)
    assert [row.what for row in rows] == ["weights", "the part as a whole"]
    assert rows[-1].verdict.startswith("failed: not done after")
    (row,), _ = suite._supervise("model", 1.0, True, file)
    assert row.verdict == "not run: the budget is spent"


def test_smoke_comes_first_and_tune_only_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[str] = []

    def supervise(name: str, left: float | None, toy: bool, path: Path, dims: list[int]) -> Any:
        ran.append(name)
        assert path.parent == tmp_path and path.suffix == ".jsonl"
        (results,) = tmp_path.glob(f"*{path.stem}.json")
        assert json.loads(results.read_text())["results"]["not_reached"][0] == name, "written before the part is done"
        return [], float(dims[0])

    monkeypatch.setattr(suite, "_supervise", supervise)
    for arguments in ([], ["--only", "tune", "--dims", "64"]):
        monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run", "--output", str(tmp_path), *arguments])
        suite.main()
    assert ran[0] == "smoke" and ran[-1] == "tune" and set(ran[:-1]) == set(suite.PARTS) - {"tune"}
    (tuned,) = tmp_path.glob("*-tune.json")
    assert json.loads(tuned.read_text())["results"]["seconds"] == {"tune": 64.0} and len(list(tmp_path.iterdir())) == 2


def test_verdicts_fit_what_is_left_of_the_output() -> None:
    kinds = ({"at_most": 1.0}, {"at_most": 3.0}, {"problem": "failed: " + "x" * 300}, {}, {"again": True})
    rows = [record.Row("rows", f"measure {i} " + "y" * 200, 2.0, "ms", **kinds[i % 5]) for i in range(400)]
    said = record.verdicts(rows)
    lines = said.splitlines()
    assert len(said) <= 10_000 and lines[0] == "verdicts" and lines[1].startswith("failed: x")
    assert lines[-1] == f"... and {320 - len(lines) + 2} more, in the file"
    few = record.verdicts(rows[:5]).splitlines()
    assert [line.split()[0] for line in few] == ["verdicts", "failed:", "missed", "reached", "rows:"]
    assert record.verdicts(rows[3:4]) == "no verdicts"


def test_what_a_failed_part_said_is_shown() -> None:
    rows = [record.Row("rows", "all", problem="failed", detail={"tail": "first\n" + "x" * 9000 + "\nlast words"})]
    said = record.troubles([record.Row("rows", "fine", 1.0), *rows])
    assert said.startswith("-- rows: all") and said.endswith("last words") and len(said) < 2500


def test_the_smoke_part_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = benchmark("gpu.smoke_check")
    case, device = smoke.Case("c", torch.float32, 16, group=2, rows=5, n=70, topk=3, options=("window",)), "cpu"

    def broken(**changes: float) -> None:
        def rows(q: torch.Tensor, k: torch.Tensor, *, impl: str, **options: Any) -> Any:
            found = row_evidence(q, k, impl="reference", **options)
            return replace(found, **{name: getattr(found, name) + by for name, by in changes.items()})

        monkeypatch.setattr(smoke, "row_evidence", rows)

    def fused(*tensors: torch.Tensor, impl: str, **options: Any) -> Any:
        out, found = evidence_attention(*tensors, impl="reference", **options)
        return out + far if impl == "triton" else out, found

    def mass(*tensors: torch.Tensor, impl: str, **options: Any) -> torch.Tensor:
        found = key_mass(*tensors, impl="reference", **options)
        return found + far if impl == "triton" else found

    far = 0.0
    monkeypatch.setattr(smoke, "evidence_attention", fused)
    monkeypatch.setattr(smoke, "key_mass", mass)
    broken()
    assert smoke.check(case, torch.device(device)) == []
    for name, by, word in (
        ("lse", 1e-3, "log-sum-exp"),
        ("argmax_key", 1, "logit of the key"),
        ("span_mass", 1e-3, "mass"),
    ):
        broken(**{name: by})
        said = smoke.check(case, torch.device(device))
        assert any(line.startswith("row_evidence") and word in line for line in said), said

    broken()
    far = 0.1
    said = smoke.check(case, torch.device(device))
    assert [line.split(": off by 0.1 (limit ")[0] for line in said] == ["key_mass", "evidence_attention: output"]


def test_a_smoke_process_that_dies_costs_one_case(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs_triton()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    smoke, stage = benchmark("gpu.smoke_part"), benchmark("gpu.stage")
    watch, lost = smoke._watch, []

    def one_more(shard: list[Any], until: float, toy: bool) -> dict[Any, Any]:
        answers: dict[Any, Any] = watch(["no number", *shard], until, toy)
        lost.append(answers.pop("no number"))
        return answers

    monkeypatch.setattr(smoke, "_watch", one_more)
    smoke.run(stage.Stage(toy=True), record.Record("smoke", tmp_path / "rows"))
    assert lost[0]["problems"] == ["the process ended with 1"] and "ValueError" in lost[0]["trace"][-1]
    (row,) = record.read(tmp_path / "rows")
    assert row.measured == len(smoke.cases(True)) == row.at_least and "packed" in row.detail["seconds"]


def test_verdicts_and_rows_that_are_kept(tmp_path: Path) -> None:
    kept = record.Record("rows", tmp_path / "rows.jsonl")
    kept.add("share", 0.9, at_least=0.85)
    kept.add("ratio", 1.4, "x", at_most=1.3)
    kept.add("eager", problem="out of memory")
    kept.add("shown", 2.0, "ms", detail={"n": 1})
    with kept.path.open("a") as file:
        file.write('{"part": "rows", "wh')  # killed while it wrote
    rows = record.read(kept.path)
    assert [row.verdict for row in rows] == ["reached", "missed", "out of memory", ""]
    record.Record("model", kept.path).add("weights", 15.0, "GiB")
    assert [row.part for row in record.read(kept.path)] == [*["rows"] * 4, "model"]
    assert record.read(tmp_path / "none") == []
    assert record.Row("a", "b").verdict == "not run"
    assert "rows: ratio  <= 1.3   1.4 x     missed" in record.table(rows)
