"""HeadMonitor: measures every few steps, writes, logs, and watches. What a training run may ask of it is all here."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from os import PathLike
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...errors import ArgumentError
from ...printable import printable
from ...probes import Codec, Probe, ProbeSet
from .. import store
from ..analysis import MARGIN, RATE, Regression, Watch, read_trajectory
from ..engine import check_probes
from ..estimators import chance, choose, spans_of
from ..levels import counting_level
from ..model import adapt, check_kind, preserve_training_state, rope_warnings, unwrapped
from ..perplexity import Corpora, Perplexity, ReadTexts, Texts, ahead_of_tokenizer, as_texts, check_context, perplexity
from ..results import CHANCE_COLUMNS, RETRIEVAL_THRESHOLD, HeadScores
from ..scoring import score_heads
from ..store import schema
from .ranks import agreed, everywhere, rank, together
from .scalars import scalars

log = logging.getLogger(__name__)

WAIT = 10.0  # seconds for the lock of a file from which a branch is to be set aside
UNKNOWN_LENGTH = 100  # measurements to plan for when nobody says how long the run will be
_AMP = {"bf16": torch.bfloat16, "fp16": torch.float16}


class HeadMonitor(TrainerCallback):
    """Scores a frozen probe set every few steps, appends to an HDF5 file, logs scalars, and watches for a regression.

    >>> probes = hs.probes.build("monitor", tokenizer)                       # 32 needles, one prefill of 2048 tokens
    >>> Trainer(..., callbacks=[hs.HeadMonitor(probes, "run.h5", every=500)])

    or in your own loop, under the autocast that your training forward uses:

    >>> monitor = hs.HeadMonitor(probes, "run.h5", model=model)
    >>> if step % 500 == 0: monitor.measure(step)
    >>> if monitor.should_stop: break

    In a Trainer it measures before the first step, every `every` steps and after the last one. The scalars go through
    the trainer's own `log`, so they are in `trainer.state.log_history` and in every tracker of `report_to`:
    heads/retrieval_heads (how many are above 0.1 and above chance), heads/retrieval_heads_plain (above 0.1, as the
    paper counts), heads/counting_level (the score from which they count; the highest where windows make heads differ),
    heads/leading (mean score of the 10 best), heads/initial (mean score of the heads that were retrieval heads at the
    first measurement), heads/nll and heads/nll_novel (nats per token), heads/exact_match, heads/drop (of the leading
    heads from the best measurement before), heads/seconds and heads/share_of_time (of all measurements, in the time
    since the run began). With probes of several lengths also heads/leading_4k and so on (the same heads at each
    length), heads/effective_length with _low and _high (tokens, see `HeadScores.effective_length`; never beyond the
    lengths probed), heads/target_over_shortest (score at the longest length over that at the shortest) and
    heads/nll_novel_short (at the shortest length: a rise is forgetting).

    Every measurement is tested against the best one before: the leading heads over all probes and at each length, the
    longest length over the shortest, the NLL of tokens that only the needle tells at the shortest length and over all.
    What is lost by more than `margin` is warned of, or ends the training. `rate` holds for the whole run and all of
    these tests together (`analysis.drop_alarm`).

    With texts, their loss is measured at the same steps, with the model in the same state, and lies beside the scores
    (group /perplexity); heads/texts_NAME is that of each corpus, in nats per token. It gives no alarms. Where it cannot
    be measured, or the file holds the loss on other texts, one warning says why, and the heads are measured as ever.

    Before its first step it says where the model's RoPE does not suit the longest probe (`model.rope_warnings`).

    The training goes on as if nothing had happened: see `training_state.preserve_training_state`.

    A failure never ends a training run: whatever goes wrong in a measurement (scores that are not finite, an attention
    that cannot be followed) is logged as a warning, once for each reason, and the next measurement is tried again.
    A file that another program holds is waited for some seconds; what is measured meanwhile stays in memory and is
    written with the next measurement, at the end of the training or of the program. Scores that the file does not take
    (a full disk, a lock that is held to the end) are saved in another, which the warning names.
    Arguments that cannot work are refused at once, when the monitor is made.

    A file that already ends with the step keeps it: a resumed run measures on from there, and says so. Where it holds
    later steps, training went back, and what was measured from that step on is of a branch that was given up: the file
    as it was is kept beside (`store.set_aside`), with a warning, and goes on from before the step.

    With several processes every one runs the same forwards (sharded models need that), and only rank zero writes,
    logs and decides. They meet before every measurement; where one does not come within `TOGETHER` seconds, because it
    measures at other steps or has no monitor, the others skip the measurement with a warning. Tested with two gloo
    processes on CPUs: DDP in a Trainer, and FSDP2 in a plain loop. FSDP1's wrapper is refused, with a warning;
    DeepSpeed ZeRO-3 and tensor parallelism were not tried.

    Args:
        probes: what to measure, a ProbeSet or any iterable of Probe; the same for the whole run.
            `hs.probes.build("monitor", tokenizer)` is made for it.
        path: the results file (SCHEMA.md), created or continued.
        every: steps between measurements in a Trainer.
        model: for `measure` in your own loop.
        texts: corpora as `hs.perplexity` takes them; they are read now, and tokenised at the first measurement, by the
            Trainer's processing_class or the tokenizer that `measure` is given. Or tokenised ones
            (`interp.perplexity.tokenise`), which need no tokenizer. In several processes all must have the same.
        lengths: context lengths in tokens for the texts, such as [1024, 4096]; not for tokenised ones.
        estimators: as in `score_heads`. What the file has and this run leaves out is NaN from here on.
        planned: how many measurements the whole run will have, over which the false-alarm rate is spread. Default: what
            the Trainer's max_steps say, 100 in a loop of your own.
        on_regression: "warn", or "stop" to end the training as well.
        rate: probability of one or more false alarms of any kind in the whole run; see `analysis.drop_alarm`.
        margin: share of their score that the leading heads may lose before it is a regression; also of the ratio, and
            of a token's probability: at .1 an NLL may rise by .105 nats.

    Attributes:
        regression: the leading heads over all probes, compared with the best measurement before, at the latest
            measurement, on rank zero; None before the second.
        regressions: all comparisons of the latest measurement, the same first; each has `what`, `fell` and `words`.
        should_stop: whether training should end ("stop" and any of them fell).
        perplexity: the loss on the texts at the latest measurement, an `hs.Perplexity`; None where there is none.

    Raises:
        TypeError, ValueError: an argument of the wrong kind or size.
        ProbeError: texts cannot be read.
        StoreError: the file cannot be written, is damaged, or holds another probe set, or the loss on other texts than
            those that are given tokenised.
    """

    def __init__(
        self,
        probes: ProbeSet | Iterable[Probe],
        path: str | PathLike[str],
        *,
        every: int = 500,
        model: nn.Module | None = None,
        estimators: Iterable[str | Callable[..., Any]] | None = None,
        planned: int | None = None,
        on_regression: str = "warn",
        rate: float = RATE,
        margin: float = MARGIN,
        texts: Corpora | Texts | None = None,
        lengths: Sequence[int] | None = None,
    ):
        probes = ProbeSet.of(probes)
        self._estimators = choose(estimators)
        check_probes(probes, spans=spans_of(self._estimators))
        if not isinstance(every, (int, np.integer)) or every < 1:
            raise ArgumentError(f"every must be a number of steps from 1 up, got {every!r}")
        if on_regression not in ("warn", "stop"):
            raise ArgumentError(f"on_regression must be 'warn' or 'stop', got {on_regression!r}")
        if model is not None:
            check_kind(model)
        self._texts, self._text_lengths = _checked(texts, lengths, model), lengths
        self.perplexity: Perplexity | None = None
        self.probes, self.path, self.every, self.model = probes, path, int(every), model
        self.on_regression = on_regression
        self.regression: Regression | None = None
        self.regressions: list[Regression] = []
        self.should_stop = False
        self._needles = np.array([probe.needle_id for probe in probes])
        self._lengths = np.array([probe.length for probe in probes])
        self._chance = np.array([chance(probe) for probe in probes])
        self._planned, self._rate, self._margin = planned, rate, margin
        self._watch = self._new_watch()
        self._alone: bool | None = None  # whether every probe runs alone: decided once, by the first measurement
        self._last: int | None = None  # latest step that was measured
        self._given_up: int | None = None  # from where on the file holds a branch that cannot be set aside yet
        self._backlog = store.Backlog(path)
        self._initial: np.ndarray | None = None  # bool [L, H]
        self._began: float | None = None
        self._spent = 0.0
        self._codec: Codec | None = None  # of the tokenizer at hand: its vocabulary is hashed once
        self._said: set[str] = set()
        self._trainer: Any = None
        if int(os.environ.get("RANK", 0)) == 0:  # other machines may not see the file
            self._check_file()

    # In a loop of your own

    def measure(
        self, step: int, model: nn.Module | None = None, *, tokens_seen: float | None = None, tokenizer: Any = None
    ) -> HeadScores | None:
        """Measure now.

        Args:
            step: the optimizer step; the step that the file ends with is skipped. An earlier one: training went back.
            model: the model; default: that of the constructor.
            tokens_seen: training tokens so far, for the file.
            tokenizer: checked against the probes' tokenizer when given; texts that are not tokenised yet need it.

        Returns:
            The scores, also on ranks that do not write; None when the step was skipped or the measurement failed.
        """
        if not self._try("meeting the other ranks", together, f"to measure step {step}", self._warn):
            return None
        if self._began is None:
            self._begin()
            if rank() == 0:
                self._try("looking at RoPE", self._look_at_rope, self.model if model is None else model)
        if self._last is not None and step < self._last:
            self._given_up = step if self._given_up is None else min(step, self._given_up)
        if self._given_up is not None:
            if rank() == 0:
                what = f"setting aside what {self.path} holds from step {self._given_up} on"
                self._try(what, self._go_back, step, self._given_up)
            self._agree()
            if self._given_up is not None:
                return None  # what is measured now does not belong to what the file holds
        if self._last is not None and step <= self._last:
            self._say(logging.INFO, f"{self.path} already holds step {self._last}; it is not measured again")
            return None
        texts = self._texts_on_all_ranks(tokenizer)
        scores = self._try("measuring the heads", self._score, self.model if model is None else model, tokenizer, texts)
        if scores is not None and rank() == 0:
            self._write(scores, step, tokens_seen)
            self._try("watching for a regression", self._judge, scores, step)
        self._agree()
        return scores

    # In a Trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._trainer = _caller_with(state)
        if self._planned is None and state.max_steps > 0:
            self._planned = math.ceil(state.max_steps / self.every) + 1
        self._began, self.should_stop = None, False  # `measure` begins, once all ranks are there
        self._at_step(args, state, control, kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if rank() == 0 and len(self._backlog):
            self._warn_of(self._backlog.finish())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._at_step(args, state, control, kwargs)

    def _at_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, given: dict[str, Any]
    ) -> None:
        tokenizer = given.get("processing_class")
        scores = self.measure(
            state.global_step,
            given.get("model"),
            # it stays 0 where the trainer does not count
            tokens_seen=state.num_input_tokens_seen or None,
            tokenizer=tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None,
        )
        if scores is not None:
            wanted = (
                control.should_log
            )  # logging clears it, and the trainer's own values of this step are still to come
            self._try("logging", self._log, scores)
            control.should_log = wanted
        control.should_training_stop |= self.should_stop

    # The parts of a measurement

    def _texts_on_all_ranks(self, tokenizer: Any) -> Texts | None:
        """Those whose loss is measured now; None: there are none, or one of the ranks could not measure it."""
        texts = None if self._texts is None else self._try("tokenising the texts", self._tokenised, tokenizer)
        told = everywhere("" if texts is None else texts.hash)  # more forwards on one rank would wait for ever
        if texts is None or len({*told}) > 1:
            if texts is not None:
                self._warn(
                    "the ranks have not the same texts, so their loss is not measured; give all of them the same"
                )
            return None
        misfit = self._try(f"reading {self.path}", self._misfit_of, texts) if rank() == 0 else None
        if misfit := agreed(misfit):
            if rank() == 0:
                self._warn(
                    f"the loss on the texts is not measured: {misfit} ({self.path}); give those, or another file"
                )
            return None
        return texts

    def _tokenised(self, tokenizer: Any) -> Texts:
        codec, texts = self._codec_of(tokenizer), self._texts
        if codec is None and not isinstance(texts, Texts):
            raise ArgumentError(
                "there is no tokenizer: give the Trainer a processing_class, measure(tokenizer=...), or tokenised texts"
            )
        assert texts is not None
        self._texts = found = as_texts(texts, codec, None if isinstance(texts, Texts) else self._text_lengths)
        return found

    def _misfit_of(self, texts: Texts) -> str:
        with suppress(store.StoreError):  # a file that cannot be read is told of when it is written
            return store.misfit_of_texts(self.path, texts.hash, texts.tokenizer_fp)
        return ""

    def _codec_of(self, tokenizer: Any) -> Codec | None:
        if tokenizer is None or self._codec is None or self._codec.tokenizer is not tokenizer:
            self._codec = None if tokenizer is None else Codec(tokenizer)
        return self._codec

    def _score(self, model: nn.Module | None, tokenizer: Any, texts: Texts | None) -> HeadScores:
        self.perplexity = None
        if model is None:
            raise ArgumentError("no model: give it to HeadMonitor(model=...) or to measure(step, model)")
        check_kind(model)
        model = unwrapped(model)
        codec = self._codec_of(tokenizer)
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the training step's kernels are not ours to be counted
        began = perf_counter()
        accelerator = getattr(self._trainer, "accelerator", None)
        with preserve_training_state(model, _AMP.get(getattr(accelerator, "mixed_precision", ""))):
            scores = score_heads(
                model,
                self.probes,
                alone=self._alone,
                estimators=self._estimators.values(),
                tokenizer=codec,
            )
            if texts is not None:
                self.perplexity = self._try("measuring the loss on the texts", partial(perplexity, model, texts))
        self._alone = scores.provenance["sharing"] == "alone"
        seconds = perf_counter() - began
        first = self._spent == 0
        self._spent += seconds
        # before the first step there is no training to have a share of
        share = None if first or self._began is None else self._spent / (perf_counter() - self._began)
        cost = {"seconds": seconds, "share_of_time": share}
        return replace(scores, provenance={**scores.provenance, "monitor": cost})

    def _write(self, scores: HeadScores, step: int, tokens_seen: float | None) -> None:
        self._warn_of(self._backlog.add(scores, step, tokens_seen, self.perplexity))
        self._last = step

    def _warn_of(self, unwritten: str | None) -> None:
        if unwritten is not None:
            self._warn(f"writing failed: {unwritten}; training goes on")

    def _judge(self, scores: HeadScores, step: int) -> None:
        if self._initial is None:
            self._initial = scores.retrieval > scores.counting_level()
        self.regression = self._watch.add(step, scores)
        self.regressions = self._watch.regressions
        fell = [regression for regression in self.regressions if regression.fell]
        if not fell:
            return
        if self.on_regression == "stop":
            self.should_stop = True
        also = f"; also: {', '.join(regression.what for regression in fell[1:])}" if fell[1:] else ""
        log.warning("step %d: %s%s", step, printable(fell[0].words), also)

    def _log(self, scores: HeadScores) -> None:
        if self._trainer is None:
            raise RuntimeError("no trainer was found among the callers, so its trackers cannot be reached")
        more = dict(scores.provenance["monitor"])
        if self._initial is not None and self._initial.any():
            more["initial"] = float(scores.retrieval[self._initial].mean())
        if self.regression is not None:
            more["drop"] = self.regression.drop
        if self.perplexity is not None:
            more |= {f"texts_{corpus}": nll for corpus, nll in self.perplexity.by_corpus.items()}
        self._trainer.log(scalars(scores, more))

    # State of the run

    def _check_file(self) -> None:
        store.check_writable(self.path)
        if not store.target_path(self.path).exists():
            return
        with store.reading(self.path) as file:
            held = schema.text(file, "probe_set_hash")
        if held != self.probes.hash:
            raise store.StoreError(
                f"{self.path} holds scores of the probe set {held[:12]}, and these probes are {self.probes.hash[:12]}; "
                "give the probes that the run began with (keep them with ProbeSet.save; another tokenizer or chat "
                "template makes other probes), or another file"
            )
        if isinstance(self._texts, Texts) and (misfit := self._misfit_of(self._texts)):
            raise store.StoreError(
                f"{self.path} does not take the loss on these texts: {misfit}; give those, or another file"
            )

    def _begin(self) -> None:
        self._began, self._spent, self.should_stop = perf_counter(), 0.0, False
        self._watch = self._new_watch()
        if rank() == 0:
            self._try(f"reading {self.path}", self._read_history)
        self._agree()

    def _new_watch(self) -> Watch:
        return Watch(
            self._needles,
            planned=UNKNOWN_LENGTH if self._planned is None else self._planned,
            lengths=self._lengths,
            chance=self._chance,
            rate=self._rate,
            margin=self._margin,
        )

    def _look_at_rope(self, model: nn.Module | None) -> None:
        config: Any = getattr(unwrapped(model), "config", None)
        if hasattr(config, "get_text_config"):
            for words in rope_warnings(config.get_text_config(decoder=True), int(self._lengths.max())):
                self._warn(words)

    def _read_history(self) -> None:
        """What the file already holds is part of the run: as reference, and in the count of looks."""
        if not store.target_path(self.path).exists():
            return
        self._alone = store.runs_alone(self.path)
        run = read_trajectory(self.path)
        for step, scores, nll in zip(run.steps, run.scores, run.nll["nll_novel"], strict=True):
            self._watch.add(int(step), scores, nll)
        probes = {"needle_id": self._needles, **dict(zip(CHANCE_COLUMNS, self._chance.T, strict=True))}
        level = counting_level(~np.isnan(run.scores[0]), probes, RETRIEVAL_THRESHOLD)
        self._last, self._initial = int(run.steps[-1]), run.maps[0] > level

    def _go_back(self, step: int, first: int) -> None:
        last = self._last
        self._warn_of(self._backlog.finish())
        beside = store.set_aside(self.path, first, timeout=WAIT)
        self._last = self._initial = self.regression = self._given_up = None
        self.regressions = []
        self._watch = self._new_watch()
        self._read_history()
        log.warning(
            "training goes on at step %d, but %s held measurements up to step %s, of a branch that was given up: the "
            "file as it was is kept as %s, and step %d is measured anew",
            step,
            printable(self.path),
            last,
            printable(beside),
            step,
        )

    def _agree(self) -> None:
        """Every rank skips and stops when rank zero does."""
        said = agreed((self._last, self.should_stop, self._alone, self._given_up))
        self._last, self.should_stop, self._alone, self._given_up = said

    def _try(self, what: str, work: Any, *arguments: Any) -> Any:
        try:
            return work(*arguments)
        except Exception as error:  # anything may go wrong here; a training run is worth more than a measurement
            self._warn(f"{what} failed: {store.one_line(error)}; training goes on")
            return None

    def _warn(self, words: str) -> None:
        self._say(logging.WARNING, words)

    def _say(self, level: int, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            log.log(level, "%s", printable(words))


def _checked(
    texts: Corpora | Texts | None, lengths: Sequence[int] | None, model: nn.Module | None
) -> Texts | ReadTexts | None:
    """Texts, as far as they can be known before there is a tokenizer."""
    if texts is None:
        if lengths is not None:
            raise ArgumentError("lengths are for texts; give texts=...")
        return None
    found = ahead_of_tokenizer(texts, lengths)
    if model is not None:
        check_context(adapt(model), max(found.lengths if isinstance(found, Texts) else lengths or ()))
    return found


def _caller_with(state: TrainerState) -> Any:
    """The trainer that holds this state. A callback is not handed its trainer, but it is always called by one."""
    frame = sys._getframe()
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        found = frame.f_locals.get("self")
        if getattr(found, "state", None) is state and callable(getattr(found, "log", None)):
            return found
    return None
