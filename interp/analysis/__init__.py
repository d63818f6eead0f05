"""What a run of checkpoints says, and how sure one can be. Arrays in, arrays out; nothing here runs a model."""

from .agreement import NULLS, Agreement, ListAgreement, agree
from .bootstrap import MIN_NEEDLES, Interval, clustered_interval
from .cells import depth_labels, length_by_depth
from .doses import Dose, HeadEffects, dose_response, head_effects
from .downstream import Downstream, DownstreamCorrelation, Source, correlate_downstream, read_downstream
from .drop_alarm import MARGIN, RATE, Regression, Watch
from .effective_length import effective_length, effective_lengths, length_groups
from .evaluations import DownstreamError
from .evolution import DepthCurve, LogFit, Panel, by_depth, distance_by_interference, grid, heads_mean, log_fit, panel
from .head_lists import HeadList, HeadListError, read_head_list
from .heads import HeadChanges, Life, changes, life
from .leading import LEADING
from .statistics import ALPHA
from .trajectory import Trajectory, read_trajectory
from .verdicts import Verdict, judge

__all__ = [
    "ALPHA",
    "LEADING",
    "MARGIN",
    "MIN_NEEDLES",
    "NULLS",
    "RATE",
    "Agreement",
    "DepthCurve",
    "Dose",
    "Downstream",
    "DownstreamCorrelation",
    "DownstreamError",
    "HeadChanges",
    "HeadEffects",
    "HeadList",
    "HeadListError",
    "Interval",
    "Life",
    "ListAgreement",
    "LogFit",
    "Panel",
    "Regression",
    "Source",
    "Trajectory",
    "Verdict",
    "Watch",
    "agree",
    "by_depth",
    "changes",
    "clustered_interval",
    "correlate_downstream",
    "depth_labels",
    "distance_by_interference",
    "dose_response",
    "effective_length",
    "effective_lengths",
    "grid",
    "head_effects",
    "heads_mean",
    "judge",
    "length_by_depth",
    "length_groups",
    "life",
    "log_fit",
    "panel",
    "read_downstream",
    "read_head_list",
    "read_trajectory",
]
