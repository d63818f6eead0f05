"""One hostile input through all that reads it, in a child with limits; what came of each."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headscope.errors import HeadscopeError

from .canary import CONTENT, Canaries
from .forks import Nursery

MEMORY = 2**30  # bytes beyond what the child has when it starts, and
TIMES = 4  # so many times the size of the input
SECONDS = 30  # of computing, for one action
LIMIT = 300  # s on the clock for all actions, whatever they do
GOOD = ("valid", "refused")

Action = Callable[[Path, Path], None]
"""(input, folder to write to). A command ends in SystemExit with what it wrote on stdout and stderr."""


@dataclass(frozen=True)
class Outcome:
    """kind: "valid", "refused" (in one line), or what is wrong; detail: the line, the traceback, ..."""

    action: str
    kind: str
    detail: str = ""


def run_case(path: Path, actions: Mapping[str, Action], canaries: Canaries) -> list[Outcome]:
    """Every action on the input, in order. A child that dies is followed by one for the actions after it."""
    found: list[Outcome] = []
    left = list(actions)
    beside = {item.name for item in path.parent.iterdir()}
    canaries.touched()
    while left:
        done, end = _in_child(path, {name: actions[name] for name in left}, size_of(path))
        found += done
        left = left[len(done) :]
        if left and end is not None:
            found.append(Outcome(left.pop(0), *end))
    return found + _elsewhere(path, found, beside, canaries)


def _elsewhere(path: Path, found: list[Outcome], beside: set[str], canaries: Canaries) -> list[Outcome]:
    """What has been touched outside of the folder for output, and what of the canaries is in there."""
    last = found[-1].action
    more = [Outcome(last, "outside", what) for what in canaries.touched()]
    out = path.parent / "out"
    new = {item.name for item in path.parent.iterdir()} - beside - {"out", f".{path.name}.lock"}
    more += [Outcome(last, "wrote elsewhere", name) for name in sorted(new)]
    for item in out.rglob("*"):
        if item.is_file() and not item.is_symlink() and CONTENT in item.read_bytes():
            more.append(Outcome(last, "outside", f"the canary's content is in {item.name}"))
    return more


def size_of(path: Path) -> int:
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file() and not item.is_symlink())
    return path.stat().st_size if path.is_file() else 0


def _in_child(path: Path, actions: Mapping[str, Action], size: int) -> tuple[list[Outcome], tuple[str, str] | None]:
    """Outcomes of the actions that came to an end, and how the child ended where it did so too early."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.close(here)
        try:
            os.setpgid(0, 0)
            _act(path, actions, size, there)
        finally:
            os._exit(0)
    os.close(there)
    told, until = b"", time.monotonic() + LIMIT
    stuck = False
    while True:
        ready, _, _ = select.select([here], [], [], max(0, until - time.monotonic()))
        if not ready:
            stuck = True
            break
        part = os.read(here, 1 << 16)
        if not part:
            break
        told += part
    if stuck:
        os.kill(child, signal.SIGKILL)
    os.close(here)
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # a helper of its
    done = [Outcome(*json.loads(line)) for line in told.splitlines()]
    code = os.waitstatus_to_exitcode(status)
    if stuck or -code in (signal.SIGPROF, signal.SIGXCPU):
        return done, ("too slow", "")
    if code < 0:
        return done, ("crash", signal.Signals(-code).name)
    return done, ("crash", "ended") if len(done) < len(actions) else None


def _act(path: Path, actions: Mapping[str, Action], size: int, told: int) -> None:
    out = path.parent / "out"
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**28 + TIMES * size, resource.RLIM_INFINITY))
    with open("/proc/self/statm", encoding="ascii") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY + TIMES * size, resource.RLIM_INFINITY))
    for stream, number in (("stdout", 1), ("stderr", 2)):
        out.mkdir(exist_ok=True)
        descriptor = os.open(out / stream, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.chdir(out)
    for name, action in actions.items():
        for number in (1, 2):
            os.ftruncate(number, 0)
            os.lseek(number, 0, os.SEEK_SET)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcome = Outcome(name, *_one(action, path, out))
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(told, json.dumps([outcome.action, outcome.kind, outcome.detail[-2000:]]).encode() + b"\n")


def _one(action: Action, path: Path, out: Path) -> tuple[str, str]:
    try:
        action(path, out)
        code: object = 0
        message = ""
    except SystemExit as end:
        code, message = end.code or 0, ""
    except HeadscopeError as error:
        code, message = 2, f"error: {error}"
    except MemoryError:
        return "memory", traceback.format_exc(limit=-3)
    except BaseException:
        return "traceback", traceback.format_exc(limit=-4)
    sys.stdout.flush()
    sys.stderr.flush()
    shown = message + (out / "stderr").read_text(errors="replace")
    printed = shown + (out / "stdout").read_text(errors="replace")
    if "MemoryError" in printed or "Unable to allocate" in printed:
        return "memory", shown
    if "Traceback (most recent call last)" in printed:
        return "traceback", shown
    if CONTENT.decode() in printed:
        return "outside", "the canary's content is printed"
    if raw := {c for c in printed if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"}:
        return "raw characters", f"{sorted(map(ascii, raw))} in {shown!r}"
    if code == 0:
        return "valid", ""
    lines = [line for line in shown.splitlines() if line.strip()]
    if code == 2 and lines and all(line.startswith("error: ") for line in lines):
        return "refused", lines[0]
    return "badly told", f"exit {code}: {shown}"


class SmallHelper:
    """The gate's helper as a fork of a small process that has h5py imported: the same work, started in milliseconds.

    Everything else of the gate is as it is in use.
    """

    nursery: Nursery

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._connection = self.nursery.connect()
        self._answers = self._connection.makefile("rb")
        self._code: int | None = None
        self._answers.readline()

    def ready(self) -> bool:
        return True

    def ask(self, path: str, shown: str, use: str) -> tuple[str | None, bool]:
        problem, sound = self._answer(json.dumps([path, shown, use]).encode() + b"\n")
        return problem, sound

    def change(self, path: str, how: str, arguments: Sequence[Any]) -> list[Any]:
        return self._answer(json.dumps([path, how, arguments]).encode() + b"\n")

    def _answer(self, question: bytes) -> list[Any]:
        self._connection.sendall(question)
        told: list[Any] | dict[str, int] = json.loads(self._answers.readline())
        if isinstance(told, dict):
            self._code = told["end"]
            raise OSError("the helper has ended")
        return told

    def gone(self) -> bool:
        return self._code is not None

    def end(self) -> int:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        while self._code is None:
            told = json.loads(self._answers.readline() or b'{"end": -9}')
            self._code = told["end"] if isinstance(told, dict) else None
        self._connection.close()
        return self._code


def fresh(folder: Path) -> Path:
    """An empty folder in the place of the one before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
