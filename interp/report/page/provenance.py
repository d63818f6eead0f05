"""Where the numbers of a report came from: the facts under its title and its last section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..evolution import Evolution
from ..facts import how_shared
from .parts import Column, Section, Table

# column of the file (SCHEMA.md, provenance), its name here
_PER_CHECKPOINT = {
    "model_id": "model",
    "revision": "revision",
    "weights_sha256": "weights",
    "device": "device",
    "dtype": "dtype",
    "attn_implementation": "attention",
    "sharing": "sharing",
    "created_at": "scored at",
}
_VERSIONS = ("headscope", "git_commit", "python", "torch", "transformers", "triton", "numpy", "devices", "cpu")


def provenance(evolution: Evolution) -> Section:
    """One table of what holds for all checkpoints, one of what differs between them."""
    about, told = evolution.trajectory.about, evolution.provenance
    same = [["estimator", str(about.get("estimator", ""))], ["probe set", str(about.get("probe_set_name", ""))]]
    same += [["hash of the probe set", str(about.get("probe_set_hash", ""))], ["file begun", evolution.created]]
    per_checkpoint: list[tuple[str, list[str]]] = []
    for key, name in _PER_CHECKPOINT.items():
        values = [str(entry.get(key, "")) for entry in told]
        if key == "sharing":  # what was done, not what was asked for
            values = [how_shared(value or None, evolution.trajectory.probes.get("grafted")) for value in values]
        if len(set(values)) == 1:
            same.append([name, values[0]])
        elif any(values):
            per_checkpoint.append((name, values))
    for key, values in _versions(told):
        if len(set(values)) == 1:
            same.append([key, values[0]])
        else:
            per_checkpoint.append((key, values))
    if evolution.borders:
        per_checkpoint.insert(0, ("checkpoint in the file", [f"{step:,}" for step in evolution.trajectory.steps]))
    if not told:
        same.insert(0, ["model", str(about.get("model_id", ""))])
    whole = Table(
        "What holds for every checkpoint",
        [Column("", text=True), Column("", text=True)],
        [row for row in same if row[1]],
        head=False,
    )
    columns = [
        Column("checkpoint", text=True),
        Column("tokens seen"),
        *(Column(name, text=True, long=name == "weights") for name, _ in per_checkpoint),
    ]
    tokens = [f"{n:,.0f}" if np.isfinite(n) else "unknown" for n in evolution.trajectory.tokens]
    steps = evolution.step_names
    rows = [
        [step, n, *(values[c] for _, values in per_checkpoint)]
        for c, (step, n) in enumerate(zip(steps, tokens, strict=True))
    ]
    return Section("provenance", "Where this came from", "", tables=[whole, Table("Checkpoints", columns, rows)])


def _versions(told: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Entries of the environment that scored each checkpoint, where it was recorded."""
    found = []
    for key in _VERSIONS:
        values = [entry["json"].get(key) for entry in told]
        if any(value is not None for value in values):
            found.append((key.replace("_", " "), [_as_text(value) for value in values]))
    return found


def _as_text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
