"""Induction: a block of random tokens, something in between, and the block again. Needs no text and no training data.

    head | filler[:cut]  R1 ... RP  filler[cut:room] | R1 | R2 ... RP
                         graft                         cue  answer

A head that copies attends, at Ri of the second block, to R(i+1) of the first. All ids are ordinary words with a leading
space; those of the blocks never occur in the filler. A tokenizer of bytes or characters has no words: there they are
letters, and all blocks are drawn from one half of the alphabet.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters

import numpy as np
from numpy.typing import NDArray

from .errors import LengthTooShort, PoolTooSmall
from .hashing import short_hash
from .probe import Probe, Span
from .seeds import rng
from .tokens import Codec

PERIOD = 24  # tokens a block
FILLER_WORDS = 1000  # different ids in the filler, or half of what there is


def build(
    codec: Codec, *, n: int, lengths: Sequence[int], depths: Sequence[float], seed: int, period: int = PERIOD
) -> list[list[Probe]]:
    """For each of `n` different blocks, one probe per (length, depth), the depths varying fastest.

    Raises PoolTooSmall when the vocabulary holds too few plain words, LengthTooShort when two blocks do not fit.
    """
    filler_words, blocks = _filler_and_blocks(codec, n, seed, period)
    filler = filler_words[rng(seed, "filler").integers(0, len(filler_words), size=max(lengths))]
    return [
        [probe(codec, block, filler, length=length, depth=depth, seed=seed) for length in lengths for depth in depths]
        for block in blocks
    ]


def _filler_and_blocks(
    codec: Codec, n: int, seed: int, period: int
) -> tuple[NDArray[np.int32], list[NDArray[np.int32]]]:
    """Ids for the filler, and `n` blocks of ids that are not among them."""
    words = safe_ids(codec, seed, n * period + FILLER_WORDS)
    n_filler = min(FILLER_WORDS, len(words) // 2)
    if len(words) - n_filler >= n * period:
        return words[:n_filler], [words[n_filler + i * period : n_filler + (i + 1) * period] for i in range(n)]
    letters = _letters(codec) if not len(words) else []
    if len(letters) < 2 * period:
        raise PoolTooSmall(
            f"{n} induction blocks need {n * period} plain words of their own; {codec.name} has {len(words)} in all. "
            "Ask for fewer needles."
        )
    mixed = rng(seed, "letters").permutation(letters).astype(np.int32)
    half = mixed[len(mixed) // 2 :]
    return mixed[: len(mixed) // 2], [rng(seed, "block", i).permutation(half)[:period] for i in range(n)]


def probe(
    codec: Codec, block: NDArray[np.int32], filler: NDArray[np.int32], *, length: int, depth: float, seed: int
) -> Probe:
    """The probe of exactly `length` tokens with the first block at `depth` of the filler."""
    head = np.asarray(codec.head, dtype=np.int32)
    room = length - len(head) - 2 * len(block)
    if room < 1:
        raise LengthTooShort(
            f"length {length} cannot hold two blocks of {len(block)} tokens; it takes at least {length - room + 1}."
        )
    cut = round(depth * room)
    ids = np.concatenate([head, filler[:cut], block, filler[cut:room], block]).astype(np.int32)
    start, second = len(head) + cut, length - len(block)
    needle_id = f"induction-{short_hash(block.astype('<i4').tobytes())[:8]}"
    return Probe(
        id=f"{needle_id}/{length}/{depth:.4g}/s{seed}",
        family="induction",
        variant="random",
        seed=seed,
        input_ids=ids,
        prompt_len=second + 1,
        question_start=second,
        spans=(Span(start, start + len(block), "needle"),),
        sources=np.arange(start + 1, start + len(block), dtype=np.int32)[:, None],
        token_class=("novel",) * (len(block) - 1),
        alignment="exact",
        needle_id=needle_id,
        depth=cut / room,
        depth_nominal=depth,
        answer_text=codec.decode(block[1:]).strip(),
        tokenizer_fp=codec.fingerprint,
        vocabulary_fp=codec.vocabulary_fp(ids),
        graft=(start, start + len(block)),
        haystack_id=short_hash(head.tobytes(), filler.astype("<i4").tobytes()),
    )


def _letters(codec: Codec) -> list[int]:
    """Ids of the Latin letters that are one token each."""
    return [ids[0] for letter in ascii_letters if len(ids := codec.piece(letter)) == 1]


def safe_ids(codec: Codec, seed: int, n: int) -> NDArray[np.int32]:
    """Up to `n` ids in the order of `seed`, each a plain word: a space and letters, encoded as itself, not special."""
    entries = {id: token for token, id in codec.tokenizer.get_vocab().items()}
    vocabulary = sorted(entries.keys() - codec.special_ids)
    found: list[int] = []
    for index in rng(seed, "safe ids").permutation(len(vocabulary)):
        id = vocabulary[index]
        if len(entries[id]) < 3:
            continue  # no word; a vocabulary of characters has a million of them
        (surface,) = codec.surfaces([id])
        word = surface.removeprefix(" ")
        if surface != word and len(word) > 2 and word.isascii() and word.isalpha() and codec.piece(surface) == [id]:
            found.append(id)
            if len(found) == n:
                break
    return np.asarray(found, dtype=np.int32)
