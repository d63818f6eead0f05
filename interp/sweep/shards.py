"""The folder beside the output: one immutable file a checkpoint, the frozen probes, and notes of what failed.

    run.h5.shards/
        probes.npz                  the probe set; a resumed sweep asks exactly the same
        probes.json                 what was asked for when it was built
        step-0000002000.h5          the scores of one checkpoint, a results file like any other
        step-0000003000.failed.json why there are none
        outdated-0000002000-<sha>.h5  scores of weights that have been replaced since

Every file appears in one step. A shard carries a stamp of what it was made from, cheap to compare: names, sizes and
modification times of the weight files with a hash of config.json, or the commit of a hub model. Where the stamp differs
the weights are hashed, and the hash decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ...probes import ProbeSet
from .. import schema
from ..loading import locate
from ..locks import Busy, beside, locked
from ..rescue import Unsaved, somewhere, words
from ..results import HeadScores
from ..schema import StoreError
from ..store import read_scores, read_steps, reading, write, write_file
from ..weights import fingerprint, folder_weights, gguf_weights
from .checkpoints import Checkpoint

_SHARD = re.compile(r"step-(\d{10})\.h5")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


class SweepError(ValueError):
    """A sweep that cannot begin: its output belongs to something else, or another sweep is at work there."""


@dataclass(frozen=True)
class ProbeSource:
    """Where the probes come from: `build` makes them with a tokenizer.

    recipe: what was asked for, as JSON-able values; a resume that asks for the same takes the frozen probes. None: the
    probes are there already, and no tokenizer is needed.
    """

    build: Callable[[Any], ProbeSet]
    recipe: dict[str, Any] | None = None


class Shards:
    """The shards that belong to one output file. Nothing is written before `claim`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = beside(output, "{}.shards")
        self.probes_file = self.folder / "probes.npz"
        self.recipe_file = self.folder / "probes.json"

    @contextmanager
    def claim(self, part: tuple[int, int] | None) -> Iterator[None]:
        """Only one sweep at a time writes here; the parts of a job array are several, each with its own claim."""
        name = ".sweep.lock" if part is None else f".sweep-{part[0]}-of-{part[1]}.lock"
        with ExitStack() as stack:
            try:
                self.folder.mkdir(exist_ok=True)
                stack.enter_context(locked(self.folder / name, timeout=1))  # what a dead sweep left gives way in that
            except Busy as error:
                raise SweepError(
                    f"another sweep is writing to {self.output} at this moment; wait for it, or choose another output "
                    f"({error})"
                ) from error
            except OSError as error:
                raise SweepError(
                    f"cannot write to {self.folder} ({error.strerror or error}); choose another output"
                ) from error
            yield

    # Probes

    def probes(self, source: ProbeSource, tokenizer: Callable[[], Any]) -> ProbeSet:
        """The frozen probes, or those of `source`. Raises SweepError where the two differ."""
        if not self.probes_file.exists():
            return source.build(tokenizer() if source.recipe is not None else None)
        frozen = ProbeSet.load(self.probes_file)
        if source.recipe is not None and source.recipe == self._recipe():
            return frozen
        asked = source.build(tokenizer() if source.recipe is not None else None)
        if asked.hash != frozen.hash:
            raise SweepError(
                f"{self.output} was begun with the probe set {_words(frozen)}, and this one is {_words(asked)}; use "
                "the same probes and options, or another output"
            )
        return frozen

    def freeze(self, probes: ProbeSet, source: ProbeSource) -> None:
        if self.probes_file.exists():
            return
        # Parts of a job array may do this at the same moment: they write the same, each whole.
        write_file(self.recipe_file, json.dumps(source.recipe, indent=2).encode())
        probes.save(self.probes_file)

    def _recipe(self) -> Any:
        try:
            return json.loads(self.recipe_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    # Shards

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}.h5"

    def files(self) -> dict[int, Path]:
        """Step -> shard, in step order."""
        if not self.folder.is_dir():
            return {}
        found = {int(match[1]): path for path in self.folder.iterdir() if (match := _SHARD.fullmatch(path.name))}
        return dict(sorted(found.items()))

    def put(self, checkpoint: Checkpoint, scores: HeadScores) -> None:
        """Raises Unsaved where the shard cannot be written; it is elsewhere then."""
        path, step, tokens = self.path(checkpoint.step), checkpoint.step, checkpoint.tokens_seen
        try:
            write(path, [(step, tokens, scores)])
        except (Exception, KeyboardInterrupt) as error:
            rescued = somewhere(self.output, lambda place: write(place, [(step, tokens, scores)]))
            then = f"mv {quote(str(rescued))} {quote(str(path))}, and the same command goes on from there"
            raise Unsaved(words(path, error, rescued, f"scores of checkpoint {step} are", then), rescued) from error
        with suppress(OSError):
            self._note(step).unlink(missing_ok=True)

    def retell(self, checkpoint: Checkpoint) -> None:
        """The same scores with the training tokens that are told now."""
        path = self.path(checkpoint.step)
        write(path, [(checkpoint.step, checkpoint.tokens_seen, read_scores(path))])

    def set_aside(self, step: int) -> None:
        digest = hashlib.sha256(self.path(step).read_bytes()).hexdigest()[:8]
        os.replace(self.path(step), self.folder / f"outdated-{step:010d}-{digest}.h5")

    def adopt(self, probes: ProbeSet) -> None:
        """Give every checkpoint in the output a shard, so that rebuilding the output never loses one.

        Raises SweepError when the output holds scores on other probes.
        """
        if not self.output.exists():
            return
        shards = self.files()
        for step, tokens in read_steps(self.output).items():
            if step in shards:
                continue
            scores = read_scores(self.output, step)
            if scores.probe_set_hash != probes.hash:
                held = f"{scores.probe_set_name!r} ({scores.probe_set_hash[:12]})"
                raise SweepError(
                    f"{self.output} holds scores on the probe set {held}, and this one is {_words(probes)}; use the "
                    "same probes and options, or another output"
                )
            write(self.path(step), [(step, tokens, scores)])

    # Failures

    def fail(self, checkpoint: Checkpoint, reason: str) -> None:
        note = {"step": checkpoint.step, "checkpoint": checkpoint.name, "reason": reason}
        write_file(self._note(checkpoint.step), json.dumps(note, indent=2).encode())

    def _note(self, step: int) -> Path:
        return self.folder / f"step-{step:010d}.failed.json"


def failures(folder: Path) -> dict[int, str]:
    """Step -> why it has no scores, as the last sweep into this folder noted it."""
    found = {}
    for path in sorted(folder.glob("step-*.failed.json")):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            found[int(note["step"])] = str(note["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _words(probes: ProbeSet) -> str:
    return f"{probes.name!r} ({probes.hash[:12]})"


# What a shard was made from


def stamp(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tells weights from other weights without reading them; see the top of this file.

    Raises ModelError when a hub revision can be found neither in the cache nor on the hub.
    """
    path = Path(checkpoint.source)
    if not path.exists():
        return {"commit": locate(checkpoint.source, None, ["config.json"], "checkpoint")[1]}
    files = [path] if path.is_file() else sorted(file for pattern in _WEIGHT_FILES for file in path.glob(pattern))
    stats = [(file.name, file.stat()) for file in files]
    found: dict[str, Any] = {"files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]}
    config = path / "config.json"
    if config.is_file():
        found["config"] = hashlib.sha256(config.read_bytes()).hexdigest()
    return found


def same_weights(checkpoint: Checkpoint, made: dict[str, Any], allow_pickle: bool) -> bool:
    """Whether the scores with the provenance `made` are of the weights that the checkpoint holds now.

    Raises ModelError when that cannot be told because the weights are no longer readable.
    """
    then = (made.get("sweep") or {}).get("stamp")
    now = stamp(checkpoint)
    if then is not None and then == now:
        return True
    if "commit" in now:
        return bool(made.get("revision") == now["commit"])
    if then is not None and then.get("config") != now.get("config"):
        return False
    path = Path(checkpoint.source)
    weights = gguf_weights(path) if path.is_file() else folder_weights(path, allow_pickle)
    return fingerprint(weights) == made.get("weights_sha256")


@dataclass(frozen=True)
class Held:
    """What a shard says about itself, without its scores."""

    tokens_seen: float | None
    estimators: tuple[str, ...]
    provenance: dict[str, Any]


def held(path: Path) -> Held:
    """Raises StoreError when the shard cannot be read or does not hold exactly one checkpoint."""
    steps = read_steps(path)
    if len(steps) != 1:
        raise StoreError(f"{path} holds {len(steps)} checkpoints, and a shard holds one; move it away")
    (tokens,) = steps.values()
    with reading(path) as file:
        provenance = json.loads(file["provenance/json"].asstr()[0])
        return Held(tokens, schema.estimators_of(file), provenance)
