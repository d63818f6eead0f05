"""The processes of one training run: who writes, whether all are there, what all go by and what each has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from torch import distributed

TOGETHER = 300.0  # seconds that ranks wait for each other: one may be writing a checkpoint
_met: Counter[str] = Counter()  # how often the ranks were to meet for a purpose, of all monitors: they share the store
T = TypeVar("T")


def rank() -> int:
    return distributed.get_rank() if _several() else 0


def together(purpose: str, tell: Callable[[str], None]) -> bool:
    """Whether all ranks are here for the same purpose; a collective would wait for a missing one for ever.

    They meet at the store that every process group has, which can be left: whoever comes last says that all go on,
    and whoever has waited too long that nobody does, also those who come later. `tell` is told why.
    """
    if not _several() or distributed.get_world_size() == 1:
        return True
    _met[purpose] += 1
    place = f"headscope/{purpose}/{_met[purpose]}"
    try:
        meeting = distributed.distributed_c10d._get_default_store()
    except (AttributeError, ValueError):  # a backend without one
        return True

    def decide(word: str) -> None:
        if meeting.add(f"{place}/decided", 1) == 1:
            meeting.set(f"{place}/all", word)

    if meeting.add(f"{place}/here", 1) == distributed.get_world_size():
        decide("here")
    try:
        meeting.wait([f"{place}/all"], timedelta(seconds=TOGETHER))
    except RuntimeError:  # of torch.distributed, of a time-out
        decide("left")
    if meeting.get(f"{place}/all") == b"here":
        return True
    tell(
        f"rank {rank()} came {purpose}, and others did not within {TOGETHER:g} s, so nothing is measured: every "
        "rank has to measure, and at the same steps; training goes on"
    )
    return False


def agreed(said: T) -> T:
    """What rank zero says; one that did otherwise would wait for the others forever."""
    if not _several():
        return said
    told = [said]
    distributed.broadcast_object_list(told, src=0)
    return told[0]


def everywhere(said: T) -> list[T]:
    """What every rank says, in their order; all of them have to ask."""
    if not _several():
        return [said]
    told: list[T] = [said] * distributed.get_world_size()
    distributed.all_gather_object(told, said)
    return told


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
