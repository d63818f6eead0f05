"""How a model's own answer to a probe is judged: what it should say, by which metric, and where it stops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ProbeError

# What they compute is in interp/tasks/metrics.py.
METRICS = ("exact", "string_match_all", "string_match_part", "mrcr", "longbio", "last_number")


@dataclass(frozen=True, slots=True)
class Task:
    """What a model has to answer, beside the answer tokens that a probe teacher-forces.

    Attributes:
        metric: one of METRICS, the task's official one.
        golds: right answers as text. "string_match_all" wants all of them, "string_match_part" any one, the others
            have one.
        max_new_tokens: after so many tokens an answer ends.
        stop: texts that end an answer and are no part of it; an end-of-text token always does.
        rivals: wrong answers that the context offers: siblings of an MRCR reply, values of other needles.
        prefix: MRCR's random string, which the answer has to begin with; "" elsewhere.
        length: tokens asked for; the probe is up to one sentence, document or turn shorter.
    """

    metric: str
    golds: tuple[str, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    prefix: str = ""
    length: int = 0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ProbeError(f"Task metric is {self.metric!r}; use one of {', '.join(METRICS)}.")
        for name in ("golds", "stop", "rivals"):
            texts = getattr(self, name)
            if not isinstance(texts, tuple | list) or not all(isinstance(text, str) and text for text in texts):
                raise ProbeError(f"Task {name} is {texts!r}; give non-empty strings.")
            object.__setattr__(self, name, tuple(texts))
        if not self.golds:
            raise ProbeError("Task golds is empty; give at least one right answer.")
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            raise ProbeError(f"Task max_new_tokens is {self.max_new_tokens!r}; give a whole number from 1 up.")
        if type(self.length) is not int or self.length < 0:
            raise ProbeError(f"Task length is {self.length!r}; give a whole number of tokens.")
        if not isinstance(self.prefix, str):
            raise ProbeError(f"Task prefix is {self.prefix!r}; give a string.")

    def scalars(self) -> dict[str, Any]:
        """Its fields as JSON-able values."""
        return {
            "metric": self.metric,
            "golds": list(self.golds),
            "max_new_tokens": self.max_new_tokens,
            "stop": list(self.stop),
            "rivals": list(self.rivals),
            "prefix": self.prefix,
            "length": self.length,
        }

    @classmethod
    def from_scalars(cls, values: Mapping[str, Any]) -> Task:
        """The task that `scalars` told. Raises ProbeError or TypeError for something else."""
        if not isinstance(values, Mapping):
            raise ProbeError(f"a task is {values!r}; it must be a mapping of its fields.")
        return cls(**values)
