"""The results file: written, read, merged, checked, exported; locks, and where results go that it does not take."""

from . import schema
from .backlog import Backlog
from .exporting import export, qrhead_string, render
from .gate import open_hdf5
from .locks import Busy, beside, locked
from .merging import merge, refresh
from .netcdf import LIBVER, create_variable, set_attrs
from .provenance import read_provenance, swept
from .rescue import Unsaved, rescue, save_elsewhere, unsaved_message
from .results_file import (
    add_ablation,
    add_answers,
    all_ablations,
    all_answers,
    append,
    as_dataset,
    check_takes,
    check_takes_ablation,
    check_writable,
    checkpoints,
    find_ablation,
    find_answers,
    open,
    read_ablation,
    read_answers,
    read_scores,
    read_steps,
    reading,
    runs_alone,
    set_aside,
    target_path,
    validate,
    write,
    write_file,
)
from .schema import COPY_PROFILE, PROVENANCE_COLUMNS, StoreError, Variable, datasets, text
from .structure import one_line

__all__ = [
    "COPY_PROFILE",
    "LIBVER",
    "PROVENANCE_COLUMNS",
    "Backlog",
    "Busy",
    "StoreError",
    "Unsaved",
    "Variable",
    "add_ablation",
    "add_answers",
    "all_ablations",
    "all_answers",
    "append",
    "as_dataset",
    "beside",
    "check_takes",
    "check_takes_ablation",
    "check_writable",
    "checkpoints",
    "create_variable",
    "datasets",
    "export",
    "find_ablation",
    "find_answers",
    "locked",
    "merge",
    "one_line",
    "open",
    "open_hdf5",
    "qrhead_string",
    "read_ablation",
    "read_answers",
    "read_provenance",
    "read_scores",
    "read_steps",
    "reading",
    "refresh",
    "render",
    "rescue",
    "runs_alone",
    "save_elsewhere",
    "schema",
    "set_aside",
    "set_attrs",
    "swept",
    "target_path",
    "text",
    "unsaved_message",
    "validate",
    "write",
    "write_file",
]
