"""Checks a probe set again, from its ids, with the tokenizer at hand. Trusts nothing that `build` said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .depth import depth_tolerance
from .errors import (
    AlignmentFailed,
    DoubleBOS,
    JoinNotCanonical,
    NeedleLeak,
    ProbeError,
    SpanNotFound,
    TokenizerMismatch,
)
from .passage import TENTHS
from .probe import Probe
from .tokens import WINDOW, Codec, fingerprint, squash


def verify(probes: Sequence[Probe], tokenizer: Any) -> None:
    """Raise the first thing that is wrong. A probe without texts (`from_ids`, induction) is checked by ids."""
    codec = Codec(tokenizer)
    check_tokenizer(probes, codec)
    for probe in probes:
        if probe.input_ids.max() >= codec.size:
            raise TokenizerMismatch(
                f"{probe.id} holds token id {probe.input_ids.max()}, but {codec.name} has only {codec.size} tokens."
            )
        _check_head(probe, codec)
        _check_sources(probe)
        if probe.needle_text:
            _check_text(probe, codec)
            _check_specials(probe, codec)
            _check_joins(probe, codec)
            _check_leak(probe, codec)
        if probe.graft is not None:
            _check_depth(probe)
    _check_prefixes(probes)


def check_tokenizer(probes: Sequence[Probe], codec: Codec) -> None:
    """Raise TokenizerMismatch unless this tokenizer gives the probes' ids for their texts.

    That of another fingerprint does where it differs in tokens that the probes do not use: chat tokens were added, or
    given to reserved ids, when a base model was trained on.
    """
    others = [probe for probe in probes if probe.tokenizer_fp not in ("", codec.fingerprint)]
    extended = {fp: _extends(codec, fp) for fp in {probe.tokenizer_fp for probe in others if not probe.vocabulary_fp}}
    longest: dict[str, Probe] = {}
    for probe in others:
        used = probe.vocabulary_fp
        if not (codec.vocabulary_fp(probe.input_ids) == used if used else extended[probe.tokenizer_fp]):
            raise _mismatch(probe, codec, "the ids stand for other tokens")
        if probe.needle_text and not _cut_alike(probe, codec):
            raise _mismatch(probe, codec, "it cuts the text differently")
        if probe.needle_text and probe.haystack_id:
            longest[probe.haystack_id] = max(probe, longest.get(probe.haystack_id, probe), key=lambda one: one.length)
    for probe in longest.values():
        prefix = _prefix(probe)
        if not codec.cuts_alike(prefix, 0, max(0, len(prefix) - 2 * WINDOW)):
            raise _mismatch(probe, codec, "it cuts the text differently")


def _extends(codec: Codec, fp: str) -> bool:
    """Whether the tokenizer is that of the fingerprint with more tokens behind."""
    n = fp.partition("-")[0]
    return n.isdigit() and fingerprint(codec.tokenizer, int(n)) == fp


def _cut_alike(probe: Probe, codec: Codec) -> bool:
    """The same ids for what is the probe's own: all but the haystack, which it shares with others."""
    ids, head = probe.input_ids, codec.head
    opening = tuple(ids[: len(head) + 1].tolist())
    chat = probe.variant.endswith("-chat")  # its template's own special tokens follow
    if opening[:-1] != head or (not chat and opening[-1] in codec.special_ids):
        return False
    start, end = probe.graft or (0, probe.question_start)
    return codec.cuts_alike(ids, start, end) and codec.cuts_alike(ids, probe.question_start, probe.length)


def _mismatch(probe: Probe, codec: Codec, why: str) -> TokenizerMismatch:
    return TokenizerMismatch(
        f"{probe.id} was built with tokenizer {probe.tokenizer_fp}, and {codec.name} is {codec.fingerprint}: {why}; "
        "build the probes with this tokenizer, or give the one that built them (--tokenizer BASE, or tokenizer=... in "
        "Python)"
    )


def _check_head(probe: Probe, codec: Codec) -> None:
    head, start = list(codec.head), probe.input_ids[: len(codec.head)].tolist()
    if start != head:
        raise DoubleBOS(f"{probe.id} begins with {start}, but {codec.name} opens every sequence with {head}, once.")
    for id in head:
        if (count := int((probe.input_ids == id).sum())) > head.count(id):
            raise DoubleBOS(f"{probe.id} holds the opening token {id} of {codec.name} {count} times, not once.")


def _check_sources(probe: Probe) -> None:
    # That a source holds the same token is checked whenever a Probe is made.
    held = np.zeros(probe.length, dtype=bool)
    for span in probe.spans:
        held[span.start : span.end] |= span.role == "needle"
    if not held[probe.sources[probe.sources >= 0]].all():
        raise AlignmentFailed(f"{probe.id}: an answer token has its source outside the needle {probe.needle_spans}.")


def _check_text(probe: Probe, codec: Codec) -> None:
    needle = squash(probe.needle_text)
    texts = [squash(codec.decode(probe.input_ids[start:end])) for start, end in probe.needle_spans]
    if not any(needle in text and len(text) <= len(needle) + 2 for text in texts):
        raise SpanNotFound(f"{probe.id}: the needle's tokens say {texts}, not {probe.needle_text!r}.")
    answer = codec.decode(probe.answer_ids)
    if squash(answer) != squash(probe.answer_text):
        raise AlignmentFailed(f"{probe.id}: the answer's tokens say {answer!r}, not {probe.answer_text!r}.")
    if probe.family != "custom" and probe.copyable and "novel" not in probe.token_class:
        raise AlignmentFailed(f"{probe.id}: no answer token is in the needle alone; nothing needs the needle.")


def _check_specials(probe: Probe, codec: Codec) -> None:
    # A chat template's own special tokens lie before the context; where it begins is not written down.
    chat = probe.variant.endswith("-chat")
    start = min(span.start for span in probe.spans) if chat else len(codec.head)
    found = codec.special_ids.intersection(probe.input_ids[start : probe.question_start].tolist())
    if found:
        raise ProbeError(f"{probe.id}: the context holds special or unknown tokens: {sorted(found)}.")


def _check_joins(probe: Probe, codec: Codec) -> None:
    edges = {probe.question_start, probe.prompt_len, *(probe.graft or ())}
    edges.update(edge for span in probe.spans for edge in (span.start, span.end))
    for edge in sorted(edges):
        if not codec.is_canonical(probe.input_ids, edge):
            around = codec.decode(probe.input_ids[max(0, edge - 8) : edge + 8])
            raise JoinNotCanonical(f"{probe.id}: {codec.name} would cut {around!r} at token {edge} differently.")


def _check_leak(probe: Probe, codec: Codec) -> None:
    if probe.value:
        count = squash(codec.decode(probe.input_ids[: probe.prompt_len])).count(squash(probe.value))
        if count != 1:
            raise NeedleLeak(f"{probe.id}: {probe.value!r} is in the prompt {count} times, not once (in the needle).")


def _check_depth(probe: Probe) -> None:
    start, end = probe.graft or (0, 0)
    tolerance = depth_tolerance(probe.question_start - (end - start))
    if probe.task is not None:  # nominal depths of tasks are tenths, in whose middle they are named
        tolerance = 0.5 / TENTHS + 1e-9
    if abs(probe.depth - probe.depth_nominal) > tolerance:
        raise SpanNotFound(
            f"{probe.id}: the needle lies at depth {probe.depth:.3f}, more than {tolerance:.3f} from "
            f"{probe.depth_nominal}."
        )


def _check_prefixes(probes: Sequence[Probe]) -> None:
    """Without their grafts, the contexts over one haystack are prefixes of each other."""
    groups: defaultdict[str, list[Probe]] = defaultdict(list)
    for probe in probes:
        if probe.haystack_id and probe.graft is not None:
            groups[probe.haystack_id].append(probe)
    for haystack_id, group in groups.items():
        longest = _prefix(max(group, key=lambda probe: probe.question_start))
        for probe in group:
            own = _prefix(probe)
            n = min(len(own), len(longest))
            if not np.array_equal(own[:n], longest[:n]):
                raise SpanNotFound(
                    f"{probe.id}: without its graft {probe.graft} the context is no prefix of haystack "
                    f"{haystack_id}; the range or the ids are wrong."
                )


def _prefix(probe: Probe) -> NDArray[np.int32]:
    start, end = probe.graft or (0, 0)
    return np.concatenate([probe.input_ids[:start], probe.input_ids[end : probe.question_start]])
