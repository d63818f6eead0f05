"""Do the ways of finding heads find the same ones? A matrix. Draws on the axes it is given (or on new ones)."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....errors import ArgumentError
from ....printable import NAME, printable
from ..palette import ACCENT
from .style import axes_of, house_style, save_picture, written_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...analysis import Agreement

TITLES = {
    "spearman": "Rank correlation of the heads (Spearman)",
    "kendall": "Rank correlation of the heads (Kendall)",
    "overlap": "Shared among the leading {top} heads",
}


def agreement_matrix(agreement: Agreement, ax: Axes | None = None, *, value: str = "spearman") -> Axes:
    """Every view against every other: "spearman", "kendall", or "overlap" of the leading heads as a share.

    The diagonal, framed, is how well a view agrees with itself between halves of its needles (Spearman); empty for the
    other values and with fewer than four needles. Colours run from 0 to 1; what is below 0 is as pale as 0.
    """
    if value not in TITLES:
        raise ArgumentError(f"value must be one of {', '.join(TITLES)}; got {value!r}")
    cells = np.array(getattr(agreement, value).estimate, dtype=float)
    np.fill_diagonal(cells, agreement.split_half if value == "spearman" else np.nan)
    names = [printable(name, NAME) for name in agreement.names]
    with house_style():
        ax = axes_of(ax, matrix_size(agreement))
        image = written_cells(ax, cells, names, names, 1.0, True)
        ax.set_xticks(range(len(names)), names, rotation=90)
        if value == "spearman":
            from matplotlib.patches import Rectangle

            for i in range(len(names)):
                ax.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=ACCENT, linewidth=1.2))
            ax.set_xlabel("framed: the same view on the other half of the needles")
        ax.set_title(TITLES[value].format(top=agreement.top))
        bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=22, fraction=0.06)
        bar.outline.set_visible(False)
    return ax


def matrix_size(agreement: Agreement) -> tuple[float, float]:
    n = max(len(agreement.names), 4)
    return 2.6 + 0.52 * n, 1.9 + 0.36 * n


def save_agreement_figures(agreement: Agreement, folder: str | PathLike[str]) -> list[Path]:
    """Write the matrices of rank correlation and of overlap into `folder` (made when missing), as PNG and SVG.

    Returns the paths. Raises StoreError where they cannot be written.
    """
    import matplotlib.pyplot as plt

    folder, paths = Path(folder), []
    folder.mkdir(parents=True, exist_ok=True)
    with house_style():
        for value in ("spearman", "overlap"):
            figure = agreement_matrix(agreement, value=value).figure
            paths += [save_picture(figure, folder / f"agreement_{value}.{kind}") for kind in ("png", "svg")]  # type: ignore[arg-type]
            plt.close(figure)  # type: ignore[arg-type]
    return paths
