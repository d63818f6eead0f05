"""The section on three levels: behaviour, NLL and heads on one time axis, and what they say together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....printable import NAME, printable
from ...analysis import DownstreamCorrelation, ItemPrediction
from ..evolution import Evolution, human_count
from ..facts import plural
from . import plots
from .parts import Column, Figure, Section, Table

LANE = 250  # pixels


def three_levels(evolution: Evolution) -> Section:
    """Which level still moves, which one leads, whether going on is worth it."""
    found = evolution.three
    figures = []
    for lane in found.lanes():
        halves = [course.half for course in found.courses if course.level == lane.level and np.isfinite(course.half)]
        plot = plots.lane(evolution, lane.curves, unit=lane.unit, shares=lane.shares, halves=halves)
        figures.append(Figure(f"level-{lane.level.lower()}", lane.level[0].upper() + lane.level[1:], plot, "", LANE))
    lead = found.lead
    heading = {"deceptive": "Behaviour only seems saturated", "not deceptive": "No sign of deceptive saturation"}.get(
        found.saturation.verdict, "Whether the run only seems saturated cannot be told"
    )
    if lead is not None:
        heading += f"; which level leads: {lead.verdict}"
    words = f"Which changes first: {lead.words} A lead is an order, not a cause. " if lead is not None else ""
    if any(np.isfinite(course.half) for course in found.courses):
        words += "Dashed: where half of a level's change is done."
    tables = [_courses(evolution)]
    if found.sft:
        tables.append(_sft(evolution))
    if evolution.items:
        tables.append(_items(evolution.items))
    if found.laws:
        tables.append(_texts(evolution))
    if evolution.tables is not None:
        name = "The paper's tables 3, 4, 6 and 7, with the run's own answers"
        tables.append(correlations(name, evolution.tables.correlations))
    return Section("levels", heading, words, figures, tables)


def _courses(evolution: Evolution) -> Table:
    rows = []
    for course in evolution.three.courses:
        advice = course.advice
        scale = human_count if evolution.trajectory.progress_name == "tokens seen" else "{:,.0f}".format
        half = "-"
        if np.isfinite(course.half):
            half = f"{scale(course.half)} ({scale(course.half_low)} to {scale(course.half_high)})"
        worth = "-"
        if advice is not None:
            worth = f"at most {advice.most:.3g}" if advice.answer == "at most" else "insufficient"
        rows.append([course.level, number(course.first, ".3f"), number(course.last, ".3f"), half, worth])
    columns = [Column("level", text=True), Column("first"), Column("last"), Column("half of the change is done at")]
    name = "From first to last, and the most that as much training again is worth (95%)"
    return Table(name, [*columns, Column("as much training again")], rows)


def _sft(evolution: Evolution) -> Table:
    place = max(evolution.sft)
    probe = evolution.sft[place]
    frame = probe.by_task()
    rows = [
        [
            printable(str(row.task), 60),
            f"{row.length}",
            f"{row.n}",
            f"{row.before:.2f}",
            f"{row.after:.2f}",
            f"{row.low:.2f} to {row.high:.2f}",
            f"{row.change:+.2f}" + (f" ± {row.stderr:.2f}" if np.isfinite(row.stderr) else ""),
        ]
        for row in frame.itertuples()
    ]
    names = ("length", "items", "before", "after", f"range of {plural(len(probe.seeds), 'seed')}", "change ± error")
    title = f"Before and after the SFT probe at {evolution.step_names[place]}"
    return Table(title, [Column("task", text=True), *map(Column, names)], rows)


def _items(items: Sequence[ItemPrediction]) -> Table:
    rows = []
    for each in items:
        auc = each.within.auc
        span = f" ({auc.low:.2f} to {auc.high:.2f})" if np.isfinite(auc.low) else ""
        rows.append(
            [
                printable(each.name, NAME),
                f"{auc.estimate:.2f}{span}" if np.isfinite(auc.estimate) else "-",
                f"{each.within.p:.2g}" if np.isfinite(each.within.p) else "-",
                f"{each.within.permuted:.2f}" if np.isfinite(each.within.permuted) else "-",
                f"{each.within.n}",
            ]
        )
    names = ("AUC within families", "p", "labels dealt", "items")
    columns = [Column("before the fine-tune", text=True), *map(Column, names)]
    return Table("Does it tell which items succeed after the SFT probe?", columns, rows)


def _texts(evolution: Evolution) -> Table:
    rows = []
    for corpus, laws in evolution.three.laws.items():
        mean = evolution.three.corpora[corpus].mean
        cells = [_with_span(part) for part in (laws.a, laws.b, laws.gain)]
        best = laws.best.name if laws.best is not None else "-"
        rows.append([printable(corpus, NAME), f"{mean[0]:.3f}", f"{mean[-1]:.3f}", *cells, best])
    names = ("first", "last", "A", "B", "twice the training brings", "best law by AICc")
    return Table("Loss on texts, A log N + B", [Column("corpus", text=True), *map(Column, names)], rows)


def _with_span(part: object) -> str:
    estimate, low, high = (float(getattr(part, name)) for name in ("estimate", "low", "high"))
    if not np.isfinite(estimate):
        return "-"
    return f"{estimate:.3g}" + (f" ({low:.3g} to {high:.3g})" if np.isfinite(low) else "")


def correlations(name: str, pairs: Sequence[DownstreamCorrelation]) -> Table:
    """Every correlation with n, p and what is left of it without a common trend."""
    names = ("n", "r", "95% interval", "permutation p", "same, Holm", "p beyond a trend", "same, Holm", "r of changes")
    columns = [Column("score", text=True), Column("heads", text=True), Column("verdict", text=True)]
    columns += map(Column, (*names, "r given log tokens", "unrelated curves as strong", "leaving one out"))
    rows = [
        [
            printable(pair.score, NAME),
            pair.quantity,
            pair.correlation.verdict,
            f"{pair.correlation.n}",
            number(pair.correlation.pearson, ".2f"),
            _range(pair.correlation.ci),
            number(pair.correlation.p_permutation, ".2g"),
            number(pair.p_holm, ".2g"),
            number(pair.correlation.p_detrended, ".2g"),
            number(pair.p_detrended_holm, ".2g"),
            number(pair.correlation.r_differences, ".2f"),
            number(pair.correlation.r_partial, ".2f"),
            number(pair.correlation.p_saturating, ".0%"),
            _range(pair.correlation.leave_one_out),
        ]
        for pair in pairs
    ]
    return Table(name, columns, rows)


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}" if np.isfinite(ends).all() else "-"


def number(value: float, digits: str) -> str:
    """A value in these digits; "-" where it is not known."""
    return f"{value:{digits}}" if np.isfinite(value) else "-"
