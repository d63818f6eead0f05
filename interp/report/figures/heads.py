"""Pictures of the heads of a run of checkpoints, and what all pictures of a run share. Used through evolution_figures:
each function draws on the axes it is given (or on new ones) and returns them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...levels import lines
from ...results import HeadScore
from ..evolution import Evolution, Head, head_name
from ..palette import ACCENT, BLUES, INK, LINES, MUTED, PALE, scale_end, spread
from .style import axes_of, cell_lines, colour_map, hatch, head_cells, house_style, map_height, mark_levels, name_heads

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...analysis import Interval

MARKS = "osD^PXpv"
_ABOVE: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": MUTED}


def head_map(evolution: Evolution, ax: Axes | None = None, *, checkpoint: int = -1, k: int = 10) -> Axes:
    """Mean score of every head at one checkpoint (an index), layers from left to right; the leading heads are named.

    Colours end where the largest score of any checkpoint needs it, so that pictures of several can be compared.
    Hatched: not observable.
    """
    values = evolution.maps[checkpoint].astype(float)
    with house_style():
        ax = axes_of(ax, map_size(evolution))
        end = scale_end(evolution.maps)
        image = head_cells(ax, values, end)
        missing = "   (hatched: needle outside the layer's window, not observable)"
        ax.set_xlabel("layer" + (missing if np.isnan(values).any() else ""))
        heads = [HeadScore(*head, float(values[head]), float("nan")) for head in evolution.leading(k, checkpoint)]
        alive = evolution.alive[checkpoint]
        rows = name_heads(ax, [head for head in heads if alive[head.layer, head.head]] or heads[:3], len(values))
        title = f"{alive.sum()} of {values.size} heads score above {evolution.above} at {evolution.labels[checkpoint]}"
        ax.set_title(title, pad=6.0 if not rows else 14.0 + 10.0 * rows)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.012, aspect=22, fraction=0.04, label="retrieval score")
        bar.outline.set_visible(False)
        mark_levels(bar, evolution.levels[checkpoint], end)
    return ax


def head_strip(evolution: Evolution, ax: Axes | None = None, *, k: int = 24) -> Axes:
    """The leading heads (rows) over the checkpoints (columns): when each was born, grew or faded.

    Heads that are ever above their level, at most `k`: those that rose above it first, first.
    """
    heads = evolution.named(k)
    values = np.array([evolution.maps[:, *head] for head in heads], dtype=float).reshape(len(heads), len(evolution.x))
    above = np.array([evolution.alive[:, *head] for head in heads], dtype=bool).reshape(values.shape)
    born = np.where(above.any(axis=1), above.argmax(axis=1), values.shape[1])
    order = np.argsort(born, kind="stable")
    with house_style():
        ax = axes_of(ax, strip_size(evolution, len(heads)))
        if not heads:
            return nothing(ax, "No head scores above 0.")
        end = scale_end(evolution.maps)
        image = ax.imshow(
            values[order], cmap=colour_map(BLUES), vmin=0.0, vmax=end, aspect="auto", interpolation="nearest"
        )
        hatch(ax, np.isnan(values[order]))
        cell_lines(ax, values.shape[1], len(heads))
        for row, column in enumerate(born[order]):
            if 0 < column < values.shape[1]:  # a bar where the head first rose above its level
                ax.plot(
                    [column - 0.5] * 2, [row - 0.42, row + 0.42], color=ACCENT, linewidth=2.2, solid_capstyle="butt"
                )
        ax.set_yticks(range(len(heads)), [head_name(heads[i]) for i in order])
        places = np.unique(np.linspace(0, values.shape[1] - 1, min(values.shape[1], 9)).round().astype(int))
        ax.set_xticks(places, [evolution.tick(c) for c in places])
        unit = "step within the stage" if evolution.borders else evolution.x_title
        ax.set_xlabel(f"{unit}\nred bar: first above {evolution.above}")
        ax.set_title("The leading heads, checkpoint by checkpoint", pad=16.0 if evolution.borders else None)
        letters = (strip_size(evolution, len(heads))[0] - 2.2) / len(evolution.x) / 0.08  # above one column
        for name, first, last in evolution.trajectory.stage_spans if evolution.borders else []:
            room = int((last - first + 1) * letters)
            shown, middle = name[: room if room > 2 else 0], ((first + last) / 2, 1.0)
            ax.annotate(shown, middle, (0, 3), xycoords=ax.get_xaxis_transform(), **_ABOVE)
            if first:
                ax.axvline(first - 0.5, color=INK, linewidth=1.2)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.015, aspect=22, fraction=0.05, label="retrieval score")
        bar.outline.set_visible(False)
    return ax


def head_curves(evolution: Evolution, ax: Axes | None = None, *, k: int = 8) -> Axes:
    """Score of the leading heads over the checkpoints with 95 % intervals over needles; in grey, every other head that
    is ever above its level. Triangles: first above it (up), fallen below it (down)."""
    with house_style():
        ax = axes_of(ax, (8.6, 4.4))
        named = evolution.named(k)
        if not named:
            return nothing(ax, "No head scores above 0.")
        for head in evolution.ever_above():
            if head not in named:
                ax.plot(evolution.x, evolution.maps[:, *head], color=PALE, linewidth=0.8, zorder=1)
        ends = []
        for number, head in enumerate(named):
            interval = evolution.head_curve(head)
            curve(ax, evolution, interval, LINES[number % 8], MARKS[number % 8])
            ends.append((head_name(head), _last(interval.estimate), LINES[number % 8]))
        _crossings(ax, evolution, named)
        finish(ax, evolution, "retrieval score", "The leading heads over training")
        if len(evolution.x) > 1:
            key = f"bands: 95 %, where needles differ; triangles: passes {evolution.above}"
            ax.set_xlabel(f"{evolution.x_title}\n{key}")
        level_lines(ax, evolution)
        names_at_end(ax, ends)
    return ax


def curve(ax: Axes, evolution: Evolution, interval: Interval, colour: str, mark: str, label: str | None = None) -> None:
    """An estimate over the checkpoints, and its interval as a band; as bars where there is only one checkpoint."""
    few = len(evolution.x) <= 40
    estimate, low, high = (np.asarray(values, float) for values in (interval.estimate, interval.low, interval.high))
    ax.plot(evolution.x, estimate, color=colour, marker=mark if few else None, markersize=4, linewidth=1.6, label=label)
    if len(evolution.x) > 1:
        ax.fill_between(evolution.x, low, high, color=colour, alpha=0.16, linewidth=0)
    elif np.isfinite(low).all():
        ax.errorbar(evolution.x, estimate, yerr=[estimate - low, high - estimate], color=colour, capsize=3)


def finish(ax: Axes, evolution: Evolution, unit: str, title: str) -> None:
    """Axis names, a start at zero, no frame; and where one stage of training ends and the next begins."""
    if len(evolution.x) == 1:
        ax.set_xticks(evolution.x)
    ax.set_xlabel(evolution.x_title)
    ax.set_ylabel(unit)
    ax.set_title(title)
    ax.set_ylim(bottom=0.0)
    ax.margins(x=0.02)
    ax.grid(axis="y", color="#e8ebef", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    borders(ax, evolution, evolution.x)


def borders(ax: Axes, evolution: Evolution, x: np.ndarray) -> None:
    """A dotted line at the last checkpoint of every stage but the last, with its name and that of the next."""
    for place, name, left in evolution.border_names(x) if np.isfinite(x).all() else []:
        ax.axvline(place, color="0.5", linewidth=1, linestyle=":", zorder=1.5)
        at: dict[str, Any] = {
            "xycoords": ax.get_xaxis_transform(),
            "textcoords": "offset points",
            "va": "top",
            "rotation": 90,
        }
        ax.annotate(name, (place, 0.98), (-3 if left else 3, 0), ha="right" if left else "left", fontsize=7, **at)


def level_lines(ax: Axes, evolution: Evolution) -> None:
    """Where heads begin to count, as dashed lines."""
    for level in lines(evolution.levels):
        if level < ax.get_ylim()[1]:
            ax.axhline(level, color=ACCENT, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1.5)


def names_at_end(ax: Axes, ends: list[tuple[str, float, str]]) -> None:
    """Names at the right end of curves, moved apart where curves end together."""
    ends = [end for end in ends if np.isfinite(end[1])]
    if not ends:
        return
    at = ax.transAxes.inverted().transform(ax.transData.transform([(0.0, height) for _, height, _ in ends]))[:, 1]
    order = np.argsort(at)
    gap = 11 / (72 * ax.get_window_extent().height / ax.figure.dpi)
    for number, place in zip(order, spread(at[order], gap, 0.0, 1.0 + gap), strict=True):
        name, _, colour = ends[number]
        ax.annotate(
            name,
            (1.0, place),
            (5, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=8,
            fontweight="bold",
            color=colour,
            annotation_clip=False,
        )


def map_size(evolution: Evolution) -> tuple[float, float]:
    """Nearly square cells on a ten-inch width, within what a page bears, and room for the names above."""
    return 10.0, map_height(*evolution.maps.shape[1:]) + 1.1


def strip_size(evolution: Evolution, heads: int) -> tuple[float, float]:
    return float(np.clip(2.6 + 0.5 * evolution.maps.shape[0], 6.0, 11.0)), 1.3 + 0.2 * max(heads, 4)


def _crossings(ax: Axes, evolution: Evolution, heads: list[Head]) -> None:
    for number, head in enumerate(heads):
        for born, marker in ((True, "^"), (False, "v")):
            at = evolution.crossings(head, born)
            style: dict[str, Any] = {
                "s": 70,
                "facecolor": "white",
                "edgecolor": LINES[number % 8],
                "linewidth": 1.6,
                "zorder": 4,
            }
            ax.scatter(evolution.x[at], evolution.maps[at][:, *head], marker=marker, **style)


def nothing(ax: Axes, words: str) -> Axes:
    ax.set_axis_off()
    ax.text(0.5, 0.5, words, transform=ax.transAxes, ha="center", va="center", color=MUTED)
    return ax


def _last(values: np.ndarray) -> float:
    known = np.asarray(values)[np.isfinite(values)]
    return float(known[-1]) if known.size else float("nan")
