"""Heads changed while the model runs, and what becomes of its answers: do they matter?"""

from .ablating import ablate, check_asked
from .changing import AblationError, Change, Changing, Heads, Mean, Stored, Zero
from .needle_only import NeedleOnly
from .rows import PARTS, Repeated
from .running import Answered, run_sets

__all__ = [
    "PARTS",
    "AblationError",
    "Answered",
    "Change",
    "Changing",
    "Heads",
    "Mean",
    "NeedleOnly",
    "Repeated",
    "Stored",
    "Zero",
    "ablate",
    "check_asked",
    "run_sets",
]
