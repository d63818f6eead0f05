"""What a run of checkpoints says, and how sure one can be. Arrays in, arrays out; nothing here runs a model."""

from .bootstrap import MIN_NEEDLES, Interval, clustered_interval
from .cells import depth_labels, length_by_depth
from .doses import Dose, HeadEffects, dose_response, head_effects
from .downstream import Downstream, DownstreamCorrelation, Source, correlate_downstream, read_downstream
from .drop_alarm import LEADING, MARGIN, RATE, Regression, Watch
from .evaluations import DownstreamError
from .evolution import DepthCurve, LogFit, Panel, by_depth, distance_by_interference, grid, heads_mean, log_fit, panel
from .heads import HeadChanges, Life, changes, life
from .statistics import ALPHA
from .trajectory import Trajectory, read_trajectory
from .verdicts import Verdict, judge

__all__ = [
    "ALPHA",
    "LEADING",
    "MARGIN",
    "MIN_NEEDLES",
    "RATE",
    "DepthCurve",
    "Dose",
    "Downstream",
    "DownstreamCorrelation",
    "DownstreamError",
    "HeadChanges",
    "HeadEffects",
    "Interval",
    "Life",
    "LogFit",
    "Panel",
    "Regression",
    "Source",
    "Trajectory",
    "Verdict",
    "Watch",
    "by_depth",
    "changes",
    "clustered_interval",
    "correlate_downstream",
    "depth_labels",
    "distance_by_interference",
    "dose_response",
    "grid",
    "head_effects",
    "heads_mean",
    "judge",
    "length_by_depth",
    "life",
    "log_fit",
    "panel",
    "read_downstream",
    "read_trajectory",
]
