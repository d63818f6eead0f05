"""Sets of heads x probes through a model: beside shared prefixes where that is exact, else each set by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...probes import Probe
from ..engine import Answering, Asked, Decoded, Engine, Plan, PromptPass, Suffix, WholePass, answer_alone, plan
from ..model import Alteration, PrefixCache, altering, running
from .changing import Change, Changing, Heads
from .rows import PARTS, Repeated


@dataclass(frozen=True, eq=False)
class Answered:
    """One probe's answer rows: log-probabilities (nats) of its answer tokens and of `targets`, and which of the first
    are the most probable tokens; all [n_answer]."""

    logprob: np.ndarray
    target: np.ndarray
    correct: np.ndarray


class Watching(Alteration, Protocol):
    """An alteration that is told which probe is run, where that is one at a time."""

    probes: Repeated
    alone: int | None


def run_sets(
    engine: Engine,
    planned: Plan | None,
    probes: Sequence[Probe],
    sets: Sequence[Heads],
    change: Change,
    parts: Sequence[str],
    targets: Sequence[np.ndarray] | None = None,
) -> tuple[dict[tuple[int, int], Answered], list[list[tuple[int, int]]]]:
    """Every probe with every set of heads changed.

    What is changed behind a prefix leaves its keys as they are, so that all sets run beside it in common batches:
    exactly what separate runs give. With "context" among the parts every set needs prefixes of its own.

    Args:
        engine: inside the model's routing.
        planned: how the probes share prefixes; None: each is run alone.
        targets: of each probe, other tokens in the place of its answer's, whose log-probability is wanted too.

    Returns:
        (set, probe) -> what it answered; of each set the heads that were never moved, see `Changing.unmoved`.
    """
    found: dict[tuple[int, int], Answered] = {}
    unmoved: list[list[tuple[int, int]]] = []
    together = exact_beside_prefix(parts) and planned is not None
    engine.begin(_n_rows(planned, probes, 1 if together else len(sets), len(sets)))
    for first in [0] if together else range(len(sets)):
        some = sets if together else sets[first : first + 1]
        changing = Changing(Repeated(probes, len(some)), some, change, parts)
        for number, answered in answers_of(engine, planned, changing, targets, apart="question" in parts):
            v, i = divmod(number, len(probes))
            found[first + v, i] = answered
        unmoved += changing.unmoved()
    return found, unmoved


def write_answers(
    engine: Engine,
    planned: Plan | None,
    probes: Sequence[Probe],
    sets: Sequence[Heads],
    change: Change,
    parts: Sequence[str],
    asked: Asked,
) -> Iterator[tuple[int, int, str]]:
    """Let the model answer every probe by itself, with every set of heads changed.

    Args:
        engine: inside a routing for the longest answer. planned: exact. The others are as in `run_sets`.

    Yields:
        (set, probe, text).
    """
    together = exact_beside_prefix(parts) and planned is not None
    for first in [0] if together else range(len(sets)):
        some = sets if together else sets[first : first + 1]
        changing = Changing(Repeated(probes, len(some)), some, change, parts)
        engine.probes = changing.probes
        for number, (answer,) in _written(engine, planned, changing, asked):
            v, i = divmod(number, len(probes))
            yield first + v, i, answer.text
        changing.unmoved()  # what must not move is looked at here too


def _written(
    engine: Engine, planned: Plan | None, changing: Changing, asked: Asked
) -> Iterator[tuple[int, list[Decoded]]]:
    n = len(changing.probes.probes)
    if planned is None:
        for i in range(n):
            changing.alone = i
            with altering(changing):
                yield i, answer_alone(engine, changing.probes[i], asked)
        return
    cache, answering = PrefixCache(planned.capacity), Answering(engine, asked)
    apart = {PARTS[number] for number in changing.parts} != {"answer"}
    with altering(changing):
        for prefix in planned.prefixes:
            engine.prefill(prefix, cache)
            yield from answering.beside(_of_sets(prefix.suffixes, n, changing.probes.times, apart), cache)
        yield from answering.rest()


def _of_sets(suffixes: Sequence[Suffix], n: int, times: int, apart: bool) -> list[Suffix]:
    """Every suffix for every set, shortest first and a probe's side by side, where they may share rows."""
    return [
        replace(suffix, probe=v * n + suffix.probe, apart=v if apart else 0)
        for suffix in sorted(suffixes, key=lambda each: len(each.ids))
        for v in range(times)
    ]


def exact_beside_prefix(parts: Sequence[str]) -> bool:
    """Whether a change of these rows leaves a prefix's keys as they are."""
    return "context" not in parts


def watch(engine: Engine, planned: Plan | None, watching: Watching) -> None:
    """Run every probe once, for what is seen of it."""
    probes = watching.probes.probes
    engine.begin(_n_rows(planned, probes, 1, 1))
    for _ in answers_of(engine, planned, watching):
        pass


def answers_of(
    engine: Engine,
    planned: Plan | None,
    watching: Watching,
    targets: Sequence[np.ndarray] | None = None,
    apart: bool = False,
) -> Iterator[tuple[int, Answered]]:
    """Run all of `watching.probes` under it. Yields (number, what was answered).

    apart: probes that are there several times share no rows behind their prefix.
    """
    n, times = len(watching.probes.probes), watching.probes.times
    engine.probes = watching.probes
    wanted = [probe.answer_ids for probe in watching.probes.probes] if targets is None else targets
    if planned is None:
        for i in sorted(range(n), key=lambda i: -watching.probes[i].length):
            yield i, _alone(engine, watching, i, wanted[i])
        return
    cache = PrefixCache(planned.capacity)
    with altering(watching):
        for prefix in planned.prefixes:
            engine.prefill(prefix, cache)
            yield from _beside(engine, _of_sets(prefix.suffixes, n, times, apart), cache, lambda i: wanted[i % n])


def _beside(
    engine: Engine, waiting: list[Suffix], cache: PrefixCache, wanted: Callable[[int], np.ndarray]
) -> Iterator[tuple[int, Answered]]:
    """Suffixes of a prefix that is in the cache, in batches."""
    while waiting:
        batch = waiting[: engine.batch_size(waiting)]
        found = engine.retry(lambda batch=batch: _forward(engine, batch, cache, wanted))  # type: ignore[misc]
        if found is None:
            continue  # out of memory: the batch is smaller now
        del waiting[: len(batch)]
        yield from zip((suffix.probe for suffix in batch), found, strict=True)
        engine.tick(sum(len(suffix.ids) for suffix in batch), "probes")


def _forward(
    engine: Engine, batch: Sequence[Suffix], cache: PrefixCache, wanted: Callable[[int], np.ndarray]
) -> list[Answered]:
    this = PromptPass(batch, cache, engine.model.device)
    with running(this):
        logits = engine.model.forward(this.ids, this.positions, cache, this.answers)
    numbers = [suffix.probe for suffix in batch]
    return read(logits, [engine.probes[i].answer_ids for i in numbers], [wanted(i) for i in numbers])


def _alone(engine: Engine, watching: Watching, i: int, wanted: np.ndarray) -> Answered:
    """One probe by itself: in one forward, or in chunks where the engine says that it may be."""
    probe, watching.alone = engine.probes[i], i
    if (pieces := engine.in_pieces(probe.length)) is not None:
        prefix = plan([probe], "exact").prefixes[0]
        cache = PrefixCache(len(prefix.ids))
        with pieces, altering(watching):
            engine.prefill(prefix, cache)
            suffix = replace(prefix.suffixes[0], probe=i)
            return next(_beside(engine, [suffix], cache, lambda _: wanted))[1]

    def work() -> Answered:
        this = WholePass(probe, engine.model.device)
        tokens = torch.from_numpy(probe.input_ids.astype(np.int64))[None].to(engine.model.device)
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        with running(this), altering(watching):
            logits = engine.model.forward(tokens, positions, None, this.rows)
        return read(logits, [probe.answer_ids], [wanted])[0]

    found = engine.in_one(f"probe {probe.id!r}", probe.length, work, {})
    engine.tick(probe.length, "probes")
    return found


def read(logits: Tensor, answers: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> list[Answered]:
    """Logits [A, vocabulary] of the answer rows of several probes, one after the other, as each one's `Answered`."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    lse = logits.logsumexp(dim=-1)
    told, asked = (torch.from_numpy(np.concatenate(x).astype(np.int64)).to(logits.device) for x in (answers, wanted))
    columns = [logits.gather(-1, ids[:, None])[:, 0] - lse for ids in (told, asked)]
    columns.append(logits.argmax(dim=-1) == told)
    cuts = np.cumsum([len(ids) for ids in answers])[:-1]
    return [Answered(*each) for each in zip(*(np.split(x.cpu().numpy(), cuts) for x in columns), strict=True)]


def _n_rows(planned: Plan | None, probes: Sequence[Probe], prefills: int, sets: int) -> int:
    """Rows that go through the model, for progress."""
    if planned is None:
        return sets * sum(probe.length for probe in probes)
    behind = sum(len(suffix.ids) for prefix in planned.prefixes for suffix in prefix.suffixes)
    return prefills * (planned.n_tokens - behind) + sets * behind
