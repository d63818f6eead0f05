"""The report's sections, in order: a heading that says what is seen, its figures and its tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....printable import NAME, printable
from ...analysis import MIN_NEEDLES
from ...lengths import EffectiveLength, about_length
from ...results import RETRIEVAL_THRESHOLD
from ..agreement_terminal import agreement_notes
from ..evolution import NLL_NAMES, Evolution, head_name
from ..facts import plural
from ..palette import VALUES
from . import plots
from .ablation import do_they_matter
from .behaviour import what_it_answers
from .levels import correlations, number, three_levels
from .parts import Card, Column, Figure, Section, Table, Tile
from .provenance import provenance

if TYPE_CHECKING:
    from ...analysis import Agreement, Interval

CHANGED = 40  # heads in the table of changes
RINGED = 10  # heads that are ringed in the map and listed beside the slider
BAND = "band: 95% interval over needles, where they differ"


def sections(evolution: Evolution) -> list[Section]:
    """What the page shows, top to bottom; what needs several checkpoints is left out where there is one."""
    many = evolution.trajectory.n_checkpoints > 1
    found = [_heads(evolution)]
    if many:
        found += [three_levels(evolution)]
        found += [_curves(evolution), _changes(evolution), _growth(evolution)]
        found += [_reach(evolution, *evolution.effective)] if evolution.effective is not None else []
        found += [_order(evolution)]
    if evolution.behaviour is not None:
        found += [what_it_answers(evolution, evolution.behaviour)]
    if evolution.ways is not None:
        found += [_ways(evolution, evolution.ways)]
    if evolution.ablations:
        found += [do_they_matter(evolution)]
    found += [_answers(evolution), _cells(evolution)]
    if many:
        found += [_fit(evolution)]
    if evolution.correlations:
        found += [_downstream(evolution)]
    return [*found, provenance(evolution)]


def cards(evolution: Evolution) -> list[Card]:
    """The verdicts, in plain words with their numbers."""
    found = []
    for verdict in evolution.verdicts:
        numbers = [(name.replace("_", " "), text) for name, value in verdict.numbers.items() if (text := _plain(value))]
        is_open = verdict.answer == "insufficient"
        found.append(Card(verdict.question, verdict.answer, verdict.words, numbers, is_open))
    return found


def _plain(value: object) -> str:
    """A number, a text or a list of them as text; "" for anything deeper, which sections below show."""
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else number(value, ".4g")
    if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
        join = " to " if len(value) == 2 and not any(isinstance(item, str) for item in value) else ", "
        return join.join(map(_plain, value))
    return ""


def tiles(evolution: Evolution) -> list[Tile]:
    """The run in a few numbers: the last checkpoint, its interval, and the first."""
    panel, total = evolution.panel, evolution.maps[0].size
    found = [
        _tile(evolution, f"Retrieval heads of {total:,}", panel.n_heads, ".0f", evolution.plain_words(-1)),
        _tile(evolution, "Mean score of the initial heads", panel.initial_mean, ".2f"),
        _tile(evolution, f"NLL in nats, {NLL_NAMES[evolution.nll_name]}", evolution.mean(evolution.nll_name), ".2f"),
        _tile(evolution, "Answered exactly", panel.niah_score, ".0%"),
    ]
    if evolution.effective is not None:
        found.append(_effective_tile(evolution, evolution.effective[1]))
    return [tile for tile in found if tile.value != "-"]


def _effective_tile(evolution: Evolution, each: list[EffectiveLength]) -> Tile:
    first, last = each[0], each[-1]
    shortest = about_length(last.lengths[0])
    detail = [f"tokens at which the leading heads keep {last.share:.0%} of their score at {shortest}"]
    if np.isfinite(last.low):
        high = about_length(last.high) if np.isfinite(last.high) else "beyond the longest"
        detail.append(f"95% interval {about_length(last.low)} to {high}")
    detail += [f"{first.short} at {evolution.step_names[0]}"] if len(each) > 1 and first.short != "-" else []
    return Tile("Effective length", last.short, "; ".join(detail))


def _tile(evolution: Evolution, name: str, interval: Interval, digits: str, more: str = "") -> Tile:
    first, last = (float(interval.estimate[at]) for at in (0, -1))
    detail = [f"95% interval {span(interval, -1, digits)}"] if np.isfinite(interval.low[-1]) else []
    if len(evolution.labels) > 1 and np.isfinite(first):
        detail.append(f"{first:{digits}} at {evolution.step_names[0]}")
    detail += [more.rstrip(".")] if more else []
    return Tile(name, f"{last:{digits}}" if np.isfinite(last) else "-", "; ".join(detail))


def _heads(evolution: Evolution) -> Section:
    _, n_layers, n_heads = evolution.maps.shape
    above = int(evolution.alive[-1].sum())
    hatched = ", hatched: the needle lay outside the layer's window" if np.isnan(evolution.maps).any() else ""
    figure = Figure(
        "heads",
        "Score of every head",
        plots.head_map(evolution),
        unit=f"ringed: heads above {evolution.above}, at most {RINGED}{hatched}",
        height=int(np.clip(940 * n_heads / n_layers, 200, max(300, min(36 * n_heads, 640)))) + 64,
    )
    move = (
        " Move the slider, or use the arrow keys on it, to see the other checkpoints." if len(evolution.x) > 1 else ""
    )
    return Section(
        "map",
        f"{above} of {n_layers * n_heads:,} heads score above {evolution.above} at {evolution.step_names[-1]}",
        "How much of the answer each head copied out of the context, mean over all probes. "
        f"{_chance_words(evolution)} Point at a head for its numbers.{move}",
        [figure],
        slider=True,
        leading=True,
    )


def _chance_words(evolution: Evolution) -> str:
    """What a count of heads means here."""
    if not evolution.trajectory.chance_known:
        words = "The file does not tell what a head would score by chance (it was begun by an older version)"
        return f"{words}, so heads count as in the paper, above {RETRIEVAL_THRESHOLD:g}."
    mean = float(evolution.trajectory.probes["chance"].mean())
    words = f"A head that looks at random needle positions scores {mean:.2f} on average; heads count above"
    return f"{words} {evolution.above}. {evolution.plain_words(-1)}"


def _curves(evolution: Evolution) -> Section:
    named, ever = evolution.named(8), evolution.ever_above()
    births, deaths = (sum(map(len, places)) for places in (evolution.life.births, evolution.life.deaths))
    words = f"{plural(births, 'birth')} and {plural(deaths, 'death')} (a head crossing {evolution.above})."
    if len(ever) > len(named):
        words += f" Grey: the other {plural(len(ever) - len(named), 'head')} ever above it."
    curves = Figure(
        "curves", "Score over training", plots.trajectories(evolution), BAND + ", triangles: births and deaths", 430
    )
    heading = f"{head_name(named[0])} leads" if named else "No head scores above 0"
    if named:
        at = evolution.maps[-1][named[0]]
        heading = f"{head_name(evolution.leading(1)[0])} leads at the end" if evolution.leading(1) else heading
        heading += f", with a score of {float(np.nanmax(evolution.maps[-1])):.2f}" if np.isfinite(at) else ""
    figures = [curves]
    if named:
        figures.append(Figure("flow", "Rank of the leading heads", plots.rank_flow(evolution), "log scale", 460))
    return Section("leading", heading, words if ever else "", figures)


def _changes(evolution: Evolution) -> Section:
    """A table of the heads that changed between the first and the last checkpoint."""
    found, maps = evolution.changes, evolution.maps
    if found is None:
        return Section("changes", "Nothing to compare")
    when = f"between {evolution.step_names[0]} and {evolution.step_names[-1]}"
    words = (
        f"Compared on the same probes, by needle ({found.n_clusters}): the heads whose two scores add up to more "
        f"than {RETRIEVAL_THRESHOLD:g}. Of those listed, {found.level:.0%} at most are wrong on average."
    )
    if not found.fewest:
        words += " With so few needles no change can be told from chance."
    elif found.fewest > 1 and not found.changed.any():
        words += f" With so many needles, changes show when {found.fewest} heads or more change."
    order = np.argsort(-np.abs(np.where(found.changed, found.difference, 0.0)), axis=None, kind="stable")
    heads = [divmod(int(i), maps.shape[2]) for i in order[: min(int(found.changed.sum()), CHANGED)]]
    rows = [
        [
            head_name(head),
            *(
                f"{value:{digits}}"
                for value, digits in (
                    (maps[0][head], ".3f"),
                    (maps[-1][head], ".3f"),
                    (found.difference[head], "+.3f"),
                    (found.p[head], ".2g"),
                    (found.q[head], ".2g"),
                )
            ),
        ]
        for head in heads
    ]
    if found.changed.sum() > len(rows):
        words += f" The {len(rows)} largest changes are listed."
    columns = [Column("head", text=True), *map(Column, ("first", "last", "difference", "p", "q"))]
    heading = f"{int(found.changed.sum()):,} of {plural(found.tested, 'head')} compared changed {when}"
    if not found.tested:
        heading, words = f"No head to compare {when}", f"No two scores add up to more than {RETRIEVAL_THRESHOLD:g}."
    return Section(
        "changes",
        heading,
        words,
        tables=[Table("Heads that changed", columns, rows)] if rows else [],
    )


def _growth(evolution: Evolution) -> Section:
    panel = evolution.panel
    first, last = (int(panel.n_heads.estimate[at]) for at in (0, -1))
    figures = [
        Figure(
            "count",
            "Number of retrieval heads",
            plots.curve(evolution, {f"above {evolution.above}": panel.n_heads}, unit="heads", digits=0),
            height=320,
            half=True,
        )
    ]
    initial = plural(len(panel.initial_heads), "initial retrieval head")
    words = no_interval(panel.n_heads)
    if panel.initial_heads:
        plot = plots.curve(evolution, {"initial heads": panel.initial_mean}, unit="mean score", levels=True)
        figures.append(Figure("initial", f"Mean score of the {initial}", plot, height=320, half=True))
    else:
        words = (
            f"No head was a retrieval head at the first checkpoint, so there are no initial heads to follow. {words}"
        )
    return Section(
        "growth", f"{plural(first, 'retrieval head')} at the first checkpoint, {last} at the last", words, figures
    )


def _reach(evolution: Evolution, curve: Interval, each: list[EffectiveLength]) -> Section:
    last = each[-1]
    heading = f"Effective length at {evolution.step_names[-1]}: {last.words}"
    words = (
        f"The longest context at which the leading heads keep {last.share:.0%} of their score at "
        f"{about_length(last.lengths[0])} tokens. They are chosen on one half of the needles and read on the other."
    )
    plot = plots.curve(evolution, {"effective length": curve}, unit="tokens of context", digits=0)
    figure = Figure("effective", "Effective length", plot, "never beyond the lengths probed", height=320)
    return Section("reach", heading, words, [figure])


def _order(evolution: Evolution) -> Section:
    panel, labels = evolution.panel, evolution.labels
    low, high = int(panel.overlap.min()), int(panel.overlap.max())
    kept = f"{low}" if low == high else f"{low} to {high}"
    heading = f"From one checkpoint to the next, {kept} of the leading {panel.top} heads stay"
    if panel.top == evolution.maps[0].size and np.isfinite(panel.spearman).any():
        ends = f"{np.nanmin(panel.spearman):.2f} to {np.nanmax(panel.spearman):.2f}"
        heading = f"The rank correlation from one checkpoint to the next is {ends}"
    rows = [
        [labels[c], labels[c + 1], f"{panel.overlap[c]} of {panel.top}", number(panel.spearman[c], ".3f")]
        for c in range(len(labels) - 1)
    ]
    columns = [Column("checkpoint", text=True), Column("next", text=True), Column("overlap"), Column("Spearman")]
    return Section(
        "order",
        heading,
        "Overlap of the leading heads, and the rank correlation over all heads (ties share their mean rank).",
        [Figure("agreement", "Agreement with the checkpoint before", plots.agreement(evolution), height=300)],
        [Table("Overlap and rank correlation of consecutive checkpoints", columns, rows)],
    )


def _ways(evolution: Evolution, ways: Agreement) -> Section:
    """Estimators against each other; the first of them is retrieval."""
    names = [printable(name, NAME) for name in ways.names]
    beside, own = ways.spearman.estimate[0, 1:], ways.split_half[0]
    heading = (
        f"Other ways of finding heads rank them like {names[0]} at {np.nanmin(beside):.2f} to {np.nanmax(beside):.2f}"
    )
    words = f"Rank correlation over heads at {evolution.step_names[-1]}: {agreement_notes(ways)}"
    if np.isfinite(own):
        words += f" Between halves of the needles, {names[0]} agrees with itself at {own:.2f}."
    rows = [
        [
            name,
            *(_at(measure, (0, i + 1)) for measure in (ways.spearman, ways.kendall, ways.overlap)),
            number(ways.split_half[i + 1], ".2f"),
        ]
        for i, name in enumerate(names[1:])
    ]
    columns = [
        *(Column("", text=True), Column("Spearman"), Column("Kendall"), Column(f"of leading {ways.top}")),
        Column("between halves of the needles"),
    ]
    figure = Figure(
        "ways",
        "Rank correlation between ways of finding heads",
        plots.agreement_matrix(ways),
        "diagonal: the same way, on the other half of the needles",
        height=160 + 28 * len(names),
    )
    return Section("ways", heading, words, [figure], [Table(f"Agreement with {names[0]}", columns, rows)])


def _at(interval: Interval, at: tuple[int, int]) -> str:
    estimate, low, high = (float(x[at]) for x in (interval.estimate, interval.low, interval.high))
    return number(estimate, ".2f") + (f" ({low:.2f} to {high:.2f})" if np.isfinite(low) else "")


def _answers(evolution: Evolution) -> Section:
    nll, match = evolution.mean(evolution.nll_name), evolution.panel.niah_score
    ends = f"{nll.estimate[-1]:.2f} nats per token at {evolution.step_names[-1]}"
    if len(evolution.x) == 1:
        return Section("answers", f"The answer costs {ends}", no_interval(nll), [_depths(evolution)])
    figures = [
        Figure(
            "nll",
            "NLL by class of answer token",
            plots.curve(evolution, evolution.nll_curves, unit="nats per token, lower is better"),
            height=340,
            half=True,
        ),
        Figure(
            "match",
            "Answers predicted token by token",
            plots.curve(evolution, {"exact match": match}, unit="share of probes", top=1.03),
            height=340,
            half=True,
        ),
        _depths(evolution),
    ]
    heading = f"The answer's NLL went from {nll.estimate[0]:.2f} to {nll.estimate[-1]:.2f} nats per token"
    echo = "Tokens that the question repeats are easy; those found only in the needle tell whether the model copied. "
    return Section("answers", heading, echo + no_interval(nll), figures)


def _depths(evolution: Evolution) -> Figure:
    title = f"{VALUES[evolution.nll_name][0]}, by needle depth"
    return Figure("depths", title, plots.depth_curve(evolution), "0% is the start of the context", 320)


def _cells(evolution: Evolution) -> Section:
    value = evolution.nll_name
    figures = []
    for name, title in ((value, f"NLL, {NLL_NAMES[value]}"), ("exact_match", "Answered exactly")):
        cells, rows, columns = evolution.length_depth(name)
        plot = plots.cell_map(cells, rows, columns, ("needle depth", "context length"), name)
        height = 110 + int(np.clip(30 * len(rows), 180, 420))
        figures.append(Figure(f"cells-{name}", title, plot, VALUES[name][1].split(",")[0], height, True, cells))
    cells, rows, columns = evolution.distance_interference(value)
    plot = plots.cell_map(cells, rows, columns, ("tokens before", "tokens after the needle"), value)
    height = 110 + int(np.clip(28 * len(rows), 180, 420))
    figures.append(
        Figure("cells-distance", "Distance and interference", plot, VALUES[value][1].split(",")[0], height, cells=cells)
    )
    last = evolution.length_depth(value)[0][-1]
    heading = "Answers by context length and needle depth"
    if np.isfinite(last).sum() > 1:
        _, rows, columns = evolution.length_depth(value)
        worst, best = (np.unravel_index(pick(last), last.shape) for pick in (np.nanargmax, np.nanargmin))
        heading = (
            f"At the end, NLL is highest at length {columns[worst[1]]} and depth {rows[worst[0]]} ({last[worst]:.2f}), "
            f"lowest at {columns[best[1]]} and {rows[best[0]]} ({last[best]:.2f})"
        )
    return Section("cells", heading, "Means over the probes of a cell; grey cells have none.", figures, slider=True)


def _fit(evolution: Evolution) -> Section:
    fit = evolution.log_fit(evolution.nll_name)
    points = evolution.fit_points(evolution.nll_name)
    if points is None:
        words = f"It needs three checkpoints that tell the tokens seen; this run has {fit.n}."
        return Section("fit", "No fit of NLL over log tokens", words)
    plot = plots.log_curve(points)
    figures = [Figure("fit-plot", VALUES[evolution.nll_name][0], plot, "against tokens seen, logarithmic", 340)]
    change = fit.a.estimate * np.log(2)
    heading = f"A doubling of the tokens goes with {change:+.2f} nats per token"
    words = evolution.fit_words(fit) + "."
    if evolution.borders:
        words += f" It goes over {len(evolution.borders) + 1} stages, and no law says that one line fits all of them."
    return Section("fit", heading, words, figures)


def span(interval: Interval, at: int, digits: str) -> str:
    return f"{interval.low[at]:{digits}} to {interval.high[at]:{digits}}"


def no_interval(interval: Interval) -> str:
    """Why there is none, where there is none."""
    if np.isfinite(interval.low).any():
        return ""
    return f"No intervals: they need at least {MIN_NEEDLES} needles, and these probes have {interval.n_clusters}."


def _downstream(evolution: Evolution) -> Section:
    pairs = evolution.correlations
    held = sum(map(evolution.holds, pairs))
    plot = plots.forest(evolution)
    return Section(
        "downstream",
        f"{held or 'None'} of {plural(len(pairs), 'link')} with downstream scores holds beyond a common trend",
        "Two curves that rise and level off correlate whatever they measure, so r alone says little. Supported means "
        "that they still move together when every smooth way up is taken out of both; a link holds if it is supported "
        f"after Holm's correction for all {len(pairs)}.",
        [Figure("forest", "Pearson r and 95% Fisher interval", plot, "filled: holds", 70 + 46 * len(pairs))],
        [correlations("Correlations with downstream scores", pairs)],
    )
