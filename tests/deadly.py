"""Work for tests of sweeps on Ray: it kills its process, never ends, or tells of it. Workers import this file."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from headscope.interp.sweep.checkpoints import Checkpoint
from headscope.interp.sweep.worker import Outcome, Setup, Worker

AT = 30


class Deadly:
    """The usual work, but on its first `times` tries at step AT the process is killed when the scores are there.

    Every try leaves a file STEP-PID-TIME in `folder`.
    """

    def __init__(self, setup: Setup, folder: Path, times: int) -> None:
        self.work, self.folder, self.times = Worker(setup), folder, times

    def __call__(self, checkpoint: Checkpoint, progress: Any = None) -> Outcome:
        (self.folder / f"{checkpoint.step}-{os.getpid()}-{time.monotonic_ns()}").touch()
        outcome = self.work(checkpoint)
        if checkpoint.step == AT and len(list(self.folder.glob(f"{AT}-*"))) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome


class Endless:
    """The usual work, but step AT takes for ever."""

    def __init__(self, setup: Setup) -> None:
        self.work = Worker(setup)

    def __call__(self, checkpoint: Checkpoint, progress: Any = None) -> Outcome:
        while checkpoint.step == AT:
            time.sleep(1)
        return self.work(checkpoint)


class Fatal:
    """Work that scores nothing, and kills its process at every try at step AT."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.folder = folder

    def __call__(self, checkpoint: Checkpoint, progress: Any = None) -> Outcome:
        (self.folder / f"{checkpoint.step}-{os.getpid()}-{time.monotonic_ns()}").touch()
        if checkpoint.step == AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(checkpoint, None, "nothing to score", 0.0, 0.0)


class Hopeless:
    """A worker that cannot even start."""

    def __init__(self, setup: Setup) -> None:
        raise ImportError("no package for you")

    def __call__(self, checkpoint: Checkpoint, progress: Any = None) -> Outcome:
        raise NotImplementedError


class Telling:
    """The usual work, of a worker whose process leaves a file PID-NICENESS in `folder`."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.work = Worker(setup)
        (folder / f"{os.getpid()}-{os.nice(0)}").touch()

    def __call__(self, checkpoint: Checkpoint, progress: Any = None) -> Outcome:
        return self.work(checkpoint)
