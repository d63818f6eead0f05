"""Pictures of one set of scores. Each function draws on the axes it is given (or on new ones) and returns them.

    ax = head_heatmap(scores)            # layer x head, leading heads ringed and named
    fig = overview(scores)               # heatmap, length x depth and leading heads in one picture
    save_figures(scores, "figures")      # the same as PNG and SVG, identical bytes for identical scores

Colours are readable without colour vision, start at zero, and mean the same in every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import ArgumentError
from ...lengths import group_lengths
from ...levels import chance_known, in_words, lines
from ...packages import need
from ...results import RETRIEVAL_THRESHOLD
from ...store import write_file
from ..facts import facts, model_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from ...results import HeadScores

# Equal steps of OKLab lightness: equal differences in a score look equal, also without colour vision and in grey.
BLUES = ("#effbfb", "#a6e8f1", "#5ecfec", "#0cb1e5", "#058fd2", "#176ebb", "#2c4f95", "#2d3666", "#222234")
AMBERS = ("#fbf9ee", "#f4d9a2", "#f1b45f", "#e98d20", "#d56b0e", "#bd480b", "#993425", "#6e2b2d", "#3e2629")

INK, MUTED, LINE, ACCENT = "#1f2430", "#5b6472", "#c9ced6", "#d1495b"
LINES = ("#176ebb", "#d56b0e", "#228833", "#aa3377", "#222234", "#0cb1e5", "#998a00", "#ee6677")  # curves, in order
PALE = "#b4bcc8"  # curves in the background

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

# name of a value -> title, unit, True when more is better
VALUES = {
    "nll": ("NLL of the answer", "nats per token, lower is better", False),
    "nll_novel": ("NLL of answer tokens found only in the needle", "nats per token, lower is better", False),
    "nll_echo": ("NLL of answer tokens the question repeats", "nats per token, lower is better", False),
    "nll_first": ("NLL of the first token found only in the needle", "nats, lower is better", False),
    "exact_match": ("Answers predicted token by token", "share of probes, higher is better", True),
}


def head_heatmap(scores: HeadScores, ax: Axes | None = None, *, estimator: str = "retrieval", k: int = 10) -> Axes:
    """Mean score of every head, layers from left to right; the leading heads, at most `k`, are ringed and named.

    Colours run from 0 to 1; when every score is below 0.5 (or one is above 1) they end at a round number near the
    largest, and the colour bar says so. Hatched grey: not observable, the needle lay outside the layer's window.
    """
    with house_style():
        ax = axes_of(ax, (10.0, _heatmap_height(scores) + 0.9))
        values = np.asarray(scores[estimator], dtype=float)
        n_layers, n_heads = values.shape
        top, colour_label = scale_end(values), estimator.replace("_", " ") + " score"
        if top != 1.0:
            colour_label += f" (colours end at {top:g})"
        image = ax.imshow(values.T, cmap=colour_map(BLUES), vmin=0.0, vmax=top, aspect="auto", interpolation="nearest")
        missing = np.isnan(values)
        hatch(ax, missing.T)
        cell_lines(ax, n_layers, n_heads)
        ax.set_xticks(*spaced_ticks(n_layers, "L", (1, 2, 4, 5, 10, 20), 20))
        ax.set_yticks(*spaced_ticks(n_heads, "H", (1, 2, 4, 8, 16, 32), 16))
        hatched = "   (hatched: needle outside the layer's window, not observable)"
        ax.set_xlabel("layer" + (hatched if missing.any() else ""))
        ax.set_ylabel("query head")

        leading = [head for head in scores.top(k, estimator) if head.score > 0]
        level, title = np.full(values.shape, RETRIEVAL_THRESHOLD), "Score of every head"
        if estimator == "retrieval":
            level = scores.counting_level()
            above = in_words(level, scores.probes, RETRIEVAL_THRESHOLD)
            title = f"{len(scores.retrieval_heads())} of {values.size} heads score above {above}"
            if chance_known(scores.probes):
                title += f"; above {RETRIEVAL_THRESHOLD:g}: {len(scores.retrieval_heads(plain=True))}"
        counted = [head for head in leading if head.score > level[head.layer, head.head]]
        rows = name_heads(ax, counted or leading, n_layers)
        ax.set_title(title, pad=6.0 if not rows else 14.0 + 10.0 * rows)
        bar = ax.figure.colorbar(image, ax=ax, pad=0.012, aspect=22, fraction=0.04, label=colour_label)
        bar.outline.set_visible(False)
        if estimator == "retrieval":
            mark_levels(bar, level, top)
    return ax


def length_depth(scores: HeadScores, ax: Axes | None = None, *, value: str = "nll_novel") -> Axes:
    """Mean of `value` over the probes of each context length (columns) and needle depth (rows, 0% is the start).

    `value`: "nll", "nll_novel", "nll_echo", "nll_first" or "exact_match". A set that is no grid of a few depths is
    gathered into tenths of the context. Cells without a value stay empty.
    """
    title, unit, more_is_better = known_value(value)
    cells, counts, lengths, depths = _length_depth_cells(scores, value)
    with house_style():
        ax = axes_of(ax, (1.9 + 0.75 * max(len(lengths), 4), 1.2 + 0.3 * max(len(depths), 6)))
        finite = cells[np.isfinite(cells)]
        top = 1.0 if more_is_better else round_up(float(finite.max())) if finite.size and finite.max() > 0 else 1.0
        image = written_cells(ax, cells, depths, lengths, top, more_is_better)
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
    heads_high, below_high = _heatmap_height(scores) + 0.9, 3.9
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
            ("heads", head_heatmap, (10.0, _heatmap_height(scores) + 0.9)),
            ("length_depth", lambda scores, ax: length_depth(scores, ax, value=value), (6.2, 4.4)),
            ("top_heads", top_heads, (5.6, 4.2)),
        ):
            pictures[name] = Figure(figsize=size, layout="constrained")
            draw(scores, pictures[name].add_subplot())
        for name, figure in pictures.items():
            for format in formats:
                paths.append(save_picture(figure, folder / f"{name}.{format}"))
    return paths


# Date and Software would differ from day to day and from version to version.
_UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def save_picture(figure: Figure, path: Path) -> Path:
    """Write a figure in the format that its name ends in, whole or not at all; raises StoreError where it cannot be."""
    format, content = path.suffix[1:], BytesIO()
    figure.savefig(content, format=format, dpi=160, facecolor="white", metadata=_UNDATED[format])
    write_file(path, content.getvalue())
    return path


def house_style() -> Any:
    return need("matplotlib", "drawing figures").rc_context(_STYLE)


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


def _heatmap_height(scores: HeadScores) -> float:
    """Inches that give nearly square cells on a ten-inch width, within what a page bears."""
    return float(np.clip(8.8 * scores.n_heads / scores.n_layers, 2.3, max(3.6, 0.085 * scores.n_heads)))


def round_up(value: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 6, 8 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * (1 - 1e-9)) * power)


def scale_end(values: np.ndarray) -> float:
    """Where a scale of scores ends: 1, unless every score is small or one is larger."""
    largest = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
    return 1.0 if largest <= 0 or 0.5 <= largest <= 1 else round_up(largest)


def scale_of(cells: np.ndarray, value: str) -> float:
    """Where the colours of a grid end: 1 for a share, else a round number that the largest cell of all stays below."""
    finite = cells[np.isfinite(cells)]
    return 1.0 if VALUES[value][2] or not finite.size or finite.max() <= 0 else round_up(float(finite.max()))


def spaced_ticks(count: int, letter: str, steps: Sequence[int], most: int) -> tuple[list[int], list[str]]:
    step = next((step for step in steps if count <= step * most), steps[-1])
    places = list(range(0, count, step))
    return places, [f"{letter}{place}" for place in places]


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


def spread(wanted: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Places at least `gap` apart, inside [low, high] if there is room, as near to `wanted` (ascending) as can be.

    Least squares: subtracting i * gap turns the condition into "not falling", and neighbours that break it are pooled.
    """
    pools: list[tuple[float, int]] = []
    for index, place in enumerate(wanted):
        pools.append((place - index * gap, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (right, m), (left, n) = pools.pop(), pools.pop()
            pools.append(((left * n + right * m) / (n + m), n + m))
    level = np.concatenate([np.full(size, mean) for mean, size in pools])
    return np.clip(level, low, max(low, high - (len(wanted) - 1) * gap)) + gap * np.arange(len(wanted))


def known_value(value: str) -> tuple[str, str, bool]:
    if value not in VALUES:
        raise ArgumentError(f"value must be one of {', '.join(VALUES)}; got {value!r}")
    return VALUES[value]


def _length_depth_cells(scores: HeadScores, value: str) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Means [depth, length], numbers of probes [depth, length], and the labels of both axes."""
    values = np.asarray(getattr(scores, value), dtype=float)
    lengths, column = group_lengths(scores.probes["length"])
    depth = np.asarray(scores.probes["depth_nominal"], dtype=float)
    depths, row = np.unique(depth, return_inverse=True)
    labels = [f"{100 * d:.3g}%" for d in depths]
    if len(depths) > 24 or len(np.unique(np.stack([row, column]), axis=1).T) < len(depths) * len(lengths):
        row = np.clip((depth * 10).astype(int), 0, 9)
        labels = [f"{10 * tenth}-{10 * tenth + 10}%" for tenth in range(10)]
    total, counts = np.zeros((2, len(labels), len(lengths)))
    seen = np.isfinite(values)
    np.add.at(total, (row[seen], column[seen]), values[seen])
    np.add.at(counts, (row[seen], column[seen]), 1)
    with np.errstate(invalid="ignore"):
        return total / counts, counts, lengths, labels
