"""The GPU suite's own code, at toy size; and what becomes of a part that fails or hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import torch

from benchmark_modules import ROOT, benchmark
from headscope.kernels import evidence_attention, row_evidence

suite, record = benchmark("gpu.__main__"), benchmark("gpu.record")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(run, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)


APART = ("device", "tests", "smoke")  # whose processes start others, and one that does not


def needs_triton() -> None:
    if find_spec("triton") is None:
        pytest.fail("triton is missing") if os.environ.get("CI") else pytest.skip("needs triton")


@pytest.mark.long
def test_parts_run_at_toy_size_in_processes_of_their_own(tmp_path: Path) -> None:
    needs_triton()
    done = command("--dry-run", "--output", str(tmp_path), "--only", *APART)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.iterdir()
    content = json.loads(file.read_text())
    assert content["command"].startswith("python -m benchmarks.gpu --dry-run")
    assert {"torch", "triton", "transformers", "git_commit"} <= set(content["machine"])
    results = content["results"]
    assert results["toy"] and results["not_reached"] == [] and set(results["seconds"]) == set(APART)
    assert {row["part"] for row in results["rows"]} == set(APART)
    assert not [row for row in results["rows"] if row["problem"]]
    assert {row["verdict"] for row in results["rows"]} == {""}, "a toy reaches no target"


@pytest.mark.long
def test_every_other_part_runs_at_toy_size(tmp_path: Path) -> None:
    """In one process, because most of a toy's time goes into imports."""
    needs_triton()
    others, rows = [name for name in suite.PARTS if name not in APART], tmp_path / "rows.jsonl"
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


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run in this process has kernels interpreted, from then on, and other tests are not to be."""
    monkeypatch.setenv("TRITON_INTERPRET", os.environ.get("TRITON_INTERPRET", "0"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = command()
    assert done.returncode == 1 and done.stdout == ""
    assert "sees no CUDA GPU here" in done.stderr and "--dry-run" in done.stderr


def test_parts_are_listed() -> None:
    assert [line.split()[0] for line in command("--list").stdout.splitlines()] == list(suite.PARTS)


def test_a_part_that_takes_too_long_is_ended_and_said_to_have_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(suite.PARTS, "model", replace(suite.PARTS["model"], seconds=0.2))
    rows, _ = suite._supervise("model", 100.0, True)
    assert rows[-1].verdict.startswith("failed: not done after")
    (row,), _ = suite._supervise("model", 1.0, True)
    assert row.verdict == "not run: the budget is spent"


def test_parts_that_are_only_run_when_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran: list[str] = []
    monkeypatch.setattr(suite, "_supervise", lambda name, left, toy: (ran.append(name), ([], 0.0))[1])
    for arguments in ([], ["--only", "smoke"]):
        monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run", "--output", str(tmp_path), *arguments])
        suite.main()
    assert set(suite.PARTS) - set(ran[:-1]) == {"smoke", "tune"} and ran[-1] == "smoke"
    assert len(list(tmp_path.glob("*-smoke.json"))) == 1 and len(list(tmp_path.iterdir())) == 2


def test_what_a_failed_part_said_is_shown() -> None:
    rows = [record.Row("rows", "all", problem="failed", detail={"tail": "first\n" + "x" * 9000 + "\nlast words"})]
    said = record.troubles([record.Row("rows", "fine", 1.0), *rows])
    assert said.startswith("-- rows: all") and said.endswith("last words") and len(said) < 2500


def test_the_smoke_part_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = benchmark("gpu.smoke_part")
    case, device = smoke.Case("c", torch.float32, 16, group=2, rows=5, n=70, topk=3, options=("window",)), "cpu"

    def broken(**changes: float) -> None:
        def rows(q: torch.Tensor, k: torch.Tensor, *, impl: str, **options: Any) -> Any:
            found = row_evidence(q, k, impl="reference", **options)
            return replace(found, **{name: getattr(found, name) + by for name, by in changes.items()})

        monkeypatch.setattr(smoke, "row_evidence", rows)

    def fused(*tensors: torch.Tensor, impl: str, **options: Any) -> Any:
        return evidence_attention(*tensors, impl="reference", **options)

    monkeypatch.setattr(smoke, "evidence_attention", fused)
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


def test_a_smoke_process_that_dies_costs_one_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    smoke = benchmark("gpu.smoke_part")
    answers = smoke._watch(["no number", 0], monotonic() + 3600, True)
    assert answers["no number"]["problems"] == ["the process ended with 1"]
    assert "ValueError" in answers["no number"]["trace"][-1]
    assert answers[0]["problems"] == []


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
    assert record.read(tmp_path / "none") == []
    assert record.Row("a", "b").verdict == "not run"
    assert "rows: ratio  <= 1.3   1.4 x     missed" in record.table(rows)
