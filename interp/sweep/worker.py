"""One checkpoint -> its scores, or the reason why there are none. The same code at home and on a Ray worker."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...probes import ProbeSet
from ..finetune import Recipe, sft_probe
from ..finetuned import SftProbe
from ..model import LoadedModel, ModelError, first_line, has_tokenizer, load_model
from ..perplexity import Perplexity
from ..results import HeadScores
from ..store import Beside
from ..tasks import Answers, Drawing
from .checkpoints import Checkpoint
from .shards import placed, stamp

if TYPE_CHECKING:
    from ..engine import Progress
    from ..perplexity import KeyTokens, Texts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What all checkpoints of a sweep have in common.

    tokenizer: for every checkpoint; None: each one's own. spare: for checkpoints without one. threads: torch's, the
    same in every worker, because the order of a sum depends on them. alone: as in `score_heads`, from the checkpoints
    that have their scores; None where there are none, and each worker's first checkpoint decides. answers: how many are
    drawn and how, as in `evaluate`; None where the model is not asked. texts: whose loss is measured too, and
    key_tokens of them, for LongPPL; None where it is not. sft: how it is fine-tuned before it is asked again; None
    where it is not.
    """

    probes: ProbeSet
    sharing: str
    generate: bool
    estimators: Sequence[str | Callable[..., Any]] | None
    dtype: str
    device: str
    tokenizer: Any
    spare: Any
    trust_remote_code: bool
    allow_pickle: bool
    threads: int
    answers: Drawing | None = None
    texts: Texts | None = None
    key_tokens: KeyTokens | None = None
    sft: Recipe | None = None
    alone: bool | None = None


@dataclass(frozen=True)
class Outcome:
    """scores, or the reason (one line) why there are none; seconds in all, and those of them spent on loading.

    beside: what else was measured: its answers, also once it was fine-tuned, and its loss on texts.
    """

    checkpoint: Checkpoint
    scores: HeadScores | None
    reason: str | None
    seconds: float
    loading: float
    beside: Beside = Beside()


class Work(Protocol):
    """What a sweep calls for every checkpoint."""

    def __call__(self, checkpoint: Checkpoint, progress: Progress | None = None) -> Outcome: ...


MakeWork = Callable[[Setup], Work]


class Worker:
    """Loads one checkpoint after another, into the same module where that is possible, and scores it."""

    def __init__(self, setup: Setup) -> None:
        import torch

        self.setup = setup
        self._alone = setup.alone
        self._loaded: LoadedModel | None = None
        if torch.get_num_threads() != setup.threads:
            torch.set_num_threads(setup.threads)

    def __call__(self, checkpoint: Checkpoint, progress: Progress | None = None) -> Outcome:
        """Whatever is wrong with the checkpoint is the outcome; only an interruption is raised."""
        start = time.monotonic()
        loading = 0.0
        try:
            before = stamp(checkpoint)
            loaded = self._load(checkpoint)
            loading = time.monotonic() - start
            if stamp(checkpoint) != before:
                raise ModelError(f"{checkpoint.name} was written to while it was loaded; try again when it is complete")
            loss = self._loss(loaded, progress)  # first: what is wrong with texts or lengths is known early
            scores, answers, sft = self._measure(loaded, checkpoint, progress)
            self._alone = scores.provenance["sharing"] == "alone"
            made = {"checkpoint": checkpoint.name, "dtype": self.setup.dtype, "stamp": before}
            scores = placed(replace(scores, provenance=scores.provenance | {"sweep": made}), checkpoint)
        except Exception as error:
            self._loaded = None  # half-loaded, or at fault itself: the next checkpoint gets a module of its own
            if os.environ.get("HEADSCOPE_DEBUG") == "1":
                log.exception("checkpoint %d failed", checkpoint.step)
            return Outcome(checkpoint, None, _reason(error), time.monotonic() - start, loading)
        beside = Beside(answers=answers, sft_probe=sft, perplexity=loss)
        return Outcome(checkpoint, scores, None, time.monotonic() - start, loading, beside)

    def _measure(
        self, loaded: LoadedModel, checkpoint: Checkpoint, progress: Progress | None
    ) -> tuple[HeadScores, Answers | None, SftProbe | None]:
        setup = self.setup
        how: dict[str, Any] = {"sharing": setup.sharing, "estimators": setup.estimators, "alone": self._alone}
        if setup.answers is None:
            from ..scoring import score_heads

            return score_heads(loaded, setup.probes, generate=setup.generate, progress=progress, **how), None, None
        from ..evaluating import evaluate

        answers = evaluate(loaded, setup.probes, **vars(setup.answers), progress=progress, **how)
        assert answers.scores is not None
        if setup.sft is None:
            return answers.scores, replace(answers, scores=None), None
        files = checkpoint.source if os.path.exists(checkpoint.source) else None
        sft = sft_probe(loaded, setup.probes, recipe=setup.sft, before=answers, files=files, progress=progress)
        return answers.scores, replace(answers, scores=None), sft

    def _loss(self, loaded: LoadedModel, progress: Progress | None) -> Perplexity | None:
        if self.setup.texts is None:
            return None
        from ..perplexity import perplexity

        return perplexity(loaded, self.setup.texts, key_tokens=self.setup.key_tokens, progress=progress)

    def _load(self, checkpoint: Checkpoint) -> LoadedModel:
        setup, used = self.setup, self._loaded
        self._loaded = None
        tokenizer = setup.tokenizer
        if tokenizer is None and Path(checkpoint.source).is_dir() and not has_tokenizer(Path(checkpoint.source)):
            tokenizer = setup.spare
        self._loaded = load_model(
            checkpoint.source,
            tokenizer=tokenizer,
            dtype=setup.dtype,
            device=setup.device,
            trust_remote_code=setup.trust_remote_code,
            allow_pickle=setup.allow_pickle,
            into=used,
        )
        return self._loaded


def _reason(error: Exception) -> str:
    """One line: our own messages as they are, others with their type."""
    ours = type(error).__module__.startswith("headscope.") or type(error) is ValueError
    return " ".join(str(error).split()) if ours else first_line(error)
