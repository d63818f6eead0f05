"""Pictures of what a run's model answered: scores of tasks over the checkpoints, and beside the answer's NLL.

Each draws on the axes it is given (or on new ones) and returns them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..evolution import NLL_NAMES, Evolution
from ..palette import LINES
from .heads import MARKS, curve, finish, nothing
from .style import axes_of, house_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_ANSWERS = "No checkpoint has answers; headscope evaluate lets a model answer."


def task_scores(evolution: Evolution, ax: Axes | None = None, *, length: int | None = None) -> Axes:
    """Score of every task over the checkpoints with 95 % intervals over needles (arXiv 2604.02650, figure 1).

    length: tokens asked for, of the items that count; None: all. More than eight tasks are drawn by benchmark.
    """
    found = evolution.behaviour
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        if found is None:
            return nothing(ax, NO_ANSWERS)
        curves = found.by_task(length)
        if not curves:
            return nothing(ax, f"No item was asked for with {length} tokens.")
        for number, (name, interval) in enumerate(curves.items()):
            curve(ax, evolution, interval, LINES[number % len(LINES)], MARKS[number % len(MARKS)], name)
        finish(ax, evolution, "score", "Scores of the model's own answers")
        ax.set_ylim(0.0, 1.03)
        _whole_run(ax, evolution)
        ax.legend(frameon=False)
    return ax


def score_beside_nll(evolution: Evolution, ax: Axes | None = None) -> Axes:
    """The needle tests' score (left axis) and the answer's NLL (right axis) over the checkpoints (figure 3 there).

    The score is that of the model's own answers, or, where there are none, the share of right answers whose every token
    is the most probable one.
    """
    found = evolution.behaviour
    score = evolution.panel.niah_score if found is None else found.mean()
    name = "answers predicted token by token" if found is None else "the model's own answers"
    nll = evolution.nll_name
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        curve(ax, evolution, score, LINES[0], MARKS[0], f"score, {name}")
        finish(ax, evolution, "score", "Score beside NLL")
        ax.set_ylim(0.0, 1.03)
        right = ax.twinx()
        measured = evolution.mean(nll)
        curve(right, evolution, measured, LINES[1], MARKS[1], f"NLL, {NLL_NAMES[nll]}")
        right.set_ylabel("nats per token, lower is better")
        tops = [np.nanmax(values, initial=0.0) for values in (measured.estimate, measured.high)]
        right.set_ylim(0.0, 1.05 * max(tops) or 1.0)
        _whole_run(ax, evolution)
        right.spines["top"].set_visible(False)
        lines = [*ax.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        right.legend(handles=lines, frameon=False)
    return ax


def _whole_run(ax: Axes, evolution: Evolution) -> None:
    """The x axis of the other figures: checkpoints without answers have their place too."""
    if width := float(np.ptp(evolution.x)):
        ax.set_xlim(evolution.x[0] - 0.02 * width, evolution.x[-1] + 0.02 * width)
