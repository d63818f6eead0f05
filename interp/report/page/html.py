"""The report: one HTML file that holds its figures, its data and its program, and works without a network.

write_report("run.h5", "report.html", downstream="scores.csv")
"""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from ....printable import printable
from ...analysis import Source, Trajectory
from ...packages import need
from ...store import write_file
from ..evolution import Evolution, evolve, run_facts, run_name
from .parts import Section
from .sections import RINGED, cards, sections, tiles

if TYPE_CHECKING:
    import plotly.graph_objects as go


def write_report(
    source: str | PathLike[str] | Trajectory | Evolution,
    output: str | PathLike[str],
    *,
    downstream: Source | None = None,
) -> None:
    """Write the report of a results file, a Trajectory or an Evolution to `output`, whole or not at all.

    downstream: scores of benchmarks by checkpoint, see `analysis.downstream.read_downstream`.

    Raises StoreError when `source` cannot be read or `output` not be written, ValueError for scores that do not fit.
    """
    evolution = source if isinstance(source, Evolution) else evolve(source, downstream=downstream)
    write_file(output, render(evolution).encode())


def render(evolution: Evolution) -> str:
    """The page as text. Raises MissingPackageError without jinja2 or plotly."""
    for package in ("jinja2", "plotly"):
        need(package, "the report's page")
    from jinja2 import Environment
    from plotly.offline import get_plotlyjs

    from .... import __version__

    shown = sections(evolution)
    here = files(__package__)
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_shown)
    template = page.from_string((here / "report.html.j2").read_text("utf-8"))
    return template.render(
        name=run_name(evolution),
        facts=run_facts(evolution),
        tiles=tiles(evolution),
        verdicts=cards(evolution),
        sections=shown,
        n_checkpoints=evolution.trajectory.n_checkpoints,
        data=_data(evolution, shown),
        css=(here / "report.css").read_text("utf-8"),
        js=(here / "report.js").read_text("utf-8"),
        plotly=get_plotlyjs(),
        version=__version__,
    )


def _data(evolution: Evolution, shown: list[Section]) -> Any:
    """What report.js draws, as JSON that can stand in a script: no "<" of it can end the element."""
    from jinja2.utils import htmlsafe_json_dumps

    seen = np.isfinite(evolution.maps)
    levels = evolution.levels
    if np.array_equal(levels, np.broadcast_to(levels[:1], levels.shape), equal_nan=True):
        levels = levels[:1]  # the same at all checkpoints: once is enough
    figures = [figure for section in shown for figure in section.figures]
    return htmlsafe_json_dumps(
        {
            "steps": evolution.trajectory.steps.tolist(),
            "labels": _shown(evolution.slider_labels),
            "shape": [evolution.maps.shape[2], evolution.maps.shape[1]],
            "levels": _packed(levels.transpose(0, 2, 1)),
            "observed": seen.sum(axis=(1, 2)).tolist(),
            "ringed": RINGED,
            "scores": _packed(evolution.maps.transpose(0, 2, 1)),
            "stderrs": _packed(evolution.stderrs.transpose(0, 2, 1)),
            "ranks": _packed(evolution.ranks.transpose(0, 2, 1)),
            "figures": {figure.id: _plain(figure.plot) for figure in figures},
            "grids": {
                figure.id: {"shape": figure.cells.shape[1:], "data": _packed(figure.cells)}
                for figure in figures
                if figure.cells is not None
            },
        },
        separators=(",", ":"),
    )


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def _plain(plot: go.Figure) -> Any:
    from plotly.io import to_json

    return _shown(json.loads(to_json(plot, validate=False, remove_uids=True)))


def _shown(value: Any) -> Any:
    """Texts as a page may show them, in lists and objects too, whole: some are packed numbers. HTML stays as it is."""
    if type(value) is str:
        return printable(value, len(value), keep="\n\t")
    if isinstance(value, list):
        return [_shown(each) for each in value]
    return {name: _shown(each) for name, each in value.items()} if isinstance(value, dict) else value
