"""A needle with so many tokens before it (interference) and so many behind it (distance), every pair of numbers.

The paper's second design (arXiv 2604.02650, section 7.3): in a grid of length x depth both change together; here each
changes alone. The context is a prefix of the haystack's stream with the needle in it, as in "grid".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .errors import JoinNotCanonical, LengthTooShort
from .item import Item
from .layout import BREAKS, MAX_SHORTER, Insert, Layout
from .probe import Probe


def build(
    layout: Layout, items: Sequence[Item], *, distances: Sequence[int], interferences: Sequence[int]
) -> list[Probe]:
    """One probe for every item and pair; both numbers are exact, or up to 8 tokens less where the text asks for it.

    Raises:
        LengthTooShort, NeedleLeak, JoinNotCanonical, AlignmentFailed.
    """
    return [
        _place(layout, item, distance, interference)
        for interference in interferences
        for distance in distances
        for item in items
    ]


def _place(layout: Layout, item: Item, distance: int, interference: int) -> Probe:
    layout.check_leak(item)
    answer, questions = layout.answer(item), [layout.ask(item, between) for between in BREAKS]
    for insert, cut in _places(layout, item, interference):
        behind = distance - (len(insert.ids) - insert.needle[1])
        if behind < 0:
            raise LengthTooShort(
                f"{item.key}: what is inserted with the needle reaches {distance - behind} tokens beyond it, so that "
                f"the distance cannot be {distance}; give longer distances."
            )
        for shorter in range(min(MAX_SHORTER, behind) + 1):
            for question in questions:
                probe = layout.grafted(item, insert, cut, cut + behind - shorter, question, answer)
                if probe is not None:
                    return replace(probe, id=f"{item.needle_id}/{interference}+{distance}/s{layout.seed}")
    raise JoinNotCanonical(
        f"{item.key}: with {layout.codec.name} no place for the needle is found {interference} tokens (or up to "
        f"{MAX_SHORTER} fewer) from the start of the haystack {layout.stream.name!r}. Use another number or haystack."
    )


def _places(layout: Layout, item: Item, interference: int) -> Iterator[tuple[Insert, int]]:
    """Where the needle has so many tokens before it: where a sentence starts, else a line, a clause or a word."""
    lead = len(layout.head) + layout.inserts(item, "sentence")[0].needle[0]
    if interference < lead:
        raise LengthTooShort(
            f"{item.key}: {lead} tokens stand before the needle in any case, so the interference cannot be "
            f"{interference}; give more."
        )
    for at, places in layout.stream.places.items():
        usual, other = layout.inserts(item, at)
        for cut in sorted(places.tolist(), reverse=True):
            for insert in (usual, other) if cut in layout.stream.solid else (usual,):
                if 0 <= interference - (len(layout.head) + cut + insert.needle[0]) <= MAX_SHORTER:
                    yield insert, cut
