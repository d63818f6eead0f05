"""The provenance of a checkpoint: a JSON object that others may have written, checked where it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...errors import ArgumentError

_NUMBER = (int, float, type(None))
# What the entry `sweep` may hold (SCHEMA.md, Sweeps).
_SWEEP: dict[str, tuple[type, ...]] = {
    "checkpoint": (str,),
    "run": (str,),
    "label": (str,),
    "stage": (str,),
    "step_in_stage": (int,),
    "tokens_in_stage": _NUMBER,
    "stamp": (dict, type(None)),
}


def read_provenance(told: str) -> dict[str, Any]:
    """What a row of /provenance/json tells; nothing for an empty text. Raises ArgumentError for anything else."""
    try:
        found = json.loads(told or "{}")
        json.dumps(found, ensure_ascii=False).encode()  # half a character can be in JSON, and in no file or page
    except (ValueError, RecursionError) as error:
        raise ArgumentError(f"provenance/json is not JSON ({str(error)[:200]})") from error
    if not isinstance(found, dict):
        raise ArgumentError(f"provenance/json is {type(found).__name__}, and should be an object")
    swept(found)
    return found


def swept(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep says of the checkpoint: among others its stage, where there are several. Raises ArgumentError."""
    made = provenance.get("sweep") or {}
    wrong = "the entry `sweep` of provenance/json"
    if not isinstance(made, dict):
        raise ArgumentError(f"{wrong} is {type(made).__name__}, and should be an object")
    for name, kinds in _SWEEP.items():
        if name in made and (not isinstance(made[name], kinds) or isinstance(made[name], bool)):
            raise ArgumentError(f"{wrong} has a {name} that is {type(made[name]).__name__}")
    if "stage" in made and not {"step_in_stage", "tokens_in_stage"} <= made.keys():
        raise ArgumentError(f"{wrong} has a stage, and no step_in_stage and tokens_in_stage")
    return made
