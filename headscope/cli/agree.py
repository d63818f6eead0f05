"""`headscope agree`: do ways of finding heads find the same ones?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options, terminal
from .errors import UsageError
from .files import ResultsFile
from .score import working


def agree(
    file: ResultsFile,
    by: Annotated[
        str,
        typer.Option(
            metavar="estimator|COLUMN",
            help="Compare estimators, or groups of probes: length, family, variant, needle_id, ...",
        ),
    ] = "estimator",
    estimator: Annotated[
        str, typer.Option(metavar="NAME", help="Whose scores, where groups are compared.")
    ] = "retrieval",
    lists: Annotated[
        list[Path] | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="A published list of its heads: Retrieval_Head JSON, DuoAttention TSV, QRHead. May be repeated.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(metavar="K", help="Leading heads whose overlap is counted.")] = 10,
    checkpoint: Annotated[
        int | None, typer.Option(metavar="STEP", help="Which checkpoint of the file; the last by default.")
    ] = None,
    figures: options.Figures = None,
) -> None:
    """Do ways of finding heads find the same ones? Rank agreement, with intervals over needles.

    \b
    headscope score ./my-model --probes grid --needles 16 --estimators all -o run.h5
    headscope agree run.h5                                    estimators against each other
    headscope agree run.h5 --by length                        the same score at different lengths
    headscope agree run.h5 --list head_score/my-model.json    against a published list
    """
    options.at_least("--top", top, 1)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures: {figures} is a file; give a folder")
    from .. import agree as agreement_of
    from ..interp.report import agreement_tables

    with working(f"comparing the heads of {file.name}"):
        found = agreement_of(file, checkpoint=checkpoint, by=by, estimator=estimator, lists=lists or (), top=top)
    console = terminal.console()
    console.print(agreement_tables(found))
    if figures is not None and len(found.names) > 1:
        from ..plot import save_agreement_figures

        paths = save_agreement_figures(found, figures)
        terminal.echo("\n" + "\n".join(f"Figure   {path}" for path in paths))
