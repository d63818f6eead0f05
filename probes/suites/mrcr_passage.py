"""A transcript and the question that is its last turn, as a passage: of texts of our own and of a file's alike."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import NeedleLeak
from ..passage import Copied, Passage, Piece
from ..task import Task


def dialogue(
    turns: Sequence[tuple[str, str]],
    *,
    matching: str,
    needles: int,
    instance: int,
    hash: str,
    question: str,
    key: str,
    before: str = "",
) -> Passage:
    """Turns of a request and a reply, and a last one that asks for the `instance`-th reply (from 0) to `matching`.

    The answer is the hash and the reply, with nothing between them, as in the published data.

    Raises NeedleLeak where not exactly `needles` requests match, two of their replies are the same, or the hash stands
    in the transcript.
    """
    replies = [reply for request, reply in turns if request == matching]
    if len(replies) != needles:
        raise NeedleLeak(f"{key}: {len(replies)} requests are {matching!r}, not {needles}.")
    if len(set(replies)) < needles:
        raise NeedleLeak(f"{key}: two replies to {matching!r} are the same.")
    pieces, nth = [], 0
    for request, reply in turns:
        role = ""
        if request == matching:
            role = "needle" if nth == instance else "distractor"
            nth += 1
        pieces += [Piece(f"User: {request}\n\nAssistant:"), Piece(f" {reply}", role), Piece("\n\n")]
    if any(hash in piece.text for piece in pieces) or hash in before:
        raise NeedleLeak(f"{key}: the hash {hash!r} stands in the transcript as well.")
    gold = replies[instance]
    # A tokenizer may fuse the hash with the first word, which then has no source.
    first, rest = re.fullmatch(r"(\s*\S*)(.*)", gold, re.S).groups()  # type: ignore[union-attr]
    answer = (f" {hash}{first}", Copied(rest)) if rest.strip() else (f" {hash}", Copied(gold))
    room = max(len(hash + reply) for reply in replies) // 3  # tokens of the longest of them, about
    return Passage(
        key=key,
        before=before,
        pieces=tuple(pieces),
        question=f"User: {question}\n\nAssistant:",
        answer=answer,
        task=Task(
            "mrcr",
            (hash + gold,),
            max_new_tokens=room + 32,
            stop=("\n\nUser:",),
            rivals=tuple(reply for i, reply in enumerate(replies) if i != instance),
            prefix=hash,
        ),
        value=gold,
        reserve=room,  # so that items which share a transcript have as much of it
    )
