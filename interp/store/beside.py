"""What a checkpoint may have beside its heads' scores: each kind in a group of the file, by a module of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import h5py

from ..ablation import Ablation
from ..finetuned import SftProbe
from ..perplexity import Perplexity
from ..tasks import Answers
from . import ablations, answers, perplexities, sft_probes


@dataclass(frozen=True)
class Beside:
    """Of one checkpoint; None where it has none. The names are those of the file's groups."""

    answers: Answers | None = None
    ablation: Ablation | None = None
    sft_probe: SftProbe | None = None
    perplexity: Perplexity | None = None

    def there(self) -> dict[str, Any]:
        """Name -> what the checkpoint has."""
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: found for name, found in every.items() if found is not None}

    def or_of(self, other: Beside) -> Beside:
        """With what another knows where this has none."""
        return Beside(**{**other.there(), **self.there()})


class Keeper(Protocol):
    """A module that keeps one kind in its group."""

    def rows(self, file: h5py.File) -> list[int]:
        """The numbers of the checkpoints that have one."""

    def misfit(self, file: h5py.File, found: Any, /, row: int | None = None) -> str:
        """Why it cannot be put into the file, in words; "" where it can. row: the checkpoint whose own it replaces."""

    def put(self, file: h5py.File, row: int, found: Any, /) -> None:
        """Fill in that of checkpoint number `row`; the first one makes the group."""

    def read(self, file: h5py.File, row: int) -> Any:
        """That of checkpoint number `row`, which has one. Raises StoreError for what is none."""

    def problems(self, file: h5py.File) -> Iterator[str]:
        """What is wrong with a group whose variables are all there."""

    def in_common(self, file: h5py.File) -> tuple[str, ...]:
        """What those of all checkpoints of one file must have in common, in words."""


@dataclass(frozen=True)
class Kind:
    """words: how one is called; asked: what `in_common` tells; remedy: the command that makes one, with a {path}."""

    of: Any
    keeper: Keeper
    words: str
    asked: str
    remedy: str

    @property
    def many(self) -> bool:
        """Whether one of its kind is several in words."""
        return self.of is Answers

    @property
    def no_fit(self) -> tuple[str, str]:
        """What is said of one that a file does not take, before and behind where it was to go."""
        said = f"these {self.words} do" if self.many else f"this {self.words} does"
        return f"{said} not fit into", f"Keep {'them' if self.many else 'it'} apart: write to another file"


KINDS: Mapping[str, Kind] = {
    "answers": Kind(Answers, answers, "answers", "probes, samples", "headscope evaluate MODEL -o {path}"),
    "ablation": Kind(
        Ablation, ablations, "ablation", "mode, rows, unit, probes, sets", "headscope ablate {path} --model MODEL"
    ),
    "sft_probe": Kind(
        SftProbe, sft_probes, "SFT probe", "recipe, seeds, probes", "headscope sft-probe MODEL -o {path}"
    ),
    "perplexity": Kind(
        Perplexity,
        perplexities,
        "perplexity",
        "texts, tokenizer, key tokens",
        "headscope perplexity MODEL --text DIR -o {path}",
    ),
}


def beside_of(file: h5py.File, row: int) -> Beside:
    """All that the checkpoint of this number has."""
    return Beside(
        **{name: kind.keeper.read(file, row) for name, kind in KINDS.items() if row in kind.keeper.rows(file)}
    )
