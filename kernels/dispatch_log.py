"""Which implementation each operation really ran, noted where it is decided: for a result's provenance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_noted: ContextVar[dict[str, str] | None] = ContextVar("headscope_kernel_choices", default=None)


@contextmanager
def recording() -> Iterator[dict[str, str]]:
    """Collect what runs inside the block: operation -> implementations, sorted, as "reference, triton".

    Operations are `row_evidence`, `evidence_attention`, `key_mass` ("triton", "reference") and `attend`, attention
    without evidence ("sdpa:cudnn", "sdpa:flash", "sdpa:cpu", "triton", "reference").
    """
    found: dict[str, str] = {}
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def note(operation: str, chosen: str) -> None:
    """Remember a decision, if anybody records."""
    found = _noted.get()
    if found is not None and chosen not in found.get(operation, "").split(", "):
        found[operation] = ", ".join(sorted(filter(None, [*found.get(operation, "").split(", "), chosen])))
