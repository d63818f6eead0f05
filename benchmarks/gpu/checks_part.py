"""The GPU's own tests, `pytest -m gpu`, and compute-sanitizer over every kernel where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .record import FAILED, Record
from .stage import Stage

ROOT = Path(__file__).parents[2]
TESTS = ("tests/kernels/gpu/test_on_gpu.py", "tests/kernels/test_plain.py", "tests/interp/test_engine_on_gpu.py")


def run(stage: Stage, record: Record) -> None:
    """pytest reports each test as it ends; the suite's own time limit stops one that hangs."""
    environment = dict(os.environ)
    environment.pop("CI", None)
    if stage.toy:
        environment["HEADSCOPE_GPU_TESTS"] = "toy"
        environment["PYTHONPATH"] = str(ROOT / "tests" / "kernels" / "gpu")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["--import-mode=importlib", "-rfE", "--durations=5", *TESTS]
    command += ["-k", "head_dimension or graph"] if stage.toy else []  # CI runs all of them as toys elsewhere
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", said)}
    bad = counts.get("failed", 0) + counts.get("error", 0) + counts.get("errors", 0)
    failures = re.findall(r"^(?:FAILED|ERROR) .*$", said, re.MULTILINE)
    record.add("tests passed", counts.get("passed", 0), "", at_least=1, detail={"durations": said[-1500:]})
    record.add("tests skipped", counts.get("skipped", 0))
    problem = "" if done.returncode == 0 else FAILED
    detail = {"failures": failures, "tail": said[-6000:] if problem else ""}
    record.add("tests failed", bad, "", at_most=0, problem=problem, detail=detail)


def sanitize(stage: Stage, record: Record) -> None:
    case = [sys.executable, "-m", "benchmarks.gpu.small_case"]
    if stage.toy:
        from .small_case import main

        main("cpu", 24, 8)
        record.add("small case, without compute-sanitizer", 0)
        return
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        record.add("compute-sanitizer", problem="not installed")
        return
    subprocess.run(case, cwd=ROOT, check=True, capture_output=True)  # compiles outside the tool
    watched = subprocess.run([tool, "--tool", "memcheck", *case], cwd=ROOT, capture_output=True, text=True, check=False)
    said = watched.stdout + watched.stderr
    summary = re.search(r"ERROR SUMMARY: (\d+) error", said)
    if summary is None:
        record.add("compute-sanitizer", problem="refused to run", detail={"tail": said[-2000:]})
        return
    errors = int(summary[1])
    record.add("compute-sanitizer, errors", errors, at_most=0, detail={"tail": said[-2000:] if errors else ""})
