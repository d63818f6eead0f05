"""The command line's one way to a terminal: names from files are shown, never obeyed (`printable`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from ..printable import LONGEST, printable

if TYPE_CHECKING:
    from rich.console import Console


def echo(text: str, *, err: bool = False) -> None:
    """Lines of plain text, each at most so long."""
    typer.echo("\n".join(printable(line, 2 * LONGEST) for line in text.split("\n")), err=err)


def console(*, stderr: bool = False) -> Console:
    """A rich console for tables, bars and coloured text. Markup in what it prints is text: it may hold [INST]."""
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Plain(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for part in super().render(renderable, options):
                # What rich itself tells the terminal is marked as such; all else is text.
                yield part if part.control else Segment(printable(part.text, 10 * LONGEST, keep="\n"), part.style)

    return Plain(highlight=False, markup=False, stderr=stderr)
