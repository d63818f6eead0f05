"""What probes need to know about a tokenizer, and the checks that keep its answers honest.

Ids are built first and piece by piece; `Codec.is_canonical` then asks the tokenizer whether it would cut the joined
text the same way. Special tokens never pass through text, except those that a chat template writes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ProbeError

Ids = Sequence[int] | NDArray[np.int32]

# Text in front of a piece, so that it is encoded as a continuation (SentencePiece adds a space to a first word).
ANCHOR = "a"
WINDOW = 32  # tokens on either side of a join that are encoded again
SLACK = 8  # tokens at a window's torn edges that may come out differently
LONGEST = 8  # tokens that may share a character; what is torn after so many stays torn
BYTE = re.compile("<0x[0-9A-F]{2}>")  # of a vocabulary that spells in bytes what it has no token for
INNER = re.compile("<0x[89AB][0-9A-F]>")  # one that goes on with a character (UTF-8)
SAMPLE = "Questions: 1,234,567 naïve cafés?\n\tIt's 9:05 — 日本語, Ελλάδα, हिन्दी 🙂.  def f(x): return x**2\r\n\n"


def fingerprint(tokenizer: Any, first: int | None = None) -> str:
    """Vocabulary size and a hash of vocabulary and behaviour, for example "49152-8c2f06a1b3d4".

    Tokenizers with the same fingerprint give the same ids; it does not depend on the library's version or on settings
    such as padding. With `first`, only the first so many entries of the vocabulary count, in the order of their ids:
    what the fingerprint was before tokens were added behind them.
    """
    return _fingerprint(tokenizer, _entries(tokenizer), first)


def _entries(tokenizer: Any) -> dict[int, str]:
    return {id: str(token) for token, id in tokenizer.get_vocab().items()}


def _fingerprint(tokenizer: Any, vocabulary: dict[int, str], first: int | None = None) -> str:
    entries = sorted(vocabulary.items())[:first]
    digest = blake2b(
        "".join(f"{id}\t{token}\n" for id, token in entries).encode("utf-8", "surrogatepass"), digest_size=6
    )
    for special in (False, True):
        digest.update(str(list(tokenizer.encode(SAMPLE, add_special_tokens=special))).encode())
    return f"{len(entries)}-{digest.hexdigest()}"


def squash(text: str) -> str:
    """Text without case, white space and compatibility forms: what survives every tokenizer's decoding."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


class Codec:
    """One tokenizer, seen through what probes ask of it. Any Hugging Face tokenizer, fast or slow."""

    def __init__(self, tokenizer: Any) -> None:
        needed = ("encode", "decode", "get_vocab", "all_special_ids")
        missing = [name for name in needed if not hasattr(tokenizer, name)]
        if missing:
            raise ProbeError(
                f"tokenizer is a {type(tokenizer).__name__} without {', '.join(missing)}; give a Hugging Face "
                "tokenizer, for example transformers.AutoTokenizer.from_pretrained(...)."
            )
        self.tokenizer = tokenizer
        self._before: dict[str, list[int]] = {}
        self._surfaces: dict[int, str] = {}
        self._spelled: dict[tuple[int, ...], str] = {}

    @cached_property
    def fingerprint(self) -> str:
        return _fingerprint(self.tokenizer, self.entries)

    @cached_property
    def entries(self) -> dict[int, str]:
        """The vocabulary: id -> token, as the tokenizer writes it."""
        return _entries(self.tokenizer)

    def vocabulary_fp(self, ids: Ids) -> str:
        """A hash of what the ids in use stand for: the same where a tokenizer only gained or renamed other tokens."""
        digest = blake2b(digest_size=6)
        for id in np.unique(np.asarray(ids)).tolist():
            digest.update(f"{id}\t{self.entries.get(id)}\n".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @cached_property
    def name(self) -> str:
        return f"{type(self.tokenizer).__name__} {getattr(self.tokenizer, 'name_or_path', '')}".strip()

    @cached_property
    def size(self) -> int:
        """One more than the highest id."""
        return max(self.entries) + 1

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """BOS, EOS, padding, unknown, chat markup: ids that ordinary text must not hold."""
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        return tuple(token for token in self.tokenizer.all_special_tokens if token)

    @cached_property
    def _barriers(self) -> frozenset[int]:
        # Added tokens are split off before anything else, so no merge reaches across them.
        added = getattr(self.tokenizer, "added_tokens_decoder", ())
        ids = () if callable(added) else added  # mistral-common has a method, and none
        # Bytes are added to some vocabularies as well, but stand within a word.
        return self.special_ids | {id for id in ids if not BYTE.fullmatch(self.entries.get(id, ""))}

    @cached_property
    def head(self) -> tuple[int, ...]:
        """The special ids this tokenizer puts before a text: usually (BOS,) or ()."""
        plain = self.encode(ANCHOR)
        full = list(self.tokenizer.encode(ANCHOR, add_special_tokens=True))
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return tuple(full[:start])
        raise ProbeError(
            f"{self.name}: encoding {ANCHOR!r} gives {plain} without and {full} with special tokens; these do not fit "
            "together, so it is unclear how a sequence begins."
        )

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as it stands; no special tokens are added (those written in the text are recognised)."""
        # verbose=False: a whole haystack is longer than the model's context, and that is no mistake.
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, ids: Ids) -> str:
        runs: list[list[int]] = [[]]
        if self._spells_pieces:  # special tokens apart
            for id in map(int, ids):
                runs += [[id], []] if id in self.special_ids else []
                runs[-1] += [] if id in self.special_ids else [id]
        else:
            runs[0] = [int(id) for id in ids]
        return "".join(
            self._decode(run, skip=self._spells_pieces and run[0] not in self.special_ids) for run in runs if run
        )

    def _decode(self, ids: list[int], *, skip: bool) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False))

    @cached_property
    def _spells_pieces(self) -> bool:
        """mistral-common's SentencePiece gives "▁a▁b" for "a b", and text only where special tokens are left out."""
        ids = self.encode("a b")
        return not self.special_ids.intersection(ids) and self._decode(ids, skip=False) != self._decode(ids, skip=True)

    def piece(self, text: str, after: str = ANCHOR) -> list[int]:
        """Ids of `text` where it continues `after`."""
        if after not in self._before:
            self._before[after] = self.encode(after)
        before, both = self._before[after], self.encode(after + text)
        return both[len(before) :] if both[: len(before)] == before else self.encode(text)

    def text_after(self, before: Ids, ids: Ids, left: str | None = None) -> str:
        """The text of `ids` where they follow `before`, with the leading space that decoding alone may swallow.

        left: the text of `before`, where it is known.
        """
        left = self.decode(before) if left is None else left
        both = self.decode([*before, *ids])
        return both[len(left) :] if both.startswith(left) else self.decode(ids)

    @cached_property
    def _anchor(self) -> tuple[list[int], str]:
        ids = self.encode(ANCHOR)
        return ids, self.decode(ids)

    def _own_text(self, ids: Ids) -> str:
        anchor, left = self._anchor
        return self.text_after(anchor, ids, left)

    def surfaces(self, ids: Iterable[int]) -> list[str]:
        """Each token's own text, leading space included; "�" where a token is part of a character."""
        found = []
        for id in ids:
            if id not in self._surfaces:
                self._surfaces[id] = self._own_text([id])
            found.append(self._surfaces[id])
        return found

    def characters(self, ids: Sequence[int]) -> list[tuple[int, str]]:
        """The ids cut where characters end: (first position, text) of each token, or of tokens that share a character.

        Byte-level tokenizers spell most characters in several tokens, and some show no text for a part of one.
        """
        found: list[tuple[int, str]] = []
        start = 0
        for at, surface in enumerate(self.surfaces(ids)):
            text = surface
            if at > start or not surface or "\ufffd" in surface:
                group = tuple(ids[start : at + 1])
                if group not in self._spelled:
                    self._spelled[group] = self._own_text(group)
                text = self._spelled[group]
                if (not text or "\ufffd" in text) and len(group) < LONGEST and at + 1 < len(ids):
                    continue
            found.append((start, text))
            start = at + 1
        return found

    def mute(self, ids: Sequence[int]) -> list[bool]:
        """Per token: it holds no letter, mark or digit, nor a part of one."""
        groups = self.characters(ids)
        mutes: list[bool] = []
        for (start, text), end in zip(groups, [*(start for start, _ in groups[1:]), len(ids)], strict=True):
            told = any(unicodedata.category(c)[0] in "LMN" or c == "\ufffd" for c in text)
            mutes += [not told] * (end - start)
        return mutes

    @cached_property
    def _inner_bytes(self) -> frozenset[int]:
        return frozenset(id for id, token in self.entries.items() if INNER.fullmatch(token))

    def is_canonical(self, ids: Ids, at: int) -> bool:
        """Whether encoding the text around position `at` gives the same ids again."""
        if not 0 < at < len(ids):
            return True
        start, stop = max(0, at - WINDOW), min(len(ids), at + WINDOW)
        # A byte in excess may make a decoder give up all bytes around it.
        while start and ids[start] in self._inner_bytes:
            start -= 1
        while stop < len(ids) and ids[stop] in self._inner_bytes:
            stop += 1
        window = [int(id) for id in ids[start:stop]]
        here = at - start
        last = max((i for i in range(here) if window[i] in self._barriers), default=-1)
        first = min((i for i in range(here, len(window)) if window[i] in self._barriers), default=len(window))
        if last == here - 1 or first == here:
            return True  # the join lies at a special token
        run = window[last + 1 : first]
        here -= last + 1
        keep_from = min(SLACK, here - 1)
        torn = first == len(window) and stop < len(ids)
        keep_to = len(run) - min(SLACK, len(run) - here - 1) if torn else len(run)
        return _holds(self.encode(self.decode(run)), run[keep_from:keep_to])

    def cuts_alike(self, ids: Ids, start: int, stop: int) -> bool:
        """Whether encoding the text of `ids[start:stop]` (and of some tokens around it) gives the same ids again."""
        return all(self.is_canonical(ids, at) for at in (*range(start, stop, WINDOW), stop))


def _holds(ids: list[int], part: list[int]) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))
