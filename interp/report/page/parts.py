"""What a report is made of: sections with a heading, figures and tables. Texts are plain; the template escapes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of the page. cells: [checkpoint, row, column] where it follows the slider."""

    id: str
    title: str
    plot: go.Figure
    unit: str = ""
    height: int = 340
    half: bool = False
    cells: np.ndarray | None = None


@dataclass(frozen=True)
class Column:
    name: str
    text: bool = False
    long: bool = False


@dataclass(frozen=True)
class Table:
    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    head: bool = True


@dataclass(frozen=True, eq=False)
class Section:
    id: str
    heading: str
    words: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    slider: bool = False
    leading: bool = False


@dataclass(frozen=True)
class Tile:
    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Card:
    """A verdict. open: the data cannot say."""

    question: str
    answer: str
    words: str
    numbers: Sequence[tuple[str, str]]
    open: bool
