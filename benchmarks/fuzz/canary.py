"""Files that nothing may touch: their content must not turn up anywhere, and Linux tells who opens them (inotify)."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import h5py

CONTENT = b"CANARY-7f3a91"
_WATCHED = 0x20 | 0x1 | 0x2 | 0x100 | 0x200 | 0x40 | 0x80  # open, access, modify, create, delete, move
_NONBLOCK = 0o4000


class Canaries:
    """A folder with a text and an HDF5 file, watched where the system can."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.text, self.hdf5 = folder / "canary.txt", folder / "canary.h5"
        self.text.write_bytes(CONTENT * 100)
        with h5py.File(self.hdf5, "w") as file:
            file["text"] = [CONTENT.decode()] * 3
            file["numbers"] = [float.fromhex("0x1.badcafep+3")] * 64
        self._names = sorted(path.name for path in folder.iterdir())
        self._queue = self._watch()
        self.watched = self._queue is not None

    def _watch(self) -> int | None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            queue = int(libc.inotify_init1(_NONBLOCK))
            found = libc.inotify_add_watch(queue, os.fsencode(self.folder), _WATCHED)
        except (AttributeError, OSError):
            return None
        return queue if queue >= 0 and found >= 0 else None

    def touched(self) -> list[str]:
        """What has happened to them since the last call."""
        found = sorted(path.name for path in self.folder.iterdir())
        changes = [] if found == self._names else [f"the folder holds {found}"]
        self._names = found
        if self._queue is not None:
            changes += self._events()
        return changes

    def _events(self) -> list[str]:
        try:
            told = os.read(self._queue or 0, 1 << 16)
        except BlockingIOError:
            return []
        names, at = set(), 0
        while at < len(told):
            _, mask, _, length = struct.unpack_from("iIII", told, at)
            name = told[at + 16 : at + 16 + length].rstrip(b"\0").decode()
            if name:  # without one it is the folder itself, which `touched` lists
                names.add(f"{name} ({mask:#x})")
            at += 16 + length
        return sorted(names)
