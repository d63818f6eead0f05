"""`headscope best`: which checkpoint is best, and what it is worth on needles that did not choose it."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from . import terminal
from .files import ResultsFile
from .score import working


def best(
    file: ResultsFile,
    by: Annotated[
        str,
        typer.Option(metavar="MEASURE", help="nll_novel, nll, nll_echo, nll_first, exact_match, answers or heads."),
    ] = "nll_novel",
) -> None:
    """Which checkpoint is best, and what it is worth without the luck that made it look so.

    It is chosen on one half of the needles and reported on the other, in many random halves.

    \b
    headscope best run.h5                     by the NLL of what only the needle says
    headscope best run.h5 --by answers        by the scores of its answers
    """
    from ..interp.analysis import answers_by_position, choose_checkpoint, read_trajectory

    with working(f"choosing among the checkpoints of {file.name}"):
        run = read_trajectory(file)
        found = choose_checkpoint(run, by, answers=answers_by_position(file, run))
    terminal.echo(found.words)
    order = [place for place in np.argsort(-found.chosen, kind="stable").tolist() if found.chosen[place] > 0]
    shares = ", ".join(f"{run.name(place)} {found.chosen[place]:.0%}" for place in order[:6])
    terminal.echo(f"Halves of {found.n_needles} needles chose: {shares}{', ...' if len(order) > 6 else ''}")
