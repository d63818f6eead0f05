"""One answer as a model writes it: which token comes next, where it ends, and what then stays of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from ...probes import Codec, Probe

MORE = 8  # tokens that a probe without a task may write beyond its teacher-forced answer
_BEFORE = 4  # prompt tokens that are decoded with an answer, which so keeps the space that it may begin with


@dataclass(frozen=True, eq=False)
class Decoded:
    """One answer.

    Attributes:
        ids: int32 [n], tokens written, without the end token or the stop text.
        logprob: sum over all tokens written, those that ended the answer included, in nats, at temperature 1.
        end: "eos", "stop" (one of the task's texts) or "length".
        text: of the ids; and of a token of which only the end belongs to the stop text, the rest.
    """

    ids: np.ndarray
    logprob: float
    end: str
    text: str = ""


@dataclass(frozen=True)
class Budget:
    """How far a probe's answer may go: tokens, and texts that end it."""

    max_new_tokens: int
    stop: tuple[str, ...]


def budget(probe: Probe) -> Budget:
    """What the probe's task says; without one, its answer's length and some more, to the end of the line."""
    if probe.task is None:
        return Budget(probe.n_answer + MORE, ("\n",))
    return Budget(probe.task.max_new_tokens, probe.task.stop)


@dataclass(frozen=True)
class Asked:
    """How probes are answered.

    Attributes:
        codec: of the model's tokenizer.
        ends: token ids that end an answer.
        context: longest sequence that the model is made for, or None.
        samples: sampled answers beside the greedy one.
        temperature, seed: of the samples.
        budget: how far each probe's answer may go.
    """

    codec: Codec
    ends: set[int]
    context: int | None = None
    samples: int = 0
    temperature: float = 1.0
    seed: int = 0
    budget: Callable[[Probe], Budget] = budget

    def limit(self, probe: Probe) -> int:
        """Most tokens of the probe's answer: its budget, but never more than the model's context holds; at least 1."""
        room = self.budget(probe).max_new_tokens
        return room if self.context is None else max(1, min(room, self.context - probe.prompt_len))

    def answers(self, probe: Probe) -> list[Answer]:
        """The greedy answer to a probe, and then the samples, none begun."""
        return [Answer(probe, self, number) for number in range(self.samples + 1)]


@dataclass(eq=False)
class Answer:
    """One answer to a probe, as it grows.

    Args:
        probe: whose.
        asked: how it is answered.
        number: 0 for the greedy answer; samples count from 1. A sample draws from a stream of its own, which only the
            seed, the probe's id and this number decide.
    """

    probe: Probe
    asked: Asked
    number: int
    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    end: str = ""
    _stopped_at: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._most, self._stop = self.asked.limit(self.probe), self.asked.budget(self.probe).stop
        key = int.from_bytes(blake2b(self.probe.id.encode("utf-8", "surrogatepass"), digest_size=16).digest(), "big")
        self._draws = np.random.default_rng([self.asked.seed, key, self.number]) if self.number else None

    def draw(self) -> float | None:
        """The next number in [0, 1) of a sample's stream; None for the greedy answer."""
        return None if self._draws is None else float(self._draws.random())

    def take(self, token: int, logprob: float) -> bool:
        """Go on with a token; whether the answer has ended, by it or by a number that is not finite."""
        self.logprob += logprob
        if not np.isfinite(logprob):
            self.end = "length"
        elif token in self.asked.ends:
            self.end = "eos"
        else:
            self.ids.append(token)
            if (at := self._find_stop()) is not None:
                self._stopped_at, self.end = at, "stop"
            elif len(self.ids) >= self._most:
                self.end = "length"
        return bool(self.end)

    def done(self) -> Decoded:
        """The ended answer."""
        n, text = len(self.ids), self._text(len(self.ids))
        if self._stopped_at is not None:
            while n and len(self._text(n)) > self._stopped_at:
                n -= 1
            text = text[: self._stopped_at]
        return Decoded(np.array(self.ids[:n], np.int32), self.logprob, self.end, text)

    def _find_stop(self) -> int | None:
        """Where the first stop text begins in the text so far; it may lie across tokens."""
        if not self._stop:
            return None
        text = self._text(len(self.ids))
        return min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)

    def _text(self, n: int) -> str:
        before = self.probe.input_ids[max(0, self.probe.prompt_len - _BEFORE) : self.probe.prompt_len]
        return self.asked.codec.text_after(before.tolist(), self.ids[:n])


def choose(logits: Tensor, answers: Sequence[Answer]) -> list[tuple[int, float]]:
    """The next token of every answer and its log-probability, from logits [n, vocabulary].

    Greedy: the largest logit, of equal ones the lowest id. A sample: the token at which the distribution function, in
    float64 and in the order of ids, passes the number drawn.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    tokens = logits.argmax(dim=-1)
    drawn = {i: u for i, answer in enumerate(answers) if (u := answer.draw()) is not None}
    if drawn:
        rows = torch.tensor(list(drawn), device=logits.device)
        temperature = answers[0].asked.temperature
        up_to = (logits[rows].double() / temperature).softmax(dim=-1).cumsum(dim=-1)
        at = torch.tensor(list(drawn.values()), dtype=torch.float64, device=logits.device)[:, None] * up_to[:, -1:]
        found = torch.searchsorted(up_to, at, right=True)[:, 0]
        tokens[rows] = found.clamp(max=logits.shape[-1] - 1)
    logprobs = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(dim=-1)
    return list(zip(tokens.tolist(), logprobs.tolist(), strict=True))
