"""Probes that are scored together, in a fixed order, with a hash and a file of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from os import PathLike
from typing import Any, overload

from ..errors import ArgumentTypeError
from . import archive
from .errors import DuplicateId, HashMismatch, ProbeError, ProbeFileError
from .probe import Probe
from .tokens import Codec
from .twins import twin
from .verify import verify


@dataclass(frozen=True, slots=True, eq=False)
class ProbeSet(Sequence[Probe]):
    """Probes that are scored together, in a fixed order. A slice of a set is a set.

    Raises:
        ProbeError: no probes, or something that is not a Probe.
        DuplicateId: two probes with the same id.
    """

    probes: tuple[Probe, ...]
    name: str = "custom"
    _hash: str = field(default="", init=False, repr=False)  # of all tokens: computed once, where it is asked for

    def __post_init__(self) -> None:
        object.__setattr__(self, "probes", tuple(self.probes))
        if not self.probes:
            raise ProbeError(f"Probe set {self.name!r} is empty; give at least one Probe.")
        for probe in self.probes:
            if not isinstance(probe, Probe):
                raise ProbeError(f"Probe set {self.name!r} holds a {type(probe).__name__}; every item must be a Probe.")
        repeated = [id for id, count in Counter(probe.id for probe in self.probes).items() if count > 1]
        if repeated:
            raise DuplicateId(f"Probe set {self.name!r} holds the id {repeated[0]!r} twice; ids must be unique.")

    @classmethod
    def of(cls, probes: ProbeSet | Iterable[Probe]) -> ProbeSet:
        """The set that was given, or a set of the Probes that any other iterable gives, in its order.

        Raises:
            ArgumentTypeError: something that is neither.
            ProbeError: no probes. DuplicateId: two probes with the same id.
        """
        if isinstance(probes, ProbeSet):
            return probes
        given = type(probes).__name__
        if isinstance(probes, Iterable) and not isinstance(probes, str):
            held = tuple(probes)
            others = [type(probe).__name__ for probe in held if not isinstance(probe, Probe)]
            if not others:
                return cls(held)
            given += f" that holds {others[0]}"
        remedy = "put it into a list" if isinstance(probes, Probe) else "hs.probes.build makes a set"
        raise ArgumentTypeError(f"probes must be a ProbeSet or an iterable of Probe, got {given}; {remedy}")

    def __len__(self) -> int:
        return len(self.probes)

    def __iter__(self) -> Iterator[Probe]:
        return iter(self.probes)

    @overload
    def __getitem__(self, index: int) -> Probe: ...
    @overload
    def __getitem__(self, index: slice) -> ProbeSet: ...
    def __getitem__(self, index: int | slice) -> Probe | ProbeSet:
        if isinstance(index, slice):
            return ProbeSet(self.probes[index], self.name)
        return self.probes[index]

    def __repr__(self) -> str:
        return f"ProbeSet({self.name!r}, {len(self)} probes, hash={self.hash})"

    @property
    def hash(self) -> str:
        """blake2b over the probes' hashes in their order, 32 hex digits. The name does not count."""
        if not self._hash:
            digest = blake2b(b"headscope probe set 1\n", digest_size=16)
            for probe in self.probes:
                digest.update(probe.hash.encode())
            object.__setattr__(self, "_hash", digest.hexdigest())
        return self._hash

    @property
    def haystack_ids(self) -> tuple[str, ...]:
        """The hashes of the haystacks in use, each once."""
        return tuple(sorted({probe.haystack_id for probe in self.probes if probe.haystack_id}))

    def subset(self, keep: Callable[[Probe], bool]) -> ProbeSet:
        """The probes for which `keep(probe)` is true, in the same order."""
        return ProbeSet(tuple(probe for probe in self.probes if keep(probe)), self.name)

    def summary(self) -> dict[str, Any]:
        """What is in the set, as JSON-able values."""
        return {
            "name": self.name,
            "hash": self.hash,
            "n_probes": len(self),
            "n_needles": len({probe.needle_id for probe in self.probes}),
            "families": dict(sorted(Counter(f"{probe.family}/{probe.variant}" for probe in self.probes).items())),
            "lengths": sorted({probe.length for probe in self.probes}),
            "depths": sorted({probe.depth_nominal for probe in self.probes}),
            "n_tokens": sum(probe.length for probe in self.probes),
            "n_answer_tokens": sum(probe.n_answer for probe in self.probes),
            "haystack_ids": list(self.haystack_ids),
            "tokenizer_fp": sorted({probe.tokenizer_fp for probe in self.probes}),
        }

    def twins(self, tokenizer: Any, kind: str) -> ProbeSet:
        """Every probe's twin, in the same order, to be compared probe by probe.

        kind: "no_needle", "counterfactual" or "short". `twin` in probes/twins.py says what they are and what it raises.
        """
        codec = Codec(tokenizer)
        return ProbeSet(tuple(twin(probe, codec, kind) for probe in self.probes), f"{self.name}-{kind}")

    def save(self, path: str | PathLike[str]) -> None:
        """Write one portable .npz (no pickle inside). An existing file is only ever replaced by a complete one."""
        archive.save(path, self.probes, name=self.name, hash=self.hash)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> ProbeSet:
        """Read a saved set and check it against its own hash.

        Raises:
            ProbeFileError: the file is missing, truncated or something else.
            HashMismatch: the content is not what was saved.
        """
        found, name, hash = archive.load(path)
        try:
            probes = cls(found, name)
        except ProbeError as error:
            raise ProbeFileError(f"{path} does not hold a valid probe set: {error}") from error
        if probes.hash != hash:
            raise HashMismatch(
                f"{path} was saved with hash {hash} but its content has {probes.hash}; the file was altered. "
                "Take a fresh copy or build the set again."
            )
        return probes

    def verify(self, tokenizer: Any) -> None:
        """Check every probe again, from the ids, with the tokenizer at hand; raise the first thing that is wrong."""
        verify(self.probes, tokenizer)
