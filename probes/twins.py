"""Twins of a probe, which say how much its needle is worth: without it, with another value, in a short context.

What the answer costs a model (NLL) in a probe and in its twins are compared probe by probe: a twin has its probe's
`needle_id`, and in "no_needle" and "counterfactual" every token is where it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .alignment import align, classify
from .errors import JoinNotCanonical, ProbeError
from .haystack import as_haystack
from .layout import joined
from .probe import Probe, Span
from .seeds import rng
from .sentences import sentence_starts
from .stream import Stream, tokenise
from .tokens import WINDOW, Codec, squash
from .verify import check_tokenizer
from .words import ADJECTIVES, HOBBIES, NOUNS, SUBJECTS, TOWNS

KINDS = ("no_needle", "counterfactual", "short")
NEIGHBOURHOOD = 256  # tokens that a short context keeps around all needles together
OPENING = 256  # tokens at the start of a task's probe that may be its instruction and examples
TRIES = 1000  # values that are tried
PLAIN_TEXT = 4096  # tokens of a haystack from which what replaces a needle is taken
DATE = re.compile(r"\d{4}-\d\d-\d\d")
WORD = re.compile(r"[^\W\d_]+|\d")
DIGITS = "0123456789abcdef"
WORDS = (*ADJECTIVES, *NOUNS, *(word for text in (*HOBBIES, *SUBJECTS) for word in text.split() if len(word) > 3))
HEXADECIMAL = re.compile(r"(?=.*\d)[0-9a-f-]{8,}")


def twin(probe: Probe, tokenizer: Any, kind: str) -> Probe:
    """The probe's twin.

    Args:
        probe: one that has texts: built by name, or from text.
        kind:
            "no_needle": plain text (the standard library's documentation) of as many tokens where the needle was, and
                the same answer: its NLL without evidence. Nothing is copied: `alignment` is "none".
            "counterfactual": another value of the same form and number of tokens, in the needle and in the answer.
            "short": some 256 tokens around the needles instead of the whole context, and the same question. The first
                256 tokens of a task's probe stay as well: its instruction and examples are among them.

    Raises:
        ProbeError: a probe without texts (`from_ids`, induction), an unknown kind, or a counterfactual of a probe whose
            value is not one piece of text in the needle and the answer.
        TokenizerMismatch: the tokenizer is another than the probe's.
        JoinNotCanonical: the tokenizer has no text that fits.
    """
    if kind not in KINDS:
        raise ProbeError(f"twin kind is {kind!r}; use one of {', '.join(KINDS)}.")
    if not isinstance(probe, Probe):
        raise ProbeError(f"probe is a {type(probe).__name__}; give a Probe.")
    if not probe.needle_text:
        raise ProbeError(f"{probe.id}: a probe without texts has no twin; build it by name, or with Probe.from_text.")
    codec = tokenizer if isinstance(tokenizer, Codec) else Codec(tokenizer)
    check_tokenizer([probe], codec)
    made = {"no_needle": _no_needle, "counterfactual": _counterfactual, "short": _short}[kind](probe, codec)
    chat = "-chat" if probe.variant.endswith("-chat") else ""
    return replace(
        made,
        id=f"{probe.id}/{kind}",
        variant=f"{probe.variant.removesuffix('-chat')}-{kind}{chat}",
        vocabulary_fp=codec.vocabulary_fp(made.input_ids),
    )


@lru_cache(maxsize=2)
def _plain(codec: Codec) -> Stream:
    """Text that replaces needles, in an order that no seed of a user's is likely to have."""
    return tokenise(codec, as_haystack(None), PLAIN_TEXT, seed=-1)


def _no_needle(probe: Probe, codec: Codec) -> Probe:
    stream, prompt = _plain(codec), squash(codec.decode(probe.input_ids[: probe.prompt_len]))
    starts = stream.places["sentence"]
    order = rng("no needle", probe.id).permutation(len(starts))
    places = [*starts[order].tolist(), *range(1, len(stream.ids))]
    ids = probe.input_ids
    for start, end in _told(probe, codec):
        for place in places:
            text = stream.ids[place : place + end - start]
            attempt = joined(ids[:start], text, ids[end:])
            if len(attempt) == len(ids) and _fits(codec, attempt, start, end) and _fresh(codec, text, prompt, probe):
                ids = attempt
                break
        else:
            raise JoinNotCanonical(
                f"{probe.id}: {codec.name} has no plain text of {end - start} tokens for the needle."
            )
    first, last = probe.needle_spans[0]
    return replace(
        probe,
        input_ids=ids,
        sources=np.full((probe.n_answer, 1), -1),
        alignment="none",
        needle_text=codec.decode(ids[first:last]).strip(),
        value="",
    )


def _fresh(codec: Codec, text: NDArray[np.int32], prompt: str, probe: Probe) -> bool:
    """Whether the text says nothing of the value, nor (a word or two apart) anything that the prompt says already."""
    said = squash(codec.decode(text))
    return not (probe.value and squash(probe.value) in said) and (len(said) < 16 or said not in prompt)


def _told(probe: Probe, codec: Codec) -> Iterator[tuple[int, int]]:
    """The needles' tokens, but for a last one that ends the line."""
    for start, end in probe.needle_spans:
        ends_line = codec.surfaces(probe.input_ids[end - 1 : end].tolist())[0].endswith("\n")
        yield start, end - (ends_line and end - start > 1)


def _fits(codec: Codec, ids: NDArray[np.int32], *seams: int) -> bool:
    return all(codec.is_canonical(ids, seam) for seam in seams)


def _counterfactual(probe: Probe, codec: Codec) -> Probe:
    value = probe.value
    if not value or not probe.copyable:
        raise ProbeError(
            f"{probe.id}: no value stands in this needle alone and in the answer; use another kind of twin."
        )
    ids = probe.input_ids
    prompt = squash(codec.decode(ids[: probe.prompt_len]))
    places = [*probe.needle_spans, (probe.prompt_len, probe.length)]
    ranges = [found for start, end in places if (found := _where(codec, ids, start, end, value))]
    if len(ranges) != 2 or ranges[1][0] < probe.prompt_len:
        raise ProbeError(f"{probe.id}: {value!r} is not written alike in needle and answer; use another kind of twin.")
    seams = [edge for span in probe.spans for edge in (span.start, span.end)] + [probe.prompt_len]
    second = None
    for other in islice(_values(probe, prompt, rng("counterfactual", probe.id)), TRIES):
        if squash(other) in prompt:
            continue
        attempt = ids
        for start, end, left, right in ranges:
            before = codec.decode(ids[max(0, start - 8) : start])
            new = codec.piece(f"{left}{other}{right}", before)
            attempt = joined(attempt[:start], new, attempt[end:]) if len(new) == end - start else attempt[:0]
            if not len(attempt) or not _fits(codec, attempt, start, end):
                break
        else:
            if _fits(codec, attempt, *seams) and (made := _with_value(probe, codec, attempt, other)) is not None:
                if made.token_class == probe.token_class:
                    return made
                second = second or made
    if second is not None:
        return second
    raise JoinNotCanonical(
        f"{probe.id}: {codec.name} cuts none of {TRIES} values of the form of {value!r} into as many tokens."
    )


def _with_value(probe: Probe, codec: Codec, ids: NDArray[np.int32], other: str) -> Probe | None:
    """The probe with these ids; None where it would not be a probe of the same kind."""
    answer = ids[probe.prompt_len :]
    sources, alignment = np.asarray(probe.sources), probe.alignment
    if alignment != "exact":
        sources, alignment = align(ids, answer, probe.needle_spans)
    classes = classify(
        answer,
        question=ids[probe.question_start : probe.prompt_len],
        sources=sources,
        mute=codec.mute(answer.tolist()),
    )
    answer_text = probe.answer_text.replace(probe.value, other)
    prompt = squash(codec.decode(ids[: probe.prompt_len]))
    if "novel" not in classes or alignment != probe.alignment or prompt.count(squash(other)) != 1:
        return None
    if squash(codec.decode(answer)) != squash(answer_text) or squash(probe.value) in prompt:
        return None
    task = probe.task and replace(
        probe.task,
        golds=tuple(gold.replace(probe.value, other) for gold in probe.task.golds),
        rivals=tuple(rival for rival in probe.task.rivals if rival != other),
    )
    return replace(
        probe,
        input_ids=ids,
        sources=sources,
        token_class=classes,
        answer_text=answer_text,
        needle_text=probe.needle_text.replace(probe.value, other),
        value=other,
        task=task,
    )


def _where(codec: Codec, ids: NDArray[np.int32], start: int, end: int, value: str) -> tuple[int, int, str, str] | None:
    """The tokens of `ids[start:end]` that spell `value`, and what else they spell before and behind it; None where it
    is not there once, letter by letter (some tokenizers write blanks of their own)."""
    groups = codec.characters(ids[start:end].tolist())
    text = "".join(piece for _, piece in groups)
    letters = [i for i, character in enumerate(text) if not character.isspace()]
    spelt, sought = "".join(text[i] for i in letters), "".join(value.split())
    if spelt.count(sought) != 1:
        return None
    at = spelt.index(sought)
    first, last, place = letters[at], letters[at + len(sought) - 1] + 1, 0
    inside = []
    for (position, piece), after in zip(groups, [*(each for each, _ in groups[1:]), end - start], strict=True):
        if place < last and place + len(piece) > first:
            inside.append((position, after, place, place + len(piece)))
        place += len(piece)
    return start + inside[0][0], start + inside[-1][1], text[inside[0][2] : first], text[last : inside[-1][3]]


def _values(probe: Probe, prompt: str, generator: np.random.Generator) -> Iterator[str]:
    """Other values of the same form: a date for a date, digits for digits, words for words that carry meaning.

    Where the context has values of that form (`rivals`), their words are mixed. A word that others share with the value
    ("Alderbrook University") stays, and in the end any may, but one.
    """
    value = probe.value
    words = {word for word in WORD.findall(value) if len(word) > 3}
    shared = {word for word in words if prompt.count(squash(word)) > 1}
    rivals = [rival.split() for rival in (probe.task.rivals if probe.task else ())]
    rivals = [rival for rival in rivals if len(rival) == len(value.split()) > 1]
    stay = shared if shared < words else set()
    digits = 16 if set(value) - set("0123456789-") else 10
    for tries in count():
        if DATE.fullmatch(value):
            year, month, day = (int(generator.integers(*bounds)) for bounds in ((1950, 2002), (1, 13), (1, 29)))
            yield f"{year}-{month:02d}-{day:02d}"
        elif HEXADECIMAL.fullmatch(value):
            yield re.sub("[0-9a-f]", lambda _: DIGITS[generator.integers(1, digits)], value)
        else:
            if rivals:
                yield " ".join(rivals[generator.integers(len(rivals))][i] for i in range(len(rivals[0])))
            late = tries > TRIES // 2
            yield _reworded(
                value, {word for word in words if generator.random() < 0.5} if late else stay, late, generator
            )


def _reworded(value: str, stay: set[str], blends: bool, generator: np.random.Generator) -> str:
    return WORD.sub(lambda match: match[0] if match[0] in stay else _word(match[0], blends, generator), value)


def _word(word: str, blends: bool, generator: np.random.Generator) -> str:
    if word.isdigit():
        return DIGITS[generator.integers(1, 10)]
    if len(word) < 4 or not word.isascii():
        return word
    pool = WORDS if word.islower() else TOWNS
    start, end = (pool[i].split()[0] for i in generator.integers(len(pool), size=2))
    if word.islower() and not blends:
        return start
    # A name is made of two, cut anywhere, so that some have as many tokens; a word where no whole one has.
    return start[: generator.integers(2, len(start) + 1)] + end[generator.integers(1, len(end) - 1) :]


def _short(probe: Probe, codec: Codec) -> Probe:
    ids, question = probe.input_ids, probe.question_start
    opening = _opening(probe, codec)
    spans = [(span.start, span.end) for span in probe.spans if span.role == "needle"]
    around = max(0, NEIGHBOURHOOD - sum(end - start for start, end in spans)) // (2 * len(spans))
    breaks = _breaks(codec, ids[:question], opening)
    kept = [(0, opening)]
    for start, end in sorted(spans):
        first = max(opening, start - around)
        last = min(question, end + around)
        kept = [*kept[:-1], (kept[-1][0], last)] if first <= kept[-1][1] else [*kept, (first, last)]
    kept = _at_breaks(codec, ids, kept, spans, breaks, question)
    short = joined(*(ids[start:end] for start, end in kept), ids[question:])
    moved = np.full(question, -1)
    at = 0
    for start, end in kept:
        moved[start:end] = np.arange(at, at + end - start)
        at += end - start
    sources = probe.sources.copy()
    sources[sources >= 0] = moved[sources[sources >= 0]]
    whole = [span for span in probe.spans if (moved[span.start : span.end] >= 0).all()]
    here = tuple(Span(int(moved[s.start]), int(moved[s.end - 1]) + 1, s.role, s.group) for s in whole)
    first = next(span.start for span in here if span.role == "needle")
    depth = min(1.0, first / max(1, at - sum(end - start for start, end in spans)))
    return replace(
        probe,
        input_ids=short,
        prompt_len=probe.prompt_len - question + at,
        question_start=at,
        spans=here,
        sources=sources,
        depth=depth,
        depth_nominal=depth,
        graft=None,
        haystack_id="",
        task=probe.task and replace(probe.task, length=len(short)),
    )


def _opening(probe: Probe, codec: Codec) -> int:
    """Tokens that stay in front: what opens a sequence, a chat's markup, and a task's instruction and examples."""
    ids = probe.input_ids[: min(start for start, _ in probe.needle_spans)].tolist()
    opening = len(codec.head)
    if probe.variant.endswith("-chat"):
        opening = max((i + 1 for i, id in enumerate(ids) if id in codec.special_ids), default=opening)
        while opening < len(ids) and not codec.surfaces(ids[opening : opening + 1])[0].strip():
            opening += 1
    return min(len(ids), opening + OPENING) if probe.task else opening


def _breaks(codec: Codec, ids: NDArray[np.int32], opening: int) -> list[int]:
    """Tokens at which a line or a sentence starts, and the context's two ends."""
    groups = codec.characters(ids.tolist())
    text = "".join(piece for _, piece in groups)
    starts = set(sentence_starts(text))
    found, at = [opening, len(ids)], 0
    for position, piece in groups:
        begins = at + len(piece) - len(piece.lstrip(" "))
        if begins in starts and position > opening:
            found.append(position)
        at += len(piece)
    return sorted(set(found))


def _at_breaks(
    codec: Codec,
    ids: NDArray[np.int32],
    kept: list[tuple[int, int]],
    spans: list[tuple[int, int]],
    breaks: list[int],
    question: int,
) -> list[tuple[int, int]]:
    """The ranges with their edges moved to where a sentence starts, or to where the tokenizer cuts the text the same
    way; no edge is moved into a needle."""
    found, start = [], 0
    fixed = (0, len(codec.head), question)
    for (first, last), (following, _) in zip(kept, [*kept[1:], (question, 0)], strict=True):
        held = max([first, start, *(end for _, end in spans if end <= last)])
        next_needle = min([question, *(needle for needle, _ in spans if needle >= following)])
        ends = [last] if last in fixed else _near(last, breaks, held, following)
        starts = [following] if following == question else _near(following, breaks, last, next_needle)
        for end, begin in ((end, begin) for begin in starts[:8] for end in ends):
            seam = joined(ids[max(0, end - WINDOW) : end], ids[begin : begin + WINDOW])
            if end <= begin and _fits(codec, seam, min(end, WINDOW)):
                break
        else:
            raise JoinNotCanonical(f"the context cannot be cut near token {last}; {codec.name} fuses what would meet.")
        found.append((start, end))
        start = begin
    return found


def _near(wanted: int, breaks: list[int], low: int, high: int) -> list[int]:
    """Places in [low, high] for an edge: sentence starts that are near, then the tokens that are."""

    def by_distance(place: int) -> int:
        return abs(place - wanted)

    sentences = sorted(
        (place for place in breaks if low <= place <= high and by_distance(place) < WINDOW), key=by_distance
    )
    tokens = sorted(range(max(low, wanted - WINDOW), min(high, wanted + WINDOW) + 1), key=by_distance)
    return list(dict.fromkeys([*sentences, *tokens]))
