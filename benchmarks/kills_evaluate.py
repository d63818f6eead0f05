"""Kill `headscope evaluate` with `kill -9` at random moments, start it again, and compare with an undisturbed run.

    python -m benchmarks.kills_evaluate [--kills 20] [--probes 32]

A tiny random model scores and answers probes of random words, greedily and with three draws. The command runs in a
child process and is killed somewhere in the time that it takes; the same command is given again, and killed again,
until it gets through, or was killed when all was in the file (which a further call refuses to write again). The file
must then say the same, bit for bit (`differences`), but for the log probabilities of answers: what is answered beside
other answers is rounded otherwise, so these are held to 1e-5. Where the command got through, nothing may be left beside
the file, and while there is one it must be valid.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from .kills import ROOT, _wait
from .machine import machine, one_line, write_results
from .smollm2 import say

LOGPROB, ROUNDING = "answers/logprob", 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--probes", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import torch

    torch.set_num_threads(1)  # forked children must not miss the threads of a pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    found, rng = machine(), random.Random(options.seed)
    say(one_line(found))
    died: Counter[str] = Counter()
    completed, trouble = 0, list[str]()
    with tempfile.TemporaryDirectory(prefix="kills-evaluate-") as name:
        folder = Path(name)
        model, probes = prepare(folder, options.probes)
        began = time.monotonic()
        for output in (folder / "warm.h5", folder / "plain.h5"):
            began = time.monotonic()
            if (ended := _wait(start(model, probes, output))) != 0:
                sys.exit(f"an evaluation that nobody killed ended with {ended}")
        lasts = time.monotonic() - began
        while died.total() < options.kills:
            output = folder / f"{completed}.h5"
            done = False  # all was in the file, and the command could not say so
            while not done:
                child = start(model, probes, output)
                ended = _wait(child, rng.uniform(0, lasts) if died.total() < options.kills else None)
                if ended is not None:
                    break
                os.kill(child, signal.SIGKILL)
                _wait(child)
                died[left_by(output)] += 1
                done = output.exists()
            if not done and ended != 0:
                trouble.append(f"{output.name}: ended with {ended}")
                break
            completed += 1
            trouble += [f"{output.name}: {words}" for words in otherwise(output, folder / "plain.h5")]
            left = {path.name for path in folder.glob(f"*{output.name}*")} - {output.name, f".{output.name}.lock"}
            trouble += [f"left beside it: {name}" for name in sorted(left) if not done]
    say(
        f"{died.total()} kills ({', '.join(f'{n} with {what}' for what, n in sorted(died.items()))}); {completed} files"
    )
    for words in trouble[:10]:
        say(words)
    say(f"{'something is wrong' if trouble else 'all say the same as the undisturbed one'}; it took {lasts:.1f} s")
    results = {"kills": died.total(), "when": dict(died), "completed": completed, "trouble": trouble, "lasts_s": lasts}
    say(write_results("kills-evaluate", results | {"probes": options.probes}, found).name)
    sys.exit(bool(trouble))


def prepare(folder: Path, n: int) -> tuple[Path, Path]:
    """A tiny model and probes with a task, saved."""
    sys.path.append(str(ROOT / "tests"))
    from builders import random_grid
    from headscope.probes import ProbeSet, Task
    from tiny_run import make_checkpoint

    task = Task("string_match_part", ("w5",), 12, rivals=tuple(f"w{i}" for i in range(100, 199)))
    every = random_grid(lengths=tuple(range(60, 60 + 10 * (-(-n // 4)), 10)))
    path = folder / "probes.npz"
    ProbeSet(tuple(replace(probe, task=task) for probe in every)[:n], "random").save(path)
    return make_checkpoint(folder / "model"), path


def start(model: Path, probes: Path, output: Path) -> int:
    """The command in a child that has everything imported; it ends as the command does."""
    from headscope.cli import app

    if child := os.fork():
        return child
    code = 3
    try:
        log = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.argv = ["headscope", *map(str, ("evaluate", model, "--tasks", probes, "--samples", 3, "-o", output))]
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        os._exit(code)


def left_by(output: Path) -> str:
    """How far an evaluation came that was killed, by what lies beside its file."""
    from headscope.interp.store import validate

    if output.exists():
        told = validate(output)
        return "all in the file" if not told else f"an invalid file: {told[0]}"
    kept = output.with_name(f"{output.name}.answers") / "step-0000000000.json"
    if not kept.exists():
        return "nothing yet"
    answered = len(json.loads(kept.read_text(encoding="utf-8"))["answers"])
    return "answers" if answered else "scores"


def otherwise(output: Path, plain: Path) -> list[str]:
    """What a finished file says otherwise than the undisturbed one."""
    import h5py

    from headscope.interp.sweep.same import differences

    found = [words for words in differences(output, plain) if not words.startswith(f"{LOGPROB}: other values")]
    with h5py.File(output) as one, h5py.File(plain) as other:
        far = float(np.nanmax(abs(one[LOGPROB][...] - other[LOGPROB][...])))
    if far > ROUNDING:
        found.append(f"{LOGPROB}: {far} apart")
    return found


if __name__ == "__main__":
    main()
