"""Pictures, drawn with matplotlib: of one checkpoint (scores), of a run (evolution), of a copy profile (copying).

Each function draws on the axes it is given, or on new ones, and returns them; the save_* functions write files. What is
named here is in `hs.plot`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..evolution import Evolution
from . import panels, scores
from .ablation import dose_response, head_effects, save_ablation_figures
from .agreement import agreement_matrix, save_agreement_figures
from .behaviour import score_beside_nll, task_scores
from .comparison import head_scatter, save_comparison_figures
from .copying import copy_distances, copy_heads, save_copy_figures
from .evolution import save_evolution_figures
from .heads import head_curves, head_map, head_strip
from .levels import three_levels
from .panels import (
    agreement,
    depth_curve,
    distance_interference,
    downstream,
    effective_length,
    head_count,
    initial_heads,
    log_curve,
    match_curve,
    nll_curves,
    rank_flow,
)
from .scores import head_heatmap, overview, save_figures, top_heads

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...results import HeadScores

__all__ = [
    "agreement",
    "agreement_matrix",
    "copy_distances",
    "copy_heads",
    "depth_curve",
    "distance_interference",
    "dose_response",
    "downstream",
    "effective_length",
    "head_count",
    "head_curves",
    "head_effects",
    "head_heatmap",
    "head_map",
    "head_scatter",
    "head_strip",
    "initial_heads",
    "length_depth",
    "log_curve",
    "match_curve",
    "nll_curves",
    "overview",
    "rank_flow",
    "save_agreement_figures",
    "save_ablation_figures",
    "save_comparison_figures",
    "save_copy_figures",
    "save_evolution_figures",
    "save_figures",
    "score_beside_nll",
    "task_scores",
    "three_levels",
    "top_heads",
]


def length_depth(
    source: HeadScores | Evolution, ax: Axes | None = None, *, value: str = "nll_novel", **options: Any
) -> Axes:
    """One value by context length (columns) and needle depth (rows), of one checkpoint or of one of a run.

    value: "nll", "nll_novel", "nll_echo", "nll_first" or "exact_match". Of a run, `checkpoint` is an index (-1: last).
    """
    if isinstance(source, Evolution):
        return panels.length_depth(source, ax, value=value, **options)
    return scores.length_depth(source, ax, value=value, **options)
