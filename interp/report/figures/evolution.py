"""Pictures of a run of checkpoints, the same as in the report (html.py), for papers and slides.

evolution = evolve("run.h5")
ax = head_curves(evolution)                       # each draws on the axes it is given, or on new ones
ax = length_depth(evolution, ax, checkpoint=0)
save_evolution_figures("run.h5", "figures")       # all as PNG, SVG and PDF, identical bytes for identical files
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import ArgumentError
from ...analysis import Source, Trajectory
from ..evolution import Evolution, evolve
from . import ablation, levels
from .agreement import agreement_matrix, matrix_size
from .behaviour import score_beside_nll, task_scores
from .heads import head_curves, head_map, head_strip, map_size, strip_size
from .panels import (
    agreement,
    cells_size,
    depth_curve,
    distance_interference,
    downstream,
    effective_length,
    head_count,
    initial_heads,
    length_depth,
    log_curve,
    match_curve,
    nll_curves,
    rank_flow,
)
from .style import house_style, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")


def save_evolution_figures(
    source: str | PathLike[str] | Trajectory | Evolution,
    folder: str | PathLike[str],
    *,
    downstream: Source | None = None,
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Write every picture into `folder` (made when missing) and return the paths.

    What needs several checkpoints, tokens or downstream scores is left out where there are none. The files hold no date
    and no random ids: the same scores give the same bytes. Raises StoreError when `source` cannot be read, ValueError
    for an unknown format or a CSV that does not fit.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise ArgumentError(f"formats must be among {', '.join(FORMATS)}; got {', '.join(sorted(unknown))}")
    evolution = source if isinstance(source, Evolution) else evolve(source, downstream=downstream)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with house_style():
        from matplotlib.figure import Figure

        for name, (draw, size) in _pictures(evolution).items():
            figure = Figure(figsize=size, layout="constrained")
            draw(evolution, figure.add_subplot())
            for format in formats:
                paths.append(save_picture(figure, folder / f"{name}.{format}"))
    return paths


def _pictures(evolution: Evolution) -> dict[str, tuple[Callable[..., Any], tuple[float, float]]]:
    """File name -> how to draw it and its size in inches."""
    value, small = evolution.nll_name, (5.4, 3.4)
    grid, spread = cells_size(evolution, "length_depth"), cells_size(evolution, "distance_interference")
    found: dict[str, tuple[Callable[..., Any], tuple[float, float]]] = {
        "heads": (head_map, map_size(evolution)),
        "nll_by_length_and_depth": (lambda e, ax: length_depth(e, ax, value=value), grid),
        "exact_match_by_length_and_depth": (lambda e, ax: length_depth(e, ax, value="exact_match"), grid),
        "distance_and_interference": (lambda e, ax: distance_interference(e, ax, value=value), spread),
        "nll_by_depth": (lambda e, ax: depth_curve(e, ax, value=value), small),
    }
    if evolution.behaviour is not None:
        found["task_scores"] = (task_scores, small)
    if evolution.ways is not None:
        found["ways_agreement"] = (lambda e, ax: agreement_matrix(e.ways, ax), matrix_size(evolution.ways))
    if evolution.ablations:
        last = evolution.ablations[max(evolution.ablations)]
        found["dose_response"] = (lambda _, ax: ablation.dose_response(last, ax), small)
        found["head_effects"] = (lambda _, ax: ablation.head_effects(last, ax), small)
    if len(evolution.x) == 1:
        return found
    found |= {
        "heads_first": (lambda e, ax: head_map(e, ax, checkpoint=0), map_size(evolution)),
        "nll_by_length_and_depth_first": (lambda e, ax: length_depth(e, ax, value=value, checkpoint=0), grid),
        "head_strip": (head_strip, strip_size(evolution, len(evolution.named(24)))),
        "head_curves": (head_curves, (8.6, 4.4)),
        "rank_flow": (rank_flow, (8.6, 4.6)),
        "head_count": (head_count, small),
        "initial_heads": (initial_heads, small),
        "agreement": (agreement, small),
        "nll": (nll_curves, small),
        "exact_match": (match_curve, small),
        "score_beside_nll": (score_beside_nll, small),
        "three_levels": (_in_rows, levels.SIZE),
        "log_fit": (lambda e, ax: log_curve(e, ax, value=value), small),
    }
    if evolution.effective is not None:
        found["effective_length"] = (effective_length, small)
    if evolution.correlations:
        found["downstream"] = (downstream, (7.4, 1.4 + 0.3 * len(evolution.correlations)))
    return found


def _in_rows(evolution: Evolution, ax: Axes) -> Axes:
    """Three levels in rows of the axes' figure, instead of these. Returns the first."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    ax.remove()
    first: Axes = levels.three_levels(evolution, figure).axes[0]
    return first
