"""Measurements on their way into a file: what another program keeps it from taking now, it takes later.

A training run does not wait for a lock: seconds at a measurement, and what is measured stays in memory until the next
one. What the file does not take at all is rescued (rescue.py), and so is what is left when the program ends.
"""

from __future__ import annotations

import atexit
import os
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from ..perplexity import Perplexity
from ..results import HeadScores
from .beside import Beside
from .locks import Busy
from .rescue import Unsaved, rescue
from .results_file import append

WAIT = 5.0  # seconds for the lock, at a measurement
LAST_WAIT = 30.0  # and at the end
MOST = 20  # measurements in memory: a crash loses them


class _Measured(NamedTuple):
    scores: HeadScores
    step: int
    tokens_seen: float | None
    beside: Beside


class Backlog:
    """What was measured and is not in the file yet, in order.

    rescued: the file beside it that holds what it did not take; None where there is none.
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = path
        self.rescued: Path | None = None
        self._waiting: list[_Measured] = []
        self._process = os.getpid()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(
        self, scores: HeadScores, step: int, tokens_seen: float | None, perplexity: Perplexity | None = None
    ) -> str | None:
        """Write it after those that wait. Returns what to warn of; None: all is in the file."""
        if not self._waiting:
            atexit.register(self._at_exit)
        self._waiting.append(_Measured(scores, step, tokens_seen, Beside(perplexity=perplexity)))
        return self._write(WAIT, keep=len(self._waiting) < MOST)

    def finish(self) -> str | None:
        """Write what waits, or rescue it. Returns what to warn of; None: all is in the file."""
        return self._write(LAST_WAIT, keep=False)

    def _write(self, seconds: float, keep: bool) -> str | None:
        try:
            while self._waiting:
                scores, step, tokens_seen, beside = self._waiting[0]
                append(self.path, scores, step, tokens_seen, timeout=seconds, **beside.there())
                del self._waiting[0]
        except Exception as error:
            if keep and isinstance(error.__cause__, Busy | BlockingIOError):
                since = f"from step {self._waiting[0].step} on" if len(self._waiting) > 1 else "of this step"
                return f"{error}; what was measured {since} is kept in memory, and written with the next measurement"
            return self._rescue(error)
        atexit.unregister(self._at_exit)
        return None

    def _rescue(self, error: Exception) -> str:
        atexit.unregister(self._at_exit)
        told: Unsaved | None = None
        while self._waiting:
            scores, step, tokens_seen, beside = self._waiting.pop(0)
            told = rescue(scores, self.path, step, tokens_seen, error, into=self.rescued, more=beside)
            self.rescued = told.rescued
        return str(told)

    def _at_exit(self) -> None:
        """For a loop that never says that it has ended, and a run that ends with an error."""
        if self._process == os.getpid():
            with suppress(Exception):
                self.finish()
