"""Short names for content: the same text or ids, the same digits, in every process."""

from __future__ import annotations

from hashlib import blake2b


def short_hash(*parts: bytes | str) -> str:
    """12 hex digits over the parts and their lengths."""
    digest = blake2b(digest_size=6)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
