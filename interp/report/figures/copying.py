"""Pictures of a copy profile. Each function draws on the axes it is given (or on new ones) and returns them.

ax = copy_heads(profile)                  # layer x head, leading heads ringed and named
ax = copy_distances(profile)              # leading heads x distance: how far back they copy from
save_copy_figures(profile, "figures")     # both as PNG and SVG, identical bytes for identical profiles
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....errors import ArgumentError
from ...checkpoint_names import model_name
from ...lengths import human_length
from ..palette import BLUES, INK, MUTED, scale_end
from .style import axes_of, cell_lines, colour_map, hatch, head_cells, house_style, map_height, name_heads, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...copying import CopyProfile

_TITLES = {
    "copy_rate": ("Where heads copy the next token from the text", "share of possible copies"),
    "echo_rate": ("Where heads look back at the current token", "share of possible echoes"),
    "self_rate": ("Where heads attend to the row itself", "share of rows"),
    "sink_rate": ("Where heads rest on the first four positions", "share of rows"),
}
_LINE = 0.29  # inches a row of the distance map


def copy_heads(profile: CopyProfile, ax: Axes | None = None, *, by: str = "copy_rate", k: int = 10) -> Axes:
    """One rate of every head, layers from left to right; the leading heads, at most `k`, are ringed and named.

    `by`: "copy_rate", "echo_rate", "self_rate" or "sink_rate". Colours run from 0 to 1, or end at a round number near
    the largest rate, as the colour bar says. Hatched: no rate, as in a layer without attention.
    """
    values = profile.rate(by).astype(float)
    title, unit = _TITLES[by]
    with house_style():
        ax = axes_of(ax, _heads_size(profile))
        end = scale_end(values)
        label = unit if end == 1.0 else f"{unit} (colours end at {end:g})"
        image = head_cells(ax, values, end)
        missing = "   (hatched: no attention, or nothing possible)" if np.isnan(values).any() else ""
        ax.set_xlabel(f"layer{missing}\n{_facts(profile)}")
        lines = name_heads(ax, [head for head in profile.top(k, by) if head.score > 0], profile.n_layers)
        ax.set_title(title, pad=6.0 if not lines else 14.0 + 10.0 * lines)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.012, aspect=22, fraction=0.04, label=label)
        bar.outline.set_visible(False)
    return ax


def copy_distances(profile: CopyProfile, ax: Axes | None = None, *, k: int = 12) -> Axes:
    """How far back the `k` heads with the highest copy rate copy from: of the rows that could, the share that did.

    A column is a doubling of the distance and shows, above, on how many rows of a layer that sees everything a copy
    from there was possible; pale numbers rest on fewer than ten. Hatched: never possible, as beyond a layer's window.
    """
    heads = profile.top(k)
    rates = np.array([profile.copy_rate_by_distance[head.layer, head.head] for head in heads], dtype=float)
    possible = np.array([profile.copy_possible[head.layer] for head in heads])
    n_bins = len(profile.distance)
    rates = rates.reshape(-1, n_bins)
    with house_style():
        ax = axes_of(ax, _distances_size(profile, len(heads)))
        if not heads:
            ax.set_axis_off()
            ax.text(0.5, 0.5, "No copy was possible in this text.", transform=ax.transAxes, ha="center", va="center")
            return ax
        end = scale_end(rates)
        image = ax.imshow(rates, cmap=colour_map(BLUES), vmin=0.0, vmax=end, aspect="auto", interpolation="nearest")
        hatch(ax, np.isnan(rates))
        cell_lines(ax, n_bins, len(heads))
        for (row, column), rate in np.ndenumerate(rates):
            if rate >= 0.005:  # what would read 0.00 stays pale and silent
                dark = rate / end > 0.55
                few = possible[row, column] < 10
                ink = ("#c3cfe3" if dark else "#8b96a5") if few else ("white" if dark else INK)
                ax.text(column, row, f"{rate:.2f}", ha="center", va="center", fontsize=7.5, color=ink)
        for column, rows in enumerate(profile.copy_possible.max(axis=0)):
            ax.annotate(
                _short(int(rows)),
                (column, 1.0),
                (0, 3),
                xycoords=ax.get_xaxis_transform(),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
                color=MUTED,
            )
        edges = [human_length(int(start)) for start in (*profile.distance, 2 * profile.distance[-1])]
        ax.set_xticks(np.arange(n_bins + 1) - 0.5, edges)
        ax.set_yticks(range(len(heads)), [f"{head}  {head.score:.2f}" for head in heads])
        ax.grid(which="major", axis="x", color="white", linewidth=0.8)  # ticks at the edges took the place of its lines
        above = "above: rows that could copy from there; a row may be in several columns"
        hatched = ["hatched: never possible"] if np.isnan(rates).any() else []
        ax.set_xlabel(f"copy distance in tokens   ({above})\n{', '.join([_facts(profile), *hatched])}")
        ax.set_ylabel("head and its copy rate")
        ax.set_title("How far back the leading heads copy from", pad=18.0)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.015, aspect=22, fraction=0.05, label="share of possible copies")
        bar.outline.set_visible(False)
    return ax


def save_copy_figures(profile: CopyProfile, folder: str | Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write copy_heads and copy_distances into `folder` (made when missing) and return the paths.

    The files hold no date and no random ids: the same profile gives the same bytes. An unknown format is a ValueError.
    """
    unknown = set(formats) - {"png", "svg"}
    if unknown:
        raise ArgumentError(f"formats must be among png, svg; got {', '.join(sorted(unknown))}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with house_style():
        from matplotlib.figure import Figure

        for name, draw, size in (
            ("copy_heads", copy_heads, _heads_size(profile)),
            ("copy_distances", copy_distances, _distances_size(profile, len(profile.top(12)))),
        ):
            figure = Figure(figsize=size, layout="constrained")
            draw(profile, figure.add_subplot())
            for format in formats:
                paths.append(save_picture(figure, folder / f"{name}.{format}"))
    return paths


def _heads_size(profile: CopyProfile) -> tuple[float, float]:
    """Nearly square cells on a ten-inch width, within what a page bears, and room for the names above."""
    return 10.0, map_height(profile.n_layers, profile.n_heads) + 1.3


def _distances_size(profile: CopyProfile, heads: int) -> tuple[float, float]:
    return 2.6 + 0.48 * max(len(profile.distance), 8), 1.45 + _LINE * max(heads, 3)


def _facts(profile: CopyProfile) -> str:
    return f"{model_name(profile.model_id)}, {profile.n_tokens:,} tokens"


def _short(count: int) -> str:
    """1234 -> "1.2k": a number that fits above a column."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"
