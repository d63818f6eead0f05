"""Which answers a model draws beside the greedy one."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ArgumentError


@dataclass(frozen=True)
class Drawing:
    """samples: how many of each probe. temperature: logits are divided by it. seed: of what is drawn.

    Raises ArgumentError when one is out of range.
    """

    samples: int = 0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 0 or self.seed < 0 or not 0 < self.temperature < float("inf"):
            told = f"{self.samples}, {self.seed} and {self.temperature}"
            raise ArgumentError(f"samples and seed must be 0 or more and temperature above 0, got {told}")
