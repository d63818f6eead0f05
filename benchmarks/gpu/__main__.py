"""Every test and every figure that needs a GPU, in one table and one file.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only smoke rows attention
    python -m benchmarks.gpu --only tune --dims 128
    python -m benchmarks.gpu --dry-run
    python -m benchmarks.gpu --compiled           # what is known without a GPU: sass_table.py

Writes benchmarks/results/<date>-<device>.json, again after every part: a part that fails, runs out of memory or out of
time costs its own rows and nothing else. Each runs in a process of its own. With --only, the parts' names stand in the
file's name. Rows lie in a .jsonl beside that file from the moment they are measured until all parts are done: a run
that is cut off loses none. What was reached and what not is said last, in at most 10,000 characters.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from ..machine import RESULTS, machine, one_line, write_results
from ..smollm2 import say
from . import bundle
from .record import FAILED, NOT_RUN, Record, Row, read, table, troubles, verdicts


@dataclass(frozen=True)
class Part:
    module: str
    function: str
    seconds: float
    """limit of its own"""
    what: str
    asked: bool = False
    """runs only where --only names it"""


# What is wrong first, then in the order of what would be missed most. Expected to take seven minutes on an H100.
PARTS = {
    "smoke": Part("smoke_part", "run", 110, "every kernel and option, small, against float64: all that is wrong"),
    "device": Part("device_part", "run", 30, "copy bandwidth, matrix product"),
    "rows": Part("rows_part", "run", 90, "row_evidence beside bandwidth, roofline and a prefill"),
    "attention": Part("attention_part", "run", 100, "evidence_attention beside itself without evidence and SDPA"),
    "model": Part("model_part", "run", 235, "a grid of 308 probes on an 8B-shaped model at 256K"),
    "tests": Part("checks_part", "run", 160, "pytest -m gpu"),
    "alternatives": Part("alternatives_part", "run", 100, "eager products, FlexAttention, output_attentions"),
    "sanitizer": Part("checks_part", "sanitize", 80, "compute-sanitizer over a small case"),
    "tune": Part("tune_part", "run", 500, "other tiles than those of kernels/gpu/configs.py", True),
}
BUDGET = 560.0  # seconds
LEAST = 5.0  # seconds a part is still worth


def main() -> None:
    options = _parse()
    if options.list:
        for name, part in PARTS.items():
            asked = "; only where it is asked for" if part.asked else ""
            say(f"{name:<13} {part.what} (at most {part.seconds:.0f} s{asked})")
        return
    if options.part:
        _run_part(options.part, Path(options.rows), options.dry_run, tuple(options.dims))
        return
    if options.compiled:
        from . import sass_table

        found = machine()
        say(one_line(found))
        name = f"compiled-triton-{found['triton']}"
        say(f"written to {write_results(name, sass_table.run(), found, Path(options.output or RESULTS)).name}")
        return
    if not options.dry_run:
        _need_a_gpu()
    else:
        os.environ["TRITON_INTERPRET"] = "1"  # before torch and triton are imported, here and in the parts
    found = machine()
    if options.commit:
        found |= {"git_commit": options.commit, "git_dirty": None}
    say(one_line(found))
    if options.bundle:
        say(bundle.put_to_use(Path(options.bundle), None if options.dry_run else _arch()))
    folder = Path(options.output) if options.output else Path(tempfile.mkdtemp()) if options.dry_run else RESULTS
    seconds: dict[str, float] = {}
    began = perf_counter()
    names = options.only or [name for name, part in PARTS.items() if not part.asked]
    only = "-".join(options.only or ())  # not over the file of all parts
    path = write_results(only, _results([], seconds, names, options.dry_run), found, folder)
    at_once = path.with_suffix(".jsonl")
    at_once.unlink(missing_ok=True)
    rows: list[Row] = []
    for name in names:
        left = None if options.dry_run else options.budget - (perf_counter() - began)
        new, seconds[name] = _supervise(name, left, options.dry_run, at_once, options.dims)
        if options.dry_run:  # a toy reaches nothing and misses nothing
            new = [replace(row, at_most=None, at_least=None) for row in new]
        rows += new
        say(table(new))
        say(troubles(new) + "\n")
        path = write_results(only, _results(rows, seconds, names, options.dry_run), found, folder)
    at_once.unlink(missing_ok=True)
    if options.bundle:
        since = bundle.compiled_since(Path(options.bundle))
        say(f"{len(since)} kernels were not in the bundle: {', '.join(sorted(set(since)))}")
    say(verdicts(rows))
    told = [row.verdict for row in rows]
    counts = ", ".join(f"{told.count(verdict)} {verdict}"[:60] for verdict in sorted({*told} - {""})[:12])
    say(f"\n{len(rows)} rows: {counts or 'no verdicts'}; {perf_counter() - began:.0f} s; {path.name}")
    if any(verdict.startswith((FAILED, NOT_RUN)) for verdict in told):
        sys.exit(1)


def _parse() -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help="these parts: " + ", ".join(PARTS))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all parts together (%(default)g)")
    parser.add_argument("--dims", nargs="+", type=int, default=[128], help="head sizes to tune for (%(default)s)")
    parser.add_argument("--bundle", metavar="FOLDER", help="kernels that were compiled elsewhere: bundle.py")
    parser.add_argument("--compiled", action="store_true", help="compiled loops and predicted times, without a GPU")
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


def _arch() -> int:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def _supervise(
    name: str, left: float | None, toy: bool, path: Path, dims: Sequence[int] = (128,)
) -> tuple[list[Row], float]:
    """Run a part in a process of its own, whose rows go to the file at once, and make rows of whatever happens to it.

    left: seconds of the budget; None: no limit, as for a toy, whose times tell of the machine's other work.
    """
    if left is not None and left < LEAST:
        return [Row(name, PARTS[name].what, problem=f"{NOT_RUN}: the budget is spent")], 0.0
    limit = None if left is None else min(left, PARTS[name].seconds)
    began = perf_counter()
    command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--rows", str(path.absolute())]
    command += ["--dims", *map(str, dims), *(["--dry-run"] if toy else [])]
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
    rows = [row for row in read(path) if row.part == name]
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


def _run_part(name: str, path: Path, toy: bool, dims: tuple[int, ...] = (128,)) -> None:
    from importlib import import_module

    import torch

    from .stage import Stage, interpret

    if toy:
        interpret()
    bundle.settle()
    part = PARTS[name]
    work = getattr(import_module(f".{part.module}", __package__), part.function)
    with torch.no_grad():
        work(Stage(toy=toy, dims=dims), Record(name, path))


if __name__ == "__main__":
    main()
