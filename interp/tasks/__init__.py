"""Answers of a model to probes with a task: metrics, Pass@k, and the table of what was said."""

from .answers import COLUMNS, ENDS, SAID, TEXT_COLUMNS, Answers
from .drawing import Drawing
from .metrics import Judged, judge
from .passk import analytic, best_of_k, pass_at_k

__all__ = [
    "COLUMNS",
    "ENDS",
    "SAID",
    "TEXT_COLUMNS",
    "Answers",
    "Drawing",
    "Judged",
    "analytic",
    "best_of_k",
    "judge",
    "pass_at_k",
]
