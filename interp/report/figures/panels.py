"""Pictures of the panel of a run: counts, agreement, the answer's NLL by length and depth, fits. Used as in
evolution_figures.py: each draws on the axes it is given (or on new ones) and returns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..evolution import RANKS, Evolution, head_name, human_count
from ..palette import LINES, MUTED, VALUES, scale_of
from .heads import MARKS, borders, curve, finish, level_lines, names_at_end, nothing
from .style import axes_of, house_style, written_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": MUTED}


def head_count(evolution: Evolution, ax: Axes | None = None) -> Axes:
    """Number of retrieval heads over the checkpoints with its interval over needles."""
    with house_style():
        from matplotlib.ticker import MaxNLocator

        ax = axes_of(ax, (5.4, 3.4))
        curve(ax, evolution, evolution.panel.n_heads, LINES[0], "o")
        if evolution.trajectory.chance_known:
            words = f"above {evolution.panel.threshold:g}, as the paper counts"
            ax.plot(evolution.x, evolution.panel.n_plain, color=MUTED, linewidth=1.1, linestyle=":", label=words)
            ax.legend(frameon=False)
        finish(ax, evolution, "heads", f"Heads above {evolution.above}")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return ax


def initial_heads(evolution: Evolution, ax: Axes | None = None) -> Axes:
    """Mean score of the heads that were retrieval heads at the first checkpoint."""
    count = len(evolution.panel.initial_heads)
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        if not count:
            return nothing(ax, "No head was a retrieval head at the first checkpoint.")
        curve(ax, evolution, evolution.panel.initial_mean, LINES[0], "o")
        finish(ax, evolution, "mean score", f"The {count} initial retrieval head{'s' if count > 1 else ''}")
        level_lines(ax, evolution)
    return ax


def effective_length(evolution: Evolution, ax: Axes | None = None) -> Axes:
    """Longest context at which the leading heads keep 80 % of their score at the shortest, over the checkpoints."""
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        if evolution.effective is None:
            return nothing(ax, "It takes two lengths, with 12 needles at each.")
        curve(ax, evolution, evolution.effective[0], LINES[0], "o")
        finish(ax, evolution, "tokens of context", "Effective length")
        ax.set_xlabel(f"{ax.get_xlabel()}\nto 80% of the score at the shortest; never beyond the lengths probed")
    return ax


def agreement(evolution: Evolution, ax: Axes | None = None) -> Axes:
    """Overlap of the leading heads, as a share, and rank correlation of all heads, each with the checkpoint before."""
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        if len(evolution.x) < 2:
            return nothing(ax, "Two checkpoints are needed to compare them.")
        style: dict[str, Any] = {"markersize": 4, "linewidth": 1.6}
        few = len(evolution.x) <= 40
        curves = evolution.agreement
        for number, (name, values) in enumerate(curves.items()):
            mark = MARKS[number] if few else None
            ax.plot(evolution.x[1:], values, color=LINES[number], marker=mark, label=name, **style)
        finish(ax, evolution, "overlap, rank correlation", "Agreement with the checkpoint before")
        low = float(np.nanmin([*curves.values()], initial=0.0))
        ax.set_ylim(low - 0.06 if low < 0 else 0.0, 1.04)
        ax.legend(loc="lower right", frameon=False)
    return ax


def rank_flow(evolution: Evolution, ax: Axes | None = None, *, k: int = 8) -> Axes:
    """Ranks of the heads that lead at the first or the last checkpoint, at most `k` of each; 1 is the best."""
    with house_style():
        ax = axes_of(ax, (8.6, 4.6))
        heads = evolution.flowing(k)
        if not heads:
            return nothing(ax, "No head scores above 0.")
        ends = []
        few = len(evolution.x) <= 40
        for number, head in zip(evolution.pens(heads), heads, strict=True):
            ranks, colour = evolution.ranks[:, *head], LINES[number % len(LINES)]
            mark = MARKS[number % len(MARKS)] if few else None
            ax.plot(evolution.x, ranks, color=colour, marker=mark, markersize=4, linewidth=1.6)
            ends.append((head_name(head), float(ranks[-1]), colour))
        finish(ax, evolution, "rank (1 is the best, log scale)", "Rank of the leading heads")
        largest = float(np.nanmax(evolution.ranks))
        ticks = [tick for tick in RANKS if tick <= largest]
        ax.set_yscale("log")
        ax.set_yticks(ticks, [str(tick) for tick in ticks])
        ax.yaxis.minorticks_off()
        ax.set_ylim(max(float(np.nanmax(evolution.ranks[:, *np.transpose(heads)])) * 1.15, 5.0), 0.88)
        names_at_end(ax, ends)
    return ax


def nll_curves(evolution: Evolution, ax: Axes | None = None) -> Axes:
    """NLL of the answer over the checkpoints, by class of token, with intervals."""
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        for number, (title, interval) in enumerate(evolution.nll_curves.items()):
            curve(ax, evolution, interval, LINES[number], MARKS[number], title)
        finish(ax, evolution, "nats per token, lower is better", "NLL of the answer")
        if evolution.nll_curves:
            ax.legend(frameon=False, title="tokens of the answer", alignment="left")
    return ax


def match_curve(evolution: Evolution, ax: Axes | None = None) -> Axes:
    """Share of probes answered token by token over the checkpoints."""
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        curve(ax, evolution, evolution.panel.niah_score, LINES[0], "o")
        finish(ax, evolution, "share of probes", "Answers predicted token by token")
        ax.set_ylim(0.0, 1.03)
    return ax


def log_curve(evolution: Evolution, ax: Axes | None = None, *, value: str = "nll") -> Axes:
    """A measure against tokens on a logarithmic axis, and its fit a * log(tokens) + b."""
    points = evolution.fit_points(value)
    with house_style():
        from matplotlib.ticker import LogLocator

        ax = axes_of(ax, (5.4, 3.4))
        if points is None:
            return nothing(ax, "A fit over log tokens needs three checkpoints that tell the tokens seen.")
        ax.plot(points.tokens, points.measured, "o", color=LINES[0], markersize=4.5)
        ax.plot(points.tokens, points.fitted, color=LINES[1], linewidth=1.6)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(lambda tokens, _: human_count(tokens))
        ax.xaxis.minorticks_off()
        ax.set_xlabel("tokens seen\n" + evolution.fit_words(evolution.log_fit(value)).replace("; ", "\n"))
        ax.set_ylabel(VALUES[value][1])
        ax.set_title("a log(tokens) + b, fitted")
        borders(ax, evolution, evolution.trajectory.tokens)
        ax.grid(axis="y", color="#e8ebef", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def length_depth(
    evolution: Evolution, ax: Axes | None = None, *, value: str = "nll_novel", checkpoint: int = -1
) -> Axes:
    """Mean of `value` by context length (columns) and needle depth (rows, 0% is the start) at one checkpoint.

    `value`: "nll", "nll_novel", "nll_echo", "nll_first" or "exact_match". Colours end where the largest cell of any
    checkpoint needs it.
    """
    cells, depths, lengths = evolution.length_depth(value)
    names = ("needle depth", f"context length in tokens\n{evolution.labels[checkpoint]}")
    return _cells(ax, cells[checkpoint], scale_of(cells, value), depths, lengths, names, value)


def distance_interference(
    evolution: Evolution, ax: Axes | None = None, *, value: str = "nll_novel", checkpoint: int = -1
) -> Axes:
    """Mean of `value` by tokens between needle and question (columns) and tokens before the needle (rows)."""
    cells, before, after = evolution.distance_interference(value)
    names = ("tokens before the needle", f"tokens after the needle\n{evolution.labels[checkpoint]}")
    return _cells(ax, cells[checkpoint], scale_of(cells, value), before, after, names, value)


def depth_curve(evolution: Evolution, ax: Axes | None = None, *, value: str = "nll_novel") -> Axes:
    """Mean of `value` by needle depth at the first and the last checkpoint, with intervals."""
    with house_style():
        ax = axes_of(ax, (5.4, 3.4))
        for label, is_last, found in evolution.depth_curves(value):
            colour, mark = (LINES[0], "o") if is_last else (MUTED, "s")
            style: dict[str, Any] = {"markersize": 4, "linewidth": 1.6}
            ax.plot(found.depths, found.mean.estimate, color=colour, marker=mark, label=label, **style)
            ax.fill_between(found.depths, found.mean.low, found.mean.high, color=colour, alpha=0.16, linewidth=0)
        ax.set_xticks((0.0, 0.25, 0.5, 0.75, 1.0), ("0%", "25%", "50%", "75%", "100%"))
        ax.set_xlabel("needle depth (0% is the start)")
        ax.set_ylabel(VALUES[value][1])
        ax.set_title(f"{VALUES[value][0]}, by depth")
        ax.set_ylim(bottom=0.0)
        ax.grid(axis="y", color="#e8ebef", linewidth=0.8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False)
    return ax


def downstream(evolution: Evolution, ax: Axes | None = None) -> Axes:
    """Pearson r of every quantity with every downstream score, with its 95 % Fisher interval; filled: holds."""
    pairs = evolution.correlations
    with house_style():
        ax = axes_of(ax, (7.4, 1.4 + 0.3 * len(pairs)))
        if not pairs:
            return nothing(ax, "No downstream scores were given.")
        for place, pair in enumerate(pairs):
            found = pair.correlation
            ax.plot(found.ci, [place, place], color=LINES[0], linewidth=1.4)
            face = LINES[0] if evolution.holds(pair) else "white"
            ax.plot(found.pearson, place, "o", markerfacecolor=face, markeredgecolor=LINES[0], markersize=6)
            ax.annotate(f"n = {found.n}", (1.0, place), (4, 0), xycoords=ax.get_yaxis_transform(), **_BESIDE)
        ax.axvline(0.0, color=MUTED, linewidth=0.9)
        ax.set_xlim(-1.03, 1.03)
        ax.set_ylim(len(pairs) - 0.4, -0.6)
        ax.set_yticks(range(len(pairs)), [f"{pair.score}: {pair.quantity}" for pair in pairs])
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("Pearson r, 95% interval   (filled: holds beyond a trend)")
        ax.set_title("Heads and downstream scores")
        ax.grid(axis="x", color="#e8ebef", linewidth=0.8)
        ax.spines[["top", "right", "left"]].set_visible(False)
    return ax


def cells_size(evolution: Evolution, name: str) -> tuple[float, float]:
    """Inches for a grid: "length_depth" or "distance_interference"."""
    found = evolution.length_depth if name == "length_depth" else evolution.distance_interference
    _, rows, columns = found(evolution.nll_name)
    return _size(rows, columns)


def _size(rows: list[str], columns: list[str]) -> tuple[float, float]:
    return 1.9 + 0.75 * max(len(columns), 5), 1.2 + 0.3 * max(len(rows), 6)


def _cells(
    ax: Axes | None,
    shown: np.ndarray,
    top: float,
    rows: list[str],
    columns: list[str],
    names: tuple[str, str],
    value: str,
) -> Axes:
    title, unit, more_is_better = VALUES[value]
    with house_style():
        ax = axes_of(ax, _size(rows, columns))
        image = written_cells(ax, shown, rows, columns, top, more_is_better)
        ax.set_xlabel(names[1])
        ax.set_ylabel(names[0])
        ax.set_title(title)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=22, fraction=0.06, label=unit)
        bar.outline.set_visible(False)
    return ax
