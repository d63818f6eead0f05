"""A small process that forks for whoever connects: forking one with everything imported costs several times more."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

Work = Callable[[BinaryIO, BinaryIO], None]


class Nursery:
    """Start it before what is heavy is imported. Every connection gets a fresh process that does `work` on it.

    The last line on a connection is {"end": code}: the exit code of that process, negative for a signal.
    """

    def __init__(self, place: Path, work: Work):
        self._place, self._owner = str(place), os.getpid()
        server = socket.socket(socket.AF_UNIX)
        server.bind(self._place)
        server.listen(64)
        alive, self._alive = os.pipe()
        self._process = os.fork()
        if not self._process:
            os.close(self._alive)
            try:
                _accept(server, alive, work)
            finally:
                os._exit(0)
        os.close(alive)
        server.close()

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._place)
        return connection

    def end(self) -> None:
        os.kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        os.close(self._alive)
        os.unlink(self._place)


def _accept(server: socket.socket, alive: int, work: Work) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        if alive in select.select([server, alive], [], [])[0]:  # closed: who started this one has ended
            return
        connection, _ = server.accept()
        if not os.fork():
            try:
                server.close()
                _attend(connection, work)
            finally:
                os._exit(0)
        connection.close()


def _attend(connection: socket.socket, work: Work) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    worker = os.fork()
    if not worker:
        try:
            work(connection.makefile("rb"), connection.makefile("wb"))
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    with suppress(OSError):  # nobody may be left to be told
        connection.sendall(json.dumps({"end": code}).encode() + b"\n")
