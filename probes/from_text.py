"""A probe from a user's own text. The whole text is encoded at once; spans are found through character offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import sentences
from .alignment import align, classify
from .depth import depth_tolerance
from .errors import DepthOutOfRange, EmptyAnswer, JoinNotCanonical, NeedleLeak, ProbeError, SpanNotFound
from .frame import Frame, frame_for
from .hashing import short_hash
from .offsets import encode
from .probe import Probe, Span
from .tokens import Codec, squash

BORDERS: tuple[Callable[[str], list[int]], ...] = (  # the best first; lines count as sentences
    sentences.sentence_starts,
    sentences.clause_starts,
    sentences.space_starts,
    sentences.word_starts,
)


def from_text(
    tokenizer: Any,
    *,
    context: str,
    needle: str,
    question: str,
    answer: str,
    depth: float,
    id: str,
    chat: bool,
    system: str | None,
    template_args: Mapping[str, Any] | None,
) -> Probe:
    """See `Probe.from_text`.

    Raises:
        EmptyAnswer, SpanNotFound (empty needle, or its tokens cannot be located), DepthOutOfRange (also where no word
        begins near the depth), NeedleLeak (the needle is in the context twice, or the answer also stands outside the
        needle), JoinNotCanonical (question or answer do not begin at a token), NoChatTemplate.
    """
    texts = {"id": id, "context": context, "needle": needle, "question": question, "answer": answer}
    for name, given in texts.items():
        if not isinstance(given, str):
            raise ProbeError(f"{name} is {given!r}; give a string.")
        if any("\ud800" <= c <= "\udfff" for c in given):
            raise ProbeError(f"{name} holds half of a surrogate pair, which is no text; read it as UTF-8.")
    if not isinstance(depth, Real):
        raise DepthOutOfRange(f"{id}: depth is {depth!r}; give a number from 0 (start of the context) to 1 (end).")
    codec = Codec(tokenizer)
    needle, answer = needle.strip(), answer.strip()
    if not answer:
        raise EmptyAnswer(f"{id}: answer is empty; give the text the model should write.")
    if not needle:
        raise SpanNotFound(f"{id}: needle is empty; give the sentence that holds the answer.")
    if not 0.0 <= depth <= 1.0:
        raise DepthOutOfRange(f"{id}: depth is {depth}; give a number from 0 (start of the context) to 1 (end).")
    for special in codec.special_texts:
        if special in f"{context}{needle}{question}{answer}":
            raise ProbeError(f"{id}: the text holds the special token {special!r}; remove it (chat=True adds markup).")
    frame = frame_for(codec, chat, system, template_args)
    found = sentences.places(context, needle)
    if len(found) > 1:
        raise NeedleLeak(
            f"{id}: the needle is in the context {len(found)} times; give a context that holds it once or not."
        )
    outside: tuple[str, ...] = (context,)
    if found:
        at, end = found[0]
        needle = context[at:end]
        outside = (context[:at], context[end:])
    else:
        context, at = _insert(context, needle, _place(codec, context, depth, id))
        end = at + len(needle)
    _check_leak(id, needle, answer, (*outside, question, *_markup(codec, frame)))

    prompt = f"{context}\n{frame.ask(question)}"
    best = None
    for join in _joins(context, at, end, answer):
        ids, starts, ends = encode(codec, f"{prompt}{join}{answer}", id)
        prompt_end = int(np.argmax(ends > len(prompt)))
        inside = np.flatnonzero((starts < end) & (ends > at))
        if not len(inside):
            raise SpanNotFound(f"{id}: {codec.name} has no token where the needle stands; use Probe.from_ids.")
        first, last = int(inside[0]), int(inside[-1]) + 1
        _, alignment = align(ids, ids[prompt_end:], [(first, last)])
        if starts[prompt_end] >= len(prompt) and (best is None or alignment == "exact"):
            best = ids, first, last, int(np.argmax(starts >= len(context))), prompt_end
            if alignment == "exact":
                break
    if best is None:
        raise JoinNotCanonical(f"{id}: {codec.name} fuses the end of the prompt with the answer {answer!r}.")
    ids, first, last, question_start, prompt_end = best
    span_text = codec.decode(ids[first:last])
    if squash(needle) not in squash(span_text) or len(squash(span_text)) > len(squash(needle)) + 2:
        raise SpanNotFound(
            f"{id}: the tokens at the needle's place say {span_text!r}, not {needle!r}; {codec.name} changes the text, "
            "so use Probe.from_ids."
        )
    shift = len(frame.head)
    all_ids = np.concatenate([np.asarray(frame.head, dtype=np.int32), ids])
    prompt_len, branch = prompt_end + shift, question_start + shift
    answer_ids = all_ids[prompt_len:]
    sources, alignment = align(all_ids, answer_ids, [(first + shift, last + shift)])
    mute = codec.mute(answer_ids.tolist())
    realised = first / max(1, question_start - (last - first))
    return Probe(
        id=id,
        family="custom",
        variant="text-chat" if chat else "text",
        seed=0,
        input_ids=all_ids,
        prompt_len=prompt_len,
        question_start=branch,
        spans=(Span(first + shift, last + shift, "needle"),),
        sources=sources,
        token_class=classify(answer_ids, question=all_ids[branch:prompt_len], sources=sources, mute=mute),
        alignment=alignment,
        needle_id=f"text-{short_hash(needle, question)[:8]}",
        depth=min(1.0, realised),
        depth_nominal=min(1.0, realised) if found else depth,
        answer_text=answer,
        tokenizer_fp=codec.fingerprint,
        vocabulary_fp=codec.vocabulary_fp(all_ids),
        needle_text=needle,
        value=answer if squash(context).count(squash(answer)) == 1 and squash(answer) not in squash(question) else "",
    )


def _check_leak(id: str, needle: str, answer: str, outside: Iterable[str]) -> None:
    rest = "\0".join(outside)
    if sentences.mentions(rest, needle):
        raise NeedleLeak(f"{id}: the needle also stands outside itself, in another spelling; take it out there.")
    if squash(answer) in squash(needle) and sentences.mentions(rest, answer):
        raise NeedleLeak(f"{id}: the answer {answer!r} is also outside the needle; make it unique to the needle.")


def _markup(codec: Codec, frame: Frame) -> Iterator[str]:
    """The words that a chat template writes, a system prompt among them, without special tokens."""
    for text in (codec.decode(frame.head), frame.turn):
        for special in codec.special_texts:
            text = text.replace(special, "\0")
        yield text


def _place(codec: Codec, context: str, depth: float, id: str) -> int:
    """The character nearest to `depth` (counted in tokens) where a sentence starts; else a clause, else a word."""
    if not context:
        return 0
    _, starts, ends = encode(codec, context, id)
    starts, reach = np.maximum.accumulate(starts), np.maximum.accumulate(ends)
    nearest = 0.0
    for borders in BORDERS:
        places = np.asarray([0, *borders(context), len(context)])
        if borders is sentences.word_starts:
            places = places[[_is_border(context, at, starts, reach) for at in places.tolist()]]
        depths = np.searchsorted(starts, places) / len(starts)
        best = int(np.argmin(np.abs(depths - depth)))
        # Two tokens less than is allowed: the needle may change how its neighbours are cut.
        if abs(depths[best] - depth) <= depth_tolerance(len(starts)) - 2 / len(starts):
            return int(places[best])
        nearest = min(nearest, float(depths[best]), key=lambda found: abs(found - depth))
    raise DepthOutOfRange(
        f"{id}: no sentence, line, clause or word starts near depth {depth}; the nearest that can be had is "
        f"{nearest:.4f}: give that, or a context with spaces or line breaks."
    )


def _is_border(context: str, at: int, starts: NDArray[np.int64], reach: NDArray[np.int64]) -> bool:
    """Where a script does not tell words apart, the tokenizer's own cuts come nearest to it."""
    if not 0 < at < len(context) or not all(map(sentences.without_spaces, context[at - 1 : at + 1])):
        return True
    token = int(np.searchsorted(starts, at))
    return token < len(starts) and starts[token] == at and reach[token - 1] <= at


def _insert(context: str, needle: str, at: int) -> tuple[str, int]:
    """The context with the needle at `at`, on a line of its own where a line starts; and where the needle is."""
    before, after = context[:at], context[at:]
    left = sentences.between(before, needle)
    right = "\n" if before.endswith(("\n", "\r")) and after.strip() else sentences.between(needle, after)
    return f"{before}{left}{needle}{right}{after}", at + len(left)


def _joins(context: str, at: int, end: int, answer: str) -> tuple[str, ...]:
    """What stands between prompt and answer, the best first: no space where the needle's language has none."""
    if not any(map(sentences.without_spaces, f"{context[at:end]}{answer}")):
        return (" ",)
    found = sentences.places(context[at:end], answer)
    before = context[: at + found[0][0]][-1:] if found else ""
    return (" ", "") if before in (" ", "\u00a0", "\u3000") else ("", " ")
