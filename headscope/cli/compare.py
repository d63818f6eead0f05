"""`headscope compare`: two runs side by side on identical probes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import options, terminal
from .errors import UsageError
from .score import working


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.h5", help="A results file.")],
    b: Annotated[Path, typer.Argument(metavar="B.h5", help="Another on the same probes, or the same file again.")],
    checkpoint: Annotated[
        int | None, typer.Option(metavar="STEP", help="Which checkpoint of A; the last that both have by default.")
    ] = None,
    with_checkpoint: Annotated[
        int | None, typer.Option(metavar="STEP", help="Which of B; the same step as of A by default.")
    ] = None,
    estimator: Annotated[str, typer.Option(metavar="NAME", help="Whose scores of the heads.")] = "retrieval",
    top: Annotated[int, typer.Option(metavar="K", help="Leading heads whose overlap is counted.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    figures: options.Figures = None,
) -> None:
    """What sets one run apart from another: data mixes, base and instruct, original and quantised, two checkpoints.

    On identical probes: rank agreement of the heads, changed heads at a false discovery rate, and NLL, exact match and
    scores of answers paired by item, with intervals over needles.

    \b
    headscope compare mix-a.h5 mix-b.h5                       the last checkpoint both have, and all common ones
    headscope compare base.h5 instruct.h5 --figures figures   heads of one against the other, changed ones named
    headscope compare run.h5 run.h5 --checkpoint 500 --with-checkpoint 4000
    """
    options.at_least("--top", top, 1)
    options.a_step("--checkpoint", checkpoint)
    options.a_step("--with-checkpoint", with_checkpoint)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures: {figures} is a file; give a folder")
    from .. import compare as comparison_of
    from ..interp.report import comparison_tables

    with working(f"comparing {a.name} and {b.name}"):
        found = comparison_of(
            a, b, checkpoint=checkpoint, with_checkpoint=with_checkpoint, estimator=estimator, top=top
        )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        terminal.console().print(comparison_tables(found))
    if figures is not None and found.heads is not None:
        from ..plot import save_comparison_figures

        paths = save_comparison_figures(found, figures)
        terminal.echo("\n" + "\n".join(f"Figure   {path}" for path in paths), err=as_json)
