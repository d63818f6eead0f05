"""`headscope validate` and `headscope export`: what to do with a results file."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..printable import printable
from . import terminal
from .errors import UsageError
from .options import at_least

ResultsFile = Annotated[Path, typer.Argument(metavar="FILE.h5", help="A file that headscope score wrote.")]


def validate(file: ResultsFile) -> None:
    """Check a results file; say what is wrong with it, or what it holds."""
    from ..interp.store import checkpoints
    from ..interp.store import validate as problems_of

    problems = problems_of(file)
    for problem in problems:
        terminal.echo(f"error: {problem}", err=True)
    if problems:
        raise typer.Exit(2)
    steps = checkpoints(file)
    terminal.echo(f"{file} is in order: {len(steps)} checkpoint{'s' if len(steps) != 1 else ''}")


class Format(StrEnum):
    retrieval_head = "retrieval-head"
    duo_attention = "duo-attention"
    qrhead = "qrhead"
    csv = "csv"
    parquet = "parquet"


_PYTHON_NAMES = {
    Format.retrieval_head: "retrieval_head_json",
    Format.duo_attention: "duo_attention_tsv",
    Format.qrhead: "qrhead_string",
}


def export(
    file: ResultsFile,
    format: Annotated[Format, typer.Option(help="For which tool.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to; without it, to the terminal.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="qrhead: the N best heads, not those above 0.1 and chance.")
    ] = None,
    checkpoint: Annotated[
        int | None, typer.Option(metavar="STEP", help="Which checkpoint: the last by default; csv, parquet: all.")
    ] = None,
) -> None:
    """Write scores for other tools: Retrieval_Head, DuoAttention, QRHead, or as a table.

    \b
    headscope export run.h5 --format csv > heads.csv
    headscope export run.h5 --format duo-attention -o full_attention_heads.tsv
    """
    from .. import export as write
    from ..interp.store import render

    at_least("--top", top, 1)
    if top is not None and format is not Format.qrhead:
        raise UsageError(f"--top belongs to --format qrhead; {format.value} holds every head")
    if output is None and format is Format.parquet:
        raise UsageError("--format parquet is binary; say where to write it: -o heads.parquet")
    name = _PYTHON_NAMES.get(format, format.value)
    if output is None:
        content = render(file, name, checkpoint=checkpoint, top=top)
        if isinstance(content, str) and sys.stdout.isatty():
            content = printable(content, len(content), keep="\n\t")
        typer.echo(content, nl=isinstance(content, str) and not content.endswith("\n"))
        return
    write(file, name, output, checkpoint=checkpoint, top=top)
    terminal.echo(f"{output}: {format.value}")
