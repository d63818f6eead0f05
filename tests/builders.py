"""Probes made of random token ids, for models that cannot read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from headscope.probes import Probe, ProbeSet

VOCAB = 199


def random_probe(
    length: int = 120,
    depth: float = 0.4,
    *,
    needle: int = 7,
    question: int = 9,
    answer: int = 5,
    seed: int = 0,
    haystack: int = 0,
) -> Probe:
    """A haystack of random ids with `needle` ids inserted at `depth`; the answer copies the end of the needle.

    Probes with the same `haystack` seed share their haystack, whatever their length and needle.
    """
    hay = np.random.default_rng(1000 + haystack).integers(3, VOCAB, 4 * length)
    rng = np.random.default_rng(seed)
    inserted, asked = rng.integers(3, VOCAB, needle + 1), rng.integers(3, VOCAB, question)
    held = length - len(inserted) - question - answer
    at = round(depth * held)
    context = np.concatenate([hay[:at], inserted, hay[at:held]])
    ids = np.concatenate([context, asked, inserted[-answer:]])
    probe = Probe.from_ids(
        ids,
        prompt_len=len(context) + question,
        needles=[(at + 1, at + len(inserted))],
        question_start=len(context),
        id=f"{length}-{depth}-{seed}",
        needle_id=f"needle{seed}",
    )
    return replace(probe, graft=(at, at + len(inserted)), haystack_id=f"hay{haystack}")


def random_grid(
    lengths: tuple[int, ...] = (60, 121, 200), depths: tuple[float, ...] = (0.0, 0.3, 0.7, 1.0)
) -> ProbeSet:
    """Probes of one haystack: every length and depth, needles of different sizes."""
    return ProbeSet(
        [
            random_probe(length, depth, needle=6 + i, seed=10 * i + j)
            for i, length in enumerate(lengths)
            for j, depth in enumerate(depths)
        ],
        name="random grid",
    )
