"""The sweep: what is to do, who does it, and what came of it. One writer, whoever computes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from ...errors import ArgumentError
from ...probes import Codec, Probe, ProbeSet
from ..engine import check_probes
from ..estimators import as_asked, choose, spans_of
from ..finetune import Recipe, check_disjoint, lessons, read_recipe
from ..model import ModelError, has_tokenizer, load_tokenizer
from ..perplexity import KeyTokens, Texts, as_texts
from ..store import StoreError, check_writable, one_line, refresh, target_path
from ..tasks import Drawing
from .checkpoints import Checkpoint, find_checkpoints
from .placing import Placing, place
from .ray_workers import LOCAL, outcomes
from .shards import Held, ProbeSource, Shards, SweepError, same_weights
from .worker import MakeWork, Outcome, Setup, Worker

if TYPE_CHECKING:
    from ..engine import Progress
    from ..perplexity import Corpora

log = logging.getLogger(__name__)

REFRESH_SHARE = 0.02  # of the sweep's time that may go into bringing the results file up to date on the way

_ASKED = frozenset({"answers"})
_READ = frozenset({"perplexity"})
_TUNED = frozenset({"SFT probe"})

Told = Callable[[Outcome, int, int], None]


@dataclass(frozen=True)
class SweepResult:
    """path: the results file. done: steps scored now. skipped: scored before. failed: step -> reason, one line.

    names: step -> what its checkpoint is called, with its stage where there are several.
    """

    path: Path
    done: tuple[int, ...]
    skipped: tuple[int, ...]
    failed: dict[int, str]
    names: dict[int, str] = field(default_factory=dict, compare=False)


def sweep(
    checkpoints: str | PathLike[str] | Iterable[str | PathLike[str]],
    probes: Iterable[Probe] | ProbeSource | str | PathLike[str],
    output: str | PathLike[str],
    *,
    table: str | PathLike[str] | None = None,
    sharing: str = "auto",
    generate: bool = False,
    estimators: Iterable[str | Callable[..., Any]] | None = None,
    answers: bool = False,
    samples: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    texts: Corpora | Texts | None = None,
    lengths: Sequence[int] | None = None,
    key_tokens: KeyTokens | str | PathLike[str] | None = None,
    sft: str | PathLike[str] | Mapping[str, Any] | Recipe | None = None,
    tokenizer: Any = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
    replace_changed: bool = False,
    only: tuple[int, int] | None = None,
    ray: str | bool | None = None,
    progress: Progress | None = None,
    on_checkpoint: Told | None = None,
) -> SweepResult:
    """Score every checkpoint of a run on the same probes into one results file. Kill it when you like; call it again.

    Every finished checkpoint is an immutable shard in the folder `output`.shards; `output` is built from the shards and
    only ever replaced as a whole. Checkpoints that have a shard are skipped as long as their weights are the same.

    Args:
        checkpoints: folders, globs, folders of checkpoints, .gguf files, hub_id@revision, hub_id/folder@revision,
            TransformerLens labels ("pythia-70m@1000", "pythia-70m@*").
        probes: a ProbeSet or any iterable of Probe, a file that `ProbeSet.save` wrote, or the name of a set. They are
            frozen beside the shards.
        table: CSV with the columns checkpoint, step and, if known, tokens_seen, for what neither trainer_state.json nor
            names tell.
        sharing, generate, estimators: as in `score_heads`.
        answers: also let every checkpoint answer the probes, as `evaluate` does; samples, temperature and seed are its.
        texts, lengths, key_tokens: also measure every checkpoint's loss on texts, as `perplexity` does.
        sft: with `answers`, also fine-tune every checkpoint by this recipe and ask it again, as `sft_probe` does.
        tokenizer, dtype, device, trust_remote_code, allow_pickle: as in `load_model`; `tokenizer` is for all
            checkpoints, by default each one's own (the first one's where a checkpoint has none).
        replace_changed: score again what has other weights now than when it was scored, or lacks an estimator or the
            answers that are asked for; its old shard is set aside. Without it these are missing there (NaN), and a
            warning says so.
        only: (i, n) scores every n-th checkpoint from the i-th on (from 1), for job arrays; shards are written and
            `merge` makes the file.
        ray: True for a Ray cluster on this machine (or the one this process is connected to), or the address of one.
        progress: called with (probes done, probes in all, what is running).
        on_checkpoint: called with the `Outcome` of every checkpoint as it finishes, how many have, and of how many.

    A checkpoint that cannot be loaded or scored is noted with its reason and tried again next time; the others go on.

    Raises:
        CheckpointError: what is meant, or the step of a checkpoint, is not clear.
        SweepError: the output belongs to other probes, options or weights, or another sweep is at work there.
        StoreError: the output cannot be written. ProbeError, ValueError: the probes cannot be scored, or not with this
            `sharing`. ModelError: there is no tokenizer to build the probes with.
    """
    asked = None if estimators is None else as_asked(choose(estimators))
    if answers and generate:
        raise ArgumentError("answers=True and generate=True: the model answers once; take one of them")
    if sft is not None and not answers:
        raise ArgumentError("sft=... is for answers=True: what a model answers before and after it is fine-tuned")
    drawing = Drawing(samples, temperature, seed)
    found = find_checkpoints(checkpoints, table)
    options = Options(
        sharing,
        generate,
        asked,
        tokenizer,
        dtype,
        device,
        trust_remote_code,
        allow_pickle,
        drawing if answers else None,
        _texts(texts, lengths, key_tokens),
        None if key_tokens is None else KeyTokens.of(key_tokens),
        None if sft is None else read_recipe(sft),
    )
    address = None if ray is None or ray is False else LOCAL if ray is True else ray
    return run_sweep(
        found,
        _source(probes),
        output,
        options,
        replace_changed=replace_changed,
        only=only,
        ray=address,
        progress=progress,
        on_checkpoint=on_checkpoint,
    )


@dataclass(frozen=True)
class Options:
    """How every checkpoint is loaded, scored and, with `answers`, asked, with `sft` also once it is fine-tuned; the
    fields are arguments of `sweep`."""

    sharing: str = "auto"
    generate: bool = False
    estimators: Sequence[str | Callable[..., Any]] | None = None
    tokenizer: Any = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    allow_pickle: bool = False
    answers: Drawing | None = None
    texts: Callable[[Any], Texts] | None = None
    key_tokens: KeyTokens | None = None
    sft: Recipe | None = None


def _texts(texts: Corpora | Texts | None, lengths: Sequence[int] | None, keys: Any) -> Callable[[Any], Texts] | None:
    """tokenizer -> texts that are tokenised."""
    if texts is None:
        if lengths is not None or keys is not None:
            raise ArgumentError("lengths and key_tokens are for texts; give texts=...")
        return None
    return lambda tokenizer: as_texts(texts, tokenizer, lengths)


def run_sweep(
    found: Sequence[Checkpoint],
    source: ProbeSource,
    output: str | PathLike[str],
    options: Options,
    *,
    replace_changed: bool = False,
    only: tuple[int, int] | None = None,
    ray: str | None = None,
    progress: Progress | None = None,
    on_checkpoint: Told | None = None,
    make_work: MakeWork = Worker,
) -> SweepResult:
    """`sweep`, when checkpoints and probes are known. make_work: what does the work of one checkpoint."""
    mine = found if only is None else part(found, *only)
    target = target_path(output)
    if not mine:
        return SweepResult(target, (), (), {})
    chosen = choose(options.estimators)
    shards = Shards(target)
    spare = _spare_tokenizer(mine, options.tokenizer)
    with shards.claim(only):
        if only is None:
            check_writable(target)
        tokenizer = partial(load_tokenizer, spare, trust_remote_code=options.trust_remote_code)
        asked = shards.probes(source, tokenizer)
        texts = None if options.texts is None else options.texts(tokenizer())
        if texts is not None and options.key_tokens is not None:
            options.key_tokens.check(texts.documents)
        check_probes(asked, options.sharing, spans_of(chosen))
        if options.sft is not None:
            _check_recipe(options.sft, asked, load_tokenizer(spare, trust_remote_code=options.trust_remote_code))
        shards.adopt(asked)
        placing = place(found, shards, options.allow_pickle)
        shards.freeze(asked, source)
        sources = {checkpoint.source for checkpoint in mine}
        found = [checkpoint for checkpoint in placing.found if checkpoint.source in sources]
        further = ((_ASKED, options.answers), (_READ, texts), (_TUNED, options.sft))
        measured = frozenset(chosen).union(*(name for name, wanted in further if wanted))
        todo, skipped, lost = _sort_out(found, placing, shards, options, texts, measured, replace_changed)
        given = vars(options) | {"texts": texts}
        setup = Setup(asked, **given, spare=spare, threads=_threads(), alone=_decided(placing))
        keeper = _Keeper(shards, only is None, failed=lost)
        keeper.refresh()
        counted = _Counted(progress, len(todo), len(asked))
        try:
            with closing(_outcomes(todo, setup, make_work, ray, counted)) as results:
                for outcome in results:
                    keeper.keep(outcome)
                    counted.next()
                    if on_checkpoint is not None:
                        on_checkpoint(outcome, counted.finished, len(todo))
        except BaseException:
            keeper.try_refresh()  # what is done is in the file
            raise
        misfits = keeper.finish()
    wanted = {checkpoint.step for checkpoint in found}
    failed = keeper.failed | {step: why for step, why in misfits.items() if step in wanted}
    done, before = ([step for step in steps if step not in failed] for steps in (keeper.done, skipped))
    names = {checkpoint.step: f"{checkpoint.stage} {checkpoint.name}".strip() for checkpoint in found}
    return SweepResult(target, tuple(sorted(done)), tuple(before), dict(sorted(failed.items())), names)


def _check_recipe(recipe: Recipe, asked: ProbeSet, tokenizer: Any) -> None:
    """Refuse here, once, what `sft_probe` would refuse for every checkpoint."""
    codec = Codec(tokenizer)
    chat = all(probe.variant.endswith("-chat") for probe in asked)
    for seed in recipe.seeds:
        check_disjoint(lessons(recipe, seed, tokenizer, chat=chat), asked, codec)


def part(found: Sequence[Checkpoint], i: int, n: int) -> list[Checkpoint]:
    """Every n-th checkpoint from the i-th on, counted from 1: later checkpoints do not move the earlier ones."""
    if not 1 <= i <= n:
        raise SweepError(f"only: part {i} of {n} given; the parts of {n} are 1 to {n}")
    return list(found[i - 1 :: n])


def _source(probes: Iterable[Probe] | ProbeSource | str | PathLike[str]) -> ProbeSource:
    from ... import probes as room

    if isinstance(probes, ProbeSource):
        return probes
    if not isinstance(probes, (str, PathLike)):
        probe_set = ProbeSet.of(probes)
        return ProbeSource(lambda _: probe_set)
    if Path(probes).suffix == ".npz" or Path(probes).is_file():
        saved = ProbeSet.load(probes)
        return ProbeSource(lambda _: saved)
    name = os.fspath(probes)
    if name not in room.list_sets():
        sets = ", ".join(room.list_sets())
        raise SweepError(f"no probe set or file is called {name!r}; sets: {sets}; or give a saved .npz file")
    return ProbeSource(lambda tokenizer: room.build(name, tokenizer), {"set": name})


def _spare_tokenizer(found: Sequence[Checkpoint], given: Any) -> Any:
    """For building probes, and for checkpoints that have none: the one given, else the first that there is."""
    if given is not None:
        return given
    folders = (c.source for c in found if not Path(c.source).is_dir() or has_tokenizer(Path(c.source)))
    return next(folders, found[0].source if found else None)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


# What is to do


def _sort_out(
    found: Sequence[Checkpoint],
    placing: Placing,
    shards: Shards,
    options: Options,
    texts: Texts | None,
    wanted: frozenset[str],
    replace_changed: bool,
) -> tuple[list[Checkpoint], list[int], dict[int, str]]:
    """Checkpoints to score, steps that have their scores, and step -> reason of those that cannot be told any more."""
    todo: list[Checkpoint] = []
    kept: list[tuple[Checkpoint, Held]] = list(placing.left)
    skipped: list[int] = []
    lost: dict[int, str] = {}
    changed: list[Checkpoint] = []
    without: list[Checkpoint] = []
    for checkpoint in found:
        shard = placing.shards.get(checkpoint.source)
        if shard is None:
            todo.append(checkpoint)
            continue
        _refuse_other_options(shards.output, checkpoint, shard, options, texts)
        try:
            same = same_weights(checkpoint, shard.provenance, options.allow_pickle)
        except ModelError as error:
            lost[checkpoint.step] = f"{error} (its scores from before are kept)"
        else:
            if not same:
                changed.append(checkpoint)
                continue
            if not wanted <= _holds(shard):
                without.append(checkpoint)
                if replace_changed:
                    continue
            skipped.append(checkpoint.step)
        kept.append((checkpoint, shard))
    if changed and not replace_changed:
        raise SweepError(
            f"{shards.output} holds scores of other weights for checkpoint {_listed(changed)}; pass "
            "replace_changed=True to score them again (the old scores are set aside), or choose another output"
        )
    _warn_of_the_branch(changed, placing.left, shards.output)
    if replace_changed:
        changed += without
    elif without:
        missing = wanted - frozenset.intersection(*(_holds(placing.shards[c.source]) for c in without))
        log.warning(
            "%s keeps the scores of checkpoint %s as they are, without %s, which will be missing there (NaN); "
            "replace_changed=True (--replace-changed) scores them again",
            shards.output,
            _listed(without),
            ", ".join(sorted(missing)),
        )
    for checkpoint in changed:
        shards.set_aside(placing.shards[checkpoint.source].path)
    for checkpoint, shard in kept:
        if shard.moved_to(checkpoint):
            shards.retell(shard.path, checkpoint)
    return sorted(todo + changed, key=lambda c: c.step), skipped, lost


def _listed(checkpoints: Sequence[Checkpoint]) -> str:
    return ", ".join(f"{c.step} ({c.name})" for c in checkpoints[:5]) + (", ..." if len(checkpoints) > 5 else "")


def _warn_of_the_branch(changed: Sequence[Checkpoint], left: Sequence[tuple[Checkpoint, Held]], output: Path) -> None:
    """A training that went back and writes its checkpoints anew may have removed later ones, whose scores are here."""
    begin: dict[str, int] = {}
    for checkpoint in changed:
        begin.setdefault(checkpoint.stage, checkpoint.step)
    later = [str(c.step) for c, _ in left if c.stage in begin and c.step > begin[c.stage]]
    if later:
        log.warning(
            "%s keeps the scores of checkpoint %s, which come after replaced ones and are not among those named: if "
            "training went back, they are of the branch that was given up, and another output is free of them",
            output,
            ", ".join(later),
        )


def _holds(shard: Held) -> frozenset[str]:
    """Estimators, and "answers", "perplexity" and "SFT probe" where there are some."""
    further = ((_ASKED, shard.answers), (_READ, shard.texts), (_TUNED, shard.sft))
    return shard.estimators.union(*(name for name, there in further if there))


def _refuse_other_options(
    output: Path, checkpoint: Checkpoint, shard: Held, options: Options, texts: Texts | None
) -> None:
    made = shard.provenance
    dtype = (made.get("sweep") or {}).get("dtype", options.dtype)
    pairs = [
        ("sharing", options.sharing if made.get("sharing") == "alone" else made.get("sharing"), options.sharing),
        ("generate", "wu_count_generated" in shard.estimators, options.generate),
        ("dtype", dtype, options.dtype),
    ]
    if shard.answers and options.answers:
        pairs += [(name, shard.answers.get(name), now) for name, now in vars(options.answers).items()]
    if shard.texts and texts:
        keys = options.key_tokens.hash if options.key_tokens else ""
        pairs += zip(("texts", "key_tokens"), shard.texts, (texts.hash, keys), strict=True)
    if shard.sft and options.sft:
        pairs.append(("recipe", shard.sft, (options.sft.hash, options.sft.seeds)))
    for name, then, now in pairs:
        if then != now:
            raise SweepError(
                f"checkpoint {checkpoint.step} in {output} was scored with {name}={then!r}, and now {name}={now!r} is "
                "asked for; use the same, or another output"
            )


def _decided(placing: Placing) -> bool | None:
    """Whether the probes of the first checkpoint that was scored each ran alone: one file holds one or the other."""
    held = sorted([*placing.shards.values(), *(shard for _, shard in placing.left)], key=lambda shard: shard.step)
    return held[0].provenance.get("sharing") == "alone" if held else None


# Doing it


def _outcomes(
    todo: Sequence[Checkpoint], setup: Setup, make_work: MakeWork, ray: str | None, counted: _Counted
) -> Generator[Outcome, None, None]:
    if not todo:
        return
    if ray is not None:
        yield from outcomes(todo, setup, make_work, ray)
        return
    work = make_work(setup)
    for checkpoint in todo:
        yield work(checkpoint, counted.within(checkpoint))


@dataclass
class _Keeper:
    """The one writer: shards, notes of failures, and now and then the results file."""

    shards: Shards
    merges: bool
    failed: dict[int, str]
    done: list[int] = field(default_factory=list)
    _cost: float = 0.0  # seconds that the last refresh took
    _last: float = field(default_factory=time.monotonic)

    def keep(self, outcome: Outcome) -> None:
        step = outcome.checkpoint.step
        if outcome.scores is not None:
            self.shards.put(outcome.checkpoint, outcome.scores, outcome.beside)
            self.done.append(step)
        else:
            self.failed[step] = str(outcome.reason)
            self.shards.fail(outcome.checkpoint, self.failed[step])
        if time.monotonic() - self._last > self._cost / REFRESH_SHARE:
            self.try_refresh()

    def try_refresh(self) -> None:
        """A results file that cannot be written now is no reason to stop: every shard is there. Nor may whatever goes
        wrong here take the place of what ended the sweep; `finish` raises it."""
        start = time.monotonic()
        try:
            self.refresh()
        except Exception as error:
            self._last = time.monotonic()
            self._cost = self._last - start  # it may have waited long for a lock
            log.warning("%s", self._unwritten(error))

    def finish(self) -> dict[int, str]:
        try:
            return self.refresh()
        except StoreError as error:
            raise SweepError(self._unwritten(error)) from error

    def _unwritten(self, error: Exception) -> str:
        shards, output = quote(str(self.shards.folder)), quote(str(self.shards.output))
        return f"{one_line(error)}; all scores are in {shards}: headscope merge {shards} -o {output}"

    def refresh(self) -> dict[int, str]:
        if not self.merges:
            return {}
        start = time.monotonic()
        files = self.shards.files()
        misfits = refresh(files, self.shards.output)
        self._last = time.monotonic()
        self._cost = self._last - start if files else 0.0  # so that the file is there after the first checkpoint
        return misfits


class _Counted:
    """Progress over checkpoints x probes, from the engine's rows within a checkpoint."""

    def __init__(self, progress: Progress | None, checkpoints: int, probes: int) -> None:
        self.progress, self.total, self.probes = progress, checkpoints * probes, probes
        self.finished = 0
        self._say(0, "starting")

    def within(self, checkpoint: Checkpoint) -> Progress | None:
        if self.progress is None:
            return None
        self._say(0, f"checkpoint {checkpoint.step}: loading")
        return lambda done, of, what: self._say(done / max(of, 1), f"checkpoint {checkpoint.step}: {what}")

    def next(self) -> None:
        self.finished += 1
        self._say(0, "between checkpoints" if self.finished * self.probes < self.total else "done")

    def _say(self, share: float, what: str) -> None:
        if self.progress is not None:
            self.progress(int((self.finished + min(share, 1.0)) * self.probes), self.total, what)
