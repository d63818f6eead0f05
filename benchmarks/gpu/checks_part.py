"""The GPU's own tests, `pytest -m gpu`, and compute-sanitizer over every kernel where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from .record import FAILED, Record
from .stage import Stage

ROOT = Path(__file__).parents[2]
SECONDS = 150  # less than the part's own limit, so that what was found until then is told
LINE = re.compile(
    r"^(?:\[gw\d+\] \[ *\d+%\] (PASSED|FAILED|ERROR|SKIPPED) )?(\S+::\S.*?)(?: (PASSED|FAILED|ERROR|SKIPPED).*)?$", re.M
)
TESTS = ("tests/kernels/gpu/test_on_gpu.py", "tests/kernels/test_plain.py", "tests/interp/test_engine_on_gpu.py")


def run(stage: Stage, record: Record) -> None:
    """Compiling takes most of the time, so the tests are spread over processes where pytest-xdist is installed."""
    environment = dict(os.environ)
    environment.pop("CI", None)
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts="]
    command += ["--import-mode=importlib", "--durations=5", *TESTS[: 1 if stage.toy else None]]
    if stage.toy:
        environment["HEADSCOPE_GPU_TESTS"] = "toy"
        environment["PYTHONPATH"] = str(ROOT / "tests" / "kernels" / "gpu")
        command += ["--collect-only", "-qq"]  # CI runs all of them as toys elsewhere
    elif find_spec("xdist"):
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    problem = ""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=None if stage.toy else SECONDS,
        )
        said = done.stdout + done.stderr
        problem = "" if done.returncode == 0 else FAILED
    except subprocess.TimeoutExpired as expired:
        text = expired.stdout or b""
        said = text.decode(errors="replace") if isinstance(text, bytes) else text
        problem = f"{FAILED}: not done after {SECONDS} s"
    if stage.toy:
        record.add("tests found", len(re.findall(r"^\S+::\S+$", said, re.M)), at_least=1, problem=problem)
        return
    # One line a test as it ends; with xdist the verdict stands before the name.
    verdicts = {name: before or behind for before, name, behind in LINE.findall(said) if before or behind}
    counts = Counter(verdicts.values())
    bad = [name for name, verdict in verdicts.items() if verdict in ("FAILED", "ERROR")]
    record.add("tests passed", counts["PASSED"], at_least=1, detail={"slowest": said[-1500:]})
    record.add("tests skipped", counts["SKIPPED"])
    detail = {"failures": bad, "tail": said[-12000:] if problem else ""}
    record.add("tests failed", len(bad), at_most=0, problem=problem, detail=detail)


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
