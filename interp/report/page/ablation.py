"""The section on whether heads matter: what changing them did, beside random others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...analysis import dose_response, head_effects
from ..ablation_terminal import NAMES, span, taken
from ..evolution import Evolution
from . import plots
from .parts import Column, Figure, Section, Table

if TYPE_CHECKING:
    from ...ablation import Ablation

LISTED = 40  # heads one by one, in the table


def do_they_matter(evolution: Evolution) -> Section:
    """Of the last checkpoint with an ablation: dose-response with controls, effects one by one, tables of both."""
    at = max(evolution.ablations)
    found = evolution.ablations[at]
    measure = taken(found)[0]
    doses, unit = dose_response(found, measure), {"head": "heads", "kv_group": "groups"}[found.unit]
    last = doses[-1]
    before = float(np.nanmean(found.measured[measure][0].astype(np.float64)))
    needles = len({*found.probes["needle_id"].tolist()})
    words = (
        f"Mode {found.mode.replace('_', ' ')}, in the rows of {', '.join(found.rows)}; measured on {len(found)} probes "
        f"of {needles} needles, none of which chose the heads. Bands: from the least to the most harmful random set."
    )
    matched = last.controls.get("layer_matched")
    if matched is not None:
        words += (
            f" Of {len(matched)} random sets of {last.k} in the same layers the worst changes it by "
            f"{matched[np.argmax(np.abs(matched))]:+.3f}; rank p {last.p['layer_matched']:.3f}."
        )
    figures = [
        Figure("ablation-doses", f"{NAMES[measure]} by {unit} changed", plots.doses(found, doses, before), half=True)
    ]
    tables = [_doses(found)]
    if found.of("one"):
        effects = head_effects(found, measure)
        figures.append(
            Figure("ablation-heads", f"Change in {NAMES[measure]}, one at a time", plots.effects(effects), half=True)
        )
        rows = [
            [name, "-" if np.isnan(score) else f"{score:.3f}", f"{effect:+.3f}"]
            for name, score, effect in zip(effects.heads, effects.score, effects.effect.estimate, strict=True)
        ]
        columns = [Column("head", text=True), Column("score"), Column(f"change in {NAMES[measure]}")]
        tables.append(Table("One at a time", columns, rows[:LISTED]))
    return Section(
        "ablation",
        f"Changing the {last.k} leading {unit} at {evolution.step_names[at]} takes {NAMES[measure]} from {before:.2f} "
        f"to {before + last.effect.estimate:.2f}",
        words,
        figures,
        tables,
    )


def _doses(found: Ablation) -> Table:
    rows = []
    for measure in taken(found):
        for dose in dose_response(found, measure):
            row = [f"top {dose.k}", NAMES[measure], f"{dose.effect.estimate:+.3f}", span(dose.effect)]
            for kind in ("layer_matched", "mass_matched"):
                known = kind in dose.controls
                row.append(f"{dose.controls[kind].mean():+.3f}" if known else "-")
                row.append(f"{dose.p[kind]:.3f}" if known else "-")
            rows.append(row)
    names = ("change", "95% interval over needles", "same layers", "p", "same attention on the needle", "p")
    columns = [Column("changed", text=True), Column("measure", text=True), *map(Column, names)]
    return Table("The leading ones, beside random others", columns, rows)
