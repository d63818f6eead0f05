"""Kill a sweep with `kill -9` at random moments, resume it, and hold the file against an uninterrupted sweep.

A sweep over tiny random checkpoints runs in a child process and is killed somewhere in the time that it takes. It is
started again on the same output, and killed again, until it gets through; then its file must say the same as that of an
uninterrupted sweep (`differences`, bit for bit), and the next one begins. Meanwhile another process reads the results
file over and over: it must be readable whenever it is there, and never lose a checkpoint.

On Ray, two workers share the checkpoints of a cluster that this command starts, and the victim is the sweep itself or
one of its workers, at random. A sweep whose worker is killed goes on.

    python -m benchmarks.kills --local 50 --ray 50
    python -m benchmarks.kills --local 20 --ray 20 --checkpoints 12 --everything    also answers, SFT probes, texts
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headscope.interp.finetune import Recipe
from headscope.interp.perplexity import as_texts
from headscope.interp.sweep.checkpoints import Checkpoint, find_checkpoints
from headscope.interp.sweep.run import Options, SweepResult, run_sweep
from headscope.interp.sweep.same import differences
from headscope.interp.sweep.shards import ProbeSource
from headscope.interp.sweep.worker import MakeWork, Outcome, Setup, Worker
from headscope.interp.tasks import Drawing

from .machine import machine, one_line, write_results
from .smollm2 import say

ROOT = Path(__file__).resolve().parents[1]
_PEEK = os.WEXITED | os.WNOHANG | os.WNOWAIT  # the exit code stays for _wait


class Registered:
    """The usual work of a worker whose process says that it is there, so that it can be killed, starting or at work."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        (folder / str(os.getpid())).touch()
        self.work = Worker(setup)

    def __call__(self, checkpoint: Checkpoint, progress: Any = None) -> Outcome:
        return self.work(checkpoint)


@dataclass
class Tally:
    """What came of one kind of sweep. died_after: shards that were there when the sweep itself was killed."""

    mode: str
    kills: int = 0
    of_workers: int = 0
    resumed: int = 0
    completed: int = 0
    equal: int = 0
    died_after: list[int] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    reads: int = 0
    unreadable: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.trouble and not self.unreadable and self.equal == self.completed > 0

    def as_results(self) -> dict[str, Any]:
        kept = {name: value for name, value in vars(self).items() if name != "died_after"}
        return kept | {"shards_when_killed": {n: self.died_after.count(n) for n in sorted({*self.died_after})}}


@dataclass(frozen=True)
class Scene:
    """checkpoints and probes of the sweeps, the file of the uninterrupted one, and where the others go."""

    run: Path
    source: ProbeSource
    reference: Path
    outputs: Path
    options: Options

    def sweep(self, output: Path, ray: str | None = None, make_work: MakeWork = Worker) -> SweepResult:
        found = find_checkpoints(self.run)
        return run_sweep(found, self.source, output, self.options, ray=ray, make_work=make_work)


@contextmanager
def scene(steps: tuple[int, ...], everything: bool) -> Iterator[Scene]:
    sys.path.append(str(ROOT / "tests"))

    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        outputs = folder / "outputs"
        outputs.mkdir()
        source, options = (_all_levels if everything else _heads_alone)(folder / "run", steps)
        made = Scene(folder / "run", source, folder / "plain.h5", outputs, options)
        made.sweep(made.reference)
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _heads_alone(run: Path, steps: tuple[int, ...]) -> tuple[ProbeSource, Options]:
    from tiny_run import make_run, small_probes

    make_run(run, steps)
    probes = small_probes()
    return ProbeSource(lambda _: probes), Options()


def _all_levels(run: Path, steps: tuple[int, ...]) -> tuple[ProbeSource, Options]:
    """Every checkpoint also answers, is fine-tuned for two steps and asked again, and reads a text."""
    from transformers import AutoTokenizer

    from made_sft_probes import QUICK, TEXT, ask, make_writer

    folders = [make_writer(run / f"checkpoint-{step}", seed=step) for step in steps]
    asked = ask(AutoTokenizer.from_pretrained(folders[0]))
    return ProbeSource(lambda _: asked), Options(
        answers=Drawing(),
        sft=Recipe(**QUICK, method="full", seeds=(0,)),
        texts=lambda tokenizer: as_texts({"text": [TEXT]}, tokenizer, [64]),
    )


def kill_sweeps(
    made: Scene, tally: Tally, kills: int, rng: random.Random, ray: str | None = None, workers: Path | None = None
) -> None:
    """Sweep, kill and resume until `kills` processes have been killed and the last sweep is through."""
    make_work: MakeWork = functools.partial(Registered, folder=workers) if workers else Worker
    with _reader(made.outputs, tally):
        warm = made.outputs / f"{tally.mode}-warm"
        warm.mkdir()
        child = _fork(lambda: made.sweep(warm / "run.h5", ray, make_work))
        _wait_for_workers(child, workers)
        start = time.monotonic()
        if ended := _wait(child):
            raise RuntimeError(f"a sweep that nobody killed ended with {ended}")
        lasts = 1.2 * (time.monotonic() - start)
        while tally.kills < kills:
            folder = made.outputs / f"{tally.mode}-{tally.completed}"
            folder.mkdir(exist_ok=True)
            _one_sweep(made, tally, kills, folder / "run.h5", lasts, rng, ray, workers, make_work)


def _one_sweep(
    made: Scene,
    tally: Tally,
    kills: int,
    output: Path,
    lasts: float,
    rng: random.Random,
    ray: str | None,
    workers: Path | None,
    make_work: MakeWork,
) -> None:
    """From the first start to the comparison of the finished file, with the kills that happen on the way."""
    starts = 0
    while True:
        if workers is not None:
            for old in workers.iterdir():
                old.unlink()
        child = _fork(lambda: made.sweep(output, ray, make_work))
        starts += 1
        if rng.random() < 3 / 4:
            _wait_for_workers(child, workers)
        ended = _wait(child, rng.uniform(0, lasts) if tally.kills < kills else None)
        while ended is None and workers is not None and rng.random() < 1 / 2:
            if _kill_a_worker(workers, rng):
                tally.kills += 1
                tally.of_workers += 1
            ended = _wait(child, rng.uniform(0, lasts) if tally.kills < kills else None)
        if ended is None:
            os.kill(child, signal.SIGKILL)
            _wait(child)
            tally.kills += 1
            tally.died_after.append(len(list(output.with_name("run.h5.shards").glob("step-*.h5"))))
            continue
        if ended != 0:
            # A checkpoint whose workers were killed three times is given up; the next start tries it again.
            if workers is None or starts > 100:
                tally.trouble.append(f"{output.parent.name}: start {starts} ended with {ended}")
                return
            continue
        tally.resumed += starts - 1
        tally.completed += 1
        found = differences(output, made.reference)
        tally.equal += not found
        tally.trouble += [f"{output.parent.name}: {words}" for words in found[:3]]
        return


def _wait_for_workers(child: int, workers: Path | None) -> None:
    """Until the first worker is there, or the sweep is over: starting takes longer than work and writes nothing."""
    while workers is not None and not any(workers.iterdir()) and os.waitid(os.P_PID, child, _PEEK) is None:
        time.sleep(0.01)


def _kill_a_worker(workers: Path, rng: random.Random) -> bool:
    alive = [int(path.name) for path in sorted(workers.iterdir())]
    rng.shuffle(alive)
    for pid in alive:
        try:
            (workers / str(pid)).unlink()
            os.kill(pid, signal.SIGKILL)
            return True
        except ProcessLookupError:
            continue
    return False


def _fork(work: Callable[[], SweepResult]) -> int:
    """A child that has everything imported already. Its exit code: 0 done, 1 something failed, 3 it raised."""
    child = os.fork()
    if child:
        return child
    code = 3
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        code = 1 if work().failed else 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(code)


def _wait(child: int, seconds: float | None = None) -> int | None:
    """Exit code, negative for a signal; None when the child still runs after so many seconds."""
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, 0 if end is None else os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            return None
        time.sleep(0.002)


@contextmanager
def _reader(outputs: Path, tally: Tally) -> Iterator[None]:
    """A process that reads the newest results file all the time, as somebody who looks at the run would."""
    context = multiprocessing.get_context("fork")
    stop, results = context.Event(), context.SimpleQueue()
    process = context.Process(target=_read_on, args=(outputs, stop, results))
    process.start()
    try:
        yield
    finally:
        stop.set()
        reads, unreadable = results.get()
        process.join()
        tally.reads += reads
        tally.unreadable += unreadable


def _read_on(outputs: Path, stop: Any, results: Any) -> None:
    from headscope.interp.store.results_file import read_scores, read_steps

    reads, unreadable = 0, []
    seen: dict[Path, int] = {}
    while not stop.is_set():
        files = sorted(outputs.glob("*/run.h5"), key=lambda path: path.stat().st_mtime)
        if not files:
            time.sleep(0.005)
            continue
        path = files[-1]
        try:
            steps = list(read_steps(path))
            read_scores(path, steps[-1])
            if steps != sorted(steps) or len(steps) < seen.get(path, 0):
                unreadable.append(f"{path.parent.name}: {steps} after {seen[path]} checkpoints")
            seen[path] = len(steps)
        except Exception as error:
            unreadable.append(f"{path.parent.name}: {type(error).__name__}: {error}")
        reads += 1
        time.sleep(0.02)
    results.put((reads, unreadable))


@contextmanager
def cluster() -> Iterator[str]:
    """A Ray cluster with two CPU slots, of processes that this one starts and ends."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    temporary = tempfile.mkdtemp(prefix="ray-")
    # Also for the sweeps, which are children of this process too.
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # a process that has imported Ray cannot turn this on
    os.environ |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "RAY_worker_niceness": "0",  # at Ray's 15, workers stand still while anybody else computes
    }
    options = [
        "--num-cpus=2",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false",
        f"--object-store-memory={10**8}",
        f"--temp-dir={temporary}",
    ]
    head = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(3000):  # a busy machine may take minutes
            if head.poll() is not None:
                raise RuntimeError(f"`ray start` ended with {head.returncode}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait(600)
        shutil.rmtree(temporary, ignore_errors=True)


def table(tallies: list[Tally]) -> list[str]:
    head = ("sweep", "kills", "of workers", "resumed", "completed", "equal", "reads", "unreadable")
    rows = [head] + [
        (t.mode, t.kills, t.of_workers, t.resumed, t.completed, t.equal, t.reads, len(t.unreadable)) for t in tallies
    ]
    return ["".join(f"{value!s:>12}" for value in row) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", type=int, default=50, metavar="N", help="kills of local sweeps")
    parser.add_argument("--ray", type=int, default=50, metavar="N", help="kills of sweeps on Ray and of their workers")
    parser.add_argument("--checkpoints", type=int, default=8, metavar="N", help="of the run that is swept")
    parser.add_argument("--everything", action="store_true", help="answers, SFT probes and losses on texts as well")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", metavar="FILE", help="write the figures to this JSON file, not to benchmarks/results")
    arguments = parser.parse_args()

    import torch

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a cluster is not left behind
    torch.set_num_threads(1)  # forked children must not miss the threads of a pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found = machine()
    say(one_line(found))
    tallies = []
    with scene(tuple(range(100, 100 * arguments.checkpoints + 1, 100)), arguments.everything) as made:
        if arguments.local:
            tallies.append(Tally("local"))
            kill_sweeps(made, tallies[-1], arguments.local, random.Random(arguments.seed))
        if arguments.ray:
            workers = made.outputs.with_name("workers")
            workers.mkdir()
            tallies.append(Tally("ray"))
            with cluster() as address:
                kill_sweeps(made, tallies[-1], arguments.ray, random.Random(arguments.seed), address, workers)
    for line in table(tallies):
        say(line)
    for tally in tallies:
        for words in [*tally.trouble, *tally.unreadable][:10]:
            say(f"{tally.mode}: {words}")
    results = [tally.as_results() for tally in tallies]
    if arguments.to:
        Path(arguments.to).write_text(json.dumps(results), encoding="utf-8")
    else:
        kind = ["everything"] if arguments.everything else []
        say(write_results("-".join(["kills", *kind, *(tally.mode for tally in tallies)]), results, found).name)
    if not all(tally.good for tally in tallies):
        sys.exit(1)


if __name__ == "__main__":
    main()
