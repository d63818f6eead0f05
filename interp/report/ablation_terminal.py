"""An ablation in the terminal: what the leading heads do together and one by one, beside random others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from ..analysis import dose_response, head_effects
from .terminal import Bar, plain_table

if TYPE_CHECKING:
    from ..ablation import Ablation
    from ..analysis import Interval

SHOWN = 20  # heads, one by one
NAMES = {
    "nll": "NLL",
    "nll_novel": "NLL needle only",
    "logprob": "log-probability",
    "exact_match": "exact match",
    "twin_logprob": "log-probability of the twin's value",
    "answer_score": "score of its own answers",
}


def taken(ablation: Ablation) -> list[str]:
    """The measures that an ablation has, of which log-probability says the same as NLL, the first the most telling."""
    order = ("nll_novel", "exact_match", "answer_score", "twin_logprob", "nll")
    return [name for name in order if not np.isnan(ablation.measured[name]).all()]


def dose_table(ablation: Ablation) -> Table:
    """A row for every k and measure: before, after, the change beside that of the controls, and the rank p value."""
    table = plain_table()
    table.add_column("changed", min_width=7)
    for name in ("measure", "before", "after", "change", "95% interval", "controls", "p"):
        table.add_column(name, justify="left" if name == "measure" else "right", min_width=len(name))
    for measure in taken(ablation):
        before = float(np.nanmean(ablation.measured[measure][0].astype(np.float64)))
        for dose in dose_response(ablation, measure):
            row = [f"top {dose.k}", NAMES[measure], f"{before:.3f}", f"{before + dose.effect.estimate:.3f}"]
            row += [f"{dose.effect.estimate:+.3f}", span(dose.effect)]
            controls = dose.controls.get("layer_matched")
            row.append("-" if controls is None else f"{controls.min():+.3f} to {controls.max():+.3f}")
            row.append("-" if controls is None else f"{dose.p['layer_matched']:.3f}")
            table.add_row(*row)
    return table


def effect_table(ablation: Ablation) -> Table:
    """The leading heads one by one: score, and what their change alone does."""
    measure = taken(ablation)[0]
    found = head_effects(ablation, measure)
    table = plain_table()
    table.add_column("head" if ablation.unit == "head" else "heads", min_width=6)
    for name in ("score", f"change in {NAMES[measure]}"):
        table.add_column(name, justify="right", min_width=len(name))
    table.add_column("", ratio=1)
    effects = np.asarray(found.effect.estimate)
    most = float(np.nanmax(np.abs(effects), initial=0.0)) or 1.0
    for head, score, effect in list(zip(found.heads, found.score, effects, strict=True))[:SHOWN]:
        told = "-" if np.isnan(score) else f"{score:.3f}"
        table.add_row(head, told, f"{effect:+.3f}", Bar(float(abs(effect) / most)))
    return table


def span(interval: Interval) -> str:
    return f"{interval.low:+.3f} to {interval.high:+.3f}" if np.isfinite(interval.low) else "-"
