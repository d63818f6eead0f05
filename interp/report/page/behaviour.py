"""The section on what the model answered by itself: scores by task and length, and what was wrong."""

from __future__ import annotations

import numpy as np

from ....printable import printable
from ...lengths import human_length
from ..behaviour import Behaviour, Looked, WrongAnswer
from ..evolution import NLL_NAMES, Evolution, head_name
from ..facts import plural
from . import plots
from .parts import Column, Figure, Section, Table

WRONG = 40  # wrong answers in the table
SHOWN = 200  # letters of a question or an answer


def what_it_answers(evolution: Evolution, found: Behaviour) -> Section:
    """Scores over the checkpoints beside the answer's NLL; tables of tasks and of the wrong answers."""
    at, overall = found.last, found.mean()
    nll = NLL_NAMES[evolution.nll_name]
    figures = []
    if len(evolution.x) > 1:
        scores = plots.curve(evolution, found.by_task(), unit="score", top=1.03)
        beside = plots.curve(evolution, {nll: evolution.mean(evolution.nll_name)}, unit="nats per token")
        figures = [
            Figure("tasks", "Scores of the model's own answers", scores, "1: all right", 340, half=True),
            Figure("tasks-nll", f"NLL of the right answer, {nll}", beside, "lower is better", 340, half=True),
        ]
    wrong = found.wrong()
    words = f"{len(wrong)} of {plural(len(found.items['id']), 'answer')} are not wholly right."
    if wrong:
        heads = ", ".join(map(head_name, evolution.looking))
        words += (
            f" Beside each: where {heads or 'no head'} looked while the right answer was given, mean attention; it "
            "shows where a copy would have come from, and proves no cause."
        )
    return Section(
        "behaviour",
        f"The model's own answers score {overall.estimate[at]:.2f} at {evolution.step_names[at]}",
        words,
        figures,
        [_tasks(evolution, found), *([_wrong(found)] if wrong else [])],
    )


def _tasks(evolution: Evolution, found: Behaviour) -> Table:
    before = sorted({min(found.answers)} - {found.last})
    rows = []
    for task, length, items, mean in found.table():
        low, high = (float(ends[found.last]) for ends in (mean.low, mean.high))
        rows.append(
            [
                printable(task, 60),
                human_length(length),
                f"{items}",
                f"{mean.estimate[found.last]:.2f}",
                f"{low:.2f} to {high:.2f}" if np.isfinite(low) else "-",
                *(f"{mean.estimate[c]:.2f}" for c in before),
            ]
        )
    then = [f"score at {evolution.step_names[c]}" for c in before]
    names = ("length", "items", f"score at {evolution.step_names[found.last]}", "95% interval over needles", *then)
    return Table("Scores by task and length", [Column("task", text=True), *map(Column, names)], rows)


def _wrong(found: Behaviour) -> Table:
    wrong = found.wrong()
    rows = [
        [
            f"{printable(answer.task, 60)}, {human_length(answer.length)}, depth {answer.depth:.2f}",
            _shown(answer.asked),
            _shown(" | ".join(answer.golds)),
            _said(answer),
            _where(answer.looked),
        ]
        for answer in wrong[:WRONG]
    ]
    columns = [Column("item", text=True), Column("asked", True, True), Column("right", text=True)]
    columns += [Column("said", True, True), Column("the heads looked most at", text=True)]
    name = "Wrong answers, and where the leading heads looked"
    return Table(name + (f" (the worst {WRONG} of {len(wrong)})" if len(wrong) > WRONG else ""), columns, rows)


def _said(answer: WrongAnswer) -> str:
    rival = f" (another answer of the context: {_shown(answer.rival)})" if answer.rival else ""
    return (_shown(answer.said) or "(nothing)") + rival


def _where(looked: Looked) -> str:
    """The place with the most attention, then all that are known."""
    shares = ", ".join(f"{place} {share:.0%}" for place, share in looked.shares.items() if np.isfinite(share))
    return f"{looked.most}: {shares}" if looked.most else "not measured"


def _shown(text: str) -> str:
    return printable(" ".join(text.split()), SHOWN)
