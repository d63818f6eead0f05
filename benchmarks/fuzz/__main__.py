"""Hostile files through everything that reads them; what came of it, counted.

Results files go through validate and, in turn, one of hs.open (root, probes), export, merge, append and report; probe
sets (.npz) are loaded and saved again, verified and shown; of checkpoint folders model and tokenizer are loaded. Every
file is damaged or altered by a seeded generator and read in a child process with limits: 1 GB + 4 x its size of memory,
30 s of computing, and a folder of canaries that nothing may open. An outcome is good when it is valid or refused in
one line.

    python -m benchmarks.fuzz --files 10000 --seconds 3600
    python -m benchmarks.fuzz --kind probes --files 2000
    python -m benchmarks.fuzz --kind results --only 1234 --keep case.h5    one case again, in every way
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

from headscope.interp.store import gate

from ..machine import machine, one_line, write_results
from ..smollm2 import say
from .canary import Canaries
from .cases import GOOD, SmallHelper, fresh, run_case
from .forks import Nursery

KINDS = {"results": "results_files", "probes": "probe_sets", "folders": "folders", "gguf": "gguf_files"}
_SHOWN = 200  # findings that the results file keeps


@dataclass
class Found:
    """What came of some cases: counts by (action, outcome) and by change, and what was not good."""

    canaries_watched: bool = True
    files: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, other: Found) -> None:
        self.canaries_watched &= other.canaries_watched
        self.files += other.files
        self.outcomes += other.outcomes
        self.changes += other.changes
        self.findings += other.findings


def fuzz(kind: str, numbers: Sequence[int], seconds: float, seed: int, *, jobs: int) -> dict[str, Any]:
    """The cases of these numbers, or as many as fit into `seconds`, some at a time, and what came of them."""
    began = time.monotonic()
    until = began + seconds
    found = Found()
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        for part in [pool.submit(run_cases, kind, numbers[i::jobs], until, seed) for i in range(jobs)]:
            found.add(part.result())
    findings = sorted(found.findings, key=lambda finding: int(finding["case"]))
    table: dict[str, dict[str, int]] = {}
    for (action, outcome), count in sorted(found.outcomes.items()):
        table.setdefault(action, {})[outcome] = count
    return {
        "files": found.files,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "jobs": jobs,
        "canaries_watched": found.canaries_watched,
        "changes": dict(sorted(found.changes.items())),
        "outcomes": table,
        "findings": len(findings),
        "found": findings[:_SHOWN],
    }


def run_cases(
    kind: str, numbers: Sequence[int], until: float, seed: int, only: bool = False, keep: Path | None = None
) -> Found:
    """One case after the other until that time. only: in every way, and all outcomes are told."""
    made_by = importlib.import_module(f".{KINDS[kind]}", __package__)
    found = Found()
    with tempfile.TemporaryDirectory(prefix="headscope-fuzz-") as name, ExitStack() as stack:
        home = Path(name).resolve()
        canaries = Canaries(home / "canaries")
        found.canaries_watched = canaries.watched
        bases = made_by.bases(home / "bases")
        maker = stack.enter_context(closing(Nursery(home / "maker", partial(_make, made_by, canaries))))
        SmallHelper.nursery = stack.enter_context(closing(Nursery(home / "helpers", gate.serve)))
        warm_up(made_by, bases[0], home)
        gc.collect()
        gc.freeze()
        for number in numbers:
            if time.monotonic() > until:
                break
            path, base, change = _made(maker, fresh(home / "case"), bases, f"{seed}/{kind}/{number}")
            if not os.path.lexists(path):
                continue
            outcomes = run_case(path, made_by.ACTIONS if only else made_by.actions(number), canaries)
            found.files += 1
            found.changes[change] += 1
            found.outcomes.update((each.action, each.kind) for each in outcomes)
            for each in outcomes:
                if each.kind not in GOOD or only:
                    what = {**vars(each), "detail": each.detail.replace(str(home), "")}
                    found.findings.append({"case": number, "base": base.name, "change": change, **what})
                    say(in_words(found.findings[-1]))
            if keep is not None:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, keep)
            if found.files % 100 == 0:
                say(f"{kind}: {found.files} files of {len(numbers)}, {len(found.findings)} findings")
    return found


def _made(maker: Nursery, folder: Path, bases: list[Path], seed: str) -> tuple[Path, Path, str]:
    """The hostile input, what it was made of, and what was done to it."""
    base = random.Random(f"{seed}/base").choice(bases)
    path = folder / base.name
    with maker.connect() as connection, connection.makefile("rb") as answer:
        connection.sendall(json.dumps([str(path), str(base), seed]).encode() + b"\n")
        told = json.loads(answer.readline())
    return path, base, told if isinstance(told, str) else f"could not be made: {told}"


def _make(made_by: Any, canaries: Canaries, question: BinaryIO, answer: BinaryIO) -> None:
    """In a process of its own: the HDF5 library may also crash where hostile files are made."""
    path, base, seed = json.loads(question.readline())
    os.chdir(Path(path).parent)
    change = made_by.make(Path(path), Path(base), random.Random(seed), canaries)
    answer.write(json.dumps(change).encode() + b"\n")
    answer.flush()


def warm_up(made_by: Any, base: Path, home: Path) -> None:
    """Import in this process what the cases need, so that no child does it again."""
    folder = fresh(home / "case")
    path = folder / base.name
    (shutil.copytree if base.is_dir() else shutil.copy)(base, path)
    made_by.prepare(path, folder)


def in_words(finding: dict[str, Any]) -> str:
    last = ["", *str(finding["detail"]).strip().splitlines()][-1]
    return f"{finding['case']:>6} {finding['change']}, {finding['action']}: {finding['kind']} {last[:200]}"


def show(kind: str, found: Any) -> None:
    say(f"\n{kind}: {found['files']} files in {found['seconds']} s; findings: {found['findings']}")
    for action, outcomes in found["outcomes"].items():
        say(f"  {action:<12} " + ", ".join(f"{name} {count}" for name, count in outcomes.items()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long, for each kind")
    parser.add_argument("--kind", choices=KINDS, help="default: all three")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time; default: one a core")
    parser.add_argument("--only", type=int, metavar="CASE", help="this case alone, of one kind")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="where to put its file")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    kinds = [options.kind] if options.kind else [*KINDS]
    if options.only is not None:
        keep = None if options.keep is None else options.keep.resolve()
        run_cases(kinds[0], [options.only], float("inf"), options.seed, True, keep)
        return 0
    bad = 0
    for kind in kinds:
        found = fuzz(kind, range(options.files), options.seconds, options.seed, jobs=options.jobs)
        show(kind, found)
        bad += found["findings"]
        about = machine()
        say(f"{one_line(about)}\n{write_results(f'fuzz-{kind}', found, about)}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
