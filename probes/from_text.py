"""A probe from a user's own text. The whole text is encoded at once; spans are found through character offsets."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DepthOutOfRange, EmptyAnswer, JoinNotCanonical, NeedleLeak, ProbeError, SpanNotFound
from .frame import chat as chat_frame
from .frame import plain
from .probe import Probe, Span, align, classify, short_hash
from .tokens import Codec, squash

SENTENCE_START = re.compile(r"(?<=[.!?])\s+(?=\S)|(?<=[。！？\n])(?=\S)")


def from_text(
    tokenizer: Any, *, context: str, needle: str, question: str, answer: str, depth: float, id: str, chat: bool
) -> Probe:
    """See `Probe.from_text`.

    Raises:
        EmptyAnswer, SpanNotFound (empty needle, or its tokens cannot be located), DepthOutOfRange, NeedleLeak (the
        needle is in the context twice, or the answer also stands outside the needle), JoinNotCanonical (question or
        answer do not begin at a token), NoChatTemplate.
    """
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
    found = context.count(needle)
    if found > 1:
        raise NeedleLeak(f"{id}: the needle is in the context {found} times; give a context that holds it once or not.")
    if not found:
        context = _insert(context, needle, depth)
    rest = f"{context.replace(needle, ' ')} {question}"
    if answer in needle and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", rest):
        raise NeedleLeak(f"{id}: the answer {answer!r} is also outside the needle; make it unique to the needle.")

    frame = chat_frame(codec) if chat else plain(codec)
    prompt = f"{context}\n{frame.ask(question)}"
    ids, starts, ends = _encode(codec, f"{prompt} {answer}", id)
    at = context.index(needle)
    inside = np.flatnonzero((starts < at + len(needle)) & (ends > at))
    prompt_end = int(np.argmax(ends > len(prompt)))
    question_start = int(np.argmax(starts >= len(context)))
    if starts[prompt_end] < len(prompt):
        raise JoinNotCanonical(f"{id}: {codec.name} fuses the end of the prompt with the answer {answer!r}.")
    first, last = int(inside[0]), int(inside[-1]) + 1
    span_text = codec.decode(ids[first:last])
    if squash(needle) not in squash(span_text) or len(squash(span_text)) > len(squash(needle)) + 2:
        raise SpanNotFound(
            f"{id}: the tokens at the needle's place say {span_text!r}, not {needle!r}; {codec.name} changes the text, "
            "so use Probe.from_ids."
        )
    shift = len(frame.head)
    all_ids = np.concatenate([np.asarray(frame.head, dtype=np.int32), np.asarray(ids, dtype=np.int32)])
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


def _insert(context: str, needle: str, depth: float) -> str:
    """The needle at the sentence start nearest to `depth` (in characters), or at either end."""
    places = [0, *(match.end() for match in SENTENCE_START.finditer(context)), len(context)]
    at = min(places, key=lambda place: abs(place - depth * len(context)))
    before, after = context[:at], context[at:]
    left = "" if not before or before[-1].isspace() else " "
    right = "" if not after or after[0].isspace() else "\n" if before.endswith("\n") else " "
    return f"{before}{left}{needle}{right}{after}"


def _encode(codec: Codec, text: str, id: str) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64]]:
    """Ids of the whole text, and the characters `[start, end)` of each token (a character can span several tokens)."""
    if getattr(codec.tokenizer, "is_fast", False):
        encoded = codec.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
        ids, starts, ends = list(encoded["input_ids"]), offsets[:, 0], offsets[:, 1].copy()
    else:
        ids = codec.encode(text)
        surfaces = codec.surfaces(ids)
        ends = np.cumsum([len(surface) for surface in surfaces])
        starts = np.concatenate([[0], ends[:-1]])
        if "".join(surfaces) != text:
            raise SpanNotFound(
                f"{id}: {codec.name} has no character offsets and its tokens do not spell the text; use a fast "
                "tokenizer or Probe.from_ids."
            )
    # Some tokenizers give zero-width offsets: such a token reaches to where the next one starts.
    for i in np.flatnonzero(ends <= starts):
        later = starts[i + 1 :][starts[i + 1 :] > starts[i]]
        ends[i] = later[0] if len(later) else len(text)
    return ids, starts, ends
