"""What a run of checkpoints says, and how sure one can be. Arrays in, arrays out; nothing here runs a model."""

from .agreement import NULLS, Agreement, ListAgreement, agree
from .bootstrap import MIN_NEEDLES, Interval, clustered_interval
from .cells import depth_labels, length_by_depth
from .choosing import Choice, choose_best, choose_checkpoint
from .comparison import Comparison, Course, HeadComparison, Side, compare
from .doses import Dose, HeadEffects, dose_response, head_effects
from .downstream import Downstream, DownstreamCorrelation, Source, correlate_downstream, read_downstream
from .drop_alarm import LEADING, MARGIN, RATE, Regression, Watch
from .evaluations import DownstreamError
from .evolution import DepthCurve, LogFit, Panel, by_depth, distance_by_interference, grid, heads_mean, log_fit, panel
from .head_lists import HeadList, HeadListError, read_head_list
from .heads import HeadChanges, Life, changes, life
from .item_prediction import Auc, ItemPrediction, predict_from, predict_items
from .lead_lag import Lead, LeadLag, lead_lag
from .paired import Difference, paired_difference
from .statistics import ALPHA
from .stopping import StoppingAdvice, stopping_advice
from .tables import PaperTables, answers_as_downstream, paper_tables
from .three_levels import Levels, ThreeLevels, levels_of, three_levels
from .trajectory import Trajectory, answers_by_position, read_trajectory
from .verdicts import Verdict, judge

__all__ = [
    "ALPHA",
    "LEADING",
    "MARGIN",
    "MIN_NEEDLES",
    "NULLS",
    "RATE",
    "Agreement",
    "Auc",
    "Choice",
    "Comparison",
    "Course",
    "DepthCurve",
    "Difference",
    "Dose",
    "Downstream",
    "DownstreamCorrelation",
    "DownstreamError",
    "HeadChanges",
    "HeadComparison",
    "HeadEffects",
    "HeadList",
    "HeadListError",
    "Interval",
    "ItemPrediction",
    "Lead",
    "LeadLag",
    "Levels",
    "Life",
    "ListAgreement",
    "LogFit",
    "Panel",
    "PaperTables",
    "Regression",
    "Side",
    "Source",
    "StoppingAdvice",
    "ThreeLevels",
    "Trajectory",
    "Verdict",
    "Watch",
    "agree",
    "answers_as_downstream",
    "answers_by_position",
    "by_depth",
    "changes",
    "choose_best",
    "choose_checkpoint",
    "clustered_interval",
    "compare",
    "correlate_downstream",
    "depth_labels",
    "distance_by_interference",
    "dose_response",
    "grid",
    "head_effects",
    "heads_mean",
    "judge",
    "lead_lag",
    "length_by_depth",
    "levels_of",
    "life",
    "log_fit",
    "paired_difference",
    "panel",
    "paper_tables",
    "predict_from",
    "predict_items",
    "read_downstream",
    "read_head_list",
    "read_trajectory",
    "stopping_advice",
    "three_levels",
]
