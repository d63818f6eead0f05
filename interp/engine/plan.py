"""The plan of a run: which haystacks are prefilled once, and which short suffixes branch off them.

A causal model's keys and values of the first P tokens do not depend on what follows. So every probe is cut into a
*context*, which may be shared, and a *suffix*, which is its own:

- exact:   context = everything before the question; suffix = question and answer. Nothing is approximated.
- grafted: context = the haystack without the needle; suffix = needle, question and answer. The needle's rows see the
           haystack up to its depth, the question's rows see all of it and the needle. Haystack tokens behind the needle
           have not seen it: an approximation, measured by `score_heads(..., check_sharing=n)`.

Contexts that begin alike become one shared prefix, prefilled once. Of the next one, what both have in common is kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import numpy as np

from ...errors import ArgumentError
from ...probes import Probe

SHARED_ENOUGH = 4  # "auto" grafts a probe when at least this many probes of the set share its haystack


@dataclass(frozen=True)
class Suffix:
    """The part of one probe that is run beside a prefix.

    Attributes:
        probe: index of the probe in the set.
        ids: int32 [m], tokens of the suffix, without the last answer token, which predicts nothing.
        positions: int32 [m], position of every row in the probe's own sequence, strictly increasing.
        rotary: int32 [m], position at which the model runs the row, strictly increasing. A needle has its own position;
            a grafted question follows the haystack as it was prefilled, not as it would be behind the needle.
        limits: int32 [m], how many prefix keys each row may see.
        graft_start, graft_len: where the needle was inserted; prefix key j is position j of the probe before
            graft_start and j + graft_len from there on. graft_len 0: nothing was cut out.
        n_answer: the last n_answer rows predict the answer tokens.
        apart: suffixes of different numbers share no rows, as when a model is changed for the ones and not the others.
    """

    probe: int
    ids: np.ndarray
    positions: np.ndarray
    rotary: np.ndarray
    limits: np.ndarray
    graft_start: int
    graft_len: int
    n_answer: int
    apart: int = 0

    @property
    def context_len(self) -> int:
        return int(self.limits[-1])


@dataclass
class Prefix:
    """One prefilled context. The first `keep` tokens are still in the cache from the prefix before."""

    ids: np.ndarray
    keep: int = 0
    suffixes: list[Suffix] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """Prefixes in the order in which they are run, and which of all probes are grafted (bool [n_probes])."""

    prefixes: list[Prefix]
    grafted: np.ndarray

    @property
    def n_tokens(self) -> int:
        """Rows that go through the model."""
        return sum(len(t.ids) - t.keep + sum(len(suffix.ids) for suffix in t.suffixes) for t in self.prefixes)

    @property
    def capacity(self) -> int:
        """Longest prefix: how many positions the cache must hold."""
        return max((len(t.ids) for t in self.prefixes), default=0)

    def only(self, probes: Collection[int]) -> Plan:
        """The plan of a run of these probes alone, each cut as it is in the whole."""
        prefixes: list[Prefix] = []
        for prefix in self.prefixes:
            if suffixes := [suffix for suffix in prefix.suffixes if suffix.probe in probes]:
                keep = _common_prefix(prefixes[-1].ids, prefix.ids) if prefixes else 0
                prefixes.append(Prefix(prefix.ids, keep, suffixes))
        return Plan(prefixes, self.grafted)


def plan(probes: Sequence[Probe], sharing: str = "auto") -> Plan:
    """Plan a run of a set of probes.

    Args:
        probes: the probes.
        sharing: "exact", "grafted" (every probe must have one inserted piece that holds all its needles), or "auto":
            grafted where at least `SHARED_ENOUGH` probes share a haystack, else exact. The choice depends on the probes
            alone, never on the model, so that a sweep never changes mode between checkpoints.

    Raises:
        ValueError: unknown `sharing`, or "grafted" for a probe that cannot be grafted.
    """
    if sharing not in ("auto", "exact", "grafted"):
        raise ArgumentError(f"sharing must be 'auto', 'exact' or 'grafted', got {sharing!r}")
    grafted = np.zeros(len(probes), dtype=bool)
    if sharing != "exact":
        graftable = [i for i, probe in enumerate(probes) if probe.graft is not None]
        odd = [probe.id for probe in probes if probe.graft is None]
        if sharing == "grafted" and odd:
            raise ArgumentError(
                f"sharing='grafted': probe {odd[0]!r} has no single inserted piece that holds its needles; "
                "use sharing='auto' or 'exact'"
            )
        prefixes = _prefixes([_cut_grafted(i, probes[i]) for i in graftable])
        for prefix in prefixes:
            if sharing == "grafted" or len(prefix.suffixes) >= SHARED_ENOUGH:
                grafted[[suffix.probe for suffix in prefix.suffixes]] = True
        if grafted.all():
            return Plan(prefixes, grafted)
    cuts = [_cut_grafted(i, p) if grafted[i] else _cut_exact(i, p) for i, p in enumerate(probes)]
    return Plan(_prefixes(cuts), grafted)


def _cut_exact(index: int, probe: Probe) -> tuple[np.ndarray, Suffix]:
    start = min(probe.question_start, probe.prompt_len - 1)
    positions = np.arange(start, probe.length - 1, dtype=np.int32)
    limits = np.full_like(positions, start)
    suffix = Suffix(index, probe.input_ids[start:-1], positions, positions, limits, start, 0, probe.n_answer)
    return probe.input_ids[:start], suffix


def _cut_grafted(index: int, probe: Probe) -> tuple[np.ndarray, Suffix]:
    assert probe.graft is not None
    (start, end), question = probe.graft, min(probe.question_start, probe.prompt_len - 1)
    ids = probe.input_ids
    needle = np.arange(start, end, dtype=np.int32)
    branch = np.arange(question, probe.length - 1, dtype=np.int32)
    context = np.concatenate([ids[:start], ids[end:question]])
    limits = np.concatenate([np.full_like(needle, start), np.full_like(branch, len(context))])
    positions = np.concatenate([needle, branch])
    # Measured: a question at the haystack's end is closer to separate forwards than one shifted by the needle's
    # length. Only a needle that reaches beyond the end pushes it back; right before the question, nothing is changed.
    rotary = np.concatenate([needle, branch - question + max(len(context), end)])
    return context, Suffix(index, ids[positions], positions, rotary, limits, start, end - start, probe.n_answer)


def _prefixes(cuts: list[tuple[np.ndarray, Suffix]]) -> list[Prefix]:
    """Join contexts that are prefixes of one another; lexicographic order makes neighbours share the most."""
    # Big-endian bytes compare like the token sequences do.
    keyed = sorted(((context.astype(">u4").tobytes(), context, suffix) for context, suffix in cuts), key=lambda c: c[0])
    prefixes: list[Prefix] = []
    waiting: list[Suffix] = []
    for (key, context, suffix), following in zip_longest(keyed, keyed[1:]):
        waiting.append(suffix)
        if following is not None and following[0].startswith(key):
            continue  # the next context goes on where this one ends
        keep = _common_prefix(prefixes[-1].ids, context) if prefixes else 0
        prefixes.append(Prefix(context, keep, waiting))
        waiting = []
    return prefixes


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
