"""An SFT probe in the terminal: what each task's score was before and after, and how far seeds are apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from ...printable import printable
from ..lengths import human_length
from .terminal import plain_table

if TYPE_CHECKING:
    from ..finetuned import SftProbe


def sft_table(found: SftProbe) -> Table:
    """A row for every task and length (which is shown where there are several): score before and after, the standard
    error of its change over items, and how far seeds are apart; exact match and NLL of the right answer before and
    after beside it."""
    score = found.by_task().to_dict("records")
    exact, nll = (found.by_task(measure).to_dict("records") for measure in ("exact_match", "nll"))
    table = plain_table()
    table.add_column("task", min_width=4)
    three = len(found.seeds) > 2
    spread = "seeds' SD (95 %)" if three else "seeds"
    several = len({of["length"] for of in score}) > 1
    for name in (*(["length"] if several else []), "n", "before", "after", "+-", spread, "exact", "NLL"):
        table.add_column(name, justify="right", min_width=len(name))
    for of, matched, cost in zip(score, exact, nll, strict=True):
        apart = f"{of['seed_sd']:.3f} ({of['sd_low']:.3f} to {of['sd_high']:.3f})" if three else _each(of["seeds"])
        table.add_row(
            *(printable(of["task"], 60), *([human_length(int(of["length"]))] if several else []), str(of["n"])),
            *(_number(of[name]) for name in ("before", "after", "stderr")),
            apart,
            *(f"{_number(row['before'])}>{_number(row['after'])}" for row in (matched, cost)),
        )
    return table


def sft_notes(found: SftProbe) -> list[str]:
    """What the table does not say: how many tasks gained, what the loss did, what it took."""
    rows = found.by_task().to_dict("records")
    gained = sum(all(mean > of["before"] for mean in of["seeds"]) for of in rows)
    beyond = sum(of["change"] > 2 * of["stderr"] for of in rows)
    first, last = found.loss[:, 0], found.loss[:, -max(1, found.loss.shape[1] // 10) :].mean(axis=1)
    losses = ", ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(first, last, strict=True))
    cost = found.cost
    few = "two seeds tell a range, and no standard deviation; " if len(found.seeds) == 2 else ""
    few = "one seed says nothing about the next; " if len(found.seeds) == 1 else few
    return [
        f"{gained} of {len(rows)} tasks better by every seed, {beyond} by more than two standard errors over items; "
        f"{few}recipe {found.recipe_hash}",
        f"loss {losses} in {found.loss.shape[1]} steps; a seed took {cost['seconds'].mean():.0f} s of training "
        f"({cost['tokens'].mean():,.0f} tokens) and {cost['answer_seconds'].mean():.0f} s of answering, "
        f"{_number(cost['peak_memory'].max() / 2**30)} GiB at most",
    ]


def _each(means: tuple[float, ...]) -> str:
    return " ".join(map(_number, means))


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "-"
