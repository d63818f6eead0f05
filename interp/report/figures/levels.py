"""Behaviour, NLL and heads of a run under each other on one axis (the claim of arXiv 2604.02650 in one picture)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..evolution import Evolution
from ..palette import INK, LINES
from .heads import MARKS, curve, finish, nothing
from .style import house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (6.4, 7.2)


def three_levels(evolution: Evolution, figure: Figure | None = None) -> Figure:
    """A row for each level, with intervals; a dashed line where half of its change is done. Returns the figure."""
    with house_style():
        from matplotlib.figure import Figure as New

        figure = New(figsize=SIZE, layout="constrained") if figure is None else figure
        lanes = evolution.three.lanes()
        if not lanes:
            nothing(figure.add_subplot(), "No level has a value.")
            return figure
        rows = figure.subplots(len(lanes), 1, sharex=True, squeeze=False)[:, 0]
        for ax, lane in zip(rows, lanes, strict=True):
            for number, (name, interval) in enumerate(lane.curves.items()):
                curve(ax, evolution, interval, LINES[number % len(LINES)], MARKS[number % len(MARKS)], name)
            finish(ax, evolution, lane.unit, lane.level)
            if lane.shares:
                ax.set_ylim(0.0, 1.03)
            for course in evolution.three.courses:
                if course.level == lane.level and np.isfinite(course.half):
                    ax.axvline(evolution.on_axis(course.half), color=INK, linewidth=1.1, linestyle="--")
            ax.legend(frameon=False)
            if ax is not rows[-1]:
                ax.set_xlabel("")
    return figure
