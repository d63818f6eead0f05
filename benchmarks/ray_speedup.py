"""Four Ray workers beside none, on checkpoints whose work is waiting: goal at least 3.6 times as fast.

What is measured is the sweep's own machinery, so the work of a checkpoint is a wait, as for a device elsewhere, after
which it returns real scores of a tiny model. The cluster is running already, as it would be; starting the workers,
sending results, writing shards and the results file count.

    python -m benchmarks.ray_speedup
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from headscope.interp.results import HeadScores
from headscope.interp.sweep.checkpoints import Checkpoint, find_checkpoints
from headscope.interp.sweep.run import Options, run_sweep
from headscope.interp.sweep.same import differences
from headscope.interp.sweep.shards import ProbeSource
from headscope.interp.sweep.worker import MakeWork, Outcome, Setup

from .machine import machine, one_line, write_results
from .smollm2 import say

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 4


class Wait:
    """The work of one checkpoint: nothing for a while, then scores."""

    def __init__(self, setup: Setup, scores: HeadScores, seconds: float) -> None:
        self.scores, self.seconds = scores, seconds

    def __call__(self, checkpoint: Checkpoint, progress: Any = None) -> Outcome:
        time.sleep(self.seconds)
        made = {"checkpoint": checkpoint.name}
        scores = replace(self.scores, provenance=self.scores.provenance | {"sweep": made})
        return Outcome(checkpoint, scores, None, self.seconds, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0, help="wait per checkpoint")
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    import ray
    import torch

    torch.set_num_threads(1)
    sys.path.append(str(ROOT / "tests"))
    from headscope.interp.scoring import score_heads
    from tiny_run import make_checkpoint, small_probes

    found = machine()
    say(one_line(found))
    probes = small_probes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = range(100, 100 * (given.checkpoints + 1), 100)
        scores = score_heads(str(make_checkpoint(folder / "model")), probes)
        for step in steps:
            (folder / "run" / f"checkpoint-{step}").mkdir(parents=True)
        checkpoints = find_checkpoints(folder / "run")
        work: MakeWork = functools.partial(Wait, scores=scores, seconds=given.seconds)
        sweep = functools.partial(
            run_sweep, checkpoints, ProbeSource(lambda _: probes), options=Options(device="cpu"), make_work=work
        )

        start = time.perf_counter()
        sweep(folder / "local.h5")
        local = time.perf_counter() - start
        say(f"one after the other: {local:.1f} s")

        ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        try:
            start = time.perf_counter()
            sweep(folder / "ray.h5", ray="local")
            spread = time.perf_counter() - start
        finally:
            ray.shutdown()
        if found_different := differences(folder / "local.h5", folder / "ray.h5"):
            raise RuntimeError(f"the files differ: {found_different[:3]}")
    say(f"{WORKERS} Ray workers: {spread:.1f} s, {local / spread:.2f} x as fast; the files are the same")
    results = {
        "workers": WORKERS,
        "checkpoints": given.checkpoints,
        "wait_s": given.seconds,
        "local_s": local,
        "ray_s": spread,
        "speedup": local / spread,
    }
    say(write_results("ray-speedup", results, found).name)


if __name__ == "__main__":
    main()
