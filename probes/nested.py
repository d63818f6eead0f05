"""All needles of a set in one long context. Each question asks for one of them; the others are distractors.

The context of a shorter probe is a prefix of the longest one, so one prefill serves every length. Needles compete with
each other here: it is a harder task than one needle a probe, and the two must not be mixed in one curve.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .depth import NEAR
from .errors import JoinNotCanonical, LengthTooShort, NeedleLeak
from .item import Item
from .layout import BREAKS, MAX_SHORTER, MIN_CONTEXT, Insert, Layout, joined, nearest
from .probe import Probe


@dataclass(frozen=True)
class Placed:
    """An item in the long context: its insert is `context[start:end]`."""

    item: Item
    insert: Insert
    start: int
    end: int


def build(layout: Layout, items: Sequence[Item], *, lengths: Sequence[int], depths: Sequence[float]) -> list[Probe]:
    """One probe per (needle, length) whose context holds the needle. `items` go to the depths of the longest context.

    With n items and d depths, n / d items lie at each depth, one after the other.

    Raises:
        LengthTooShort, NeedleLeak, JoinNotCanonical, AlignmentFailed.
    """
    _check_distinct(layout, items)
    suffixes = [len(layout.ask(item, between)) + len(layout.answer(item)) for item in items for between in BREAKS]
    ends = [(length - max(suffixes) - MAX_SHORTER, length - min(suffixes)) for length in lengths]
    context, placed = _long_context(layout, items, sorted(depths), ends)
    probes = []
    for length in sorted(lengths):
        asked = [
            _ask(layout, context, placed, one, length, depths) for one in placed if one.end <= length - max(suffixes)
        ]
        if not asked:
            raise LengthTooShort(
                f"length {length} ends before the first needle of the nested context; use longer lengths, or a depth "
                "nearer to 0."
            )
        probes += asked
    return probes


def _check_distinct(layout: Layout, items: Sequence[Item]) -> None:
    for item in items:
        layout.check_leak(item)
        for other in items:
            if other is not item and item.value.casefold() in f"{other.needle} {other.question}".casefold():
                raise NeedleLeak(f"{item.key}: {item.value!r} is also in the needle {other.key}. Use another seed.")


def _long_context(
    layout: Layout, items: Sequence[Item], depths: Sequence[float], ends: Sequence[tuple[int, int]]
) -> tuple[NDArray[np.int32], list[Placed]]:
    """Head, haystack and all needles, up to where the longest probe's question may begin."""
    limit = max(first for first, _ in ends)
    room = limit - len(layout.head) - sum(len(layout.inserts(item, "sentence")[0].ids) for item in items)
    if room < MIN_CONTEXT * (len(items) + 1):
        raise LengthTooShort(
            f"{len(items)} needles need {limit - room} of {limit} context tokens and {MIN_CONTEXT} tokens of haystack "
            "around each; use longer lengths, fewer depths or fewer needles."
        )
    context, used = layout.head, 0
    placed: list[Placed] = []
    for index, item in enumerate(items):
        target = depths[index * len(depths) // len(items)] * room
        span = (used + 1 if placed else 0, room)
        for cut, insert in _free_places(layout, item, target, span, spare=len(items) - 1 - index):
            start = len(context) + cut - used
            end = start + len(insert.ids)
            if end > limit or any(start < last and end > first for first, last in ends):
                continue  # no needle may be cut in two where a shorter probe's context ends
            following = layout.stream.ids[cut : cut + MIN_CONTEXT]
            attempt = joined(context, layout.stream.ids[used:cut], insert.ids, following)
            seams = (start, end, *(start + seam for seam in insert.seams))
            if all(layout.codec.is_canonical(attempt, seam) for seam in seams):
                context, used = attempt[:end], cut
                placed.append(Placed(item, insert, start, end))
                break
        else:
            raise JoinNotCanonical(
                f"{item.key}: found no place left for needle {index + 1} of {len(items)}; use longer lengths, fewer "
                "needles, or a haystack with more sentences."
            )
    return joined(context, layout.stream.ids[used : used + limit + MAX_SHORTER + 64]), placed


def _free_places(
    layout: Layout, item: Item, target: float, span: tuple[int, int], spare: int
) -> Iterator[tuple[int, Insert]]:
    """Places for a needle in haystack tokens `[first, last]`, the best first: near its depth, then wherever one is.

    `spare` places of each kind are left at the end for the needles to come.
    """
    first, last = span
    for shift in (NEAR * last, last):
        for at, places in layout.stream.places.items():
            inserts = layout.inserts(item, at)
            free = places[(places >= first) & (places <= last)]
            for cut in nearest(free[: max(0, len(free) - spare)], target, shift):
                for insert in inserts if cut in layout.stream.solid else inserts[:1]:
                    yield cut, insert


def _ask(
    layout: Layout,
    context: NDArray[np.int32],
    placed: Sequence[Placed],
    one: Placed,
    length: int,
    depths: Sequence[float],
) -> Probe:
    answer = layout.answer(one.item)
    for shorter in range(MAX_SHORTER + 1):
        for between in BREAKS:
            question = layout.ask(one.item, between)
            end = length - shorter - len(question) - len(answer)
            ids = joined(context[:end], question, answer)
            if layout.codec.is_canonical(ids, end) and layout.codec.is_canonical(ids, end + len(question)):
                depth = (one.start - len(layout.head)) / (end - len(layout.head) - (one.end - one.start))
                others = [other for other in placed if other is not one and other.end <= end]
                return layout.probe(
                    one.item,
                    ids,
                    question_start=end,
                    n_answer=len(answer),
                    needle=one.insert.shifted(one.start)[0],
                    rivals=[span for other in others for span in other.insert.shifted(other.start)[:1]],
                    depth=depth,
                    depth_nominal=min(depths, key=lambda nominal: abs(nominal - depth)),
                    length=length,
                    graft=None,
                    suffix="-nested",
                )
    raise JoinNotCanonical(f"{one.item.key}: no end of a {length}-token context joins canonically to the question.")
