"""Damage to bytes, wherever they lie: what disks, networks and editors do. And the same behind a checksum made anew."""

from __future__ import annotations

import random
from collections.abc import Callable

Mutator = Callable[[bytearray, random.Random], None]


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 4, 32))):
        at, size = rng.randrange(len(data)), rng.choice((1, 2, 4, 8, 16, 512))
        value = rng.choice((b"\xff", b"\x7f", b"\x80", bytes([rng.randrange(256)]), None))
        part = rng.randbytes(size) if value is None else value * size
        data[at : at + size] = part[: len(data) - at]


def zero(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice((4, 64, 512, 4096))
    data[at : at + size] = bytes(min(size, len(data) - at))


def swap(data: bytearray, rng: random.Random) -> None:
    size = min(rng.choice((4, 64, 512, 4096)), len(data) // 4)
    a, b = rng.randrange(len(data) - size), rng.randrange(len(data) - size)
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 8, 512, 4096))]


def insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    data[at:at] = rng.choice((rng.randbytes(rng.choice((1, 8, 512))), bytes(4096)))


def duplicate(data: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(data)), rng.choice((8, 512, 4096))
    to = rng.randrange(len(data))
    data[to : to + size] = data[at : at + size]


MUTATORS: tuple[Mutator, ...] = (flip, flip, overwrite, overwrite, zero, swap, cut, remove, insert, duplicate)


def behind_checksums(data: bytearray, rng: random.Random) -> None:
    """Change an HDF5 object header and put the right checksum under it, as someone would who means it."""
    starts = [at for at in range(0, len(data) - 16) if data[at : at + 4] == b"OHDR"]
    for start in rng.sample(starts, min(len(starts), rng.choice((1, 1, 3)))):
        flags = data[start + 5]
        at = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(data[at : at + width], "little")
        first, end = at + width, at + width + size
        if size == 0 or end + 4 > len(data):
            continue
        part = bytearray(data[first:end])
        rng.choice((flip, flip, overwrite, duplicate))(part, rng)
        data[first:end] = part[:size].ljust(size, b"\0")
        data[end : end + 4] = lookup3(bytes(data[start:end])).to_bytes(4, "little")


def lookup3(data: bytes) -> int:
    """Bob Jenkins's hash, as HDF5 has it under its metadata."""
    mask = 0xFFFFFFFF

    def rotated(x: int, k: int) -> int:
        return (x << k | x >> (32 - k)) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    rest = data
    while len(rest) > 12:
        a, b, c = ((x + int.from_bytes(rest[i : i + 4], "little")) & mask for x, i in ((a, 0), (b, 4), (c, 8)))
        for shift in (4, 6, 8, 16, 19, 4):
            a = (a - c & mask) ^ rotated(c, shift)
            c = (c + b) & mask
            a, b, c = b, c, a
        rest = rest[12:]
    if not rest:
        return c
    rest = rest.ljust(12, b"\0")
    a, b, c = ((x + int.from_bytes(rest[i : i + 4], "little")) & mask for x, i in ((a, 0), (b, 4), (c, 8)))
    for shift in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - rotated(b, shift)) & mask
        a, b, c = b, c, a
    return b
