"""A recipe: how a model is fine-tuned before it is asked. Data, with a hash; the same recipe is the same training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

from ...errors import HeadscopeError
from ...probes import list_suites, list_tasks

METHODS = ("lora", "full")
SCHEDULES = ("cosine", "linear", "constant")
EVEN = {f"practice/{task}": 1.0 for task in ("lockers", "records", "crew", "gauges", "relay", "tales")}


class RecipeError(HeadscopeError, ValueError):
    """A recipe that cannot be read, or that trains on what is asked afterwards."""


@dataclass(frozen=True)
class Recipe:
    """How a model is fine-tuned: AdamW (betas .9, .999, no decay) on the answers of probes, gradients cut at norm 1.

    Attributes:
        method: "lora", an adapter on all linear layers but the output, or "full", all weights.
        steps, sequences, length: updates; probes that each is made of; tokens of a probe at most.
        lr, warmup, schedule: the highest learning rate, the steps that it takes to get there, and how it falls to 0
            until the end, from there on.
        rank, alpha: of the adapter; alpha / rank weighs it.
        mix: task ("practice/relay", "SUITE/TASK") -> weight: its share of the probes.
        seeds: each is a training of its own: other probes, another order, another adapter to begin with.
    """

    method: str = "lora"
    steps: int = 32
    sequences: int = 4
    length: int = 192
    lr: float = 1e-3
    warmup: int = 4
    schedule: str = "cosine"
    rank: int = 16
    alpha: int = 32
    mix: Mapping[str, float] = field(default_factory=lambda: dict(EVEN))
    seeds: tuple[int, ...] = (0, 1)

    def __post_init__(self) -> None:
        put = object.__setattr__
        seeds = [*self.seeds] if isinstance(self.seeds, (list, tuple)) else [None]
        for name, choices in (("method", METHODS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in choices:
                raise RecipeError(
                    f"{name} of a recipe must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        for name, least in (("steps", 1), ("sequences", 1), ("length", 1), ("warmup", 0), ("rank", 1), ("alpha", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise RecipeError(f"{name} of a recipe must be a whole number from {least} up, got {value!r}")
        if type(self.lr) not in (int, float) or not 0 < self.lr < math.inf:
            raise RecipeError(f"lr of a recipe must be a number above 0, got {self.lr!r}")
        if not seeds or len({*seeds}) < len(seeds) or any(type(seed) is not int or seed < 0 for seed in seeds):
            raise RecipeError(f"seeds of a recipe must be different whole numbers from 0 up, got {self.seeds!r}")
        _check_mix(self.mix)
        put(self, "lr", float(self.lr))
        put(self, "seeds", tuple(seeds))
        put(self, "mix", {task: float(weight) for task, weight in sorted(self.mix.items())})

    @property
    def json(self) -> str:
        """The whole recipe, its names in order."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def hash(self) -> str:
        """12 hex digits of what is trained: all but the seeds, of which there may be more or fewer."""
        told = {name: value for name, value in asdict(self).items() if name != "seeds"}
        return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]

    def counts(self) -> dict[str, int]:
        """Task -> how many probes of it a seed is trained on: steps x sequences in all, by the largest remainders."""
        total = self.steps * self.sequences
        shares = {task: total * weight / sum(self.mix.values()) for task, weight in self.mix.items()}
        found = {task: int(share) for task, share in shares.items()}
        for task in sorted(shares, key=lambda task: found[task] - shares[task])[: total - sum(found.values())]:
            found[task] += 1
        return {task: n for task, n in found.items() if n}


def _check_mix(mix: Any) -> None:
    if not isinstance(mix, Mapping) or not mix:
        raise RecipeError(f"mix of a recipe must map tasks to weights, such as practice/relay to 1, got {mix!r}")
    for task, weight in mix.items():
        suite, _, name = str(task).partition("/")
        if suite not in list_suites() or name not in list_tasks(suite, from_file=False):
            raise RecipeError(
                f"mix of a recipe names {task!r}, which is no task that is built; give SUITE/TASK, such as "
                "practice/relay (`headscope probes list practice` names them)"
            )
        if type(weight) not in (int, float) or not 0 < weight < math.inf:
            raise RecipeError(f"mix of a recipe weighs {task} by {weight!r}; give a number above 0")


RECIPES = {
    "default": Recipe(),
    "small": Recipe(method="full", steps=60, sequences=8, length=256),
}
"""default: a LoRA of some hundred million parameters up. small: all weights of models of a few million."""


def read_recipe(given: str | PathLike[str] | Mapping[str, Any] | Recipe, seeds: int | None = None) -> Recipe:
    """A recipe by its name ("default", "small"), of a JSON file, or of a mapping of its fields; others are as default.

    seeds: so many instead of its own, counted from 0.

    Raises RecipeError.
    """
    found = given if isinstance(given, Recipe) else _made(given)
    if seeds is None:
        return found
    if type(seeds) is not int or seeds < 1:
        raise RecipeError(f"seeds must be how many trainings to make, from 1 up, got {seeds!r}")
    return replace(found, seeds=tuple(range(seeds)))


def _made(given: str | PathLike[str] | Mapping[str, Any]) -> Recipe:
    if isinstance(given, str) and given in RECIPES:
        return RECIPES[given]
    if isinstance(given, (str, PathLike)):
        path = Path(given)
        if path.suffix != ".json" or not path.is_file():
            raise RecipeError(f"no recipe is called {str(given)!r}; give one of {', '.join(RECIPES)}, or a .json file")
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RecipeError(f"{path} cannot be read as JSON: {error}") from error
    names = [field.name for field in fields(Recipe)]
    if not isinstance(given, Mapping) or (odd := [str(name) for name in given if name not in names]):
        what = f"has {odd[0]!r}" if isinstance(given, Mapping) else f"is a {type(given).__name__}"
        raise RecipeError(f"the recipe {what}; give a mapping with some of {', '.join(names)}")
    return Recipe(**given)
