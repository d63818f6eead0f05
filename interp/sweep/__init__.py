"""Checkpoints x probes: score every checkpoint of a run into one file, killable and resumable at any moment.

checkpoints.py, stages.py   what the user gave -> checkpoints in the order of training    table.py: steps told in a CSV
shards.py, placing.py       one immutable file a checkpoint, the frozen probes, notes of what failed
worker.py                   one checkpoint -> scores                           ray_workers.py: many of them at once
run.py                      the sweep: what is to do, who does it, what came of it
"""

from .checkpoints import Checkpoint, find_checkpoints
from .run import Options, SweepResult, run_sweep, sweep
from .shards import ProbeSource, SweepError
from .stages import stage_lines
from .summary import outcome_line, summary_table
from .table import CheckpointError
from .worker import Outcome

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Options",
    "Outcome",
    "ProbeSource",
    "SweepError",
    "SweepResult",
    "find_checkpoints",
    "outcome_line",
    "run_sweep",
    "stage_lines",
    "summary_table",
    "sweep",
]
