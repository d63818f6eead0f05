"""What a headscope file holds, said once for the writer, the reader and the validator. SCHEMA.md is the prose of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5ds, h5i

from ...errors import HeadscopeError
from ..ablation import MEASURES
from ..ablation import TEXTS as ABLATED_TEXTS
from ..finetuned import COST as SFT_COST
from ..levels import FALSE_COUNT, FALSE_DISCOVERY_RATE
from ..results import (
    CHANCE_COLUMNS,
    INTEGER_COLUMNS,
    NLL_CLASSES,
    PROBE_COLUMNS,
    REAL_COLUMNS,
    RETRIEVAL_THRESHOLD,
    TEXT_COLUMNS,
)
from ..tasks import ENDS
from ..tasks import TEXT_COLUMNS as ANSWER_TEXTS
from .provenance import read_provenance

NAME = "headscope"
COPY_PROFILE = "headscope-copy-profile"  # the schema_name of the other kind of file, interp/copying/file.py
VERSION = (1, 4)

MAP = ("checkpoint", "layer", "head")
DETAIL = ("checkpoint", "probe", "layer", "head")
ANSWERED = ("checkpoint", "item", "sample")
ABLATED = ("checkpoint", "set", "ablated")
FINETUNED = ("checkpoint", "sft_seed", "sft_item")
SCALES = {  # dimension -> path
    "checkpoint": "checkpoint", "layer": "layer", "head": "head", "probe": "probes/probe",
    "item": "answers/item", "sample": "answers/sample",
    "ablated": "ablation/ablated", "set": "ablation/set", "slot": "ablation/slot",
    "document": "perplexity/document", "bucket": "perplexity/bucket", "context": "perplexity/context",
    "sft_item": "sft_probe/sft_item", "sft_seed": "sft_probe/sft_seed", "sft_step": "sft_probe/sft_step",
}  # fmt: skip
STRING = "string"  # variable-length UTF-8, netCDF's NC_STRING

# Entries of HeadScores.provenance that get a column of their own; everything is in the column `json` as well.
PROVENANCE_COLUMNS = (
    "revision", "weights_sha256", "device", "dtype", "attn_implementation", "sharing", "created_at",
)  # fmt: skip
ROOT_ATTRIBUTES = (
    "Conventions", "title", "schema_name", "schema_version", "model_id", "n_kv_heads", "estimators",
    "probe_set_name", "probe_set_hash", "created_at", "creation_library", "creation_library_version",
)  # fmt: skip
SCORE_ATTRIBUTES = (
    "n_kv_heads",
    "estimators",
    "probe_set_name",
    "probe_set_hash",
)  # not of a file of perplexities alone

LONG_NAMES = {
    "retrieval": "copy-paste retrieval score",
    "wu_count": "retrieval score counted as in Retrieval_Head",
    "wu_count_top5": "the same count where any of the five top keys may hit",
    "wu_count_generated": "the same count on the model's own answers; NaN where an answer fails the gate",
    "aligned_copy": "share of answer tokens copied from exactly their source",
    "needle_mass": "attention probability on the needle",
    "source_mass": "attention probability on the sources of the answer tokens",
    "sink_mass": "attention probability on the first tokens",
    "distractor_mass": "attention probability on distractors, what only looks like the needle",
    "chance": "retrieval score of a head that looks at random copyable tokens of the needle, its mean",
    "chance_sd": "its standard deviation",
    "nll": "negative log-likelihood of the answer, mean nats per token",
    "nll_novel": "negative log-likelihood of the answer tokens found only in the needle, mean nats per token",
    "nll_echo": "negative log-likelihood of the answer tokens that the question has too, mean nats per token",
    "nll_first": "negative log-likelihood of the first answer token found only in the needle, nats",
}
IN_UNIT_INTERVAL = (
    "retrieval",
    "aligned_copy",
    "needle_mass",
    "source_mass",
    "sink_mass",
    "distractor_mass",
    "dealt_mean",
    "dealt_sd",
)
# Only shares of counts never round beyond 1; some readers mask what lies outside valid_min and valid_max.
EXACT_SHARES = ("retrieval", "aligned_copy")


class StoreError(HeadscopeError, ValueError):
    """A results file cannot be read, or does not take what should be written to it."""


@dataclass(frozen=True)
class Variable:
    """One variable of the file: group ("" is the root), name, dimensions, type on disk, attributes."""

    group: str
    name: str
    dims: tuple[str, ...]
    dtype: str
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"{self.group}/{self.name}" if self.group else self.name


def knows_chance(columns: Iterable[str]) -> bool:
    """Whether these probe columns tell what a head scores by chance; without them a file is one of schema 1.0."""
    return {*CHANCE_COLUMNS} <= {*columns}


def column_type(name: str, kind: str) -> str:
    """Type on disk of a probe column from its numpy kind. 32 bits where they do: R has no 64-bit integers."""
    if kind in "iu":
        return "i4" if name in PROBE_COLUMNS and name != "seed" else "i8"
    return "f8" if kind == "f" else STRING


# Moments of every head's own null, which the number of heads above it rests on.
NULL_MOMENTS = ("dealt_mean", "dealt_sd")
ABOVE_NULL = Variable(
    "",
    "n_heads_above_null",
    ("checkpoint",),
    "i4",
    {
        "long_name": "number of heads above a null of their own",
        "comment": "by Benjamini and Hochberg over all observable heads; -1: not measured",
        "false_discovery_rate": np.float64(FALSE_DISCOVERY_RATE),
        "coordinates": "tokens_seen",
        "units": "1",
    },
)
# Only in a file whose checkpoints are of several stages of training.
STAGES = [
    Variable("", "stage", ("checkpoint",), STRING, {"long_name": "stage of training, or run"}),
    Variable("", "step_in_stage", ("checkpoint",), "i4", {"long_name": "step within the stage", "units": "1"}),
]


def bare_layout() -> list[Variable]:
    """The variables that every file has, also one without heads and probes."""
    one = {"units": "1"}
    return [
        Variable("", "checkpoint", ("checkpoint",), "i4", {"long_name": "optimizer step of the checkpoint"} | one),
        Variable("", "tokens_seen", ("checkpoint",), "f8", {"long_name": "training tokens seen"} | one),
    ]


def layout(estimators: tuple[str, ...], columns: Mapping[str, str], *, stages: bool = False) -> list[Variable]:
    """Every variable of a file with these estimators and these probe columns (name -> type on disk), in file order."""
    one = {"units": "1"}
    checkpoint, tokens_seen = bare_layout()
    found = [
        checkpoint,
        Variable("", "layer", ("layer",), "i4", {"long_name": "layer, counted from 0"} | one),
        Variable("", "head", ("head",), "i4", {"long_name": "query head, counted from 0"} | one),
        Variable("", "kv_head", ("head",), "i4", {"long_name": "key-value head that the query head reads"} | one),
        tokens_seen,
    ]
    found += STAGES if stages else []
    scored = [estimator_variables(name, columns) for name in estimators]
    found += [variable for mean, stderr, _ in scored for variable in (mean, stderr)]
    counted = {
        "long_name": "number of retrieval heads",
        "comment": "heads whose retrieval is strictly above threshold; -1: not counted",
        "threshold": np.float64(RETRIEVAL_THRESHOLD),
        "coordinates": "tokens_seen",
    }
    if knows_chance(columns):
        counted["long_name"] = "number of retrieval heads as the paper counts them, chance or not"
    found.append(Variable("", "n_retrieval_heads", ("checkpoint",), "i4", counted | one))
    if knows_chance(columns):
        counted |= {
            "long_name": "number of retrieval heads",
            "comment": "heads whose retrieval is strictly above threshold and the level of chance; -1: not counted",
            "false_count": np.float64(FALSE_COUNT),
        }
        found.append(Variable("", "n_heads_above_chance", ("checkpoint",), "i4", counted | one))
    found += [ABOVE_NULL] if {*NULL_MOMENTS} <= {*estimators} else []

    found.append(Variable("probes", "probe", ("probe",), STRING, {"long_name": "id of the probe"}))
    for name, dtype in columns.items():
        named = {"long_name": LONG_NAMES[name]} if name in CHANCE_COLUMNS else {}
        found.append(Variable("probes", name, ("probe",), dtype, named | ({} if dtype == STRING else one)))
    beside = {"coordinates": " ".join(columns)}
    found += [detail for _, _, detail in scored]
    for name in NLL_CLASSES:
        attrs = {"long_name": LONG_NAMES[name]} | one | beside
        found.append(Variable("probes", name, ("checkpoint", "probe"), "f4", attrs))
    flags = {"flag_values": np.array([-1, 0, 1], np.int8), "flag_meanings": "not_scored miss match"}
    matched = {"long_name": "every answer token is the most probable one"} | flags | beside
    found.append(Variable("probes", "exact_match", ("checkpoint", "probe"), "i1", matched))

    for name in ("model_id", *PROVENANCE_COLUMNS):
        found.append(Variable("provenance", name, ("checkpoint",), STRING))
    whole = {"long_name": "everything known about how the scores were made, as JSON"}
    found.append(Variable("provenance", "json", ("checkpoint",), STRING, whole))
    return found


def answer_variables() -> list[Variable]:
    """What the group of answers holds, in file order. Only a file whose model answered has it."""
    one = {"units": "1"}
    found = [
        Variable("answers", "item", ("item",), STRING, {"long_name": "id of the probe that was answered"}),
        Variable("answers", "sample", ("sample",), "i4", {"long_name": "0: the greedy answer; from 1 on: drawn"} | one),
    ]
    found += [Variable("answers", name, ("item",), STRING) for name in ANSWER_TEXTS if name != "id"]
    found += [Variable("answers", name, ("item",), "i4", one) for name in ("length", "n_answer")]
    found.append(Variable("answers", "depth", ("item",), "f8", one))

    found.append(Variable("answers", "text", ANSWERED, STRING, {"long_name": "what was said, without the stop"}))
    told = {
        "score": "the task's own metric, 0 to 1",
        "precision": "share of what the answer names that is right; NaN: it names nothing, or may name one only",
        "above_chance": "MRCR's score above that of a reply drawn at random, 1 for the right one",
        "logprob": "log-likelihood of the answer, summed over its tokens, nats",
    }
    found += [Variable("answers", name, ANSWERED, "f4", {"long_name": words} | one) for name, words in told.items()]
    rival = {"long_name": "which of the rivals the answer names first", "comment": "-1: none"} | one
    found.append(Variable("answers", "rival", ANSWERED, "i4", rival))
    count = {"long_name": "tokens of the answer", "comment": "-1: not asked"} | one
    found.append(Variable("answers", "n_tokens", ANSWERED, "i4", count))
    flags = {"flag_values": np.arange(-1, len(ENDS), dtype=np.int8), "flag_meanings": " ".join(("not_asked", *ENDS))}
    found.append(Variable("answers", "end", ANSWERED, "i1", {"long_name": "what ended the answer"} | flags))
    right = {"long_name": "negative log-likelihood of the right answer, mean nats per token"} | one
    found.append(Variable("answers", "nll", ANSWERED[:2], "f4", right))
    flags = {"flag_values": np.array([-1, 0, 1], np.int8), "flag_meanings": "not_scored miss match"}
    matched = {"long_name": "every token of the right answer is the most probable one"} | flags
    found.append(Variable("answers", "exact_match", ANSWERED[:2], "i1", matched))
    whole = {"long_name": "everything known about how the answers were made, as JSON; empty: not asked"}
    found.append(Variable("answers", "json", ("checkpoint",), STRING, whole))
    return found


def ablation_variables() -> list[Variable]:
    """What the group of an ablation holds, in file order. Only a file with a model whose heads were changed has it."""
    one = {"units": "1"}
    found = [
        Variable("ablation", "ablated", ("ablated",), STRING, {"long_name": "id of the probe that was measured"}),
        Variable("ablation", "set", ("set",), "i4", {"long_name": "set of heads that are changed together"} | one),
        Variable("ablation", "slot", ("slot",), "i4", {"long_name": "head of a set"} | one),
    ]
    found += [Variable("ablation", name, ("ablated",), STRING) for name in ABLATED_TEXTS if name != "id"]
    found += [Variable("ablation", name, ("ablated",), "i4", one) for name in ("length", "n_answer")]
    found.append(Variable("ablation", "depth", ("ablated",), "f8", one))
    kinds = {"long_name": "none, top (the k leading ones), layer_matched, mass_matched (controls), one (by itself)"}
    found.append(Variable("ablation", "kind", ("set",), STRING, kinds))
    found.append(Variable("ablation", "k", ("set",), "i4", {"long_name": "heads or groups of heads in the set"} | one))
    draw = {"long_name": "number of the control; of one by itself its rank"}
    found.append(Variable("ablation", "draw", ("set",), "i4", draw | one))

    for name in ("layer", "head"):
        place = {"long_name": f"{name} of the set's heads", "comment": "-1: none"} | one
        found.append(Variable("ablation", f"set_{name}", ("checkpoint", "set", "slot"), "i4", place))
    score = {"long_name": "mean retrieval score of the set's heads on the needles that chose them"} | one
    found.append(Variable("ablation", "set_score", ABLATED[:2], "f4", score))
    for name in MEASURES:
        measured = {"long_name": ABLATION_NAMES[name], "comment": "NaN: not measured"} | one
        found.append(Variable("ablation", name, ABLATED, "f4", measured))
    found.append(Variable("ablation", "model_id", ("checkpoint",), STRING))
    whole = {"long_name": "everything known about how the ablation was made, as JSON; empty: there is none"}
    found.append(Variable("ablation", "json", ("checkpoint",), STRING, whole))
    return found


ABLATION_NAMES = {
    "nll": LONG_NAMES["nll"],
    "nll_novel": LONG_NAMES["nll_novel"],
    "logprob": "log-likelihood of the right answer, summed over its tokens, nats",
    "exact_match": "1 where every token of the right answer is the most probable one",
    "twin_logprob": "log-likelihood of the other value, which the twin's needle has, nats",
    "answer_score": "the task's own metric on the answer that the model wrote, 0 to 1",
}


def perplexity_variables() -> list[Variable]:
    """What the group of perplexities holds, in file order. Only a file with the loss on texts has it."""
    one, group = {"units": "1"}, "perplexity"
    first = {"long_name": "first position of a range of positions", "comment": "a token there sees as many"} | one
    found = [
        Variable(group, "document", ("document",), STRING, {"long_name": "name of the text in its corpus"}),
        Variable(group, "bucket", ("bucket",), "i4", first),
        Variable(group, "context", ("context",), "i4", {"long_name": "tokens of context"} | one),
        Variable(group, "corpus", ("document",), STRING, {"long_name": "corpus of the document"}),
        Variable(group, "n_tokens", ("document",), "i4", {"long_name": "tokens of the whole document"} | one),
    ]
    for name, axis, words in (
        ("tokens", ("bucket",), "tokens predicted at these positions"),
        ("tail_tokens", ("context",), "tokens at the ends of windows, predicted from so much context"),
        ("key_tokens", (), "tokens that need a long context"),
    ):
        found.append(Variable(group, name, ("document", *axis), "i4", {"long_name": words} | one))
        mean = {"long_name": f"negative log-likelihood of the {words}, mean nats per token", "comment": "NaN: none"}
        nll = name.replace("tokens", "nll") if name != "tokens" else "nll"
        found.append(Variable(group, nll, ("checkpoint", "document", *axis), "f8", mean | one))
    found.append(Variable(group, "model_id", ("checkpoint",), STRING))
    whole = {"long_name": "everything known about how the loss was measured, as JSON; empty: it was not"}
    found.append(Variable(group, "json", ("checkpoint",), STRING, whole))
    return found


def has_scores(file: h5py.File) -> bool:
    """Whether it holds head scores. One of perplexities alone does not."""
    return "probes" in file or not has(file, "perplexity")


def sft_probe_variables() -> list[Variable]:
    """What the group of SFT probes holds, in file order. Only a file with a model that was fine-tuned has it."""
    one = {"units": "1"}
    found = [
        Variable("sft_probe", "sft_item", ("sft_item",), STRING, {"long_name": "id of the probe that was answered"}),
        Variable("sft_probe", "sft_seed", ("sft_seed",), "i4", {"long_name": "seed of the fine-tune"} | one),
        Variable("sft_probe", "sft_step", ("sft_step",), "i4", {"long_name": "step of the fine-tune, from 0"} | one),
    ]
    found += [Variable("sft_probe", name, ("sft_item",), STRING) for name in ANSWER_TEXTS if name != "id"]
    found += [Variable("sft_probe", name, ("sft_item",), "i4", one) for name in ("length", "n_answer")]
    found.append(Variable("sft_probe", "depth", ("sft_item",), "f8", one))
    # As in /answers: of the model as it is (before_...), and of each seed's.
    asked = {variable.name: variable for variable in answer_variables() if "checkpoint" in variable.dims}
    for name in ("score", "nll", "exact_match"):
        like = asked[name]
        found.append(Variable("sft_probe", f"before_{name}", ("checkpoint", "sft_item"), like.dtype, like.attrs))
    for name, like in asked.items():
        if name != "json":
            found.append(Variable("sft_probe", name, FINETUNED, like.dtype, like.attrs))
    curve = {"long_name": "loss of a step before its update, mean nats a token of the answers"} | one
    found.append(Variable("sft_probe", "loss", ("checkpoint", "sft_seed", "sft_step"), "f4", curve))
    for name in SFT_COST:
        attrs = SFT_COST_ATTRS[name]
        found.append(Variable("sft_probe", name, FINETUNED[:2], "f8", attrs))
    found.append(Variable("sft_probe", "model_id", ("checkpoint",), STRING))
    whole = {"long_name": "everything known about how the SFT probe was made, as JSON; empty: there is none"}
    found.append(Variable("sft_probe", "json", ("checkpoint",), STRING, whole))
    return found


SFT_COST_ATTRS = {
    "tokens": {"long_name": "tokens that went through the model in training", "units": "1"},
    "answer_tokens": {"long_name": "tokens that the loss is of", "units": "1"},
    "seconds": {"long_name": "time that training took", "units": "s"},
    "answer_seconds": {"long_name": "time that answering took afterwards", "units": "s"},
    "peak_memory": {"long_name": "most memory that the device (on the CPU the process) had taken", "units": "byte"},
}


# The groups that only some files have, and the attributes that tell ours from one that another tool has added.
FURTHER: Mapping[str, tuple[Callable[[], list[Variable]], tuple[str, ...]]] = {
    "answers": (answer_variables, ("task_set_hash",)),
    "ablation": (ablation_variables, ("mode", "unit", "probe_set_hash")),
    "sft_probe": (sft_probe_variables, ("recipe_hash",)),
    "perplexity": (perplexity_variables, ("texts_hash", "tail", "stride")),
}


def has(file: h5py.File, group: str) -> bool:
    """Whether it holds one of FURTHER, and it is ours."""
    found = file.get(group)
    return isinstance(found, h5py.Group) and {*FURTHER[group][1]} <= {*found.attrs}


def rows_told(file: h5py.File, group: str) -> list[int]:
    """The numbers of the checkpoints whose `json` in one of FURTHER says how theirs was made."""
    return [row for row, told in enumerate(file[f"{group}/json"].asstr()[:]) if told] if has(file, group) else []


def further_variables(file: h5py.File) -> list[Variable]:
    """Those of the groups that only some files have."""
    return [variable for group, (made, _) in FURTHER.items() if has(file, group) for variable in made()]


def misfits(file: h5py.File) -> Iterator[str]:
    """Variables that cannot be read as the schema has them: of another kind, or of sizes that do not go together.

    What is missing is not told here: who needs it finds that out.
    """
    lengths = {}
    for name, path in SCALES.items():
        item = file.get(path)
        if isinstance(item, h5py.Dataset):
            if item.ndim != 1:
                yield f"{path} has {item.ndim} axes, and a dimension has one"
                return
            lengths[name] = len(item)
    columns = dict.fromkeys(TEXT_COLUMNS, STRING) | dict.fromkeys(INTEGER_COLUMNS, "i8")
    columns |= dict.fromkeys((*REAL_COLUMNS, *CHANCE_COLUMNS), "f8")
    columns.pop("id", None)
    estimators = estimators_of(file) if "estimators" in file.attrs else ()
    taken = {"S": ("S", "texts"), "i": ("iub", "integers"), "f": ("fiub", "numbers")}
    expected = layout(estimators, columns, stages=True) + further_variables(file)
    for variable in expected:
        item = file.get(variable.path)
        if not isinstance(item, h5py.Dataset):
            continue
        kinds, words = taken["S" if variable.dtype == STRING else variable.dtype[0]]
        if ("S" if disk_type(item) == STRING else disk_type(item)[0]) not in kinds:
            yield f"{variable.path} does not hold {words}"
        elif item.ndim != len(variable.dims):
            yield f"{variable.path} has {item.ndim} axes, not ({', '.join(variable.dims)})"
        for name, size in zip(variable.dims, item.shape, strict=False):
            # netCDF lets variables be shorter than an unlimited dimension: what is missing is the fill value.
            if name in lengths and (size > lengths[name] or (size < lengths[name] and name != "checkpoint")):
                yield f"{variable.path} has {size} entries along {SCALES[name]}, which has {lengths[name]}"


def estimator_variables(name: str, columns: Iterable[str] = ()) -> tuple[Variable, Variable, Variable]:
    """What a file holds of one estimator beside these probe columns: mean, standard error, one value a probe."""
    beside = {"coordinates": "tokens_seen kv_head"}
    error = {"ancillary_variables": f"{name}_stderr"}
    detail = _score_attrs(name, "one value a probe") | {"coordinates": " ".join(columns)}
    return (
        Variable("", name, MAP, "f4", _score_attrs(name, "mean over probes") | error | beside),
        Variable("", f"{name}_stderr", MAP, "f4", _stderr_attrs(name) | beside),
        Variable("probes", name, DETAIL, "f4", detail),
    )


def _score_attrs(name: str, comment: str) -> dict[str, Any]:
    attrs: dict[str, Any] = {"long_name": LONG_NAMES.get(name, name.replace("_", " ")), "units": "1"}
    attrs["comment"] = f"{comment}; NaN: unobservable, as when the needle is outside the layer's window"
    if name in EXACT_SHARES:
        attrs |= {"valid_min": np.float32(0), "valid_max": np.float32(1)}
    return attrs


def _stderr_attrs(name: str) -> dict[str, Any]:
    comment = "clustered by needle; NaN: fewer than two needles"
    return {"long_name": f"standard error of {name}", "units": "1", "comment": comment}


def datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda path, item: found.update({path: item}) if isinstance(item, h5py.Dataset) else None)
    return found


def dims(dataset: h5py.Dataset) -> tuple[str | None, ...]:
    """Names of a dataset's dimensions, from the scales on its axes; None for an axis without one."""
    return tuple(_dim(dataset, axis) for axis in range(dataset.ndim))


def along_checkpoints(dataset: h5py.Dataset) -> bool:
    """Whether its first axis is checkpoint. Asks for no other: HDF5 searches the file for the name of a scale."""
    return dataset.ndim > 0 and _dim(dataset, 0) == "checkpoint"


def _dim(dataset: h5py.Dataset, axis: int) -> str | None:
    if h5ds.is_scale(dataset.id):
        return _name(dataset.id)
    return h5ds.iterate(dataset.id, axis, _name) if h5ds.get_num_scales(dataset.id, axis) else None


def _name(of: h5d.DatasetID) -> str:
    return h5i.get_name(of).decode().rsplit("/", 1)[-1]


def text(file: h5py.File, name: str) -> str:
    """A text attribute, whichever of HDF5's kinds of string a tool has left there."""
    value = np.ravel(file.attrs[name])[0]
    return value.decode() if isinstance(value, bytes) else str(value)


def estimators_of(file: h5py.File) -> tuple[str, ...]:
    return tuple(text(file, "estimators").split())


def measured(file: h5py.File) -> list[set[str]]:
    """The estimators that each checkpoint was measured with: those that hold a number, and those its provenance tells.

    It tells also those of which no head was observable or no answer passed the gate; all of theirs is NaN as well.
    """
    rows: list[set[str]] = [set() for _ in file["checkpoint"]]
    for name in estimators_of(file):
        for row, values in zip(rows, file[name][:], strict=True):
            row |= {name} if not np.isnan(values).all() else set()
    for row, made in zip(rows, file["provenance/json"].asstr()[:], strict=True):
        told = read_provenance(made).get("estimators")
        names = [name for name in told if isinstance(name, str)] if isinstance(told, list) else []
        row |= {"retrieval", *names} & {*estimators_of(file)}
    return rows


def columns_of(file: h5py.File) -> dict[str, str]:
    """The probe columns of a file, but for the id, with their types on disk."""
    found = {}
    for name, item in file["probes"].items():
        if name != "probe" and isinstance(item, h5py.Dataset) and item.ndim == 1 and dims(item) == ("probe",):
            found[name] = disk_type(item)
    return found


def disk_type(dataset: h5py.Dataset) -> str:
    return STRING if h5py.check_string_dtype(dataset.dtype) else dataset.dtype.str.lstrip("<>|=")
