"""Every figure as a function that draws on the axes it is given (`ax=`), or on new ones, and returns them.

Of one checkpoint, `scores = hs.score_heads(...)` or `hs.read_scores("run.h5")`:
    head_heatmap(scores)          layer x head, the leading heads named
    top_heads(scores)             the leading heads as bars, with their errors
    length_depth(scores)          NLL (or another value) by context length and needle depth
    overview(scores)              all three in one figure (`figure=` instead of `ax=`)

Of a run, `run = hs.plot.evolve("run.h5", downstream="ruler.csv")`:
    head_map(run), head_strip(run)                  all heads at one checkpoint; the leading heads at every one
    head_curves(run), rank_flow(run)                scores and ranks of the leading heads
    head_count(run), initial_heads(run)             how many retrieval heads; what became of the first ones
    agreement(run)                                  overlap and rank correlation of neighbouring checkpoints
    nll_curves(run), match_curve(run)               NLL and exact match over the run
    length_depth(run), distance_interference(run)   a value by cell of the probe grid
    depth_curve(run), log_curve(run)                NLL by depth; its fit A log(N) + B
    downstream(run)                                 correlation with benchmarks

Of a text, `profile = hs.copy_profile(...)`:
    copy_heads(profile), copy_distances(profile)    which heads copy, and from how far back

save_figures(scores, folder), save_evolution_figures(run, folder) and save_copy_figures(profile, folder) write all of
them as files. Drawing needs matplotlib; without it MissingPackageError says what to install.
"""

from .interp.report import Evolution, evolve
from .interp.report.figures import (
    agreement,
    copy_distances,
    copy_heads,
    depth_curve,
    distance_interference,
    downstream,
    head_count,
    head_curves,
    head_heatmap,
    head_map,
    head_strip,
    initial_heads,
    length_depth,
    log_curve,
    match_curve,
    nll_curves,
    overview,
    rank_flow,
    save_copy_figures,
    save_evolution_figures,
    save_figures,
    top_heads,
)

__all__ = [
    "Evolution",
    "agreement",
    "copy_distances",
    "copy_heads",
    "depth_curve",
    "distance_interference",
    "downstream",
    "evolve",
    "head_count",
    "head_curves",
    "head_heatmap",
    "head_map",
    "head_strip",
    "initial_heads",
    "length_depth",
    "log_curve",
    "match_curve",
    "nll_curves",
    "overview",
    "rank_flow",
    "save_copy_figures",
    "save_evolution_figures",
    "save_figures",
    "top_heads",
]
