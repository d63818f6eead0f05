"""Head scores in the formats of other projects, and as tables.

Every function takes HeadScores, or the path of a results file and optionally which of its checkpoints, and returns what
belongs into a file; `export` writes it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from difflib import get_close_matches
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ArgumentError
from ..levels import chance_known, in_words
from ..packages import need
from ..results import RETRIEVAL_THRESHOLD, HeadScores
from .results_file import read_scores, read_steps, write_file

if TYPE_CHECKING:
    import pandas as pd

Source = HeadScores | str | PathLike[str]


def retrieval_head_json(source: Source, *, checkpoint: int | None = None, estimator: str = "retrieval") -> str:
    """The `head_score/<model>.json` of Retrieval_Head (Wu et al.): {"layer-head": [a score per probe]}.

    Probes in which a head is unobservable are left out of its list, so the mean of a list is our score. Use
    `estimator="wu_count"` to compare with lists that Retrieval_Head made.
    """
    scores = _scores(source, checkpoint)
    scores[estimator]  # the error for an unknown estimator
    values = scores.per_probe[estimator]
    heads = {  # str() is the shortest text of a float32: 0.1, not 0.10000000149
        f"{layer}-{head}": [float(str(score)) for score in values[:, layer, head] if not np.isnan(score)]
        for layer in range(scores.n_layers)
        for head in range(scores.n_heads)
    }
    return json.dumps(heads)


def duo_attention_tsv(source: Source, *, checkpoint: int | None = None, estimator: str = "retrieval") -> str:
    """The `full_attention_heads.tsv` of DuoAttention: a line per layer, a column per key-value head.

    np.loadtxt reads it. The score of a key-value head is the largest of its query heads, "nan" where all are
    unobservable.
    """
    scores = _scores(source, checkpoint)
    groups = scores[estimator].reshape(scores.n_layers, scores.n_kv_heads, -1)
    best = np.where(np.isnan(groups).all(axis=2), np.nan, np.where(np.isnan(groups), -np.inf, groups).max(axis=2))
    return "".join("\t".join(f"{score:.9g}" for score in layer) + "\n" for layer in best)


def qrhead_string(
    source: Source, *, checkpoint: int | None = None, by: str = "retrieval", top: int | None = None
) -> str:
    """A head set as QRHead writes it, best first: "18-6,17-3".

    These are the `top` heads by an estimator, or else the retrieval heads (`HeadScores.retrieval_heads`: above 0.1 and
    above chance); by another estimator, every head whose mean score is above 0.1. Raises ArgumentError for none.
    """
    scores = _scores(source, checkpoint)
    heads = scores.top(scores.n_layers * scores.n_heads if top is None else top, by)
    level, words = np.full((scores.n_layers, scores.n_heads), np.float32(RETRIEVAL_THRESHOLD)), f"{RETRIEVAL_THRESHOLD}"
    if by == "retrieval" and chance_known(scores.probes):
        level = scores.counting_level()
        words = in_words(level, scores.probes, RETRIEVAL_THRESHOLD)
    if top is None:
        heads = [head for head in heads if scores[by][head.layer, head.head] > level[head.layer, head.head]]
    if not heads:
        raise ArgumentError(f"no head has a {by} above {words}; choose a number, such as top=16")
    return ",".join(f"{head.layer}-{head.head}" for head in heads)


def csv(source: Source, *, checkpoint: int | None = None) -> str:
    """A table with a line per head; from a file per checkpoint and head, with checkpoint and tokens_seen in front."""
    text: str = _table(source, checkpoint).to_csv(index=False, lineterminator="\n")
    return text


def parquet(source: Source, *, checkpoint: int | None = None) -> bytes:
    """The table of `csv` as Parquet. Raises MissingPackageError without pyarrow."""
    need("pyarrow", "the Parquet export", install="headscope[parquet]")
    buffer = io.BytesIO()
    _table(source, checkpoint).to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


FORMATS: dict[str, Callable[..., str | bytes]] = {
    "retrieval_head_json": retrieval_head_json,
    "duo_attention_tsv": duo_attention_tsv,
    "qrhead_string": qrhead_string,
    "csv": csv,
    "parquet": parquet,
}


def render(source: Source, format: str, *, checkpoint: int | None = None, top: int | None = None) -> str | bytes:
    """The source in a format; `top` is that of `qrhead_string`.

    Raises ArgumentError for an unknown format, StoreError when a file cannot be read.
    """
    if format not in FORMATS:
        near = [name for name in FORMATS if format and format in name] or get_close_matches(format, FORMATS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ArgumentError(f"unknown format {format!r}.{hint} Available: {', '.join(FORMATS)}")
    if top is None:
        return FORMATS[format](source, checkpoint=checkpoint)
    if format != "qrhead_string":
        raise ArgumentError(f"top={top} belongs to the format qrhead_string; {format} holds every head")
    return qrhead_string(source, checkpoint=checkpoint, top=top)


def export(
    source: Source,
    format: str,
    path: str | PathLike[str],
    *,
    checkpoint: int | None = None,
    top: int | None = None,
) -> None:
    """Write scores, or those of a results file, to `path` in the format of another tool, whole or not at all.

    Args:
        source: HeadScores, or the path of a results file.
        format: "retrieval_head_json", "duo_attention_tsv", "qrhead_string", "csv" or "parquet".
        checkpoint: which one of a file; default the last, for "csv" and "parquet" all.
        top: of "qrhead_string", how many heads; default those above 0.1 and above chance.

    Raises:
        ArgumentError: an unknown format. StoreError: a file that cannot be read or written.
        MissingPackageError: "parquet" without pyarrow.
    """
    content = render(source, format, checkpoint=checkpoint, top=top)
    write_file(path, content if isinstance(content, bytes) else content.encode())


def _scores(source: Source, checkpoint: int | None) -> HeadScores:
    if not isinstance(source, HeadScores):
        return read_scores(source, checkpoint)
    if checkpoint is not None:
        raise ArgumentError(f"checkpoint={checkpoint} chooses within a file; HeadScores are of one checkpoint already")
    return source


def _table(source: Source, checkpoint: int | None) -> pd.DataFrame:
    if isinstance(source, HeadScores):
        return _scores(source, checkpoint).to_dataframe()
    pandas = need("pandas", "a table")
    tokens = read_steps(source)
    frames = []
    for step in tokens if checkpoint is None else [checkpoint]:
        frame = read_scores(source, step).to_dataframe()
        frame.insert(0, "checkpoint", step)
        frame.insert(1, "tokens_seen", np.nan if tokens[step] is None else tokens[step])
        frames.append(frame)
    table: pd.DataFrame = pandas.concat(frames, ignore_index=True)
    return table
