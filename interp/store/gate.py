"""The one way into an HDF5 file: what it is made of is examined first, in a process of its own.

The HDF5 library trusts what it reads: damaged metadata can crash it, or let it run or allocate for ever. So a helper
process examines every file (structure.py) before this process opens it; what kills the helper is told in one line.
What is written into a file that is there is put together by the helper as well, in memory.
There is one helper a process, started for the first file and ended with it. A file that was examined is not examined
again while it is the same, by its place on the disk, its size and its times; nor is one that this process has made
from nothing, while its bytes are the same.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py

from ...errors import HeadscopeError
from .schema import StoreError
from .structure import Use, examine, open_unexamined

try:
    import resource
except ImportError:  # Windows, where nothing limits the helper
    resource = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

CPU_SECONDS = 10  # of the helper, for one file, and more for a large one; waiting for a slow disk does not count
BYTES_PER_SECOND = 10_000_000
MEMORY = 2**30  # bytes, of the helper, beyond what it has when it starts
_REMEMBERED = 4096

_START = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from headscope.interp.store.gate import serve; serve(sys.stdin.buffer, sys.stdout.buffer)"
)
_lock = threading.RLock()
_helper: _Helper | None = None


class Remembered(dict[Any, Any]):
    """What is known of files, of the last thousands."""

    def remember(self, what: Any, known: Any = None) -> None:
        if len(self) >= _REMEMBERED:
            del self[next(iter(self))]
        self[what] = known


_examined = Remembered()  # identity and use
_written = Remembered()  # device, inode, size -> digest of the bytes


def open_hdf5(path: str | os.PathLike[str], use: Use = "values") -> h5py.File:
    """Open an HDF5 file for reading, after it has been examined for that use. Raises StoreError."""
    shown, place = str(path), os.path.abspath(path)
    before = _identity(place, shown)
    with _lock:
        if not any((before, other) in _examined for other in (use, "values" if use == "structure" else use)):
            if not _is_ours(before, place) and (problem := _ask(place, shown, use)):
                raise StoreError(problem)
            if _identity(place, shown) == before:
                _examined.remember((before, use))
    return open_unexamined(place, shown)


def written(path: str | os.PathLike[str]) -> None:
    """Tell that the file at this path was made here, from nothing. It may be renamed."""
    place = os.path.abspath(path)
    with _lock:
        _written.remember(_identity(place, str(path))[:3], _digest(place))


def _is_ours(identity: tuple[int, ...], place: str) -> bool:
    # Times are too coarse to tell what was written by us from what was changed at once after.
    digest = _written.get(identity[:3])
    return digest is not None and digest == _digest(place)


def _digest(place: str) -> bytes:
    with open(place, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def change(path: str | os.PathLike[str], how: str, *arguments: Any) -> None:
    """One of growing.CHANGES, by the helper, for a file that is there; by this process where there is no helper.

    Reading tells too little: the library follows other structures while it writes, and damage there crashes it too.

    Raises StoreError, also where the library crashes, and OSError.
    """
    place = os.fspath(path)
    with _lock:
        helper = _running()
        if helper is None or not helper.ready():
            told = _changed(place, how, arguments)
        else:
            told, sound = [], False
            try:
                told = helper.change(place, how, arguments)
                sound = not told
            except (OSError, ValueError):
                why = f"the file that is there takes no more: {_cause(helper.end())}"
                raise StoreError(f"{why}; restore it, or write to another file") from None
            finally:
                if not sound:
                    _end()
    if told:
        raise StoreError(*told) if len(told) == 1 else OSError(*told)


def start() -> None:
    """Start the helper, which takes a moment, before it is needed: something else may be done meanwhile."""
    with _lock:
        _running()


def _identity(path: str, shown: str) -> tuple[int, ...]:
    """What changes when a file does. StoreError for what is no file: opening a pipe would wait for its other end."""
    try:
        told = os.stat(path)
    except OSError as error:
        raise StoreError(f"cannot open {shown}: {error.strerror}; check the path and its permissions") from error
    if not stat.S_ISREG(told.st_mode):
        raise StoreError(f"{shown} is no file; give the .h5 file that was written")
    return _of(told)


def identity(file: h5py.File) -> tuple[int, ...] | None:
    """The same of a file that is open, whatever has come to its place since; None where it does not lie on a disk."""
    try:
        return _of(os.fstat(file.id.get_vfd_handle()))
    except (OSError, RuntimeError, NotImplementedError):
        return None


def _of(told: os.stat_result) -> tuple[int, ...]:
    return told.st_dev, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns


def _ask(path: str, shown: str, use: Use) -> str | None:
    helper = _running()
    if helper is None or not helper.ready():
        return examine(path, shown, use)[0]
    problem, sound = None, False
    try:
        problem, sound = helper.ask(path, shown, use)
    except (OSError, ValueError):
        problem = f"{shown} is not read: {_cause(helper.end())}; restore the file, or make it again"
    finally:
        if not sound:  # interrupted, or damage has left its marks on the library
            _end()
    return problem


def _cause(end: int) -> str:
    """What the end of a helper says about the file. end: its exit code, or minus the signal that ended it."""
    if resource is not None and end == -signal.SIGXCPU:
        return f"the HDF5 library computes for more than {CPU_SECONDS} s (and 1 s for 10 MB) without coming to an end"
    how = signal.Signals(-end).name if end < 0 else f"exit code {end}"
    return f"it is damaged so that the HDF5 library crashes ({how})"


class _Helper:
    """A process that examines files, one after the other. It ends with its questions."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HDF5_PLUGIN_PRELOAD": "::"},  # no filter is loaded from anywhere
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self._ready: bool | None = None

    def ready(self) -> bool:
        """Whether it has started. Waits until that is known."""
        if self._ready is None:
            self._ready = self._answers.readline() == b"ready\n"
            if not self._ready:
                log.warning("no helper process could be started: damaged HDF5 files may crash this one")
        return self._ready

    def ask(self, path: str, shown: str, use: Use) -> tuple[str | None, bool]:
        """What `examine` says. Raises OSError or ValueError when no answer comes."""
        self._questions.write(json.dumps([path, shown, use]).encode() + b"\n")
        self._questions.flush()
        problem, sound = json.loads(self._answers.readline())
        return problem, sound

    def change(self, path: str, how: str, arguments: Sequence[Any]) -> list[Any]:
        """What `_changed` says. Raises OSError or ValueError when no answer comes."""
        self._questions.write(json.dumps([path, how, arguments]).encode() + b"\n")
        self._questions.flush()
        told: list[Any] = json.loads(self._answers.readline())
        return told

    def gone(self) -> bool:
        """Whether another should be started. Where one did not get ready, none will."""
        return self._ready is not False and self._process.poll() is not None

    def end(self) -> int:
        """End it. Returns its exit code, negative for a signal."""
        with suppress(OSError):
            self._questions.close()
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._answers.close()
        return code


def _running() -> _Helper | None:
    """The helper of this process; None where none can be started. That of a parent is the parent's."""
    global _helper
    if _helper is not None and _helper.owner == os.getpid() and not _helper.gone():
        return _helper
    try:
        _helper = _Helper()
    except OSError as error:
        log.warning("no helper process could be started (%s): damaged HDF5 files may crash this one", error.strerror)
        _helper = None
    return _helper


def _end() -> None:
    global _helper
    if _helper is not None and _helper.owner == os.getpid():
        _helper.end()
    _helper = None


atexit.register(_end)


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Be the helper: examine the files that the questions name, until they end."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # meant for those who ask, who may have something to save
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    base = _address_space()
    answers.write(b"ready\n")
    answers.flush()
    for line in questions:
        path, asked, more = json.loads(line)
        size = os.stat(path).st_size
        if isinstance(more, str):
            _limit(base, size)
            answer: Any = examine(path, shown=asked, use=cast(Use, more))
        else:
            _limit(base, 4 * (size + len(line)), memory=6 * (size + len(line)))
            answer = _changed(path, asked, more)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _changed(path: str, how: str, arguments: Sequence[Any]) -> list[Any]:
    """Nothing, or what went wrong: the line of a StoreError, or an OSError's number, words and file."""
    from .growing import CHANGES

    try:
        CHANGES[how](Path(path), *arguments)
    except HeadscopeError as error:
        return [str(error)]
    except OSError as error:
        return [error.errno, error.strerror, error.filename and os.fspath(error.filename)]
    return []


def _limit(base: int, size: int, memory: int = 0) -> None:
    """Computing time for `size` bytes, and memory for `memory` more beside what every file may take."""
    if resource is None:
        return
    seconds = CPU_SECONDS + size // BYTES_PER_SECOND
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, most))
    if base:
        with suppress(OSError, ValueError):  # where less is allowed already
            resource.setrlimit(resource.RLIMIT_AS, (base + MEMORY + memory, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _address_space() -> int:
    """Bytes that this process has mapped; 0 where that is not told."""
    with suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 0
