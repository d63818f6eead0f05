"""TransformerLens' names and checkpoint labels, as hub id and revision: "pythia-70m@1000", "pythia-70m@*"."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.util import find_spec

from .table import CheckpointError

# How the families that TransformerLens knows name the revision of a label on the hub.
_REVISIONS = {"EleutherAI/pythia": "step{}", "stanford-crfm/": "checkpoint-{}"}


def revisions(name: str, label: str) -> list[tuple[str, str]] | None:
    """(hub id, revision) of every label of a model that matches; None when TransformerLens does not know the model.

    name: TransformerLens' name for a model or a hub id. label: one label ("1000"), a pattern ("*", "*000") or the
    revision itself ("step1000"). No network is used. Raises CheckpointError when no label matches.
    """
    if find_spec("transformer_lens") is None:
        return None
    with _quiet():
        from transformer_lens.tools.model_registry.checkpoints import get_checkpoint_labels
        from transformer_lens.tools.model_registry.registry_io import resolve_model_alias

        hub_id = str(resolve_model_alias(name) or name)
        pattern = next((revision for family, revision in _REVISIONS.items() if hub_id.startswith(family)), None)
        if pattern is None:
            return None
        labels = list(get_checkpoint_labels(hub_id)[0])
    every = {pattern.format(value): str(value) for value in labels}
    found = [r for r, value in every.items() if fnmatchcase(value, label) or fnmatchcase(r, label)]
    if not found:
        raise CheckpointError(
            f"{name} has no checkpoint {label!r}: its {len(labels)} labels go from {labels[0]} to {labels[-1]}, "
            f"such as {', '.join(map(str, labels[-3:]))}; give one, or a pattern: '{name}@*'"
        )
    return [(hub_id, revision) for revision in found]


@contextmanager
def _quiet() -> Iterator[None]:
    """TransformerLens tells on the root logger that Pythia's weights were replaced in 2023."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
