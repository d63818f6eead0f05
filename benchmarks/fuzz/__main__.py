"""Hostile files through everything that reads them; what came of it, counted.

Results files go through validate, hs.open, export, merge, append and report; probe sets (.npz) are loaded, saved again
and scored; checkpoint folders are loaded. Every file is damaged or altered by a seeded generator and read in a child
process with limits: 1 GB + 4 x its size of memory, 30 s of computing, and a folder of canaries that nothing may open.
An outcome is good when it is valid, or refused in one line.

    python -m benchmarks.fuzz --files 10000 --seconds 3600
    python -m benchmarks.fuzz --kind probes --files 2000
    python -m benchmarks.fuzz --kind results --only 1234 --keep case.h5    one case again, to look at
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
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from headscope.interp.store import gate

from ..machine import machine, one_line, write_results
from ..smollm2 import say
from .canary import Canaries
from .cases import GOOD, SmallHelper, fresh, run_case
from .forks import Nursery

KINDS = {"results": "results_files", "probes": "probe_sets", "folders": "folders"}
_SHOWN = 200  # findings that the results file keeps


def fuzz(kind: str, files: int, seconds: float, seed: int, *, only: int | None = None, keep: Path | None = None) -> Any:
    """Counts per action and outcome, and what was found, for `files` cases or as many as fit into `seconds`."""
    made_by = importlib.import_module(f".{KINDS[kind]}", __package__)
    began = time.monotonic()
    counts: Counter[tuple[str, str]] = Counter()
    changes: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="headscope-fuzz-") as name:
        home = Path(name).resolve()
        canaries = Canaries(home / "canaries")
        bases = made_by.bases(home / "bases")
        maker = Nursery(home / "maker", partial(_make, made_by, canaries))
        SmallHelper.nursery = Nursery(home / "helpers", gate.serve)
        warm_up(made_by, bases[0], home)
        gc.collect()
        gc.freeze()
        done = 0
        for number in [only] if only is not None else range(files):
            if time.monotonic() - began > seconds:
                break
            folder = fresh(home / "case")
            path, base, change = _made(maker, folder, bases, f"{seed}/{kind}/{number}")
            if not os.path.lexists(path):
                continue
            turn = number if made_by.IN_TURN and only is None else None
            outcomes = run_case(path, made_by.ACTIONS, canaries, turn)
            done += 1
            changes[change] += 1
            counts.update((each.action, each.kind) for each in outcomes)
            for each in outcomes:
                if each.kind not in GOOD or only is not None:
                    findings.append({"case": number, "base": base.name, "change": change, **vars(each)})
                    say(in_words(findings[-1]))
            if keep is not None:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, keep)
            if done % 100 == 0:
                say(f"{kind}: {done} files, {len(findings)} findings, {time.monotonic() - began:.0f} s")
        maker.end()
        SmallHelper.nursery.end()
    table = {
        action: {kind: count for (of, kind), count in sorted(counts.items()) if of == action}
        for action in made_by.ACTIONS
    }
    return {
        "files": done,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "canaries_watched": canaries.watched,
        "changes": dict(sorted(changes.items())),
        "outcomes": table,
        "findings": len(findings),
        "found": findings[:_SHOWN],
    }


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
    last = [*str(finding["detail"]).strip().splitlines(), ""][-1 if finding["kind"] != "traceback" else -2]
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
    parser.add_argument("--only", type=int, metavar="CASE", help="this case alone")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="where to put the file of the last case")
    options = parser.parse_args()
    keep = None if options.keep is None else options.keep.resolve()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    bad = 0
    for kind in [options.kind] if options.kind else KINDS:
        found = fuzz(kind, options.files, options.seconds, options.seed, only=options.only, keep=keep)
        show(kind, found)
        bad += found["findings"]
        if options.only is None:
            about = machine()
            say(f"{one_line(about)}\n{write_results(f'fuzz-{kind}', found, about)}")
    return 1 if bad and options.only is None else 0


if __name__ == "__main__":
    raise SystemExit(main())
