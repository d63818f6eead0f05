"""Lists of heads that others have published, read from their files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import HeadscopeError
from ...printable import NAME, printable

_PAIR = re.compile(r"(\d+)-(\d+)")
_MOST = 16 << 20  # bytes; Retrieval_Head's own largest is under one million


class HeadListError(HeadscopeError, ValueError):
    """A file is no list of heads, or one of another model; the message says which formats are read."""


@dataclass(frozen=True, eq=False)
class HeadList:
    """A published list, for a model of n_layers x n_heads query heads in n_kv_heads groups.

    Attributes:
        name: of the file.
        format: "Retrieval_Head", "DuoAttention" or "QRHead".
        scores: float64 [n_layers, n_heads], or [n_layers, n_kv_heads] for DuoAttention, NaN where the list has none; of
            QRHead, which lists heads without scores, the last listed has 1 and the best as many as there are.
        ranked: whether every head has a rank; of QRHead's only those in the list do.
    """

    name: str
    format: str
    scores: np.ndarray
    ranked: bool


def read_head_list(path: str | PathLike[str], n_layers: int, n_heads: int, n_kv_heads: int) -> HeadList:
    """Read a list by what it holds.

    - Retrieval_Head (Wu et al.), also HeadKV's: JSON, {"layer-head": [a score per test]} or one score; the mean counts.
    - DuoAttention: full_attention_heads.tsv, a line per layer, a number per key-value head.
    - QRHead: "18-6,17-3" anywhere in a text, best first, or the same as JSON, ["18-6", ...].

    Raises:
        HeadListError: the file cannot be read, is of no such format, or names heads that the model does not have.
    """
    name = printable(Path(path).name, NAME)
    try:
        size = Path(path).stat().st_size
        content = Path(path).read_text(encoding="utf-8") if size <= _MOST else ""
    except (OSError, UnicodeDecodeError) as error:
        raise HeadListError(f"{name} cannot be read as text: {printable(str(error), 200)}") from error
    shape = f"{n_layers} layers x {n_heads} heads"
    if (table := _table(content)) is not None:
        if table.shape != (n_layers, n_kv_heads):
            raise HeadListError(
                f"{name} is a table of {table.shape[0]} lines x {table.shape[1]}, as DuoAttention writes, and the "
                f"model has {n_layers} layers x {n_kv_heads} key-value heads; give the list of this model"
            )
        return HeadList(name, "DuoAttention", table, True)
    found = _json(content)
    if isinstance(found, dict) and found:
        scores = {_head(key): _mean(value) for key, value in found.items()}
        if None in scores or any(value is None for value in scores.values()):
            raise HeadListError(
                f'{name} is JSON, but not {{"layer-head": [scores]}} as Retrieval_Head writes: '
                f"{printable(str(next(iter(found.items()))), 80)}"
            )
        return HeadList(name, "Retrieval_Head", _filled(name, scores, n_layers, n_heads, shape), True)
    words = found if isinstance(found, list) and all(isinstance(each, str) for each in found) else [content]
    listed = list(dict.fromkeys((int(a), int(b)) for word in words for a, b in _PAIR.findall(word)))
    if not listed:
        raise HeadListError(
            f'{name} holds no list of heads; read are JSON {{"layer-head": [scores]}} as of Retrieval_Head, a table '
            'with a line per layer and a column per key-value head as of DuoAttention, and "18-6,17-3" as of QRHead'
        )
    ranks = {head: float(len(listed) - place) for place, head in enumerate(listed)}
    return HeadList(name, "QRHead", _filled(name, ranks, n_layers, n_heads, shape), False)


def _table(content: str) -> np.ndarray | None:
    try:
        rows = [[float(word) for word in line.split()] for line in content.splitlines() if line.strip()]
    except ValueError:
        return None
    return np.array(rows) if rows and len({len(row) for row in rows}) == 1 else None


def _json(content: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _head(key: str) -> tuple[int, int] | None:
    found = _PAIR.fullmatch(key.strip())
    return None if found is None else (int(found[1]), int(found[2]))


def _mean(value: Any) -> float | None:
    values = value if isinstance(value, list) else [value]
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in values):
        return None
    return float(np.mean(values)) if values else float("nan")


def _filled(name: str, scores: Any, n_layers: int, n_heads: int, shape: str) -> np.ndarray:
    found = np.full((n_layers, n_heads), np.nan)
    for (layer, head), score in scores.items():
        if layer >= n_layers or head >= n_heads:
            raise HeadListError(
                f"{name} names head {layer}-{head}, and the model has {shape}, counted from 0; give the list of this "
                "model"
            )
        found[layer, head] = score
    return found
