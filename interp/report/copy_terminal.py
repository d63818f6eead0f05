"""A copy profile in the terminal: the leading heads and what else they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from ..lengths import human_length
from .terminal import Bar, plain_table

if TYPE_CHECKING:
    from ..copying import CopyProfile


def copy_table(profile: CopyProfile, k: int = 10) -> Table:
    """The `k` heads with the highest copy rate: the rate, a bar, the farthest copy, and the other rates."""
    table = plain_table()
    table.add_column("head", min_width=6)
    table.add_column("copies", justify="right", min_width=6)
    table.add_column("", ratio=1)
    for name in ("farthest", "echoes", "itself", "sink"):
        table.add_column(name, justify="right", min_width=len(name))
    rates = (profile.echo_rate, profile.self_rate, profile.sink_rate)
    for head in profile.top(k):
        place = head.layer, head.head
        copied = profile.copies[place].nonzero()[0]
        reach = f"{human_length(int(profile.distance[copied[-1]]))}+" if len(copied) else "-"
        others = [f"{rate[place]:.3f}" if rate[place] == rate[place] else "-" for rate in rates]
        table.add_row(str(head), f"{head.score:.3f}", Bar(head.score), reach, *others)
    return table
