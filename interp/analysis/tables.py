"""The paper's tables 3 to 7 (arXiv 2604.02650) from a file: heads, NLL and NIAH score against every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ArgumentError
from ..packages import need
from ..tasks import Answers
from .downstream import Downstream, DownstreamCorrelation, Source, correlate_downstream, read_downstream
from .evolution import Panel, panel
from .statistics import written_p
from .trajectory import Trajectory, answers_by_position, read_trajectory

if TYPE_CHECKING:
    import pandas as pd

# Which of the paper's tables has r of a quantity, and which its p.
OF_PAPER = {
    "NIAH score": (3, 6),
    "NLL of the answer": (3, 6),
    "number of retrieval heads": (4, 7),
    "mean score of the initial heads": (4, 7),
}


@dataclass(frozen=True, eq=False)
class PaperTables:
    """correlations: tables 3, 4, 6 and 7, every quantity against every task. panel: its overlap and Spearman are
    table 5. steps: int64 [C]."""

    correlations: tuple[DownstreamCorrelation, ...]
    panel: Panel
    steps: np.ndarray

    def to_dataframe(self) -> pd.DataFrame:
        """A row for every quantity and task: the paper's tables it stands in, n, r and its interval, p by t (as in the
        paper) and by permutation, and what is left without the common way up (`analysis.statistics.Correlation`)."""
        pandas = need("pandas", "to_dataframe()")
        rows = []
        for each in self.correlations:
            c = each.correlation
            r, p = OF_PAPER.get(each.quantity, ("", ""))
            rows.append(
                {"table_r": r, "table_p": p, "quantity": each.quantity, "task": each.score, "n": c.n, "r": c.pearson}
                | {"low": c.ci[0], "high": c.ci[1], "spearman": c.spearman, "p": c.p, "p_permutation": c.p_permutation}
                | {"exact": c.exact, "p_holm": each.p_holm, "r_differences": c.r_differences, "r_partial": c.r_partial}
                | {"p_saturating": c.p_saturating, "r_detrended": c.r_detrended, "p_detrended": c.p_detrended}
                | {"p_detrended_holm": each.p_detrended_holm, "verdict": c.verdict}
            )
        found: pd.DataFrame = pandas.DataFrame(rows)
        return found

    def consecutive(self) -> pd.DataFrame:
        """Table 5: overlap of the leading heads and Spearman between a checkpoint and the one before."""
        pandas = need("pandas", "consecutive()")
        found: pd.DataFrame = pandas.DataFrame(
            {"from": self.steps[:-1], "to": self.steps[1:], "overlap": self.panel.overlap, "of": self.panel.top}
            | {"spearman": self.panel.spearman}
        )
        return found

    def markdown(self) -> str:
        """Both tables as text, as they stand in a report."""
        lines = ["| | task | n | r (95 %) | p | p, permuted | Holm | r, differences | unrelated curves | verdict |"]
        lines.append("|---|---|---|---|---|---|---|---|---|---|")
        for each in self.correlations:
            c = each.correlation
            ends = "" if np.isnan(c.ci[0]) else f" ({c.ci[0]:.2f} to {c.ci[1]:.2f})"
            cells = [each.quantity, each.score, str(c.n), f"{_number(c.pearson)}{ends}"]
            cells += [_p(c.p), _p(c.p_permutation) + ("" if c.exact else " *"), _p(each.p_holm)]
            cells += [_number(c.r_differences), _share(c.p_saturating), c.verdict]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "| from | to | overlap | Spearman |", "|---|---|---|---|"]
        pairs = zip(self.steps[:-1], self.steps[1:], self.panel.overlap, self.panel.spearman, strict=True)
        lines += [f"| {a} | {b} | {same} of {self.panel.top} | {_number(r)} |" for a, b, same, r in pairs]
        return "\n".join(lines) + "\n"


def paper_tables(
    source: str | PathLike[str] | Trajectory,
    *,
    downstream: Source | Downstream | None = None,
    answers: Mapping[int, Answers] | None = None,
) -> PaperTables:
    """Tables 3 to 7: NIAH score, NLL, number of heads and the initial heads' mean against every task.

    Tasks are those of the file's own answers, each by its mean score, all together where there are several, and the
    scores of `downstream` (`read_downstream`). Every r stands with n, its interval, exact or permutation p (Holm over
    all of one source), r of first differences, and how often two unrelated saturating curves do as well; see
    `correlate_downstream`.

    answers: position of a checkpoint -> answers, where source is no file.

    Raises ArgumentError where there is neither an answer nor a downstream score, DownstreamError where these do not fit
    the run, StoreError where the file cannot be read.
    """
    if isinstance(source, Trajectory):
        run = source
    else:
        run = read_trajectory(source)
        answers = answers_by_position(source, run) if answers is None else answers
    found = panel(run)
    pairs: list[tuple[Downstream, list[DownstreamCorrelation]]] = []
    scores = Downstream()
    if answers:
        scores.update(answers_as_downstream(run, answers))
    more = downstream if isinstance(downstream, Downstream) or downstream is None else read_downstream(downstream)
    if more is not None and more.by == "step" and not more.named:
        scores.update(more)
        more = None
    if not scores and more is None:
        raise ArgumentError(
            "the tables need scores of tasks: let the checkpoints answer (headscope sweep --tasks ..., or evaluate), "
            "or give downstream= scores from elsewhere"
        )
    for each in (scores, more):
        if each:
            pairs.append((each, correlate_downstream(run, each, found)))
    return PaperTables(tuple(item for _, items in pairs for item in items), found, run.steps)


def answers_as_downstream(trajectory: Trajectory, answers: Mapping[int, Answers]) -> Downstream:
    """Mean score of every task of a file's answers (position of a checkpoint -> answers), as downstream scores by step.

    "answers", all tasks together, where there are several. Raises ArgumentError where there are none, or checkpoints
    answered different items.
    """
    places = sorted(answers)
    if not places:
        raise ArgumentError("no checkpoint has answers; `headscope evaluate MODEL -o FILE` lets a model answer")
    first = answers[places[0]].probes
    if any(not np.array_equal(answers[place].probes["id"], first["id"]) for place in places):
        raise ArgumentError("answers of the checkpoints are to different items; give answers to the same ones")
    values = np.stack([answers[place].score for place in places]).astype(np.float64)
    tasks = dict.fromkeys(first["task"].tolist())
    chosen = {"answers": np.ones(values.shape[1], bool)} if len(tasks) > 1 else {}
    chosen |= {str(task) or "answers": first["task"] == task for task in tasks}
    steps, found = trajectory.steps[places].astype(np.float64), Downstream()
    for name, which in chosen.items():
        seen = ~np.isnan(values[:, which])
        total = np.where(seen, values[:, which], 0).sum(axis=1)
        found[name] = steps, np.where(seen.any(axis=1), total / np.maximum(seen.sum(axis=1), 1), np.nan)
    return found


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.0%}"


def _p(value: float) -> str:
    return "-" if np.isnan(value) else written_p(value).removeprefix("p ").removeprefix("= ")
