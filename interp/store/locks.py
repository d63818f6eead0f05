"""Whoever writes a file holds its lock: the system's own (`flock`), or a lock file where a file system has none.

NFS without its lock daemon, Lustre mounted without `-o flock`, DVS and some FUSE mounts refuse `flock`, each with an
errno of its own. There a lock is a file that is there or is not (`filelock.SoftFileLock`). Its holder's death may leave
it behind, so a message names it. It has a name of its own: `flock` leaves its empty file for ever, and that locks
nothing.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows, where FileLock uses another call
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

_ADDED = 64  # bytes that we and filelock put around a name: .NAME.lock, .NAME.softlock.break.PID.(32 digits)
_SHOWN = 40  # bytes of a name that is too long for that
_warned: set[int] = set()  # devices without locks that were told of


class Busy(Exception):
    """Another process holds the lock. The text says what can be done about it."""


@contextmanager
def locked(lock: Path, timeout: float) -> Iterator[None]:
    """Hold the lock file `lock` (.NAME.lock) within the block, waiting for it up to `timeout` seconds.

    Raises Busy when another process holds it all that time, OSError when the folder takes no lock file.
    """
    soft = not has_flock(lock.parent)
    held: BaseFileLock = SoftFileLock(lock.with_suffix(".softlock")) if soft else FileLock(lock)
    try:
        held.acquire(timeout=timeout)
    except Timeout as error:
        raise Busy(_whose(Path(held.lock_file)) if soft else "try again later") from error
    try:
        yield
    finally:
        with suppress(OSError):  # what was done under the lock is done
            held.release()


@lru_cache
def has_flock(folder: Path) -> bool:
    """Whether the system locks files in this folder: tried on one that nobody else knows of. Raises OSError."""
    if fcntl is None:
        return True
    descriptor, name = tempfile.mkstemp(prefix=".headscope-", dir=folder)
    try:
        os.unlink(name)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if (device := os.stat(folder).st_dev) not in _warned:
            _warned.add(device)
            words = "the file system of %s has no locks (flock: %s); lock files are used instead (.NAME.softlock)"
            log.warning(words, folder, error.strerror)
        return False
    finally:
        os.close(descriptor)
    return True


def _whose(lock: Path) -> str:
    """Who made a soft lock, as far as it tells, and what to do."""
    told, age = "", ""
    with suppress(OSError, ValueError):
        age = f" {max(0.0, time.time() - lock.stat().st_mtime) / 60:.0f} minutes ago"
        process, host, *_ = lock.read_text(encoding="utf-8").splitlines()
        told = f" by process {int(process)} on {host}"
    return f"its lock file {lock} was made{told}{age}: if no program is writing there any more, delete that file"


def beside(target: Path, pattern: str) -> Path:
    """The path `pattern.format(NAME)` beside a file. A NAME that would become too long is cut, and told by its hash."""
    name = os.fsencode(target.name)
    if len(name) + _ADDED <= name_limit(target.parent):
        return target.with_name(pattern.format(target.name))
    cut = name[:_SHOWN].decode(errors="ignore")
    return target.with_name(pattern.format(f"{cut}~{blake2b(name, digest_size=8).hexdigest()}"))


def name_limit(folder: Path) -> int:
    """How many bytes the name of a file in this folder may have."""
    try:
        return min(255, os.pathconf(folder, "PC_NAME_MAX"))
    except (AttributeError, OSError, ValueError):
        return 255
