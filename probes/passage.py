"""A probe from a prompt of fixed wording, as published tasks have: everything is found by characters.

    before | pieces of the context, end to end | question, (chat: the template's turn), answer_prefix | answer

The text is encoded as a whole, so that its ids are those a model is given elsewhere; a piece's tokens are those that
spell its characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .alignment import align, classify
from .errors import (
    AlignmentFailed,
    HaystackTooShort,
    JoinNotCanonical,
    LengthTooShort,
    PoolTooSmall,
    ProbeError,
    SpanNotFound,
)
from .frame import Frame
from .hashing import short_hash
from .offsets import encode
from .probe import Probe, Span
from .task import Task
from .tokens import Codec

TENTHS = 10  # nominal depths of a task's probes: .05, .15, ..., .95


@dataclass(frozen=True)
class Piece:
    """A part of the context. role: "" (haystack), "needle" or "distractor"; group: which answer it is the source of."""

    text: str
    role: str = ""
    group: int = 0


@dataclass(frozen=True)
class Copied:
    """A part of the answer that the needles of `group` hold, word for word."""

    text: str
    group: int = 0


@dataclass(frozen=True)
class Passage:
    """One item of a task, as text.

    Attributes:
        key: short name of the item; with the needles and the question it makes `needle_id`.
        before: the instruction in front of the context.
        pieces: the context, end to end, with its own blanks and line ends; at least one has the role "needle": where
            nothing is copied, what the answer follows from.
        question: all from the end of the context to where the answer's turn begins.
        answer_prefix: what the prompt already says of the answer.
        answer: the gold answer in parts, with its leading space: `Copied` ones have their source in a needle, plain
            strings have none.
        task: how the model's own answer is judged.
        value: what stands in the prompt once, in the needle; "" where that cannot be said.
        graft: index of the one piece without which the context is plain haystack, the same for all items of the set
            and length; None otherwise.
        reserve: tokens kept free behind the prompt, where that is more than the gold answer.
    """

    key: str
    pieces: tuple[Piece, ...]
    question: str
    answer: tuple[Copied | str, ...]
    task: Task
    before: str = ""
    answer_prefix: str = ""
    value: str = ""
    graft: int | None = None
    reserve: int = 0

    @property
    def characters(self) -> int:
        return len(self.before) + sum(len(piece.text) for piece in self.pieces) + len(self.question)

    @property
    def needle_id(self) -> str:
        """The same for the same needles and question, whatever the length."""
        needles = (piece.text for piece in self.pieces if piece.role == "needle")
        return f"{self.key}-{short_hash(*needles, self.question)[:8]}"


def woven(parts: Sequence[Piece], between: str) -> tuple[Piece, ...]:
    """The parts as pieces with `between` between them; neighbours without a role become one piece.

    A needle takes the `between` behind it along, and the one before it where it is last: what is left without it is
    woven as if it had never been there.
    """
    found: list[Piece] = []
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if last and part.role and found:
            front = found.pop()
            found += [replace(front, text=front.text.removesuffix(between)), replace(part, text=between + part.text)]
            break
        text = part.text if last else part.text + between
        if not part.role and found and not found[-1].role:
            text = found.pop().text + text
        found.append(replace(part, text=text))
    return tuple(found)


def marked(text: str, marks: Sequence[tuple[int, int, int]]) -> tuple[Piece, ...]:
    """The text cut into pieces; marks: (first character, last + 1, group) of its needles, none of which overlap."""
    found, at = [], 0
    for first, last, group in sorted(marks):
        found += [Piece(text[at:first]), Piece(text[first:last], "needle", group)]
        at = last
    return (*found, Piece(text[at:]))


def lay(codec: Codec, frame: Frame, passage: Passage, *, family: str, variant: str, length: int, seed: int) -> Probe:
    """The passage as a probe, of whatever length it has.

    Where the question holds every token of the answer, nothing needs the needle: the probe is scored for NLL alone.

    Raises:
        JoinNotCanonical (the tokenizer fuses prompt and answer), SpanNotFound, AlignmentFailed, ProbeError.
    """
    passage = _framed(frame, passage)
    id = f"{passage.needle_id}/{variant}/{length}/s{seed}"
    context = "".join(piece.text for piece in passage.pieces)
    for special in codec.special_texts:
        if special in passage.before + context + passage.question:
            raise ProbeError(f"{id}: the text holds the special token {special!r}; remove it there.")
    prompt = _prompt(frame, passage)
    answer = _answer(passage)
    ids, starts, ends = encode(codec, prompt + answer, id)
    _check_spelt(codec, id, ids, starts, ends, prompt + answer)
    prompt_end = int(np.argmax(ends > len(prompt)))
    if starts[prompt_end] < len(prompt):
        raise JoinNotCanonical(f"{id}: {codec.name} fuses the end of the prompt with the answer {answer!r}.")
    at = len(passage.before)
    spans = tuple(_spans(passage, starts, ends))
    # A token that spells the end of the haystack and the line end behind it is the question's: what is before it is
    # then the same in a longer context.
    question_start = max(int(np.argmax(ends > at + len(context))), *(span.end for span in spans))
    answer_ids = ids[prompt_end:]
    sources, alignment = _sources(passage, ids, starts, ends, prompt_end, len(prompt), spans)
    classes = classify(
        answer_ids,
        question=ids[question_start:prompt_end],
        sources=sources,
        mute=codec.mute(answer_ids.tolist()),
    )
    if "novel" not in classes:
        sources, alignment = np.full((len(answer_ids), 1), -1, np.int32), "none"
    shift = len(frame.head)
    needles = [span for span in spans if span.role == "needle"]
    first = int(np.searchsorted(starts, at))  # what stands in front of the context is no depth
    held = sum(span.end - span.start for span in needles)
    depth = min(1.0, max(0, needles[0].start - first) / max(1, question_start - first - held))
    graft = _graft(codec, frame, passage, ids, needles[0], question_start)
    all_ids = np.concatenate([np.asarray(frame.head, dtype=np.int32), ids])
    return Probe(
        id=id,
        family=family,
        variant=variant + ("-chat" if frame.chat else ""),
        seed=seed,
        input_ids=all_ids,
        prompt_len=prompt_end + shift,
        question_start=question_start + shift,
        spans=tuple(Span(span.start + shift, span.end + shift, span.role, span.group) for span in spans),
        sources=np.where(sources < 0, -1, sources + shift),
        token_class=classes,
        alignment=alignment,
        needle_id=passage.needle_id,
        depth=depth,
        depth_nominal=(min(int(depth * TENTHS), TENTHS - 1) + 0.5) / TENTHS,
        answer_text=answer.strip(),
        tokenizer_fp=codec.fingerprint,
        vocabulary_fp=codec.vocabulary_fp(all_ids),
        graft=None if graft is None else (graft[0] + shift, graft[1] + shift),
        haystack_id="" if graft is None else short_hash(f"{frame.head} {seed}", passage.before, _plain(passage)[:64]),
        needle_text=next(piece.text for piece in passage.pieces if piece.role == "needle").strip(),
        value=passage.value,
        # Words and numbers are longer in some tokenizers than a benchmark's limit thinks.
        task=replace(passage.task, length=length, max_new_tokens=max(passage.task.max_new_tokens, len(answer_ids) + 1)),
    )


def _check_spelt(
    codec: Codec, id: str, ids: NDArray[np.int32], starts: NDArray[np.int64], ends: NDArray[np.int64], text: str
) -> None:
    """Raise ProbeError where the vocabulary lacks a character of the text."""
    unknown = getattr(codec.tokenizer, "unk_token_id", None)
    if unknown is None:
        return
    written = [text[starts[at] : ends[at]] for at in np.flatnonzero(ids == unknown)]
    lost = [word for word in written if word != codec.tokenizer.unk_token]  # a chat's turn may be written with it
    if lost:
        raise ProbeError(
            f"{id}: {codec.name} has no token for {lost[0][:40]!r}; use a tokenizer that knows its script or has bytes "
            "to fall back on, or tasks of another language."
        )


def fit(make: Callable[[int], Passage], tokens: Callable[[Passage], int], length: int, least: int) -> Passage:
    """The passage of most units (sentences, lines, documents, turns) that has at most `length` tokens.

    make: number of units -> the passage; more units are more tokens.

    Raises LengthTooShort, which says how many tokens are needed, and what `make` raises for want of text.
    """
    base = tokens(make(least))
    if base > length:
        raise LengthTooShort(f"{make(least).key}: {length} tokens are too few; at least {base} are needed.")
    low, high = (least, base), (0, 0)  # units that fit and their tokens; units that do not, once there are some
    short: HaystackTooShort | PoolTooSmall | None = None  # why the higher ones do not
    turn = 0
    while not high[0] or high[0] - low[0] > 1:
        turn += 1
        if not high[0]:
            slope = (low[1] - base) / (low[0] - least) if low[0] > least else 0.0
            n = low[0] + int((length - low[1]) / slope) + 1 if slope else 2 * low[0] + 8
        elif short or turn % 3 == 0:
            n = (low[0] + high[0]) // 2
        else:  # where a line through both says that the length is met: just before it, or just behind
            n = low[0] + (length - low[1]) * (high[0] - low[0]) // max(1, high[1] - low[1]) + turn % 2
        n = max(low[0] + 1, n if not high[0] else min(n, high[0] - 1))
        try:
            used = tokens(make(n))
        except (HaystackTooShort, PoolTooSmall) as error:
            high, short = (n, 0), error
            continue
        if used <= length:
            low = (n, used)
        else:
            high, short = (n, used), None
    if short:
        raise short
    return make(low[0])


def count(codec: Codec, frame: Frame) -> Callable[[Passage], int]:
    """Passage -> tokens of its probe."""

    def tokens(passage: Passage) -> int:
        passage = _framed(frame, passage)
        prompt = _prompt(frame, passage)
        used = len(codec.encode(prompt + _answer(passage)))
        if passage.reserve:
            used = max(used, len(codec.encode(prompt)) + passage.reserve)
        return len(frame.head) + used

    return tokens


def _answer(passage: Passage) -> str:
    return "".join(part if isinstance(part, str) else part.text for part in passage.answer)


def _plain(passage: Passage) -> str:
    """The context without its graft."""
    return "".join(piece.text for i, piece in enumerate(passage.pieces) if i != passage.graft)


def _framed(frame: Frame, passage: Passage) -> Passage:
    """In a chat's turn that nothing opens, the answer begins without a blank."""
    first = passage.answer[0]
    if not frame.chat or passage.answer_prefix or not isinstance(first, str):
        return passage
    return replace(passage, answer=(first.lstrip(" "), *passage.answer[1:]))


def _prompt(frame: Frame, passage: Passage) -> str:
    context = "".join(piece.text for piece in passage.pieces)
    turn, prefix = (frame.turn, passage.answer_prefix.lstrip(" ")) if frame.chat else ("", passage.answer_prefix)
    return f"{passage.before}{context}{passage.question}{turn}{prefix}"


def _spans(passage: Passage, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Iterator[Span]:
    """Token ranges of the pieces with a role, without the blanks around them; a token two share is the first one's."""
    at, taken = len(passage.before), 0
    reach = np.maximum.accumulate(ends)
    for piece in passage.pieces:
        first = at + len(piece.text) - len(piece.text.lstrip())
        last = at + len(piece.text.rstrip())
        at += len(piece.text)
        if not piece.role:
            continue
        start, end = int(np.searchsorted(reach, first, "right")), int(np.searchsorted(starts, last, "left"))
        start = max(start, taken)
        if start >= end:
            raise SpanNotFound(f"{passage.key}: no token stands for {piece.text.strip()[:60]!r}.")
        taken = end
        yield Span(start, end, piece.role, piece.group)


def _sources(
    passage: Passage,
    ids: NDArray[np.int32],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    prompt_end: int,
    at: int,
    spans: Sequence[Span],
) -> tuple[NDArray[np.int32], str]:
    """`Probe.sources` and `Probe.alignment`: every copied part is looked for in the needles of its own group."""
    rows: list[dict[int, None]] = [{} for _ in ids[prompt_end:]]
    found = []
    for part in passage.answer:
        first, last = at, at + len(part if isinstance(part, str) else part.text)
        at = last
        if isinstance(part, str):
            continue
        tokens = np.flatnonzero((starts[prompt_end:] < last) & (ends[prompt_end:] > first))
        held = [(span.start, span.end) for span in spans if span.role == "needle" and span.group == part.group]
        if not held:
            raise SpanNotFound(f"{passage.key}: the answer copies from group {part.group}, which no needle has.")
        places, alignment = align(ids, ids[prompt_end:][tokens], held)
        found.append(alignment)
        for token, row in zip(tokens.tolist(), places.tolist(), strict=True):
            rows[token].update(dict.fromkeys(place for place in row if place >= 0))
    width = max(1, *(len(row) for row in rows))
    sources = np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int32)
    if not (sources >= 0).any():
        if found:
            raise AlignmentFailed(f"{passage.key}: no token of the answer is in its needle with this tokenizer.")
        return sources, "none"
    return sources, "exact" if found == ["exact"] and (sources >= 0).any(axis=1).all() else "id"


def _graft(
    codec: Codec,
    frame: Frame,
    passage: Passage,
    ids: NDArray[np.int32],
    needle: Span,
    question_start: int,
) -> tuple[int, int] | None:
    """Tokens around the needle without which the context is cut as if the graft were not there; None where none are.

    The blank between two sentences may belong to the one before, to the one behind, or be a token of its own.
    """
    if passage.graft is None:
        return None
    pieces = tuple(piece for i, piece in enumerate(passage.pieces) if i != passage.graft)
    plain = codec.encode(_prompt(frame, replace(passage, pieces=pieces)) + _answer(passage))
    n = len(ids) - len(plain)
    for first in range(needle.start, max(0, needle.end - n) - 1, -1):
        last = first + n
        if last <= question_start and np.array_equal(
            plain[: question_start - n], np.r_[ids[:first], ids[last:question_start]]
        ):
            return first, last
    return None
