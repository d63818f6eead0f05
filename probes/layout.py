"""Lays an item into a haystack at a length and a depth, and builds the probe.

    head | haystack[:cut]  needle  haystack[cut:room] | "\\nQuestion: ... Answer:" | answer
                           graft                        question_start              prompt_len

The needle is inserted where a sentence starts, or else a line, a clause or a word: the first of these that is near the
depth asked for (`depth_tolerance`). It has the leading space of a sentence: its ids are the same at every depth, and
the same as those of an answer that repeats it. Taking the graft out leaves a prefix of the haystack's stream, so all
probes of a set can share one prefill. Ids are joined first; then the tokenizer is asked whether it would cut the joined
text the same way, and if not, the next place is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .alignment import align, classify
from .depth import depth_tolerance
from .errors import AlignmentFailed, DepthOutOfRange, JoinNotCanonical, LengthTooShort, NeedleLeak
from .frame import Frame
from .hashing import short_hash
from .item import Item
from .probe import Probe, Span
from .stream import Stream
from .tokens import Codec, Ids, squash

BREAKS = ("\n", " ...\n")  # between context and question; the second where a tokenizer fuses "." and newline
MIN_CONTEXT = 32  # haystack tokens
MAX_TRIES = 64  # places of a kind for a needle, nearest first
MAX_SHORTER = 8  # tokens given up when no exact length can be had


@dataclass(frozen=True)
class Insert:
    """The ids that go into the haystack, and which of them are the needle and its rivals."""

    ids: tuple[int, ...]
    seams: tuple[int, ...]  # where its sentences meet
    needle: tuple[int, int]
    rivals: tuple[tuple[int, int], ...]

    def shifted(self, start: int) -> list[tuple[int, int]]:
        """Token ranges of the needle and then its rivals, when the insert begins at `start`."""
        return [(start + first, start + last) for first, last in (self.needle, *self.rivals)]


def joined(*parts: Ids) -> NDArray[np.int32]:
    """The parts end to end."""
    return np.concatenate([np.asarray(part, dtype=np.int32) for part in parts])


def nearest(places: NDArray[np.int64], target: float, shift: float) -> list[int]:
    """The places within `shift` of the target, nearest first."""
    near = places[np.abs(places - target) <= shift]
    found: list[int] = near[np.argsort(np.abs(near - target), kind="stable")[:MAX_TRIES]].tolist()
    return found


class Layout:
    """Everything the probes of a set have in common: tokenizer, frame, haystack stream, seed."""

    def __init__(self, codec: Codec, frame: Frame, stream: Stream, seed: int) -> None:
        self.codec, self.frame, self.stream, self.seed = codec, frame, stream, seed
        self.head = np.asarray(frame.head, dtype=np.int32)
        self.haystack_id = short_hash(self.head.tobytes(), stream.ids.tobytes())
        self._text = squash(stream.text)

    def place(self, item: Item, *, length: int, depth: float) -> Probe:
        """The probe of exactly `length` tokens with the needle near `depth`: within `depth_tolerance`.

        Where no exact length is canonical the probe is up to 8 tokens shorter; `Probe.length` is always the true one.

        Raises:
            DepthOutOfRange, LengthTooShort, NeedleLeak, JoinNotCanonical, AlignmentFailed.
        """
        if not 0.0 <= depth <= 1.0:
            raise DepthOutOfRange(f"depth is {depth}; give a number from 0 (start of the context) to 1 (end).")
        self.check_leak(item)
        tried = False
        for insert, cut, room, question, answer in self._attempts(item, length, depth):
            tried = True
            probe = self.grafted(item, insert, cut, room, question, answer, depth_nominal=depth, length=length)
            if probe is not None:
                return probe
        raise JoinNotCanonical(
            f"{item.key}: near depth {depth} of a context of {length} tokens, {self.codec.name} "
            + ("would cut needle, haystack and question differently where they meet" if tried else "begins no token")
            + f", at every sentence, line, clause and word of the haystack {self.stream.name!r}. Use another haystack, "
            "another depth or a longer length."
        )

    def grafted(
        self,
        item: Item,
        insert: Insert,
        cut: int,
        room: int,
        question: Ids,
        answer: Ids,
        *,
        depth_nominal: float | None = None,
        length: int | None = None,
    ) -> Probe | None:
        """The probe with the insert at `cut` of `room` haystack tokens; None where its joins are not canonical.

        depth_nominal, length: what was asked for; by default what it has. Raises AlignmentFailed.
        """
        haystack = self.stream.ids[:room]
        ids = joined(self.head, haystack[:cut], insert.ids, haystack[cut:], question, answer)
        start = len(self.head) + cut
        end, question_start = start + len(insert.ids), len(self.head) + room + len(insert.ids)
        seams = (start, end, *(start + seam for seam in insert.seams), question_start, len(ids) - len(answer))
        if not all(self.codec.is_canonical(ids, seam) for seam in seams):
            return None
        needle, *rivals = insert.shifted(start)
        depth = cut / max(1, room)
        return self.probe(
            item,
            ids,
            question_start=question_start,
            n_answer=len(answer),
            needle=needle,
            rivals=rivals,
            depth=depth,
            depth_nominal=depth if depth_nominal is None else depth_nominal,
            length=len(ids) if length is None else length,
            graft=(start, end),
        )

    def check_leak(self, item: Item) -> None:
        """Raise NeedleLeak unless the value is in the needle once and nowhere else."""
        value = squash(item.value)
        inserted = squash(" ".join((*item.before, item.needle, *item.after)))
        places = {
            f"the haystack {self.stream.name!r}": self._text.count(value),
            "the question": squash(self.frame.ask(item.question, item.answer_prefix)).count(value),
            "the inserted text": inserted.count(value) - 1,
        }
        for place, count in places.items():
            if count:
                raise NeedleLeak(
                    f"{item.key}: {item.value!r} is in {place}, not only in the needle. Use another seed or text."
                )

    def inserts(self, item: Item, at: str) -> list[Insert]:
        """Ids of the item's sentences for a place of that kind (`Stream.places`), the usual form first.

        The second is for places where no white space follows (`Stream.solid`).
        """
        forms = ((" ", "\n"), ("", "\n")) if at == "line" else ((" ", ""), (" ", " "))
        return [self._insert(item, before, after) for before, after in forms]

    def ask(self, item: Item, between: str) -> list[int]:
        """Ids from the end of the context to the answer."""
        return self.codec.piece(between + self.frame.ask(item.question, item.answer_prefix))

    def answer(self, item: Item) -> list[int]:
        return self.codec.piece(item.answer)

    def probe(
        self,
        item: Item,
        ids: NDArray[np.int32],
        *,
        question_start: int,
        n_answer: int,
        needle: tuple[int, int],
        rivals: Iterable[tuple[int, int]],
        depth: float,
        depth_nominal: float,
        length: int,
        graft: tuple[int, int] | None,
        suffix: str = "",
    ) -> Probe:
        """The finished ids as a Probe, with the source of every answer token.

        Raises AlignmentFailed when no answer token can only come from the needle.
        """
        prompt_len = len(ids) - n_answer
        answer = ids[prompt_len:]
        sources, alignment = align(ids, answer, [needle])
        mute = self.codec.mute(answer.tolist())
        classes = classify(answer, question=ids[question_start:prompt_len], sources=sources, mute=mute)
        if "novel" not in classes:
            raise AlignmentFailed(
                f"{item.key}: with {self.codec.name} no token of the answer {item.answer!r} is in the needle and not "
                f"in the question. The needle is {item.needle!r}."
            )
        return Probe(
            id=f"{item.needle_id}/{length}/{depth_nominal:.4g}/s{self.seed}",
            family=item.family,
            variant=item.variant + suffix + ("-chat" if self.frame.chat else ""),
            seed=self.seed,
            input_ids=ids,
            prompt_len=prompt_len,
            question_start=question_start,
            spans=(Span(*needle, "needle"), *(Span(*rival, "distractor") for rival in rivals)),
            sources=sources,
            token_class=classes,
            alignment=alignment,
            needle_id=item.needle_id,
            depth=depth,
            depth_nominal=depth_nominal,
            answer_text=item.answer.strip(),
            tokenizer_fp=self.codec.fingerprint,
            vocabulary_fp=self.codec.vocabulary_fp(ids),
            graft=graft,
            haystack_id=self.haystack_id if graft else "",
            needle_text=item.needle,
            value=item.value,
        )

    def _insert(self, item: Item, before: str, after: str) -> Insert:
        sentences = [*item.before, item.needle, *item.after]
        texts = [before + sentences[0], *(f" {sentence}" for sentence in sentences[1:])]
        texts[-1] += after
        pieces = [self.codec.piece(texts[0], **({} if before else {"after": "a\n"})), *map(self.codec.piece, texts[1:])]
        ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        ids = tuple(token for piece in pieces for token in piece)
        ranges = [self._without_blanks(ids, end - len(piece), end) for piece, end in zip(pieces, ends, strict=True)]
        rivals = tuple(span for span, sentence in zip(ranges, sentences, strict=True) if sentence in item.rivals)
        return Insert(ids, tuple(ends[:-1]), ranges[len(item.before)], rivals)

    def _without_blanks(self, ids: tuple[int, ...], start: int, end: int) -> tuple[int, int]:
        for first, text in reversed(self.codec.characters(ids[start:end])):
            if text.strip() or not first:
                break
            end = start + first
        return start, end

    def _attempts(
        self, item: Item, length: int, depth: float
    ) -> Iterator[tuple[Insert, int, int, list[int], list[int]]]:
        """(insert, cut, room, question, answer), the best first: exact length, kind of place, nearest, plain break."""
        answer, questions = self.answer(item), [self.ask(item, between) for between in BREAKS]
        inserts = {at: self.inserts(item, at) for at in self.stream.places}
        for shorter in range(MAX_SHORTER + 1):
            for at, (usual, _) in inserts.items():
                fixed = len(self.head) + len(usual.ids) + len(answer)
                rooms = [length - shorter - fixed - len(question) for question in questions]
                if min(rooms) < MIN_CONTEXT and (shorter or at != "sentence"):
                    continue
                if min(rooms) < MIN_CONTEXT:
                    needed = length - min(rooms) + MIN_CONTEXT
                    raise LengthTooShort(
                        f"{item.key}: length {length} cannot hold {MIN_CONTEXT} tokens of context besides needle, "
                        f"question and answer; with {self.codec.name} it takes at least {needed}."
                    )
                for cut in self._cuts(at, depth, min(rooms)):
                    for insert in inserts[at] if cut in self.stream.solid else (usual,):
                        for question, widest in zip(questions, rooms, strict=True):
                            room = widest + len(usual.ids) - len(insert.ids)
                            place = room if cut is None else cut
                            if abs(place / room - depth) <= depth_tolerance(len(self.head) + room):
                                yield insert, place, room, question, answer

    def _cuts(self, at: str, depth: float, room: int) -> list[int | None]:
        """Places for the needle, nearest first; None is the very end of the context."""
        places = self.stream.places[at]
        shift = depth_tolerance(len(self.head) + room) * room + 1
        cuts: list[int | None] = [*nearest(places[places <= room], depth * room, shift)]
        return [None, *cuts] if depth == 1.0 and at == "sentence" else cuts
