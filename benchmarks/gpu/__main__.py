"""Every test and every figure that needs a GPU, in one table and one file.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only smoke         # first, on a GPU that has not been tried
    python -m benchmarks.gpu --only rows attention
    python -m benchmarks.gpu --dry-run

Writes benchmarks/results/<date>-<device>.json, again after every part: a part that fails, runs out of memory or out of
time costs its own rows and nothing else. Each runs in a process of its own. With --only, the parts' names stand in the
file's name.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from ..machine import RESULTS, machine, one_line, write_results
from ..smollm2 import say
from .record import FAILED, NOT_RUN, Record, Row, read, table, troubles


@dataclass(frozen=True)
class Part:
    module: str
    function: str
    seconds: float
    """limit of its own"""
    what: str
    asked: bool = False
    """runs only where --only names it"""


# In the order of what would be missed most. Together they are expected to take seven minutes on an H100.
PARTS = {
    "device": Part("device_part", "run", 60, "copy bandwidth, matrix product"),
    "rows": Part("rows_part", "run", 100, "row_evidence beside bandwidth, roofline and a prefill"),
    "attention": Part("attention_part", "run", 100, "evidence_attention beside itself without evidence and SDPA"),
    "model": Part("model_part", "run", 260, "a grid of 308 probes on an 8B-shaped model at 256K"),
    "tests": Part("checks_part", "run", 220, "pytest -m gpu"),
    "alternatives": Part("alternatives_part", "run", 100, "eager products, FlexAttention, output_attentions"),
    "sanitizer": Part("checks_part", "sanitize", 80, "compute-sanitizer over a small case"),
    "smoke": Part("smoke_part", "run", 120, "every kernel and option, small, against float64: all that is wrong", True),
    "tune": Part("tune_part", "run", 500, "other tiles than those of kernels/gpu/configs.py", True),
}
BUDGET = 530.0  # seconds
LEAST = 5.0  # seconds a part is still worth


def main() -> None:
    options = _parse()
    if options.list:
        for name, part in PARTS.items():
            asked = "; only where it is asked for" if part.asked else ""
            say(f"{name:<13} {part.what} (at most {part.seconds:.0f} s{asked})")
        return
    if options.part:
        _run_part(options.part, Path(options.rows), options.dry_run)
        return
    if not options.dry_run:
        _need_a_gpu()
    else:
        os.environ["TRITON_INTERPRET"] = "1"  # before torch and triton are imported, here and in the parts
    found = machine()
    if options.commit:
        found |= {"git_commit": options.commit, "git_dirty": None}
    say(one_line(found))
    folder = Path(options.output) if options.output else Path(tempfile.mkdtemp()) if options.dry_run else RESULTS
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    began = perf_counter()
    names = options.only or [name for name, part in PARTS.items() if not part.asked]
    only = "-".join(options.only or ())  # not over the file of all parts
    for name in names:
        left = None if options.dry_run else options.budget - (perf_counter() - began)
        new, seconds[name] = _supervise(name, left, options.dry_run)
        if options.dry_run:  # a toy reaches nothing and misses nothing
            new = [replace(row, at_most=None, at_least=None) for row in new]
        rows += new
        say(table(new))
        say(troubles(new) + "\n")
        path = write_results(only, _results(rows, seconds, names, options.dry_run), found, folder)
    if len(names) > 1:
        say(table(rows))
    verdicts = [row.verdict for row in rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted({*verdicts} - {""}))
    say(f"\n{len(rows)} rows: {counts or 'no verdicts'}; {perf_counter() - began:.0f} s; {path.name}")
    if any(verdict.startswith((FAILED, NOT_RUN)) for verdict in verdicts):
        sys.exit(1)


def _parse() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help="these parts: " + ", ".join(PARTS))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts together (%(default)g)")
    parser.add_argument("--list", action="store_true", help="say which parts there are, and stop")
    parser.add_argument(
        "--dry-run", action="store_true", help="all code at toy size on the CPU; the figures mean nothing"
    )
    parser.add_argument("--output", metavar="FOLDER", help="where the results file goes (benchmarks/results)")
    parser.add_argument("--commit", help="what was measured, where the tree is a copy without its history")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", help=argparse.SUPPRESS)
    return parser.parse_args()


def _need_a_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        sys.exit(
            f"error: torch {torch.__version__} sees no CUDA GPU here, and these figures are a GPU's; "
            "--dry-run runs all the code at toy size on the CPU"
        )


def _supervise(name: str, left: float | None, toy: bool) -> tuple[list[Row], float]:
    """Run a part in a process of its own, and make rows of whatever happens to it.

    left: seconds of the budget; None: no limit, as for a toy, whose times tell of the machine's other work.
    """
    if left is not None and left < LEAST:
        return [Row(name, PARTS[name].what, problem=f"{NOT_RUN}: the budget is spent")], 0.0
    limit = None if left is None else min(left, PARTS[name].seconds)
    began = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--rows", str(path)]
        command += ["--dry-run"] if toy else []
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        problem, said = "", ""
        try:
            said, _ = process.communicate(timeout=limit)
            if process.returncode:
                problem = f"{FAILED}: {_last_line(said)}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started
            said, _ = process.communicate()
            problem = f"{FAILED}: not done after {limit:.0f} s"
        rows = read(path)
    if problem:
        rows.append(Row(name, "the part as a whole", problem=problem, detail={"tail": said[-4000:]}))
    return rows, perf_counter() - began


def _last_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1][:100] if lines else "no output"


def _results(rows: list[Row], seconds: dict[str, float], names: list[str], toy: bool) -> dict[str, Any]:
    return {
        "toy": toy,
        "seconds": seconds,
        "not_reached": [name for name in names if name not in seconds],
        "rows": [row.as_json() for row in rows],
    }


def _run_part(name: str, path: Path, toy: bool) -> None:
    from importlib import import_module

    import torch

    from .stage import Stage, interpret

    if toy:
        interpret()
    part = PARTS[name]
    work = getattr(import_module(f".{part.module}", __package__), part.function)
    with torch.no_grad():
        work(Stage(toy=toy), Record(name, path))


if __name__ == "__main__":
    main()
