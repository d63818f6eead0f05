"""The command line: `headscope COMMAND`, also `python -m headscope COMMAND`.

No logic lives here: commands read options, call the library, and print. Heavy imports wait until a command runs.
"""

from __future__ import annotations

import sys
from typing import Annotated

from ..interp.packages import MissingPackageError, need

try:
    need("typer", "the command line")
except MissingPackageError as error:
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(2) from None

import typer

from .. import __version__
from . import ablate, copying, evaluate, files, perplexity, probes, sft, sweep
from .agree import agree
from .best import best
from .compare import compare
from .errors import FrontDoor
from .report import report
from .score import score
from .terminal import echo

app = typer.Typer(
    cls=FrontDoor,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
app.command()(score)
app.command()(evaluate.evaluate)
app.command()(evaluate.answers)
app.command()(ablate.ablate)
app.command()(sft.sft_probe)
app.command(cls=sweep.WithRay)(sweep.sweep)
app.command()(sweep.merge)
app.command()(copying.copy_profile)
app.command()(perplexity.perplexity)
app.add_typer(probes.app, name="probes")
app.command()(agree)
app.command()(compare)
app.command()(best)
app.command()(report)
app.command()(files.validate)
app.command()(files.export)


@app.callback(invoke_without_command=True)
def front(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Which attention heads copy from far away, how well, and how that changes while a model is trained.

    \b
    headscope score ./my-model -o run.h5 --figures figures    which heads retrieve, in a few minutes
    headscope evaluate ./my-model --tasks ruler -o run.h5     what the model answers, and which heads found it
    headscope ablate run.h5 --model ./my-model                do its heads matter? beside random others
    headscope sft-probe ./my-model -o run.h5                  what it answers after a light fine-tune
    headscope sweep run/checkpoint-* -o run.h5                every checkpoint of a training run
    headscope probes list                                     what can be asked
    headscope probes show grid --tokenizer ./my-model         one probe, its needle highlighted
    headscope copy-profile ./my-model --text book.txt -o p.h5 what heads copy on a text of your own
    headscope perplexity ./my-model --text books/ --lengths 4k,32k     what texts cost it, near and far
    headscope agree run.h5                                    do ways of finding heads find the same ones
    headscope compare a.h5 b.h5                               what sets two runs apart, on identical probes
    headscope best run.h5                                     its best checkpoint, and what that is really worth
    headscope report run.h5                                   how heads changed over its checkpoints, as a page
    headscope export run.h5 --format csv                      the scores for other tools
    """
    if version:
        typer.echo(f"headscope {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def env() -> None:
    """Versions, devices and switches, to paste into a bug report."""
    from ..interp.environment import describe, format_report

    echo(format_report(describe()))


def main() -> None:
    """Run the command line on sys.argv; exits with 0, 2 for a user error, 130 when interrupted."""
    app(prog_name="headscope")
