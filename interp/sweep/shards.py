"""The folder beside the output: one immutable file a checkpoint, the frozen probes, and notes of what failed.

    run.h5.shards/
        probes.npz                  the probe set; a resumed sweep asks exactly the same
        probes.json                 what was asked for when it was built
        step-0000002000.h5          the scores of one checkpoint, a results file like any other
        step-0000000500-stage2.h5   where there are several stages: by the step within its own
        step-0000003000.failed.json why there are none
        outdated-0000002000-<sha>.h5  scores of weights that have been replaced since

Every file appears in one step. The name of a shard never changes, although its place in the results file does when a
stage before it gets more checkpoints: the place is written in it, and which checkpoint it is of. A shard has a stamp
of what it was made from, cheap to compare: names, sizes and modification times of the weight files with a hash of
config.json, or the commit of a hub model. Where the stamp differs the weights are hashed, and the hash decides.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from ...errors import HeadscopeError
from ...probes import ProbeSet
from ..ablation import Ablation
from ..model import fingerprint, folder_weights, gguf_weights, locate
from ..perplexity import Perplexity
from ..results import HeadScores
from ..store import (
    Busy,
    StoreError,
    Unsaved,
    beside,
    find_ablation,
    find_answers,
    find_perplexity,
    locked,
    read_provenance,
    read_scores,
    read_steps,
    reading,
    save_elsewhere,
    schema,
    swept,
    unsaved_message,
    write,
    write_file,
)
from ..tasks import Answers
from .stages import Checkpoint

_SHARD = re.compile(r"step-\d{10}(-[\w.-]+)?\.h5")
_WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")


class SweepError(HeadscopeError, ValueError):
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

    def path(self, checkpoint: Checkpoint) -> Path:
        """Where the scores of a checkpoint go that has none yet."""
        path = self.folder / f"step-{checkpoint.step_in_stage:010d}{_tag(checkpoint.stage)}.h5"
        if path.exists() and not is_same(Held.read(path).checkpoint, checkpoint):  # stages have changed their names
            path = path.with_stem(f"{path.stem}-{hashlib.sha256(checkpoint.source.encode()).hexdigest()[:8]}")
        return path

    def files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _SHARD.fullmatch(path.name))

    def put(
        self, checkpoint: Checkpoint, scores: HeadScores, answers: Answers | None, perplexity: Perplexity | None = None
    ) -> None:
        """Raises Unsaved where the shard cannot be written; it is elsewhere then."""
        path, step, row = (
            self.path(checkpoint),
            checkpoint.step,
            (checkpoint.step, checkpoint.tokens_seen, scores, answers, None, perplexity),
        )
        try:
            write(path, [row])
        except (Exception, KeyboardInterrupt) as error:
            rescued = save_elsewhere(self.output, lambda place: write(place, [row]))
            then = f"mv {quote(str(rescued))} {quote(str(path))}, and the same command goes on from there"
            message = unsaved_message(path, error, rescued, f"scores of checkpoint {step} are", then)
            raise Unsaved(message, rescued) from error
        with suppress(OSError):
            self._note(checkpoint).unlink(missing_ok=True)

    def retell(self, path: Path, checkpoint: Checkpoint) -> None:
        """The same scores, with the step, stage and training tokens that are told now."""
        scores = read_scores(path)
        (step,) = read_steps(path)
        told = placed(scores, checkpoint)
        write(path, [(checkpoint.step, checkpoint.tokens_seen, told, *_beside(path, step))])

    def set_aside(self, path: Path) -> None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        os.replace(path, self.folder / f"outdated-{path.stem.removeprefix('step-')}-{digest}.h5")

    def adopt(self, probes: ProbeSet) -> None:
        """Give every checkpoint in the output a shard, so that rebuilding the output never loses one.

        Raises SweepError when the output holds scores on other probes.
        """
        if not self.output.exists():
            return
        there = [Held.read(path) for path in self.files()]
        for step, tokens in read_steps(self.output).items():
            scores = read_scores(self.output, step)
            if any(shard.same_checkpoint(step, scores.provenance) for shard in there):
                continue
            if scores.probe_set_hash != probes.hash:
                other = f"{scores.probe_set_name!r} ({scores.probe_set_hash[:12]})"
                raise SweepError(
                    f"{self.output} holds scores on the probe set {other}, and this one is {_words(probes)}; use the "
                    "same probes and options, or another output"
                )
            row = Held(self.output, step, tokens, frozenset(), scores.provenance)
            write(self.path(row.checkpoint), [(step, tokens, scores, *_beside(self.output, step))])

    # Failures

    def fail(self, checkpoint: Checkpoint, reason: str) -> None:
        note = {"step": checkpoint.step, "checkpoint": checkpoint.name, "reason": reason}
        write_file(self._note(checkpoint), json.dumps(note, indent=2).encode())

    def _note(self, checkpoint: Checkpoint) -> Path:
        return self.folder / f"step-{checkpoint.step_in_stage:010d}{_tag(checkpoint.stage)}.failed.json"


def _beside(path: Path, step: int) -> tuple[Answers | None, Ablation | None, Perplexity | None]:
    """What stands beside the scores of a checkpoint in a results file."""
    return find_answers(path, step), find_ablation(path, step), find_perplexity(path, step)


def _tag(stage: str) -> str:
    """The stage in the name of a file; with a few digits of its hash where it cannot stand there as it is."""
    plain = re.sub(r"[^\w.-]+", "_", stage, flags=re.ASCII)[:60]
    digits = hashlib.sha256(stage.encode()).hexdigest()[:8]
    return "" if not stage else f"-{plain}" if plain == stage else f"-{plain}-{digits}"


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
    then = swept(made).get("stamp")
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


def placed(scores: HeadScores, checkpoint: Checkpoint) -> HeadScores:
    """The scores with what tells which checkpoint they are of, and where there are several, its stage."""
    made = {**swept(scores.provenance), "run": checkpoint.run, "label": checkpoint.label}
    for name in ("stage", "step_in_stage", "tokens_in_stage"):
        made.pop(name, None)
        if checkpoint.stage:
            made[name] = getattr(checkpoint, name)
    return replace(scores, provenance=scores.provenance | {"sweep": made})


@dataclass(frozen=True)
class Held:
    """What a shard says about itself, without its scores.

    estimators: those it was measured with. answers: how they were made (samples, temperature, seed), None for none.
    texts: hashes of the texts and key tokens whose loss it has, None for none.
    """

    path: Path
    step: int
    tokens_seen: float | None
    estimators: frozenset[str]
    provenance: dict[str, Any]
    answers: dict[str, Any] | None = None
    texts: tuple[str, str] | None = None

    @classmethod
    def read(cls, path: Path) -> Held:
        """Raises StoreError when the shard cannot be read or does not hold exactly one checkpoint."""
        steps = read_steps(path)
        if len(steps) != 1:
            raise StoreError(f"{path} holds {len(steps)} checkpoints, and a shard holds one; move it away")
        ((step, tokens),) = steps.items()
        with reading(path) as file:
            provenance = read_provenance(file["provenance/json"].asstr()[0])
            drawn = read_provenance(file["answers/json"].asstr()[0]) if schema.has_answers(file) else None
            loss = file["perplexity"] if schema.has_perplexity(file) else None
            texts = loss and (schema.text(loss, "texts_hash"), schema.text(loss, "keys_hash").strip())
            return cls(path, step, tokens, frozenset(schema.measured(file)[0]), provenance, drawn, texts)

    @property
    def made(self) -> dict[str, Any]:
        return swept(self.provenance)

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint at the place that it was told last; name and run are empty where they are not known."""
        made = self.made
        staged = "stage" in made
        return Checkpoint(
            name=made.get("checkpoint", ""),
            source="",
            step=self.step,
            tokens_seen=self.tokens_seen,
            told_by=str(self.path),
            run=made.get("run", ""),
            label=made.get("label", ""),
            stage=made.get("stage", ""),
            step_in_stage=made["step_in_stage"] if staged else self.step,
            tokens_in_stage=made["tokens_in_stage"] if staged else self.tokens_seen,
        )

    def moved_to(self, checkpoint: Checkpoint) -> bool:
        """Whether the shard tells another place than the checkpoint has now. Tokens once told are not taken back."""
        then = self.checkpoint
        places = ((c.step, c.stage, c.step_in_stage) for c in (then, checkpoint))
        told = checkpoint.tokens_seen is not None or checkpoint.stage
        return len(set(places)) > 1 or bool(told and then.tokens_seen != checkpoint.tokens_seen)

    def same_checkpoint(self, step: int, provenance: dict[str, Any]) -> bool:
        """Whether a row of a results file is of the checkpoint that this shard is of, wherever each was placed."""
        row = Held(self.path, step, None, frozenset(), provenance).checkpoint
        return is_same(self.checkpoint, row)


def is_same(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether two are one checkpoint, by its own step, its name and its run, where both tell these."""
    named = not a.name or not b.name or a.name == b.name
    return named and a.step_in_stage == b.step_in_stage and same_run(a.run, b.run)


def same_run(a: str, b: str) -> bool:
    """ "ckpts" and "pretrain/ckpts" may be one; so may anything and what is not known."""
    return not a or not b or f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")
