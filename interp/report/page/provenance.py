"""Where the numbers of a report came from: the facts under its title and its last section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...lengths import human_length
from ..evolution import Evolution, human_count
from ..facts import how_shared
from .parts import Column, Section, Table, plural

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


def facts(evolution: Evolution) -> list[str]:
    """What was measured, in a few words each."""
    trajectory = evolution.trajectory
    _, p, n_layers, n_heads = trajectory.scores.shape
    lengths = trajectory.probes["length"]
    span = human_length(int(lengths.min()))
    if lengths.max() > lengths.min():
        span += f" to {human_length(int(lengths.max()))}"
    kv = f" ({evolution.n_kv_heads} KV)" if evolution.n_kv_heads else ""
    when = evolution.labels
    if len(when) > 1:
        steps, tokens = trajectory.steps, trajectory.tokens
        when = [f"{len(steps)} checkpoints", f"steps {steps[0]:,} to {steps[-1]:,}"]
        if evolution.borders:
            spans, names = trajectory.stage_spans, evolution.step_names
            when[0] += f" of {len(spans)} stages"
            ends = [names[b].rpartition(" ")[2] for _, _, b in spans]
            when[1] = "; ".join(names[a] + f" to {end}" * (b > a) for (_, a, b), end in zip(spans, ends, strict=True))
        if np.isfinite(tokens[[0, -1]]).all():
            when.append(f"{human_count(tokens[0])} to {human_count(tokens[-1])} tokens seen")
    return [
        *when,
        f"probe set {trajectory.about.get('probe_set_name', 'unknown')}",
        f"{plural(p, 'probe')} with {plural(len(np.unique(trajectory.needles)), 'needle')}",
        f"{span} tokens of context",
        f"{n_layers} layers x {n_heads} heads{kv}",
    ]


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
            found.append((key.replace("_", " "), [_words(value) for value in values]))
    return found


def _words(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
