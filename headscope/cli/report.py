"""`headscope report`: a results file as one page, and as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import terminal
from .errors import UsageError
from .files import ResultsFile
from .score import working

if TYPE_CHECKING:
    from ..plot import Evolution


def report(
    file: ResultsFile,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.html", help="The page; run.html beside run.h5 by default."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw every figure, as PNG, SVG and PDF, into this folder.")
    ] = None,
    downstream: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[STEP=]FILE",
            help="Scores of benchmarks: a CSV with a column `step`; or RULER's summary.csv or lm-eval's "
            "results_*.json of every checkpoint, or a folder or glob of them. May be repeated.",
        ),
    ] = None,
) -> None:
    """How the heads changed from checkpoint to checkpoint, as one page that works offline.

    With --figures, every figure also as PNG, SVG and PDF; and with that alone, no page.

    \b
    headscope report run.h5
    headscope report run.h5 -o report.html --downstream ruler.csv
    headscope report run.h5 --downstream lm-eval/                  results_*.json in folders named after checkpoints
    headscope report run.h5 --downstream 1000=a/summary.csv --downstream 2000=b/summary.csv
    headscope report run.h5 --figures figures
    """
    if figures is not None and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures: {figures} is a file; give a folder")
    page = file.with_suffix(".html") if output is None and figures is None else output
    if page is not None:
        check_page(page, file)
    from ..plot import evolve

    with working(f"reading {file.name}"):
        evolution = evolve(file, downstream=downstream or None)
    lines = []
    if page is not None:
        from ..interp.report.page import write_report

        with working("writing the page"):
            write_report(evolution, page)
        lines.append(f"Report   {page}")
    if figures is not None:
        from ..plot import save_evolution_figures

        with working("drawing figures"):
            paths = save_evolution_figures(evolution, figures)
        lines += [f"Figure   {path}" for path in paths if path.suffix == ".png"]
        lines.append(f"         and as .svg and .pdf in {figures}")
    show(evolution)
    terminal.echo("\n".join(lines))


def check_page(page: Path, file: Path) -> None:
    """Raise, before any work is done, where the page could not be written afterwards."""
    from ..interp.store import target_path

    if page.is_dir():
        raise UsageError(f"-o: {page} is a folder; give a file in it, such as {page / file.with_suffix('.html').name}")
    target = target_path(page)
    if file.exists() and target == file.resolve():
        raise UsageError(
            f"-o: {page} is the results file itself; give another name, such as {file.with_suffix('.html')}"
        )


def show(evolution: Evolution) -> None:
    """The verdicts, in the terminal."""
    from rich.text import Text

    from ..interp.report import run_facts, run_name

    console = terminal.console()
    console.print(Text(run_name(evolution), style="bold"))
    console.print(", ".join(run_facts(evolution)), style="dim")
    console.print()
    for verdict in evolution.verdicts:
        console.print(Text.assemble((verdict.question, "dim"), "  ", (verdict.answer, "bold")))
        console.print(f"  {verdict.words}\n")
