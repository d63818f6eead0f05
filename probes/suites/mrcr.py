"""MRCR: which of several replies to the same request is meant? OpenAI's and DeepMind's wording, texts of our own.

DeepMind's is arXiv 2409.12640 and eval_hub/mrcr_v2 (Apache-2.0), without its examples in front, which a model that is
compared with itself does not need; OpenAI's is the data card of openai/mrcr (MIT). A user's copy of OpenAI's data is
read by mrcr_file.py, and its tasks are `mrcr_2_file` and so on: the others are never OpenAI's text.

The transcript is text of one message, with a chat template too, as in DeepMind's script: "User: ... Assistant: ...".
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial

import numpy as np

from ..passage import Passage
from ..suite import TOGETHER, Draw, FromFile, Growing, Suite, SuiteTask
from .mrcr_file import missing, read_mrcr, ready
from .mrcr_passage import dialogue
from .replies import Request, a_reply, a_request

NEEDLES = (2, 4, 8)
ALIKE = 0.6  # of difflib's ratio; less is "another reply"
LINES = (3, 8)  # of a reply, beside its opening and its closing: 50 to 150 tokens
ROOM = 64  # tokens of the length for a line of every needle, or of four; replies are shorter where that is not there
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
NTH = {1: "st", 2: "nd", 3: "rd"}
HASH = string.ascii_lowercase + string.digits  # published ones have capitals, which some tokenizers cannot spell


@dataclass(frozen=True)
class Wording:
    """request: what the user writes; last: the last turn, from hash, number from 1 and request; size of the hash."""

    request: Callable[[Request], str]
    last: Callable[[str, int, Request], str]
    size: int
    style: bool


WORDINGS = {
    "openai": Wording(
        lambda asked: f"write a {asked.format} about {asked.topic}",
        lambda hash, nth, asked: (
            f"Prepend {hash} to the {nth}{NTH.get(nth, 'th')} "
            f"(1 indexed) {asked.format} about {asked.topic}. Do not include any other text in your response."
        ),
        10,
        style=False,
    ),
    "deepmind": Wording(
        lambda asked: f"Write a {asked.format} about {asked.topic} in {asked.style} style.",
        lambda hash, nth, asked: (
            f"Prepend {hash} to the {ORDINALS[nth - 1]} {asked.format} about {asked.topic} in a "
            f"{asked.style} style. Do not include any other text in your response."
        ),
        12,
        style=True,
    ),
}


@dataclass(frozen=True)
class Turn:
    """A request and its reply. place: where in the transcript, from 0 to 1, whatever its length."""

    request: Request
    reply: str
    place: float


@dataclass
class Transcript:
    """Turns, drawn in the order in which a transcript grows: the needles, then others.

    Every other of those belongs to a further set of needles, as long as there are fewer sets than items that share the
    transcript; one that is not full is only in the way. What is left asks for what no set asks for: a third of it in
    the format of a set, a third about its topic.
    """

    rng: np.random.Generator
    needles: int
    style: bool
    lines: tuple[int, int]
    sets: list[Request] = field(init=False)
    turns: list[Turn] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.sets = []
        while len(self.sets) < TOGETHER:
            if (request := a_request(self.rng, self.style)) not in self.sets:
                self.sets.append(request)

    def first(self, n: int) -> list[Turn]:
        """The first n turns drawn, in the order of the transcript. The same for every history of calls."""
        while len(self.turns) < n:
            request = self._request(len(self.turns))
            lines = int(self.rng.integers(self.lines[0], self.lines[1] + 1))
            self.turns.append(Turn(request, self._reply(request, lines), float(self.rng.random())))
        return sorted(self.turns[:n], key=lambda turn: turn.place)

    def full(self, n: int) -> int:
        """How many sets are complete in the first n turns."""
        return min(TOGETHER, 1 + (n - self.needles + 1) // 2 // self.needles)

    def _request(self, at: int) -> Request:
        if at < self.needles:
            return self.sets[0]
        later, single = divmod(at - self.needles, 2)
        if not single and (index := 1 + later // self.needles) < TOGETHER:
            return self.sets[index]
        while True:
            request, near = a_request(self.rng, self.style), self.sets[int(self.rng.integers(TOGETHER))]
            kind = int(self.rng.integers(3))
            if kind < 2:
                request = Request(
                    near.format if kind == 0 else request.format,
                    near.topic if kind == 1 else request.topic,
                    request.style,
                )
            if request not in self.sets:
                return request

    def _reply(self, request: Request, lines: int) -> str:
        siblings = [turn.reply for turn in self.turns if turn.request == request and request in self.sets]
        while True:
            reply = a_reply(self.rng, request, lines, self.used)
            if all(SequenceMatcher(None, reply, other).ratio() < ALIKE for other in siblings):
                return reply


def _item(needles: int, draw: Draw) -> Growing:
    """The items that share a transcript ask for different replies, of different sets where there are several."""
    wording = WORDINGS[draw.options["wording"]]
    most = max(2, min(LINES[1], draw.length // (ROOM * max(4, needles))))
    order, shift = draw.shared.permutation(needles).tolist(), int(draw.shared.integers(TOGETHER))
    transcript = Transcript(draw.shared, needles, wording.style, (min(LINES[0], most - 1), most))
    hash = "".join(HASH[i] for i in draw.own.integers(len(HASH), size=wording.size))

    def make(n: int) -> Passage:
        turns = transcript.first(needles + n)
        asked = transcript.sets[(shift + draw.turn // needles) % transcript.full(needles + n)]
        instance = order[draw.turn % needles]
        return dialogue(
            [(wording.request(turn.request), turn.reply) for turn in turns],
            matching=wording.request(asked),
            needles=needles,
            instance=instance,
            hash=hash,
            question=wording.last(hash, instance + 1, asked),
            key=f"{asked.format} {asked.topic} {instance + 1}".replace(" ", "-"),
        )

    return Growing(make)


SUITE = Suite(
    name="mrcr",
    description="MRCR: which of 2, 4 or 8 replies to the same request is meant?",
    tasks={
        f"mrcr_{n}": SuiteTask(f"A transcript of our own in which {n} requests are the same.", partial(_item, n))
        for n in NEEDLES
    },
    from_file={
        f"mrcr_{n}_file": FromFile(
            SuiteTask(f"OpenAI's transcripts with {n} needles; needs --mrcr-file.", ready=partial(ready, n)),
            f"mrcr_{n}",
            partial(missing, n),
        )
        for n in NEEDLES
    },
    lengths=(4096, 8192),
    items=8,
    options={"wording": tuple(WORDINGS), "mrcr_file": read_mrcr},
)
