"""Answers in the terminal: a table by task and length, and what was said, one answer after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from ...printable import printable
from ..lengths import human_length
from .terminal import plain_table

if TYPE_CHECKING:
    import pandas as pd

    from ..tasks import Answers

SHOWN = 300  # letters of a question or an answer


def task_table(answers: Answers) -> Table:
    """A row for every task and length: score with its standard error, and what stands beside it (`Answers.by_task`)."""
    frame = answers.by_task()
    table = plain_table()
    table.add_column("task", min_width=4)
    beside = [name for name in frame.columns[6:] if name != "analytic@1" and frame[name].notna().any()]
    names = {"exact_match": "exact", "above_chance": "above chance", "cut": "cut off"}
    for name in ("length", "n", "score", "+-", *(names.get(name, name) for name in beside)):
        table.add_column(name, justify="right", min_width=len(name))
    for row in frame.to_dict("records"):
        numbers = [_number(row[name]) for name in ("score", "stderr", *beside)]
        table.add_row(printable(row["task"], 60), human_length(int(row["length"])), str(row["n"]), *numbers)
    return table


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"


def answer_lines(frame: pd.DataFrame) -> Iterator[str]:
    """What was asked, what is right and what was said, of rows as `Answers.wrong` gives them."""
    for row in frame.to_dict("records"):
        where = f"{row['family']} {row['task']}, {human_length(int(row['length']))}, depth {row['depth']:.2f}"
        how = f"score {_number(row['score'])}" + (", cut off" if row["end"] == "length" else "")
        if row["precision"] < 1:
            how += f", precision {_number(row['precision'])}"
        yield f"{printable(row['id'], 120)}: {where}; {how}"
        yield f"  asked  {_shown(row['question'])}"
        yield f"  right  {_shown(' | '.join(row['golds']))}"
        yield f"  said   {_shown(row['said'])}"
        if row["rival"]:
            yield f"  which is, of the context's other answers, {_shown(row['rival'])}"
        yield ""


def _shown(text: str) -> str:
    return printable(" ".join(text.split()), SHOWN)
