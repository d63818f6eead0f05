"""The report's interactive figures, as plotly figures of an Evolution. What they show is worked out in evolution.py.

Figures that follow the checkpoint slider are made empty here and filled in the page (report.js), so that a hundred
checkpoints are in the file once. Names that come from files are escaped: plotly reads some HTML in every text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape as in_html
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ....printable import NAME, printable
from ...analysis import Interval
from ...levels import lines
from ..evolution import RANKS, Evolution, FitPoints, head_name, human_count
from ..palette import (
    ACCENT,
    AMBERS,
    BLUES,
    INK,
    LINE,
    LINES,
    MUTED,
    PALE,
    VALUES,
    scale_end,
    scale_of,
    spaced_ticks,
    spread,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ...ablation import Ablation
    from ...analysis import Agreement, Dose, HeadEffects


def escape(name: str) -> str:
    return in_html(printable(name, NAME))


FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif'
MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "pentagon", "star")


def head_map(evolution: Evolution) -> go.Figure:
    """Layer x head, to be filled for one checkpoint: the map, marks on heads without a score, rings on the leading."""
    _, n_layers, n_heads = evolution.maps.shape
    end = scale_end(evolution.maps)
    figure = _figure(
        xaxis={"title": {"text": "layer"}, "range": [-0.5, n_layers - 0.5], **_ticks(n_layers, "L")},
        yaxis={"title": {"text": "query head"}, "range": [n_heads - 0.5, -0.5], **_ticks(n_heads, "H")},
        plot_bgcolor="#eceef1",
    )
    bar = {"title": {"text": "score", "side": "right"}, "thickness": 12, "outlinewidth": 0, "tickfont": {"size": 12}}
    gap = 1 if max(n_layers, n_heads) <= 48 else 0
    figure.add_heatmap(
        z=[], zmin=0, zmax=end, colorscale=_scale(BLUES), colorbar=bar, xgap=gap, ygap=gap, hoverongaps=True
    )
    figure.data[0].hovertemplate = "%{text}<extra></extra>"
    stroke = float(np.clip(640 / max(n_layers, n_heads), 6, 22))
    unseen = {"symbol": "line-ne", "size": stroke, "line": {"color": "#a3abb7", "width": 1.2}}
    figure.add_scatter(x=[], y=[], mode="markers", marker=unseen)
    ring = {"symbol": "circle-open", "size": 13 if n_layers <= 48 else 9, "line": {"color": ACCENT, "width": 2}}
    figure.add_scatter(x=[], y=[], mode="markers", marker={**ring, "color": ACCENT})
    figure.update_traces(hoverinfo="skip", selector={"type": "scatter"})
    return figure


def trajectories(evolution: Evolution, most: int = 8) -> go.Figure:
    """Score of the leading heads with intervals and names; every other head that is ever above its level in grey.

    Triangles: where a head rose above its level (up) or fell below it (down).
    """
    figure = _over_checkpoints(evolution, yaxis={"title": {"text": "score"}, "rangemode": "tozero"})
    named, labels = evolution.named(most), evolution.labels
    for head in [head for head in evolution.ever_above() if head not in named][:100]:
        _background(figure, evolution, head, evolution.maps[:, *head], ".3f")
    curves = [evolution.head_curve(head) for head in named]
    for number, interval in enumerate(curves):
        _band(figure, evolution.x, interval, LINES[number])
    for number, (head, interval) in enumerate(zip(named, curves, strict=True)):
        _line(figure, evolution.x, interval, head_name(head), LINES[number], MARKS[number], 3, labels)
    for number, head in enumerate(named):
        for born, symbol in ((True, "triangle-up"), (False, "triangle-down")):
            at = evolution.crossings(head, born)
            marker = {"symbol": symbol, "size": 13, "color": "white", "line": {"color": LINES[number], "width": 2}}
            figure.add_scatter(x=evolution.x[at], y=evolution.maps[at][:, *head], mode="markers", marker=marker)
            words = "rises above" if born else "falls below"
            about = [f"{words} {evolution.levels[c][head]:.3g} at {evolution.labels[c]}" for c in at]
            figure.data[-1].update(customdata=about, hovertemplate=_hover(head_name(head), "%{y:.3f}", "%{customdata}"))
    tops = [evolution.maps, *(interval.high for interval in curves)]
    top = 1.04 * max((float(np.nanmax(values)) for values in tops if np.isfinite(values).any()), default=1.0)
    figure.update_yaxes(range=[0, top])
    _names(
        figure,
        [head_name(head) for head in named],
        [evolution.maps[-1][head] for head in named],
        0.05 * top,
        range(most),
    )
    _level_lines(figure, evolution)
    return figure


def rank_flow(evolution: Evolution, most: int = 8) -> go.Figure:
    """Ranks of the heads that lead at the first or the last checkpoint; 1 is the best, log scale."""
    heads = evolution.flowing(most)
    ranks = evolution.ranks[:, *np.transpose(heads)]
    worst = max(float(np.nanmax(ranks)) * 1.15, 5.0)
    ticks = [tick for tick in RANKS if tick <= worst]
    axis = {"type": "log", "range": [np.log10(worst), np.log10(0.85)], "tickvals": ticks}
    figure = _over_checkpoints(evolution, yaxis={"title": {"text": "rank"}, **axis})
    pens = evolution.pens(heads)
    for pen, head, rank in zip(pens, heads, ranks.T, strict=True):
        colour, name = LINES[pen % len(LINES)], head_name(head)
        figure.add_scatter(x=evolution.x, y=rank, line={"color": colour, "width": 2})
        figure.data[-1].update(mode=_mode(len(evolution.x)), marker={"size": 7, "symbol": MARKS[pen % len(MARKS)]})
        figure.data[-1].update(customdata=evolution.labels, hovertemplate=_hover(name, "rank %{y}", "%{customdata}"))
    height, gap = -np.log10(ranks[-1]), 0.042 * np.log10(worst / 0.85)
    _names(figure, [head_name(head) for head in heads], height.tolist(), gap, pens, upside_down=True)
    return figure


def agreement(evolution: Evolution) -> go.Figure:
    """Overlap of the leading heads, as a share, and rank correlation of all heads, each with the checkpoint before."""
    shares = evolution.agreement
    figure = _over_checkpoints(evolution, yaxis={"title": {"text": "overlap, rank correlation"}})
    low = min(0.0, *(float(np.nanmin(values, initial=0.0)) for values in shares.values()))
    figure.update_yaxes(range=[low - 0.06 if low < 0 else 0.0, 1.04])
    pairs = [f"{a} to {b}" for a, b in zip(evolution.labels[:-1], evolution.labels[1:], strict=True)]
    for number, (name, values) in enumerate(shares.items()):
        line, mark = {"color": LINES[number], "width": 2}, {"size": 7, "symbol": MARKS[number]}
        figure.add_scatter(x=evolution.x[1:], y=values, name=name, mode=_mode(len(evolution.x)), line=line, marker=mark)
        figure.data[-1].update(customdata=pairs, hovertemplate=_hover(name, "%{y:.3f}", "%{customdata}"))
    return figure.update_layout(showlegend=True)


def forest(evolution: Evolution) -> go.Figure:
    """Pearson r of every quantity with every downstream score and its interval; filled markers hold."""
    pairs = evolution.correlations
    figure = _figure(
        xaxis={"title": {"text": "Pearson r"}, "range": [-1.04, 1.04], "zeroline": True, "zerolinecolor": MUTED},
        yaxis={"range": [len(pairs) - 0.4, -0.75], "showticklabels": False, "showgrid": False},
    )
    for place, pair in enumerate(pairs):
        found, name = pair.correlation, f"{pair.score}: {pair.quantity}"
        low, high = found.ci
        figure.add_scatter(x=[low, high], y=[place, place], mode="lines", line={"color": LINES[0], "width": 2})
        figure.data[-1].hoverinfo = "skip"
        symbol = "circle" if evolution.holds(pair) else "circle-open"
        mark = {"color": LINES[0], "size": 10, "symbol": symbol, "line": {"width": 2}}
        words = "<br>".join(wrap(escape(found.words), 60))
        figure.add_scatter(x=[found.pearson], y=[place], mode="markers", marker=mark, customdata=[words])
        figure.data[-1].hovertemplate = "%{customdata}<extra></extra>"
        about = f"{escape(name)}  <span style='color:{MUTED}'>n = {found.n}</span>"
        figure.add_annotation(x=-1.0, y=place - 0.36, text=about, showarrow=False, xanchor="left", font={"size": 12.5})
    return figure


def depth_curve(evolution: Evolution) -> go.Figure:
    """NLL by needle depth at the first and the last checkpoint, with intervals."""
    value = evolution.nll_name
    x_axis = {"title": {"text": "needle depth"}, "tickformat": ".0%", "showgrid": False, "range": [-0.02, 1.02]}
    figure = _figure(xaxis=x_axis, yaxis={"title": {"text": "nats per token"}, "rangemode": "tozero"}, showlegend=True)
    for label, is_last, found in evolution.depth_curves(value):
        colour, places = LINES[0] if is_last else MUTED, [f"{100 * depth:.3g}%" for depth in found.depths]
        _band(figure, found.depths, found.mean, colour)
        _line(figure, found.depths, found.mean, label, colour, MARKS[int(is_last)], 3, places)
    return figure


def log_curve(points: FitPoints) -> go.Figure:
    """A measure against tokens on a logarithmic axis, and its fit a * log(tokens) + b."""
    tokens = points.tokens
    decades = range(int(np.floor(np.log10(tokens[0]))), int(np.ceil(np.log10(tokens[-1]))) + 1)
    ticks = [step * 10**power for power in decades for step in (1.0, 2.0, 5.0)]
    axis = {"type": "log", "title": {"text": "tokens seen"}, "showgrid": False, "tickvals": ticks}
    axis["ticktext"] = [human_count(tick) for tick in ticks]
    figure = _figure(xaxis=axis, yaxis={"title": {"text": "nats per token"}, "rangemode": "tozero"}, showlegend=True)
    figure.add_scatter(x=tokens, y=points.measured, name="measured", mode="markers")
    figure.data[-1].update(marker={"color": LINES[0], "size": 8}, customdata=points.labels)
    figure.data[-1].hovertemplate = _hover("measured", "%{y:.3f}", "%{customdata}")
    line = {"color": LINES[1], "width": 2}
    figure.add_scatter(x=tokens, y=points.fitted, name="a log(tokens) + b", mode="lines", line=line, hoverinfo="skip")
    return figure


def doses(ablation: Ablation, found: Sequence[Dose], before: float) -> go.Figure:
    """A measure over the number of leading units changed, with bars; random sets as bands with their means."""
    places = np.arange(len(found), dtype=float)
    ticks = {"tickvals": places.tolist(), "ticktext": [str(dose.k) for dose in found], "title": {"text": "changed"}}
    figure = _figure(xaxis=ticks, showlegend=True)
    labels = [f"top {dose.k}" for dose in found]
    for number, (kind, name) in enumerate((("layer_matched", "same layers"), ("mass_matched", "same attention")), 1):
        if any(kind not in dose.controls for dose in found):
            continue
        ends = before + np.array([[f(dose.controls[kind]) for f in (np.min, np.mean, np.max)] for dose in found])
        band = Interval(ends[:, 1], ends[:, 0], ends[:, 2], 1.0, 0, 0)
        _band(figure, places, band, LINES[number + 1])
        _line(figure, places, band, f"random, {name}", LINES[number + 1], MARKS[number], 3, labels)
    sides = before + np.array([[d.effect.estimate, d.effect.low, d.effect.high] for d in found], float)
    leading = Interval(sides[:, 0], sides[:, 1], sides[:, 2], found[0].effect.level, len(ablation), 0)
    _line(figure, places, leading, "the leading ones", LINES[0], MARKS[0], 3, labels)
    if np.isfinite(sides).all():
        figure.data[-1].error_y = {"type": "data", "symmetric": False, "array": sides[:, 2] - sides[:, 0]}
        figure.data[-1].error_y.arrayminus = sides[:, 0] - sides[:, 1]
    figure.add_hline(before, line={"color": INK, "width": 1.2, "dash": "dash"})
    return figure


def effects(found: HeadEffects) -> go.Figure:
    """What changing each leading unit alone does, over its score, or over its rank where it has none."""
    scored = bool(np.isfinite(found.score).all())
    x = found.score if scored else np.arange(1, len(found.heads) + 1)
    figure = _figure(xaxis={"title": {"text": "retrieval score" if scored else "rank"}})
    figure.add_scatter(x=x, y=found.effect.estimate, mode="markers", marker={"color": LINES[0], "size": 8})
    names = [escape(name) for name in found.heads]
    figure.data[-1].update(customdata=names, hovertemplate="<b>%{customdata}</b>  %{y:+.3f}<extra></extra>")
    figure.add_hline(0.0, line={"color": INK, "width": 1.2, "dash": "dash"})
    return figure


def _background(
    figure: go.Figure, evolution: Evolution, head: tuple[int, int], values: np.ndarray, digits: str
) -> None:
    figure.add_scatter(
        x=evolution.x, y=values, mode="lines", line={"color": PALE, "width": 1}, customdata=evolution.labels
    )
    figure.data[-1].hovertemplate = _hover(head_name(head), f"%{{y:{digits}}}", "%{customdata}")


def _mode(points: int) -> str:
    return "lines+markers" if points <= 40 else "lines"


def _names(figure: go.Figure, names: list[str], heights: list[float], gap: float, pens: Sequence[int],
           upside_down: bool = False) -> None:  # fmt: skip
    """Names at the right end of lines, moved apart where lines end together; upside_down: heights are negated."""
    order = [i for i in np.argsort(heights) if np.isfinite(heights[i])]
    if order:
        ends = np.asarray(heights, float)[order]
        places = spread(ends, gap, ends.min() - gap * len(ends), ends.max() + gap * len(ends))
        for at, place in zip(order, places, strict=True):
            font = {"color": LINES[pens[at] % len(LINES)], "size": 12}
            where = {"x": 1, "xref": "paper", "xanchor": "left", "xshift": 4, "y": -place if upside_down else place}
            figure.add_annotation(text=f"<b>{escape(names[at])}</b>", showarrow=False, font=font, **where)
    figure.update_layout(margin={"r": 66})


def cell_map(values: np.ndarray, rows: list[str], columns: list[str], titles: tuple[str, str], name: str) -> go.Figure:
    """A grid [checkpoint, row, column] of the value `name` (figures.VALUES), to be filled for one checkpoint."""
    _, unit, more_is_better = VALUES[name]
    end = scale_of(values, name)
    figure = _figure(
        xaxis={"title": {"text": titles[1]}, "type": "category", "showgrid": False},
        yaxis={"title": {"text": titles[0]}, "type": "category", "autorange": "reversed", "showgrid": False},
        plot_bgcolor="#eceef1",
    )
    bar = {"thickness": 12, "outlinewidth": 0, "tickfont": {"size": 12}}
    colours = _scale(BLUES if more_is_better else AMBERS)
    figure.add_heatmap(z=[], x=columns, y=rows, zmin=0, zmax=end, colorscale=colours, colorbar=bar, xgap=1, ygap=1)
    if len(rows) <= 16 and len(columns) <= 12:
        figure.data[0].texttemplate = "%{z:.2f}"
        figure.data[0].textfont = {"size": 11}
    words = f"{titles[1]} %{{x}}<br>{titles[0]} %{{y}}<br><b>%{{z:.3f}}</b> {unit}<extra></extra>"
    figure.data[0].hovertemplate = words
    return figure


def agreement_matrix(ways: Agreement) -> go.Figure:
    """Rank correlation of every two views; on the diagonal between halves of a view's needles."""
    cells, names = np.array(ways.spearman.estimate), [escape(name) for name in ways.names]
    np.fill_diagonal(cells, ways.split_half)
    axis = {"type": "category", "showgrid": False}
    figure = _figure(xaxis=axis, yaxis={**axis, "autorange": "reversed"}, plot_bgcolor="#eceef1")
    bar = {"thickness": 12, "outlinewidth": 0, "tickfont": {"size": 12}}
    z = [[None if np.isnan(cell) else round(float(cell), 4) for cell in row] for row in cells]
    figure.add_heatmap(
        z=z, x=names, y=names, zmin=0, zmax=1, colorscale=_scale(BLUES), colorbar=bar, xgap=1, ygap=1, hoverongaps=False
    )
    if len(names) <= 16:
        figure.data[0].texttemplate = "%{z:.2f}"
        figure.data[0].textfont = {"size": 11}
    figure.data[0].hovertemplate = "%{y}<br>%{x}<br><b>%{z:.3f}</b><extra></extra>"
    return figure


def curve(evolution: Evolution, curves: dict[str, Interval], *, unit: str, digits: int = 3, top: float | None = None,
          levels: bool = False) -> go.Figure:  # fmt: skip
    """One or more quantities over the checkpoints, each with its interval as a band."""
    figure = _over_checkpoints(evolution, yaxis={"title": {"text": unit}, "rangemode": "tozero"})
    if top is not None:
        figure.update_yaxes(range=[0, top])
    for number, (name, interval) in enumerate(curves.items()):
        colour = LINES[number % len(LINES)]
        _band(figure, evolution.x, interval, colour)
        _line(figure, evolution.x, interval, name, colour, MARKS[number % len(MARKS)], digits, evolution.labels)
    if levels:
        _level_lines(figure, evolution)
    if digits == 0 and max(np.nanmax(interval.estimate) for interval in curves.values()) <= 8:
        figure.update_yaxes(dtick=1)  # no half heads
    if len(curves) > 1:
        figure.update_layout(showlegend=True)
    return figure


def lane(
    evolution: Evolution, curves: Mapping[str, Interval], *, unit: str, shares: bool, halves: Sequence[float]
) -> go.Figure:
    """One level's curves; dashed where half of its change is done (halves: training progress)."""
    figure = curve(evolution, dict(curves), unit=unit, top=1.03 if shares else None)
    for half in halves:
        figure.add_vline(evolution.on_axis(half), line={"color": INK, "width": 1.2, "dash": "dash"})
    return figure.update_layout(showlegend=True)


def _figure(**layout: Any) -> go.Figure:
    import plotly.graph_objects as go

    axis = {"gridcolor": "#e8ebef", "linecolor": LINE, "zeroline": False, "ticks": "", "automargin": True}
    axis |= {"tickfont": {"size": 12.5}, "title": {"font": {"size": 13, "color": MUTED}, "standoff": 8}}
    figure = go.Figure(
        layout={
            "template": {},
            "font": {"family": FONT, "size": 13, "color": INK},
            "margin": {"l": 8, "r": 8, "t": 12, "b": 8},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "showlegend": False,
            "dragmode": False,
            "hoverlabel": {"bgcolor": "white", "bordercolor": LINE, "font": {"family": FONT, "size": 13, "color": INK}},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"size": 12.5}},
            "xaxis": axis,
            "yaxis": axis,
        }
    )
    return figure.update_layout(**layout)


def _over_checkpoints(evolution: Evolution, **layout: Any) -> go.Figure:
    x = evolution.x
    pad = 0.02 * (x[-1] - x[0]) or 1.0
    axis = {"title": {"text": evolution.x_title}, "range": [x[0] - pad, x[-1] + pad], "showgrid": False}
    if evolution.trajectory.progress_name == "optimizer steps":
        axis["tickformat"] = ",d"
    figure = _figure(xaxis=axis, hovermode="closest", hoverdistance=40, **layout)
    for place, name, left in evolution.border_names(x):
        line = {"color": MUTED, "width": 1.2, "dash": "dot"}
        figure.add_shape(type="line", xref="x", yref="paper", x0=place, x1=place, y0=0, y1=1, line=line)
        about = {"text": escape(name), "textangle": -90, "xanchor": "right" if left else "left", "yanchor": "top"}
        figure.add_annotation(x=place, y=1, yref="paper", showarrow=False, font={"size": 11, "color": MUTED}, **about)
    return figure


def _band(figure: go.Figure, x: np.ndarray, interval: Interval, colour: str) -> None:
    """The interval's area; a hole where it is not known."""
    known = np.isfinite(interval.low) & np.isfinite(interval.high)
    for part in np.split(np.flatnonzero(known), np.flatnonzero(np.diff(np.flatnonzero(known)) > 1) + 1):
        if len(part) > 1:
            around = np.concatenate([x[part], x[part][::-1]])
            y = np.concatenate([interval.low[part], interval.high[part][::-1]])
            figure.add_scatter(
                x=around,
                y=y,
                mode="none",
                fill="toself",
                fillcolor=_rgba(colour, 0.16),
                hoverinfo="skip",
                showlegend=False,
            )


def _line(
    figure: go.Figure,
    x: np.ndarray,
    interval: Interval,
    name: str,
    colour: str,
    mark: str,
    digits: int,
    labels: list[str],
) -> None:
    low, high = (np.asarray(values, float) for values in (interval.low, interval.high))
    number = f".{digits}f"
    span = [
        f"{a:{number}} to {b:{number}}" if np.isfinite(a) and np.isfinite(b) else "no interval"
        for a, b in zip(low, high, strict=True)
    ]
    figure.add_scatter(
        x=x,
        y=interval.estimate,
        name=escape(name),
        mode=_mode(len(x)),
        line={"color": colour, "width": 2},
        marker={"color": colour, "size": 7, "symbol": mark},
        customdata=[[label, words] for label, words in zip(labels, span, strict=True)],
        hovertemplate=_hover(name, f"%{{y:{number}}} (%{{customdata[1]}})", "%{customdata[0]}"),
    )


def _hover(name: str, value: str, checkpoint: str) -> str:
    return f"<b>{escape(name)}</b>  {value}<br>{checkpoint}<extra></extra>"


def _level_lines(figure: go.Figure, evolution: Evolution) -> None:
    for level in lines(evolution.levels):
        figure.add_hline(level, line={"color": ACCENT, "width": 1.3, "dash": "dash"})


def _ticks(count: int, letter: str) -> dict[str, Any]:
    places, names = spaced_ticks(count, letter, (1, 2, 4, 5, 8, 10, 16, 20, 32), 16)
    return {"tickvals": places, "ticktext": names, "showgrid": False}


def _scale(stops: tuple[str, ...]) -> list[list[Any]]:
    return [[number / (len(stops) - 1), stop] for number, stop in enumerate(stops)]


def _rgba(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
