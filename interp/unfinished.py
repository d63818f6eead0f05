"""What an evaluation has done so far, kept beside its output, so that a kill costs little: `run.h5.answers/`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from typing import Any

import numpy as np

from .engine import Decoded
from .results import HeadScores
from .store import StoreError, beside, read_scores, target_path, write, write_file

log = logging.getLogger(__name__)

LOST = 1 / 16  # the share of what is done that a kill may cost: each write is of all of it


class Unfinished:
    """One checkpoint's unfinished evaluation: `step-NNNNNNNNNN.json` with the answers, and `.h5` with the scores.

    key: what the answers are of: weights, probes, settings. What was kept under another key is not used, and is
        replaced. Where the weights are not known by their hash (None) nothing is kept. Each file is written whole.
    """

    def __init__(self, output: str | PathLike[str], checkpoint: int, key: Mapping[str, Any]) -> None:
        self.folder = beside(target_path(output), "{}.answers")
        self.step, self.key = checkpoint, dict(key)
        self.file = self.folder / f"step-{checkpoint:010d}.json"
        self.scored = self.file.with_suffix(".h5")
        self._found = self._read() if self.key["weights"] else None
        self._written = 0

    def _read(self) -> dict[str, Any] | None:
        """What was kept under this key; None for nothing, for another's, and for what cannot be read."""
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            if found["key"] == self.key and isinstance(found["answers"], dict):
                return dict(found)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return None

    def answers(self) -> dict[str, list[Decoded]]:
        """Probe id -> its answers that are there already."""
        try:
            done = {id: [_decoded(*each) for each in told] for id, told in (self._found or {})["answers"].items()}
        except (KeyError, TypeError, ValueError, OverflowError):
            return {}
        if done:
            log.info("%d probes were answered before, in %s", len(done), self.file)
        self._written = len(done)
        return done

    def keep(self, done: Mapping[str, Sequence[Decoded]], *, all_of_it: bool = False) -> None:
        """Write the answers, where there are enough more than were written last."""
        if self.key["weights"] and (all_of_it or len(done) > self._written * (1 + LOST)):
            told = {id: [_told(each) for each in answers] for id, answers in done.items()}
            self.folder.mkdir(exist_ok=True)
            write_file(self.file, json.dumps({"key": self.key, "answers": told}).encode())
            self._written = len(done)

    def scores(self) -> HeadScores | None:
        """What the heads did, if that is there already."""
        try:
            return read_scores(self.scored, self.step) if self._found and self.scored.exists() else None
        except StoreError:
            return None

    def keep_scores(self, scores: HeadScores, tokens_seen: float | None) -> None:
        if self.key["weights"]:
            self.scored.unlink(missing_ok=True)  # of another key
            self.keep({}, all_of_it=True)
            write(self.scored, [(self.step, tokens_seen, scores)])

    def clear(self) -> None:
        """All of it is in the file: the folder goes, where no other checkpoint is in it."""
        for path in (self.file, self.scored, beside(self.scored, ".{}.lock")):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def _told(answer: Decoded) -> list[Any]:
    return [answer.ids.tolist(), answer.logprob, answer.end, answer.text]


def _decoded(ids: list[int], logprob: float, end: str, text: str) -> Decoded:
    return Decoded(np.array(ids, np.int32), float(logprob), str(end), str(text))
