"""Seeds that are done, kept beside the output until all of them are in it: `run.h5.sft/step-NNNNNNNNNN-seed-N.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from ..finetuned import AFTER, COST
from ..store import beside, target_path, write_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OneSeed:
    """What came of a seed: name -> [N], as in `SftProbe.after`; loss float32 [steps]; name -> number, as in `cost`."""

    after: Mapping[str, np.ndarray]
    loss: np.ndarray
    cost: Mapping[str, float]


class Kept:
    """One checkpoint's seeds. key: what they are of: weights, probes, recipe; what was kept under another is not used,
    and is replaced. Where the weights are not known by their hash, nothing is kept."""

    def __init__(self, output: str | PathLike[str] | None, checkpoint: int, key: Mapping[str, Any]) -> None:
        self.key = dict(key)
        self.folder = None
        if output is not None and key["weights"]:
            self.folder = beside(target_path(output), "{}.sft")
        self._name = f"step-{checkpoint:010d}-seed-{{}}.json"

    def read(self, seed: int) -> OneSeed | None:
        """A seed that is done; None for none, for another key's, and for what cannot be read."""
        if self.folder is None:
            return None
        path = self.folder / self._name.format(seed)
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["key"] != self.key:
                return None
            after: dict[str, np.ndarray] = {name: np.array(told["after"][name], dtype) for name, dtype in AFTER.items()}
            found = OneSeed(after, np.array(told["loss"], np.float32), {name: told["cost"][name] for name in COST})
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        log.info("seed %d was trained before: %s", seed, path)
        return found

    def write(self, seed: int, found: OneSeed) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(exist_ok=True)
        told = {"key": self.key, "loss": found.loss.tolist(), "cost": dict(found.cost)}
        told["after"] = {name: values.tolist() for name, values in found.after.items()}
        write_file(self.folder / self._name.format(seed), json.dumps(told).encode())

    def clear(self) -> None:
        """All of it is in the file: the folder goes, where no other checkpoint is in it."""
        if self.folder is None:
            return
        for path in self.folder.glob(self._name.format("*")):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()
