"""A comparison of two runs in the terminal: the verdict, differences of all levels, heads, and common checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...printable import NAME, printable
from .terminal import plain_table

if TYPE_CHECKING:
    from ..analysis import Comparison, Course, Difference, HeadComparison, Interval, Side

NAMES = {
    "nll_novel": "NLL, novel tokens",
    "nll": "NLL, whole answer",
    "exact_match": "exact match",
    "answers": "score of answers",
}
SHORT = {"nll_novel": "NLL, novel", "nll": "NLL", "exact_match": "match"}
MOST = 12  # changed heads, and common checkpoints, in a table


def comparison_tables(found: Comparison) -> RenderableType:
    """What `headscope compare` prints."""
    parts: list[RenderableType] = [Text(f"{which}  {_side(side)}") for which, side in (("a", found.a), ("b", found.b))]
    parts += [Text(), Text(printable(found.verdict, 2000), "bold"), Text(), _differences(found)]
    if found.heads is not None:
        parts += [Text(), Text(_heads_words(found.heads, found.estimator)), *_changed(found.heads)]
    if found.course is not None:
        star = "b - a; *: the 95% interval of this one leaves 0 out"
        words = f"{len(found.course.steps)} common checkpoints, {star}"
        parts += [Text(), _course(found.course), Text(words, "dim")]
    notes = [
        f"Same {found.levels[0].n} probes of {printable(found.probe_set_name, NAME)}, {found.levels[0].n_needles} "
        "needles; every difference is b - a on the same item, intervals over needles.",
        *found.notes,
    ]
    return Group(*parts, Text(), *(Text(note, "dim") for note in notes))


def _side(side: Side) -> str:
    file = f"{printable(side.file, NAME)}, " if side.file else ""
    return f"{file}{printable(side.model_id, NAME)}, step {side.step}, {side.n_layers} layers x {side.n_heads} heads"


def _differences(found: Comparison) -> Table:
    table = plain_table()
    table.add_column("", min_width=16)
    for name in ("a", "b", "b - a (95%)", "p", "Holm"):
        table.add_column(name, justify="right", no_wrap=True)
    adjusted = [np.nan] * (len(found.levels) + len(found.tasks[:1])) + list(found.tasks_holm)
    for each, holm in zip((*found.levels, *found.tasks), adjusted, strict=True):
        table.add_row(_name(each), *_numbers(each), _p(each.p), "" if np.isnan(holm) else _p(holm))
    return table


def _name(found: Difference) -> str:
    return NAMES.get(found.name) or f"  {printable(found.name, NAME)}"


def _numbers(found: Difference) -> tuple[str, str, str]:
    digits = 3 if found.name.startswith("nll") else 2
    return f"{found.a:.{digits}f}", f"{found.b:.{digits}f}", _interval(found.change, f"+.{digits}f")


def _interval(interval: Interval, form: str) -> str:
    low, high = float(interval.low), float(interval.high)
    ends = "" if np.isnan(low) else f" ({low:{form}} to {high:{form}})"
    return "-" if np.isnan(interval.estimate) else f"{interval.estimate:{form}}{ends}"


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.2g}"


def _heads_words(heads: HeadComparison, estimator: str) -> str:
    own = [f"{half:.2f}" for half in heads.split_half if not np.isnan(half)]
    words = f"Heads by {printable(estimator, NAME)}: rank correlation {_interval(heads.spearman, '.2f')}"
    words += f" over {heads.n_compared}" + (f", between halves of the needles {' and '.join(own)}" if own else "")
    words += f"; of the leading {heads.top} they share {_interval(heads.overlap, '.2f')}."
    if heads.counts is not None and heads.count_change is not None:
        words += f" Retrieval heads: {heads.counts[0]} and {heads.counts[1]}, {_interval(heads.count_change, '+.0f')}."
    return words


def _changed(heads: HeadComparison) -> list[RenderableType]:
    named, moved = heads.named(), heads.changes
    rate = f"at most {moved.level:.0%} of such a list is wrong on average"
    if not named:
        if moved.fewest == 0:
            why = (
                f"{moved.n_clusters} needles are too few to name one" if moved.tested else "none differs enough to test"
            )
            return [Text(f"Changed heads: {why}.")]
        return [Text(f"Changed heads: none of {moved.tested} tested ({rate}).")]
    table = plain_table()
    for name in ("changed head", "a", "b", "b - a", "q"):
        table.add_column(name, justify="left" if name == "changed head" else "right")
    for name, a, b in named[:MOST]:
        layer, head = (int(part) for part in name[1:].split("H"))
        q = float(moved.q[layer, head])
        table.add_row(name, f"{a:.2f}", f"{b:.2f}", f"{b - a:+.2f}", _p(q))
    more = f"{len(named)} of {moved.tested} tested; {rate}."
    return [table, Text(more, "dim")]


def _course(course: Course) -> Table:
    """Common checkpoints, the last ones where there are many."""
    table = plain_table()
    table.add_column("step", justify="right")
    table.add_column("Spearman", justify="right")
    for name in course.differences:
        table.add_column(SHORT.get(name, name), justify="right")
    for c in range(max(0, len(course.steps) - MOST), len(course.steps)):
        cells = []
        for name, found in course.differences.items():
            form = "+.3f" if name.startswith("nll") else "+.2f"
            cells.append(f"{found[c].change.estimate:{form}}{'*' if found[c].better else ' '}")
        r = course.spearman[c]
        table.add_row(str(course.steps[c]), "-" if np.isnan(r) else f"{r:.2f}", *cells)
    return table
