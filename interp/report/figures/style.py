"""What all pictures share: the house style, axes, maps and grids, the names of heads, and how a picture is written."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...levels import lines
from ...packages import need
from ...store import write_file
from ..palette import ACCENT, AMBERS, BLUES, INK, LINE, MUTED, spaced_ticks, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "headscope",
    "text.parse_math": False,
}
# Date and Software would differ from day to day and from version to version.
_UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def house_style() -> Any:
    return need("matplotlib", "drawing figures").rc_context(_STYLE)


def save_picture(figure: Figure, path: Path) -> Path:
    """Write a figure in the format that its name ends in, whole or not at all; raises StoreError where it cannot be."""
    format, content = path.suffix[1:], BytesIO()
    figure.savefig(content, format=format, dpi=160, facecolor="white", metadata=_UNDATED[format])
    write_file(path, content.getvalue())
    return path


def axes_of(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def colour_map(stops: Sequence[str]) -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("headscope", stops).with_extremes(bad="#eceef1")


def mark_levels(bar: Colorbar, levels: np.ndarray, end: float) -> None:
    """Where on a colour bar from 0 to `end` heads begin to count."""
    for level in lines(levels):
        if level < end:
            bar.ax.axhline(level, color=ACCENT, linewidth=1.4)


def hatch(ax: Axes, missing: np.ndarray) -> None:
    """Hatch the cells [rows, columns] that have no value: a pale zero would look alike."""
    if missing.any():
        edges = [np.arange(size + 1) - 0.5 for size in reversed(missing.shape)]
        nothing = np.ma.masked_where(~missing, np.zeros(missing.shape))
        ax.pcolor(*edges, nothing, facecolor="none", edgecolor="#a3abb7", linewidth=0.0, hatch="//////", zorder=1.5)


def written_cells(
    ax: Axes, cells: np.ndarray, rows: Sequence[Any], columns: Sequence[Any], top: float, more_is_better: bool
) -> AxesImage:
    """Coloured cells [row, column] with their numbers in them where there is room; the ticks name rows and columns."""
    colours = colour_map(BLUES if more_is_better else AMBERS)
    image = ax.imshow(cells, cmap=colours, vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
    cell_lines(ax, len(columns), len(rows))
    if len(columns) <= 16 and len(rows) <= 24:
        size = 8.0 if len(columns) <= 9 and len(rows) <= 14 else 6.0
        for (row, column), cell in np.ndenumerate(cells):
            if np.isfinite(cell):
                ink = "white" if cell / top > 0.55 else INK
                ax.text(column, row, f"{cell:.2f}", ha="center", va="center", fontsize=size, color=ink)
    ax.set_xticks(range(len(columns)), columns, rotation=90 if len(columns) > 12 else 0)
    ax.set_yticks(range(len(rows)), rows)
    return image


def head_cells(ax: Axes, values: np.ndarray, end: float) -> AxesImage:
    """Values [n_layers, n_heads] as a map, layers from left to right, colours from 0 to `end`; hatched where NaN."""
    n_layers, n_heads = values.shape
    image = ax.imshow(values.T, cmap=colour_map(BLUES), vmin=0.0, vmax=end, aspect="auto", interpolation="nearest")
    hatch(ax, np.isnan(values.T))
    cell_lines(ax, n_layers, n_heads)
    ax.set_xticks(*spaced_ticks(n_layers, "L", (1, 2, 4, 5, 10, 20), 20))
    ax.set_yticks(*spaced_ticks(n_heads, "H", (1, 2, 4, 8, 16, 32), 16))
    ax.set_ylabel("query head")
    return image


def map_height(n_layers: int, n_heads: int) -> float:
    """Inches that give nearly square cells on a ten-inch width, within what a page bears."""
    return float(np.clip(8.8 * n_heads / n_layers, 2.3, max(3.6, 0.085 * n_heads)))


def cell_lines(ax: Axes, columns: int, rows: int) -> None:
    ax.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=0.8 if max(columns, rows) <= 40 else 0.35)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)


def name_heads(ax: Axes, heads: Sequence[Any], n_layers: int) -> int:
    """Ring the heads and write their names above their layer's column; returns the height of the names in lines."""
    from matplotlib.patheffects import Normal, Stroke
    from matplotlib.transforms import ScaledTranslation

    if not heads:
        return 0
    by_layer: dict[int, list[Any]] = {}
    for head in sorted(heads, key=lambda head: (head.layer, head.head)):
        by_layer.setdefault(head.layer, []).append(head)
    halo = [Stroke(linewidth=2.6, foreground="white"), Normal()]
    x, y = [head.layer for head in heads], [head.head for head in heads]
    inches = ax.get_window_extent().width / ax.figure.dpi
    # A ring fits a cell about as wide as high, within what can be seen and what looks calm.
    across = float(np.clip(72 * 0.5 * inches / n_layers, 8.0, 13.0))
    ax.scatter(x, y, s=across**2, facecolor="none", edgecolor=ACCENT, linewidth=1.3, path_effects=halo, zorder=3)

    columns = np.array(list(by_layer), dtype=float)
    places = spread(columns, gap=0.47 * n_layers / inches, low=-0.5, high=n_layers - 0.5)
    top_edge = ax.get_xaxis_transform()
    above = top_edge + ScaledTranslation(0.0, 9 / 72, ax.figure.dpi_scale_trans)
    for (layer, group), place in zip(by_layer.items(), places, strict=True):
        ax.annotate(
            "\n".join(str(head) for head in group),
            xy=(layer, 1.0),
            xytext=(place, 1.0),
            xycoords=top_edge,
            textcoords=above,
            ha="center",
            va="bottom",
            fontsize=8,
            linespacing=1.15,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkB": 0, "relpos": (0.5, 0)},
        )
    return max(len(group) for group in by_layer.values())
