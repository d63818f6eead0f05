"""Runs a plan: every prefix once, in chunks; then its suffixes, in batches; evidence and logits on answer rows only."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, groupby
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ...errors import HeadscopeError
from ...probes import Probe
from ..evidence import STANDARD, Measure, ProbeEvidence, Spans
from ..model import Adapter, InPieces, ModelError, OutputWeights, PrefixCache, running
from .cuts import blocks, unit_of
from .measuring import MeasuringSuffixes, MeasuringWhole, measured_of
from .passes import LayerEvidence, PrefixPass, WholePass, without_spans
from .plan import Plan, Prefix, Suffix, plan
from .suffixes import SuffixPass, SuffixRows

log = logging.getLogger(__name__)

CHUNK = 4096  # prefill rows per forward; larger chunks cost memory, smaller ones speed
SUFFIX_ROWS = 4096  # rows of suffixes per forward
LOGITS = 1 << 27  # logits per forward: 512 MiB in float32
SMALLEST_CHUNK = 64

T = TypeVar("T")
Broken = tuple[np.ndarray, int, ProbeEvidence, Suffix]  # context, probe, evidence so far, and how it was run
Progress = Callable[[int, int, str], None]


class DoesNotFitError(HeadscopeError, ValueError):
    """A sequence that has to be run in one forward needs more memory than there is; the message says what fits."""


@dataclass
class Engine:
    """Runs probes through one model. Use inside `model.routed(...)`.

    Args:
        model: the adapted model.
        probes: the probes; plans refer to them by index.
        chunk, suffix_rows: prefill rows and rows of suffixes per forward. Halved, and the work tried again, when memory
            runs out; no probe is ever dropped.
        progress: called with (rows done, rows in all, what is running).
        spans: name -> where in a probe attention mass is measured.
        cut_alone: probes that run alone may be run in chunks, `preflight.may_be_cut` has found.
        topk: how many of the keys attended to most are kept for each row.
        measures: name -> what estimators measure besides.
        weights: what heads write to, for measures and estimators of it; None where it is not asked for or not known.
    """

    model: Adapter
    probes: Sequence[Probe]
    chunk: int = CHUNK
    suffix_rows: int = SUFFIX_ROWS
    progress: Progress | None = None
    spans: Mapping[str, Spans] = field(default_factory=lambda: STANDARD)
    cut_alone: bool = False
    topk: int = 0
    measures: Mapping[str, Measure] = field(default_factory=dict)
    weights: OutputWeights | None = None
    _done: int = field(default=0, init=False)
    _total: int = field(default=0, init=False)
    not_finite: dict[str, str] = field(default_factory=dict, init=False)  # probe id -> what of it is not finite

    def run(self, plan: Plan) -> Iterator[tuple[int, ProbeEvidence]]:
        """Yield (index of the probe, its evidence) for every probe of the plan, prefix by prefix."""
        self.begin(plan.n_tokens)
        cache = PrefixCache(plan.capacity)
        broken: list[Broken] = []
        for prefix in plan.prefixes:
            yield from self.run_prefix(prefix, cache, broken)
        yield from self.run_broken(broken, cache)

    def run_prefix(
        self, prefix: Prefix, cache: PrefixCache, broken: list[Broken]
    ) -> Iterator[tuple[int, ProbeEvidence]]:
        """Prefill a prefix, which stays in the cache, and run its suffixes; what is not finite is put to `broken`."""
        self.prefill(prefix, cache)
        own = {suffix.probe: suffix for suffix in prefix.suffixes}
        for i, evidence in self.branch(prefix, cache):
            if self.probes[i].id in self.not_finite:
                broken.append((prefix.ids[: own[i].context_len], i, evidence, own[i]))
            else:
                yield i, evidence

    def run_broken(self, broken: list[Broken], cache: PrefixCache) -> Iterator[tuple[int, ProbeEvidence]]:
        """Probes without finite evidence, each beside its own context alone: NaN behind it reaches what is shared.

        (A masked key has the weight 0, and 0 times NaN is NaN.) What goes on where a context lies that gave nothing by
        itself gives nothing either, and is not run.
        """
        keyed = sorted(broken, key=lambda each: (len(each[0]), each[0].tobytes()))
        hopeless: list[bytes] = []
        for key, group in groupby(keyed, key=lambda each: each[0].tobytes()):
            of_one = list(group)
            if any(key.startswith(other) for other in hopeless):
                yield from ((i, evidence) for _, i, evidence, _ in of_one)
                continue
            prefix = Prefix(of_one[0][0], 0, [suffix for *_, suffix in of_one])
            self._total += len(prefix.ids) + sum(len(suffix.ids) for suffix in prefix.suffixes)
            self.prefill(prefix, cache)
            yield from self.branch(prefix, cache)
            if all(self.probes[i].id in self.not_finite for _, i, *_ in of_one):
                hopeless.append(key)

    def run_alone(self, indices: Sequence[int]) -> Iterator[tuple[int, ProbeEvidence]]:
        """Every probe in a forward of its own, without a cache: for models whose state cannot be shared.

        One of more than `chunk` tokens is run in chunks where the model can be told how long it is. The longest first:
        a forward that cannot be cut either fits into memory or not, and that should be known early.

        Raises:
            DoesNotFitError: one does not, even with the memory that torch had kept given back.
        """
        self.begin(sum(self.probes[i].length for i in indices))
        waiting = sorted(indices, key=lambda i: -self.probes[i].length)
        while waiting and (pieces := self.in_pieces(self.probes[waiting[0]].length)) is not None:
            i = waiting.pop(0)
            with pieces:
                found = self.run_in_chunks(i)
            yield i, found
            self.tick(1, "probes")  # the last answer token predicts nothing
        runs = {i: partial(self.run_whole, self.probes[i]) for i in waiting}
        of_length = {self.probes[i].length: run for i, run in runs.items()}
        for i, run in runs.items():
            yield i, self.in_one(f"probe {self.probes[i].id!r}", self.probes[i].length, run, of_length)
            self.tick(self.probes[i].length, "probes")

    def in_pieces(self, length: int) -> AbstractContextManager[None] | None:
        """Inside, a sequence of `length` tokens may be run in chunks though it runs alone; None where it need not or
        cannot be.
        """
        if length <= self.chunk or not self.cut_alone or not isinstance(self.model, InPieces):
            return None
        self.forget_lengths()
        return self.model.in_pieces(length)

    def run_in_chunks(self, index: int) -> ProbeEvidence:
        """Run one probe by itself, its context in chunks. Inside `in_pieces` of its length."""
        prefix = plan([self.probes[index]], "exact").prefixes[0]
        prefix.suffixes[0] = replace(prefix.suffixes[0], probe=index)
        cache = PrefixCache(len(prefix.ids))
        self.prefill(prefix, cache)
        return next(self.branch(prefix, cache))[1]

    def forget_lengths(self) -> None:
        """A RoPE may remember the longest sequence that it has seen."""
        with running(PrefixPass()):
            self.model.reset_dynamic_rope()

    def in_one(self, what: str, length: int, work: Callable[[], T], others: Mapping[int, Callable[[], T]]) -> T:
        """A forward that cannot be cut, after any RoPE's memory of earlier ones. Out of memory, once more.

        Args:
            what, length: what is run, for the message, and its tokens.
            work: runs it.
            others: tokens -> what runs as many, longest first: tried, where they are fewer, to say how many fit.

        Raises:
            DoesNotFitError: it does not fit, even with the memory that torch had kept given back.
        """
        found = self._if_it_fits(work)
        if found is not None:
            return found
        fits = next((n for n, less in others.items() if n < length and self._if_it_fits(less) is not None), None)
        raise DoesNotFitError(
            f"{what} has {length} tokens and does not fit into the memory of {self.model.device}: {self.model.name} "
            "runs a sequence in one forward, which cannot be cut; "
            + ("nothing shorter that was tried fits either" if fits is None else f"{fits} tokens do fit")
            + "; give a shorter one, load the model in half precision, or take a device with more memory"
        )

    def _if_it_fits(self, work: Callable[[], T]) -> T | None:
        for _ in range(2):
            try:
                self.forget_lengths()
                return work()
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
            _free_memory()  # outside the handler: its traceback holds tensors
        return None

    def prefill(self, prefix: Prefix, cache: PrefixCache) -> None:
        """Bring the cache to hold the prefix: what it shares with the prefix before stays."""
        cache.length = prefix.keep
        while cache.length < len(prefix.ids):
            start = cache.length
            end = self._chunk_end(start, len(prefix.ids))
            if self.retry(lambda start=start, end=end: self._chunk(prefix.ids[start:end], start, cache)) is None:  # type: ignore[misc]
                continue  # out of memory: the chunk is smaller now, and writing it again is harmless
            cache.length = end
            self.tick(end - start, "haystack")

    def branch(self, prefix: Prefix, cache: PrefixCache) -> Iterator[tuple[int, ProbeEvidence]]:
        """Run all suffixes of a prefix that is in the cache, in batches, shortest first.

        Needles of one place come into one batch, where they may share rows, and in it those that see as much side by
        side.
        """
        waiting = sorted(prefix.suffixes, key=lambda t: (len(t.ids), t.graft_start if t.graft_len else 0))
        while waiting:
            batch = waiting[: self.batch_size(waiting)]
            batch.sort(key=lambda t: (len(t.ids), t.context_len, t.probe))
            found = self.retry(lambda batch=batch: self.run_suffixes(batch, cache))  # type: ignore[misc]
            if found is None:
                continue  # out of memory: the batch is smaller now
            del waiting[: len(batch)]
            for suffix, evidence in zip(batch, found, strict=True):
                yield suffix.probe, evidence
            self.tick(sum(len(suffix.ids) for suffix in batch), "probes")

    def _chunk_end(self, start: int, n: int) -> int:
        """Where the chunk from `start` ends: on a GPU at a multiple of a power of two, see `cuts`."""
        if self.model.device.type == "cpu":
            return min(start + self.chunk, n)
        return next(blocks(start, n, unit_of(self.chunk))).end

    def _chunk(self, ids: np.ndarray, start: int, cache: PrefixCache) -> Tensor:
        this = PrefixPass(cache, self.model.n_layers - 1, self._layer_by_layer(len(ids)), unit_of(self.chunk))
        with running(this):
            tokens = self._tensor(ids)[None]
            positions = torch.arange(start, start + len(ids), device=tokens.device)[None]
            return self.model.forward(tokens, positions, cache, positions.new_empty(0))

    def run_suffixes(self, suffixes: Sequence[Suffix], cache: PrefixCache) -> list[ProbeEvidence]:
        """Run a batch of suffixes beside the prefix in the cache."""
        own = [self.probes[suffix.probe] for suffix in suffixes]

        def measuring(rows: SuffixRows) -> MeasuringSuffixes:
            return MeasuringSuffixes(self.measures, suffixes, own, rows, self.weights)

        asked = measuring if self.measures else None
        batch = SuffixPass(suffixes, self.probes, cache, self.model.device, self.spans, self.topk, asked)
        with running(batch):
            logits = self.model.forward(batch.ids, batch.positions, cache, batch.answers)
        return self._collect(own, batch.evidence, logits)

    def run_whole(self, probe: Probe) -> ProbeEvidence:
        """Run one probe as one sequence."""
        measure = MeasuringWhole(self.measures, probe, self.weights) if self.measures else None
        this = WholePass(probe, self.model.device, self.spans, self.topk, measure)
        with running(this):
            # The last answer token predicts nothing, but a length-dependent RoPE counts it.
            tokens = self._tensor(probe.input_ids)[None]
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
            logits = self.model.forward(tokens, positions, None, this.rows)
        return self._collect([probe], this.evidence, logits)[0]

    def _collect(
        self, probes: Sequence[Probe], layers: dict[int, LayerEvidence], logits: Tensor
    ) -> list[ProbeEvidence]:
        """Join the layers' evidence and the logits, and cut them into probes."""
        answers = torch.from_numpy(np.concatenate([p.answer_ids for p in probes]).astype(np.int64)).to(logits.device)
        logits = logits.float()
        logprobs = (logits.gather(-1, answers[:, None])[:, 0] - logits.logsumexp(dim=-1)).cpu().numpy()
        correct = (logits.argmax(dim=-1) == answers).cpu().numpy()
        heads = max((found.argmax_key.shape[0] for found in layers.values()), default=0)
        shape = (self.model.n_layers, heads, len(answers))
        key, p_max = np.full(shape, -1, np.int32), np.full(shape, np.nan, np.float32)
        mass = np.full((len(self.spans), *shape), np.nan, np.float32)
        top_key = np.full((*shape, self.topk), -1, np.int32)
        top_p = np.full((*shape, self.topk), np.nan, np.float32)
        visible = np.zeros((*shape[:2], len(probes)), bool)
        for layer, found in layers.items():
            h = found.argmax_key.shape[0]
            key[layer, :h], p_max[layer, :h] = found.argmax_key.cpu().numpy(), found.p_max.float().cpu().numpy()
            mass[:, layer, :h], visible[layer, :h] = found.mass.float().cpu().numpy().transpose(2, 0, 1), found.visible
            top_key[layer, :h], top_p[layer, :h] = found.topk_key.cpu().numpy(), found.topk_p.float().cpu().numpy()
        cuts = np.cumsum([p.n_answer for p in probes])[:-1]
        parts = [np.split(x, cuts, axis=2) for x in (key, p_max, top_key, top_p)]
        absent = np.concatenate([without_spans(probe, self.spans) for probe in probes], axis=1)
        mass = np.where(absent[:, None, None], np.float32(np.nan), mass)
        masses = [dict(zip(self.spans, part, strict=True)) for part in np.split(mass, cuts, axis=3)]
        rows = [np.split(x, cuts) for x in (logprobs, correct)]
        measured = measured_of(self.measures, probes, layers, shape[:2])
        evidence = [
            ProbeEvidence(
                argmax_key=parts[0][i],
                p_max=parts[1][i],
                mass=masses[i],
                visible=visible[:, :, i],
                logprob=rows[0][i],
                correct=rows[1][i],
                topk_key=parts[2][i],
                topk_p=parts[3][i],
                measured=measured[i],
                circuits=None if self.weights is None else self.weights.circuits,
            )
            for i in range(len(probes))
        ]
        looked_at = {layer: found.argmax_key.shape[0] for layer, found in layers.items()}
        return [self._if_finite(each, probe.id, looked_at) for each, probe in zip(evidence, probes, strict=True)]

    def _if_finite(self, found: ProbeEvidence, probe: str, heads: Mapping[int, int]) -> ProbeEvidence:
        """The evidence as it is; where anything in it is not finite, none of it, and `not_finite` says why."""
        layer = next((n for n in sorted(heads) if np.isnan(found.p_max[n, : heads[n]]).any()), None)
        if layer is None and np.isfinite(found.logprob).all():
            self.not_finite.pop(probe, None)
            return found
        self.not_finite[probe] = "the model's logits are not finite" if layer is None else f"layer {layer} is NaN"
        return found.nothing()

    def batch_size(self, waiting: Sequence[Suffix]) -> int:
        """How many of the waiting suffixes, shortest first, fit one forward."""
        vocabulary = self.model.n_logits
        answers = 0
        for n, suffix in enumerate(waiting):
            answers += suffix.n_answer
            if n and ((n + 1) * len(suffix.ids) > self.suffix_rows or answers * vocabulary > LOGITS):
                return n
        return len(waiting)

    def retry(self, work: Callable[[], T]) -> T | None:
        """Run a forward; out of memory, halve what a forward holds and return None, so that the caller tries again."""
        try:
            return work()
        except RuntimeError as error:
            if not _out_of_memory(error) or max(self.chunk, self.suffix_rows) <= SMALLEST_CHUNK:
                raise
        _free_memory()  # outside the handler: its traceback holds tensors
        self.chunk = max(self.chunk // 2, SMALLEST_CHUNK)
        self.suffix_rows = max(self.suffix_rows // 2, SMALLEST_CHUNK)
        log.warning("out of memory: going on with %d tokens at a time", self.chunk)
        return None

    def _tensor(self, ids: np.ndarray) -> Tensor:
        return torch.from_numpy(ids.astype(np.int64)).to(self.model.device)

    def _layer_by_layer(self, rows: int) -> Callable[[], None] | None:
        """Progress inside a chunk of the haystack, which may take minutes."""
        if self.progress is None:
            return None
        report, done, total, layers = self.progress, self._done, self._total, count(1)

        def layer_done() -> None:
            report(done + rows * min(next(layers), self.model.n_layers) // self.model.n_layers, total, "haystack")

        return layer_done

    def begin(self, rows: int) -> None:
        """What is run now has so many rows, none of them done."""
        self._done, self._total = 0, rows

    def tick(self, rows: int, what: str) -> None:
        """So many rows more are done."""
        self._done += rows
        if self.progress is not None:
            self.progress(self._done, self._total, what)


def _free_memory() -> None:
    """Give back what torch has kept of forwards of other sizes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def not_finite(model: Adapter, what: str) -> ModelError:
    return ModelError(
        f"{model.name}: {what}; its weights hold NaN or overflow in {model.dtype}. Check the checkpoint, or load it in "
        "float32 or bfloat16"
    )


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
