"""Every head of two runs against each other. Draws on the axes it is given (or on new ones)."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....errors import ArgumentError
from ....printable import NAME, printable
from ..palette import ACCENT, INK, LINE, LINES, MUTED, spread
from .style import axes_of, house_style, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...analysis import Comparison

NAMED = 10  # changed heads that are written beside their points


def head_scatter(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Mean score of every head, a across and b up; changed heads are red, the ones that changed most with their names.

    Raises ArgumentError where heads were not compared, because the models have other numbers of them.
    """
    heads = comparison.heads
    if heads is None:
        raise ArgumentError("heads of these two were not compared: the models have other numbers of layers or heads")
    a, b = heads.maps.reshape(2, -1)
    changed = heads.changes.changed.ravel()
    with house_style():
        ax = axes_of(ax, (5.2, 5.0))
        ends = np.nanmin([0.0, np.nanmin(heads.maps)]), np.nanmax(heads.maps)
        room = 0.04 * (ends[1] - ends[0]) or 0.04
        limits = (ends[0] - room, ends[1] + room)
        ax.plot(limits, limits, color=LINE, linewidth=1, zorder=1)
        ax.scatter(a[~changed], b[~changed], s=14, color=LINES[0], alpha=0.55, linewidth=0, zorder=2)
        ax.scatter(a[changed], b[changed], s=26, color=ACCENT, linewidth=0, zorder=3)
        named = heads.named()[:NAMED]
        for side in (-1, 1):  # away from the diagonal
            group = sorted((y, x, name) for name, x, y in named if (y <= x) == (side > 0))
            if not group:
                continue
            places = spread(np.array([y for y, _, _ in group]), 0.035 * (limits[1] - limits[0]), *limits)
            for (y, x, name), place in zip(group, places, strict=True):
                ax.annotate(
                    name,
                    (x, y),
                    xytext=(x + side * 0.02 * (limits[1] - limits[0]), place),
                    ha="left" if side > 0 else "right",
                    va="center",
                    fontsize=8,
                    color=INK,
                )
        ax.set(xlim=limits, ylim=limits, aspect="equal")
        for axis, run in ((ax.xaxis, comparison.a), (ax.yaxis, comparison.b)):
            file = f"{printable(run.file, NAME)}, " if run.file else ""
            axis.set_label_text(f"{file}step {run.step}")
        words = (
            f"rank correlation {heads.spearman.estimate:.2f}, {int(changed.sum())} of {heads.changes.tested} changed"
        )
        ax.set_title(f"{comparison.estimator} score of every head\n")
        ax.text(0, 1.02, words, transform=ax.transAxes, color=MUTED, fontsize=8.5)
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def save_comparison_figures(comparison: Comparison, folder: str | PathLike[str]) -> list[Path]:
    """Write `head_scatter` into `folder` (made when missing), as PNG and SVG; returns the paths.

    Raises StoreError where they cannot be written, ArgumentError where heads were not compared.
    """
    import matplotlib.pyplot as plt

    figure = head_scatter(comparison).figure
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with house_style():
        paths = [save_picture(figure, folder / f"compare_heads.{kind}") for kind in ("png", "svg")]  # type: ignore[arg-type]
    plt.close(figure)  # type: ignore[arg-type]
    return paths
