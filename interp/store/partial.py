"""A file is written beside its place and put there when it is whole; what killed writers left is cleared away."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .locks import beside

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be deleted, and so needs no lock
    fcntl = None  # type: ignore[assignment]


@contextmanager
def partial_file(target: Path) -> Iterator[Path]:
    """A new, empty file beside `target`, gone after the block unless it was moved. Raises OSError.

    It is locked while it is written, and the system frees the lock of a writer that is killed. So who writes to the
    same place next can tell what was left there from what is at work.
    """
    with suppress(OSError):
        _clear(target)
    while True:
        partial = beside(target, f".{{}}.{secrets.token_hex(4)}.part")
        with partial.open("xb") as held:
            if fcntl is None:
                held.close()
            elif _lock(held.fileno()) and not partial.exists():
                continue  # cleared away between the two
            try:
                yield partial
            finally:
                partial.unlink(missing_ok=True)
        return


def _clear(target: Path) -> None:
    left = re.compile(re.escape(beside(target, ".{}.").name) + r"[0-9a-f]{8}\.part")
    for path in [path for path in target.parent.iterdir() if left.fullmatch(path.name)]:
        with path.open("rb") as file:
            free = _lock(file.fileno())
        if free:
            path.unlink(missing_ok=True)


def _lock(descriptor: int) -> bool:
    """Whether nobody else has it locked. Where locks do not work, everybody seems to."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
