"""What a run of checkpoints says, and how sure one can be. Arrays in, arrays out; nothing here runs a model."""

from .agreement import NULLS, Agreement, ListAgreement, agree
from .bootstrap import MIN_NEEDLES, Interval, clustered_interval, ratio_interval
from .cells import depth_labels, length_by_depth
from .choosing import Choice, choose_best, choose_checkpoint
from .comparison import LEVELS, Comparison, Course, HeadComparison, Side, compare
from .context_gain import ContextGain, context_gain
from .doses import Dose, HeadEffects, dose_response, head_effects
from .downstream import Downstream, DownstreamCorrelation, Source, correlate_downstream, read_downstream
from .drop_alarm import MARGIN, RATE, Regression, Watch
from .effective_length import effective_length, effective_lengths, length_groups
from .evaluations import DownstreamError
from .evolution import DepthCurve, LogFit, Panel, by_depth, distance_by_interference, grid, heads_mean, log_fit, panel
from .head_lists import HeadList, HeadListError, read_head_list
from .heads import HeadChanges, Life, changes, life
from .item_prediction import Auc, ItemPrediction, predict_from, predict_items
from .lead_lag import Lead, LeadLag, lead_lag
from .leading import LEADING
from .losses import Losses, losses, read_losses
from .paired import Difference, paired_difference
from .perplexity_laws import Law, Laws, fit_laws
from .statistics import ALPHA
from .stopping import StoppingAdvice, stopping_advice
from .tables import PaperTables, answers_as_downstream, paper_tables
from .three_levels import Levels, ThreeLevels, levels_of, three_levels
from .trajectory import Trajectory, answers_by_position, read_trajectory
from .verdicts import Verdict, judge

__all__ = [
    "LEVELS",
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
    "ContextGain",
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
    "Law",
    "Laws",
    "Life",
    "ListAgreement",
    "LogFit",
    "Losses",
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
    "context_gain",
    "correlate_downstream",
    "depth_labels",
    "distance_by_interference",
    "dose_response",
    "fit_laws",
    "effective_length",
    "effective_lengths",
    "grid",
    "head_effects",
    "heads_mean",
    "judge",
    "lead_lag",
    "length_by_depth",
    "levels_of",
    "length_groups",
    "life",
    "log_fit",
    "paired_difference",
    "losses",
    "panel",
    "paper_tables",
    "predict_from",
    "predict_items",
    "read_downstream",
    "ratio_interval",
    "read_head_list",
    "read_losses",
    "read_trajectory",
    "stopping_advice",
    "three_levels",
]
