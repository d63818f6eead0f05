"""Pictures of one set of scores. Each function draws on the axes it is given (or on new ones) and returns them.

    ax = head_heatmap(scores)            # layer x head, leading heads ringed and named
    fig = overview(scores)               # heatmap, length x depth and leading heads in one picture
    save_figures(scores, "figures")      # the same as PNG and SVG, identical bytes for identical scores

Colours are readable without colour vision, start at zero, and mean the same in every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import ArgumentError
from ...analysis import depth_labels, length_by_depth
from ...lengths import group_lengths
from ...levels import chance_known, in_words, lines
from ...results import RETRIEVAL_THRESHOLD
from ..facts import facts, model_name
from ..palette import ACCENT, INK, MUTED, known_value, scale_end, scale_of
from .style import axes_of, head_cells, house_style, map_height, mark_levels, name_heads, save_picture, written_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ...results import HeadScores


def head_heatmap(scores: HeadScores, ax: Axes | None = None, *, estimator: str = "retrieval", k: int = 10) -> Axes:
    """Mean score of every head, layers from left to right; the leading heads, at most `k`, are ringed and named.

    Colours run from 0 to 1; when every score is below 0.5 (or one is above 1) they end at a round number near the
    largest, and the colour bar says so. Hatched grey: not observable, the needle lay outside the layer's window.
    """
    with house_style():
        ax = axes_of(ax, (10.0, map_height(scores.n_layers, scores.n_heads) + 0.9))
        values = np.asarray(scores[estimator], dtype=float)
        top, colour_label = scale_end(values), estimator.replace("_", " ") + " score"
        if top != 1.0:
            colour_label += f" (colours end at {top:g})"
        image, missing = head_cells(ax, values, top), np.isnan(values)
        hatched = "   (hatched: needle outside the layer's window, not observable)"
        ax.set_xlabel("layer" + (hatched if missing.any() else ""))

        leading = [head for head in scores.top(k, estimator) if head.score > 0]
        level, title = np.full(values.shape, RETRIEVAL_THRESHOLD), "Score of every head"
        if estimator == "retrieval":
            level = scores.counting_level()
            above = in_words(level, scores.probes, RETRIEVAL_THRESHOLD)
            title = f"{len(scores.retrieval_heads())} of {values.size} heads score above {above}"
            if chance_known(scores.probes):
                title += f"; above {RETRIEVAL_THRESHOLD:g}: {len(scores.retrieval_heads(plain=True))}"
        counted = [head for head in leading if head.score > level[head.layer, head.head]]
        rows = name_heads(ax, counted or leading, scores.n_layers)
        ax.set_title(title, pad=6.0 if not rows else 14.0 + 10.0 * rows)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.012, aspect=22, fraction=0.04, label=colour_label)
        bar.outline.set_visible(False)
        if estimator == "retrieval":
            mark_levels(bar, level, top)
    return ax


def length_depth(scores: HeadScores, ax: Axes | None = None, *, value: str = "nll_novel") -> Axes:
    """Mean of `value` over the probes of each context length (columns) and needle depth (rows, 0% is the start).

    `value`: "nll", "nll_novel", "nll_echo", "nll_first" or "exact_match". Where there are many depths they are
    gathered into tenths of the context, as in the report. Cells without a value stay empty.
    """
    title, unit, more_is_better = known_value(value)
    values = np.where(scores.computed, getattr(scores, value), np.nan)
    found = length_by_depth(values, scores.probes)
    cells, counts, depths = found.values, found.counts, depth_labels(scores.probes["depth_nominal"])
    lengths, _ = group_lengths(scores.probes["length"])
    with house_style():
        ax = axes_of(ax, (1.9 + 0.75 * max(len(lengths), 4), 1.2 + 0.3 * max(len(depths), 6)))
        image = written_cells(ax, cells, depths, lengths, scale_of(cells, value), more_is_better)
        few, many = int(counts[counts > 0].min(initial=counts.max())), int(counts.max())
        each = f"{many}" if few == many else f"{few} to {many}"
        ax.set_xlabel(f"context length in tokens   (mean of {each} probe{'s' if many > 1 else ''} a cell)")
        ax.set_ylabel("needle depth")
        ax.set_title(title)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.02, aspect=22, fraction=0.06, label=unit)
        bar.outline.set_visible(False)
    return ax


def top_heads(scores: HeadScores, ax: Axes | None = None, *, k: int = 12, estimator: str = "retrieval") -> Axes:
    """The `k` leading heads as bars, with needle-clustered standard errors (none where there is only one needle)."""
    with house_style():
        from matplotlib.ticker import MaxNLocator

        ax = axes_of(ax, (5.2, 0.9 + 0.27 * k))
        heads = scores.top(k, estimator)
        means = np.array([head.score for head in heads], dtype=float)
        errors = np.array([head.stderr for head in heads], dtype=float)
        places = np.arange(len(heads))
        end = scale_end(means)
        digits = 2 if end > 0.2 else 3
        ax.barh(places, means, height=0.68, color="#176ebb")
        ax.errorbar(means, places, xerr=errors, fmt="none", ecolor=INK, elinewidth=1.1, capsize=2.5)
        for place, head, error in zip(places, heads, errors, strict=True):
            text = f"{head.score:.{digits}f}" + (f" ± {error:.{digits}f}" if np.isfinite(error) else "")
            at, paper = head.score + np.nan_to_num(error), {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
            ax.annotate(text, (at, place), (5, 0), textcoords="offset points", va="center", fontsize=8, bbox=paper)
        at = lines(scores.counting_level()) if estimator == "retrieval" else []
        for line in at:
            ax.axvline(line, color=ACCENT, linewidth=1.1, linestyle=(0, (4, 3)), zorder=0)
        ax.set_yticks(places, [str(head) for head in heads])
        ax.set_ylim(max(len(heads), 1) - 0.4, -0.6)
        # Room on the right for the numbers beside the longest bar.
        ax.set_xlim(0.0, max(end, *at, float(np.nanmax(means + np.nan_to_num(errors), initial=0.0))) * 1.22)
        ax.set_xticks([tick for tick in MaxNLocator(5).tick_values(0.0, end) if 0.0 <= tick <= end * 1.001])
        needles = len(np.unique(scores.probes["needle_id"]))
        spread = f"mean ± standard error over {needles} needles"
        if needles < 2:
            spread = "mean; one needle, so no standard error"
        above = in_words(scores.counting_level(), scores.probes, RETRIEVAL_THRESHOLD)
        dashed = f"\ndashed: heads count above {above}" if at else ""
        ax.set_xlabel(f"{estimator.replace('_', ' ')} score   ({spread}){dashed}")
        ax.set_title("Leading heads")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    return ax


def overview(scores: HeadScores, figure: Figure | None = None) -> Figure:
    """One picture: the heatmap of all heads, the answer's NLL by length and depth, and the leading heads.

    `figure`: an empty figure to draw in; a new pyplot figure when None.
    """
    value = "nll_novel" if np.isfinite(scores.nll_novel).any() else "nll"
    heads_high, below_high = map_height(scores.n_layers, scores.n_heads) + 0.9, 3.9
    with house_style():
        if figure is None:
            import matplotlib.pyplot as plt

            figure = plt.figure()
        figure.set_size_inches(11.0, 0.7 + heads_high + below_high)
        figure.set_layout_engine("constrained", h_pad=0.06, w_pad=0.08, hspace=0.03, wspace=0.03)
        grid = figure.add_gridspec(3, 2, height_ratios=(0.5, heads_high, below_high), width_ratios=(1.12, 1.0))
        header = figure.add_subplot(grid[0, :])
        header.set_axis_off()
        title: dict[str, Any] = {
            "xy": (0.0, 1.0),
            "xycoords": "axes fraction",
            "textcoords": "offset points",
            "va": "top",
        }
        header.annotate(model_name(scores), xytext=(0, 0), fontsize=15, fontweight="bold", **title)
        header.annotate("  ·  ".join(facts(scores)), xytext=(0, -23), fontsize=9.5, color=MUTED, **title)
        head_heatmap(scores, figure.add_subplot(grid[1, :]))
        length_depth(scores, figure.add_subplot(grid[2, 0]), value=value)
        top_heads(scores, figure.add_subplot(grid[2, 1]))
    return figure


def save_figures(scores: HeadScores, folder: str | Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write overview, heads, length_depth and top_heads into `folder` (made when missing) and return the paths.

    The files hold no date and no random ids: the same scores give the same bytes. An unknown format is a ValueError.
    """
    unknown = set(formats) - {"png", "svg", "pdf"}
    if unknown:
        raise ArgumentError(f"formats must be among png, svg, pdf; got {', '.join(sorted(unknown))}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    value = "nll_novel" if np.isfinite(scores.nll_novel).any() else "nll"
    paths = []
    with house_style():
        from matplotlib.figure import Figure

        pictures = {"overview": overview(scores, Figure())}
        for name, draw, size in (
            ("heads", head_heatmap, (10.0, map_height(scores.n_layers, scores.n_heads) + 0.9)),
            ("length_depth", lambda scores, ax: length_depth(scores, ax, value=value), (6.2, 4.4)),
            ("top_heads", top_heads, (5.6, 4.2)),
        ):
            pictures[name] = Figure(figsize=size, layout="constrained")
            draw(scores, pictures[name].add_subplot())
        for name, figure in pictures.items():
            for format in formats:
                paths.append(save_picture(figure, folder / f"{name}.{format}"))
    return paths
