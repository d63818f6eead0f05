"""Agreement in the terminal: every view against one, the matrix of all, and published lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...printable import NAME, printable
from .terminal import plain_table

if TYPE_CHECKING:
    from ..analysis import Agreement, Interval

WIDE = 9  # views beside each other in a matrix


def agreement_tables(found: Agreement) -> RenderableType:
    """The first view (retrieval, where estimators are compared) against all others; all against all; lists."""
    parts: list[RenderableType] = []
    if len(found.names) > 1:
        others = range(1, len(found.names))
        measures = [_row(each, 0) for each in (found.spearman, found.kendall, found.overlap)]
        table = _table(f"{_name(found.names[0])} and", found.top)
        table.add_column("itself", justify="right", no_wrap=True)
        for i in others:
            half = found.split_half[i]
            table.add_row(_name(found.names[i]), *_cells(measures, i), "-" if np.isnan(half) else f"{half:.2f}")
        parts += [table, Text()]
    if 2 < len(found.names) <= WIDE:
        parts += [Text("Spearman; diagonal: between halves of the needles", "dim"), _matrix(found), Text()]
    for each in found.lists:
        table = _table(f"{_name(each.list.name)} ({each.list.format}) and", each.top)
        rows = [[x.estimate, x.low, x.high] for x in (each.spearman, each.kendall, each.overlap)]
        for i, name in enumerate(found.names):
            table.add_row(_name(name), *_cells(rows, i))
        parts += [table, Text()]
    return Group(*parts, Text(agreement_notes(found), "dim"))


def agreement_notes(found: Agreement) -> str:
    """What the numbers are of, in words."""
    few, many = int(found.n_needles.min()), int(found.n_needles.max())
    needles = f"{few}" if few == many else f"{few} to {many}"
    words = f"{found.n_compared} of {found.n_heads} heads, {needles} needles; random rankings share "
    words += f"{found.top / found.n_compared:.2f} of their leading {found.top}."
    if np.isfinite(found.split_half).any():
        words += " With itself: Spearman between halves of the needles."
    if found.estimator:
        words = f"By {found.estimator}: {words}"
    if np.isnan(found.spearman.low).all():
        words += " No intervals: they need 12 needles."
    if found.left_out:
        words += f" Left out, without a score or all alike: {', '.join(map(_name, found.left_out))}."
    return words


def _table(first: str, top: int) -> Table:
    table = plain_table()
    table.add_column(first, min_width=12)
    for name in ("Spearman", "Kendall", f"of leading {top}"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(measures: Sequence[Sequence[np.ndarray]], i: int) -> list[str]:
    """Of Kendall's tau without its interval, which a terminal has no room for."""
    spearman, kendall, overlap = (_cell(measure, i) for measure in measures)
    return [spearman, kendall.partition(" ")[0], overlap]


def _row(interval: Interval, i: int) -> list[np.ndarray]:
    return [np.asarray(each)[i] for each in (interval.estimate, interval.low, interval.high)]


def _cell(row: Sequence[np.ndarray], i: int) -> str:
    estimate, low, high = (float(each[i]) for each in row)
    if np.isnan(estimate):
        return "-"
    return f"{estimate:.2f}" + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")


def _matrix(found: Agreement) -> Table:
    table = plain_table()
    table.add_column("")
    for name in found.names:
        table.add_column(_name(name), justify="right")
    for i, name in enumerate(found.names):
        cells = np.array(found.spearman.estimate[i])
        cells[i] = found.split_half[i]
        table.add_row(_name(name), *("-" if np.isnan(cell) else f"{cell:.2f}" for cell in cells))
    return table


def _name(name: str) -> str:
    return printable(name, NAME)
