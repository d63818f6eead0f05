"""Pictures, drawn with matplotlib: of one checkpoint (scores), of a run (evolution), of a copy profile (copying)."""

from .copying import save_copy_figures
from .evolution import save_evolution_figures
from .scores import save_figures

__all__ = ["save_copy_figures", "save_evolution_figures", "save_figures"]
