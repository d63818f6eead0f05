"""What an evaluation has done so far, kept beside its output, so that a kill costs little: `run.h5.answers/`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .estimators import ProbeScores
from .results import NLL_CLASSES, HeadScores
from .store import StoreError, beside, read_scores, target_path, write, write_file

if TYPE_CHECKING:
    from .engine import Decoded

log = logging.getLogger(__name__)

LOST = 1 / 16  # the share of what is done that a kill may cost: each write is of all of it


class Unfinished:
    """One checkpoint's unfinished evaluation: `step-NNNNNNNNNN.json` with answers, and `.h5` with scores of as many.

    key: what it is of: weights, probes, settings. What was kept under another key is not used, and is replaced. Where
        the weights are not known by their hash (None) nothing is kept. Each file is written whole.
    """

    def __init__(
        self, output: str | PathLike[str], checkpoint: int, key: Mapping[str, Any], tokens_seen: float | None
    ) -> None:
        self.step, self.tokens_seen, self.key = checkpoint, tokens_seen, dict(key)
        self.file = _file(output, checkpoint)
        self.folder = self.file.parent
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

    @property
    def matches(self) -> bool:
        """Whether anything was kept under this key."""
        return self._found is not None

    def scores(self) -> dict[str, ProbeScores]:
        """Probe id -> what the heads did, where that is there already."""
        try:
            held = read_scores(self.scored, self.step) if self._found and self.scored.exists() else None
        except StoreError:
            held = None
        if held is None or [held.probe_set_hash, [*held.estimators]] != [self.key["probes"], self.key["estimators"]]:
            return {}
        return {
            str(id): ProbeScores(
                {name: maps[i] for name, maps in held.per_probe.items()},
                {name: float(getattr(held, name)[i]) for name in NLL_CLASSES},
                bool(held.exact_match[i]),
            )
            for i, id in enumerate(held.probes["id"])
        }

    def is_due(self, done: int, of: int) -> bool:
        """Whether so many are enough more than were written last."""
        return bool(self.key["weights"]) and (done == of or done > self._written * (1 + LOST))

    def keep(self, answers: Mapping[str, Sequence[Decoded]], scores: HeadScores | None) -> None:
        """Write what is done: the scores first, because those without answers are of no use and do no harm."""
        self.folder.mkdir(exist_ok=True)
        if scores is not None:
            write(self.scored, [(self.step, self.tokens_seen, scores)])
        told = {id: [_told(each) for each in of_one] for id, of_one in answers.items()}
        write_file(self.file, json.dumps({"key": self.key, "answers": told}).encode())
        self._written = len(answers)

    def clear(self) -> None:
        """All of it is in the file: the folder goes, where no other checkpoint is in it."""
        for path in (self.file, self.scored, beside(self.scored, ".{}.lock")):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


def left_behind(output: str | PathLike[str], checkpoint: int) -> bool:
    """Whether an evaluation of this checkpoint was not ended, under whatever key."""
    return _file(output, checkpoint).exists()


def _file(output: str | PathLike[str], checkpoint: int) -> Path:
    return beside(target_path(output), "{}.answers") / f"step-{checkpoint:010d}.json"


def _told(answer: Decoded) -> list[Any]:
    return [answer.ids.tolist(), answer.logprob, answer.end, answer.text]


def _decoded(ids: list[int], logprob: float, end: str, text: str) -> Decoded:
    from .engine import Decoded

    return Decoded(np.array(ids, np.int32), float(logprob), str(end), str(text))
