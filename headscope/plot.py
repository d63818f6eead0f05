"""Every figure as a function that draws on the axes it is given (`ax=`), or on new ones, and returns them.

Of one checkpoint, `scores = hs.score_heads(...)` or `hs.read_scores("run.h5")`: those that take `scores`.
Of a run, `run = hs.plot.evolve("run.h5", downstream="ruler.csv")`: those that take `evolution`.
Of an ablation, `ablation = hs.ablate(...)` or `hs.Ablation.load("run.h5")`: those that take `ablation`.
Of a text, `profile = hs.copy_profile(...)`: those that take `profile`.
`length_depth` takes scores or a run; `overview` is three figures in one (`figure=` instead of `ax=`).

save_figures(scores, folder), save_evolution_figures(run, folder), save_ablation_figures(ablation, folder) and
save_copy_figures(profile, folder) write all of them as files. Drawing needs matplotlib; without it MissingPackageError
says what to install.
"""

from .interp.report import Evolution, evolve, figures
from .interp.report.figures import *  # noqa: F403 - what they name in __all__

__all__ = ["Evolution", "evolve"]
__all__ += figures.__all__
