"""The loss on texts in the terminal: by position, and by length of context; intervals are over documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.table import Table

from ...errors import ArgumentError
from ...printable import NAME, printable
from ..analysis import losses
from ..lengths import human_length
from ..perplexity import Perplexity
from .terminal import plain_table


def perplexity_tables(found: Perplexity) -> Iterator[tuple[str, Table]]:
    """(what it shows, a row for every corpus) of mean nats per token with 95 % intervals below."""
    positions = [("all", None), *((f"{human_length(int(first))}+", int(first)) for first in found.buckets)]
    yield "Loss by position, nats per token", _table(found, "nll", positions, counts=True)
    lengths = [(human_length(int(length)), int(length)) for length in found.lengths]
    title = f"Loss of the same last {found.tail} tokens of every window, by tokens of context"
    yield title, _table(found, "context", lengths)
    if len(lengths) > 1:
        title = f"What more context than {lengths[0][0]} is worth on them"
        yield title, _table(found, "gain", lengths[1:])
    if found.key_tokens.any():
        yield "LongPPL: exp of the loss of key tokens", _table(found, "key", [("LongPPL", None)], counts=True)


def _table(
    found: Perplexity, measure: str, columns: Sequence[tuple[str, int | None]], *, counts: bool = False
) -> Table:
    table = plain_table()
    table.add_column("corpus", min_width=6)
    for name in (*(("texts", "tokens") if counts else ()), *(name for name, _ in columns)):
        table.add_column(name, justify="right", min_width=len(name))
    for corpus in found.names:
        rows = found.corpora == corpus
        n = (found.key_tokens if measure == "key" else found.tokens)[rows].sum()
        beside = [str(int(rows.sum())), f"{int(n):,}"] if counts else []
        table.add_row(printable(corpus, NAME), *beside, *(_cell(found, corpus, measure, at) for _, at in columns))
    return table


def _cell(found: Perplexity, corpus: str, measure: str, at: int | None) -> str:
    try:
        of = losses([found], corpus, measure, at)
    except ArgumentError:  # no document of this corpus is so long
        return "-"
    interval = of.interval()
    numbers = [float(each[0]) for each in (interval.estimate, interval.low, interval.high)]
    if measure == "key":
        numbers = np.exp(numbers).tolist()
    mean, low, high = numbers
    sign = "+" if measure == "gain" else ""
    between = f"\n{low:{sign}.3f} to {high:{sign}.3f}" if np.isfinite(low) else ""
    return f"{mean:{sign}.3f}{between}"
