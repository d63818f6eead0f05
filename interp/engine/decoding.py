"""Answers of the model's own: many probes at once, decoded in batches beside the prefix that they share."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError
from ...probes import Codec, Probe
from ..evidence import ProbeEvidence
from ..model import PrefixCache, routed_length, running
from .decoding_alone import answer_alone
from .engine import LOGITS, Broken, Engine
from .own_keys import OwnKeys, PromptPass, StepPass, WholePrompts
from .plan import Plan, Suffix, plan
from .writing import Answer, Asked, Decoded, choose

MANY = 8  # answers beside one prefix that are written by themselves
KEYS = 4  # keys of answers that are written together, for every row of suffixes that a forward has: a key is less


def decode(
    engine: Engine,
    planned: Plan | Sequence[int],
    *,
    codec: Codec,
    samples: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[tuple[int, list[Decoded]]]:
    """Let a model answer the prompts of an engine's probes, greedily and by sampling.

    The prompt is `probe.input_ids[:probe.prompt_len]`, run once for all its answers. An answer ends with an end token
    of the model, before one of the task's stop texts (decided on the decoded text), after the task's `max_new_tokens`,
    or where the model's context does. A probe without a task may write 8 tokens more than its own answer has, to the
    end of the line.

    A sample draws from a stream of its own, which the seed, the probe's id and its number decide, so it does not depend
    on what else is asked (but for rounding, where a draw falls on the border of two tokens).

    Args:
        engine: inside the model's routing, which must be for `longest_answered(model, probes)` tokens or more.
        planned: how prompts share prefixes, `plan(engine.probes, sharing)`; or the indices of probes that are each run
            alone, in the model's own cache, for models whose probes cannot share and as the measure of the others.
        codec: of the model's tokenizer.
        samples: sampled answers of each probe.
        temperature: logits are divided by it before sampling.
        seed: of the samples.

    Yields:
        (index of the probe, [greedy answer, then the samples]), as prefixes are done. An answer at which the model
        computes NaN ends there, with a `logprob` of NaN, and its probe is in `engine.not_finite`.

    Raises:
        ArgumentError: an argument out of range, or a routing for shorter sequences.
        DoesNotFitError: a prompt that has to be run in one forward does not fit into memory.
    """
    asked = _asked(engine, codec, samples, temperature, seed)
    return _planned(engine, planned, asked) if isinstance(planned, Plan) else _alone(engine, planned, asked)


def score_and_decode(
    engine: Engine,
    planned: Plan,
    *,
    codec: Codec,
    samples: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
) -> Iterator[tuple[int, ProbeEvidence | list[Decoded]]]:
    """`engine.run` and `decode` in one: answers are written beside the prefixes that evidence is read from.

    Of a grafted probe, whose own needle is not in its prefix, the prompt's prefix is run afterwards.

    Args:
        planned: of any sharing. The others are as in `decode`.

    Yields:
        For every probe (its index, its evidence) and (its index, its answers), in no order.

    Raises:
        What `decode` raises.
    """
    asked = _asked(engine, codec, samples, temperature, seed)
    answering, cache = Answering(engine, asked), PrefixCache(planned.capacity)
    exact = [[t for t in prefix.suffixes if not planned.grafted[t.probe]] for prefix in planned.prefixes]
    grafted = {t.probe for prefix in planned.prefixes for t in prefix.suffixes} - {t.probe for of in exact for t in of}
    engine.begin(planned.n_tokens + sum(answering.rows(t) for of_prefix in exact for t in of_prefix))
    not_scored, not_answered = list[Broken](), list[int]()
    for prefix, suffixes in zip(planned.prefixes, exact, strict=True):
        yield from engine.run_prefix(prefix, cache, not_scored)
        yield from _finite(answering.beside(suffixes, cache), not_answered)
    yield from _finite(answering.rest(), not_answered)
    yield from engine.run_broken(not_scored, cache)
    yield from _alone(engine, not_answered, asked)
    if grafted:
        yield from _planned(engine, plan(engine.probes, "exact").only(grafted), asked)


def _asked(engine: Engine, codec: Codec, samples: int, temperature: float, seed: int) -> Asked:
    if samples < 0 or seed < 0:
        raise ArgumentError(f"samples and seed must be 0 or more, got samples={samples} and seed={seed}")
    if not 0 < temperature < math.inf:
        raise ArgumentError(f"temperature must be a finite number above 0, got {temperature}; samples=0 is greedy")
    asked = Asked(codec, engine.model.ends, engine.model.context, samples, temperature, seed)
    longest, routed = max((_length(probe, asked) for probe in engine.probes), default=0), routed_length()
    if routed is not None and routed < longest:
        raise ArgumentError(
            f"answers reach {longest} tokens and the model is routed for {routed}; use model.routed({longest})"
        )
    return asked


def longest_answered(context: int | None, probes: Sequence[Probe], codec: Codec) -> int:
    """Tokens of the longest sequence that `decode` may run: what the model has to be routed for.

    Args:
        context: of the model, `Adapter.context`.
        probes: to be answered.
        codec: of the model's tokenizer.
    """
    asked = Asked(codec, set(), context)
    return max(_length(probe, asked) for probe in probes)


def _length(probe: Probe, asked: Asked) -> int:
    return max(probe.length, probe.prompt_len + asked.limit(probe))


def _planned(engine: Engine, planned: Plan, asked: Asked) -> Iterator[tuple[int, list[Decoded]]]:
    answering, broken = Answering(engine, asked), list[int]()
    of_prefixes = sum(len(prefix.ids) - prefix.keep for prefix in planned.prefixes)
    engine.begin(of_prefixes + sum(answering.rows(t) for prefix in planned.prefixes for t in prefix.suffixes))
    cache = PrefixCache(planned.capacity)
    for prefix in planned.prefixes:
        engine.prefill(prefix, cache)
        yield from _finite(answering.beside(prefix.suffixes, cache), broken)
    yield from _finite(answering.rest(), broken)
    yield from _alone(engine, broken, asked)


def _finite(found: Iterator[tuple[int, list[Decoded]]], broken: list[int]) -> Iterator[tuple[int, list[Decoded]]]:
    """NaN behind a probe reaches what it shares: which probes have answers that are not finite is put to `broken`."""
    for i, answers in found:
        if all(math.isfinite(answer.logprob) for answer in answers):
            yield i, answers
        else:
            broken.append(i)


class Answering:
    """Answers to probes, prefix by prefix; where one has few and is short, together with those of the next ones.

    A step costs much the same for one sequence as for ten, but for prefixes whose keys are worth reading once for all.
    """

    def __init__(self, engine: Engine, asked: Asked):
        self.engine, self.asked = engine, asked
        self._together = Together(engine, asked)

    def rows(self, suffix: Suffix) -> int:
        """How many its prompt and its answers have at most."""
        return len(prompt_of(suffix).ids) + _to_write(self.engine.probes[suffix.probe], self.asked)

    def beside(self, suffixes: Sequence[Suffix], cache: PrefixCache) -> Iterator[tuple[int, list[Decoded]]]:
        """The prefix of these is in the cache. Yields what is answered now, of these and earlier ones."""
        together, prompts = self._together, [prompt_of(suffix) for suffix in suffixes]
        if not prompts:
            return
        if not together.worth_it(prompts):
            yield from decode_beside(self.engine, prompts, cache, self.asked)
            return
        if not together.has_room(prompts):
            yield from together.write()
        together.add(prompts, cache)

    def rest(self) -> Iterator[tuple[int, list[Decoded]]]:
        """What is not answered yet."""
        yield from self._together.write()


class Together:
    """Answers to prompts of several prefixes, written at once. They copy what they see of their prefixes."""

    def __init__(self, engine: Engine, asked: Asked):
        self.engine, self.asked = engine, asked
        self._prompts = WholePrompts()
        self._logits: list[Tensor] = []

    def worth_it(self, prompts: Sequence[Suffix]) -> bool:
        return len(prompts) * (1 + self.asked.samples) < MANY and 2 * self._keys(prompts) <= self._room

    def has_room(self, prompts: Sequence[Suffix]) -> bool:
        return self._keys([*self._prompts.suffixes, *prompts]) <= self._room

    @property
    def _room(self) -> int:
        return KEYS * self.engine.suffix_rows

    def _keys(self, prompts: Sequence[Suffix]) -> int:
        """Keys of these prompts and of an answer to each, in a batch."""
        widths = (suffix.context_len + _width(self.engine, suffix, self.asked) for suffix in prompts)
        return max(widths, default=0) * len(prompts)

    def add(self, prompts: Sequence[Suffix], cache: PrefixCache) -> None:
        """Run them beside their prefix, which is in the cache."""
        while (ran := self.engine.retry(lambda: _prompted(self.engine, prompts, cache))) is None:
            pass
        self._prompts.add(ran[0])
        self._logits.append(ran[1])

    def write(self) -> Iterator[tuple[int, list[Decoded]]]:
        """Answers to all that was added."""
        prompts, logits = self._prompts, self._logits
        self._prompts, self._logits = WholePrompts(), []
        if not logits:
            return
        prompts.done()
        first, none = torch.cat(logits), PrefixCache(0)
        while (found := self.engine.retry(lambda: self._written(prompts, first, none))) is None:
            pass  # out of memory: fewer at once now, and what had been written is written again
        yield from _ticked(self.engine, prompts.suffixes, found, self.asked)

    def _written(self, prompts: WholePrompts, first: Tensor, none: PrefixCache) -> list[list[Decoded]]:
        return _write(self.engine, prompts, first, none, self.asked, self._room)


def _alone(engine: Engine, indices: Sequence[int], asked: Asked) -> Iterator[tuple[int, list[Decoded]]]:
    """Every probe by itself; the longest first, because a forward that cannot be cut fits or does not."""
    if not indices:
        return
    probes = engine.probes
    engine.begin(sum(probes[i].prompt_len + _to_write(probes[i], asked) for i in indices))
    for i in sorted(indices, key=lambda i: -probes[i].prompt_len):
        answers = answer_alone(engine, probes[i], asked)
        if not all(math.isfinite(answer.logprob) for answer in answers):
            engine.not_finite[probes[i].id] = "the model's logits are not finite"
        yield i, answers


def _to_write(probe: Probe, asked: Asked) -> int:
    """Tokens that a probe's answers have at most."""
    return asked.limit(probe) * (asked.samples + 1)


def _ticked(
    engine: Engine, suffixes: Sequence[Suffix], found: Sequence[list[Decoded]], asked: Asked
) -> Iterator[tuple[int, list[Decoded]]]:
    """(probe, answers), each told to be done."""
    for suffix, answers in zip(suffixes, found, strict=True):
        engine.tick(len(suffix.ids) + _to_write(engine.probes[suffix.probe], asked), "answers")
        yield suffix.probe, answers


def decode_beside(
    engine: Engine, prompts: Sequence[Suffix], cache: PrefixCache, asked: Asked
) -> Iterator[tuple[int, list[Decoded]]]:
    """Answer prompts whose prefix is in the cache, in batches, shortest first. The cache stays as it is."""
    waiting = sorted(prompts, key=lambda t: _width(engine, t, asked))
    while waiting:
        batch = waiting[: _batch_size(engine, waiting, asked)]
        found = engine.retry(lambda batch=batch: _decode_batch(engine, batch, cache, asked))  # type: ignore[misc]
        if found is None:
            continue  # out of memory: the batch is smaller now, and what it had written is written again
        del waiting[: len(batch)]
        yield from _ticked(engine, batch, found, asked)


def prompt_of(suffix: Suffix) -> Suffix:
    """The suffix to the last token of its prompt, whose row predicts the first token of the answer."""
    return _part(suffix, slice(0, len(suffix.ids) - suffix.n_answer + 1))


def _part(suffix: Suffix, rows: slice) -> Suffix:
    held = {name: getattr(suffix, name)[rows] for name in ("ids", "positions", "rotary", "limits")}
    return replace(suffix, **held, n_answer=1)


def _next(suffix: Suffix, token: int, written: int) -> Suffix:
    """The row of a token, the last of `written`, that follows a prompt."""
    last = _part(suffix, slice(-1, None))
    ids, ahead = np.array([token], np.int32), np.int32(written)
    return replace(last, ids=ids, positions=last.positions + ahead, rotary=last.rotary + ahead)


def _width(engine: Engine, suffix: Suffix, asked: Asked) -> int:
    """Keys of its own that a sequence has at its end."""
    return len(suffix.rotary) + asked.limit(engine.probes[suffix.probe])


def _batch_size(engine: Engine, waiting: Sequence[Suffix], asked: Asked) -> int:
    """How many of the waiting prompts, shortest first, are answered at once: as many as one forward has suffixes."""
    for n in range(1, len(waiting)):
        width = _width(engine, waiting[n], asked)
        if (n + 1) * width > engine.suffix_rows or (n + 1) * engine.model.n_logits > LOGITS:
            return n
    return len(waiting)


def _decode_batch(engine: Engine, suffixes: Sequence[Suffix], cache: PrefixCache, asked: Asked) -> list[list[Decoded]]:
    """Run prompts, and write all their answers."""
    prompt, logits = _prompted(engine, suffixes, cache)
    return _write(engine, prompt, logits, cache, asked, engine.suffix_rows)


def _prompted(engine: Engine, suffixes: Sequence[Suffix], cache: PrefixCache) -> tuple[PromptPass, Tensor]:
    """The pass of some prompts, and the logits [B, vocabulary] behind them."""
    prompt = PromptPass(suffixes, cache, engine.model.device)
    with running(prompt):
        return prompt, engine.model.forward(prompt.ids, prompt.positions, cache, prompt.answers)


def _begin(logits: Tensor, answers: Sequence[Sequence[Answer]]) -> list[tuple[int, Answer]]:
    """The first token of every answer; those that go on, with the number of their prompt."""
    going_on = []
    for begun in zip(*answers, strict=True):
        for b, (answer, (token, logprob)) in enumerate(zip(begun, choose(logits, list(begun)), strict=True)):
            if not answer.take(token, logprob):
                going_on.append((b, answer))
    return going_on


def _write(
    engine: Engine, prompt: PromptPass | WholePrompts, first: Tensor, cache: PrefixCache, asked: Asked, keys: int
) -> list[list[Decoded]]:
    """All answers to prompts, whose logits are `first`: as many at once as have `keys` keys of their own in all, the
    next one when one has ended."""
    model, suffixes = engine.model, prompt.suffixes
    answers = [asked.answers(engine.probes[suffix.probe]) for suffix in suffixes]
    waiting = deque(_begin(first, answers))
    width = max(_width(engine, suffix, asked) for suffix in suffixes)
    at_once = max(1, min(keys // width, LOGITS // model.n_logits))
    own = OwnKeys(prompt, min(at_once, len(waiting)), width)
    live: list[tuple[int, Answer]] = []
    while waiting or live:
        fresh = [waiting.popleft() for _ in range(min(len(own.held) - len(live), len(waiting)))]
        if fresh:
            own.start(len(live), [b for b, _ in fresh])
            live += fresh
        rows = [_next(suffixes[b], answer.ids[-1], len(answer.ids)) for b, answer in live]
        step = StepPass(rows, own, cache, model.device)
        with running(step):
            logits = model.forward(step.ids, step.positions, cache, step.answers)
        step.written()
        chosen = choose(logits, [answer for _, answer in live])
        ended = [answer.take(*each) for (_, answer), each in zip(live, chosen, strict=True)]
        going_on = [slot for slot, over in enumerate(ended) if not over]
        live = [live[going_on[i]] for i in own.keep(going_on)]
    return [[answer.done() for answer in of_one] for of_one in answers]
