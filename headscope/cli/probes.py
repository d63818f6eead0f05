"""`headscope probes`: which sets there are, one probe as the model reads it, and sets saved for later."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, terminal
from .errors import FrontDoor, UsageError
from .score import working

if TYPE_CHECKING:
    from rich.text import Text

app = typer.Typer(cls=FrontDoor, help="List, look at and save probe sets.", rich_markup_mode="rich")

Source = Annotated[str, typer.Argument(metavar="SET|FILE.npz", help="A set by name, or a saved one.")]
Tokenizer = Annotated[
    str,
    typer.Option("--tokenizer", "--model", metavar="PATH|ID", help="Whose tokenizer: a folder, .gguf file or hub id."),
]


@app.callback(invoke_without_command=True)
def front(context: typer.Context) -> None:
    """List, look at and save probe sets.

    \b
    headscope probes list
    headscope probes show grid 3 --tokenizer ./my-model --lengths 1k
    headscope probes build grid --tokenizer ./my-model --lengths 1k,2k,4k -o grid.npz
    headscope probes list ruler
    headscope probes build ruler --task vt,cwe --items 8 --tokenizer ./my-model -o ruler.npz
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("list")
def list_sets(
    suite: Annotated[str | None, typer.Argument(metavar="SUITE", help="A suite, for what tasks it has.")] = None,
) -> None:
    """The sets that can be built by name, or the tasks of one that is a suite."""
    from .. import probes

    known = probes.list_sets() if suite is None else probes.list_tasks(suite)
    width = max(map(len, known))
    for name, description in known.items():
        terminal.echo(f"{name:<{width}}  {description}")


@app.command()
@options.spelled_out
def show(
    probes: Source,
    tokenizer: Tokenizer,
    index: Annotated[int, typer.Argument(metavar="INDEX", help="Which probe of the set.")] = 0,
    built: options.ProbeOptions = options.BY_DEFAULT,
    trust_remote_code: options.RemoteCode = False,
) -> None:
    """One probe as the model reads it: the needle highlighted, the long haystack left out."""

    from ..interp.model import load_tokenizer
    from ..probes import show as marked

    source = built.source(probes)
    with working("building probes"):
        chosen = load_tokenizer(tokenizer, trust_remote_code=trust_remote_code)
        probe_set = source(chosen)
    if not 0 <= index < len(probe_set):
        raise UsageError(f"INDEX: {index} given, but {probes} has the probes 0 to {len(probe_set) - 1}")
    text = marked(probe_set[index], chosen)
    console = terminal.console()
    console.print(text if console.color_system else bracketed(text))


def bracketed(text: Text) -> str:
    """The text without colours, the needle between [[ and ]]."""
    marks = sorted((span.start, span.end) for span in text.spans if "on yellow" in str(span.style))
    plain = text.plain
    for start, end in reversed(marks):
        plain = f"{plain[:start]}[[{plain[start:end]}]]{plain[end:]}"
    return plain.replace("]][[", "")  # one needle, not a token each


@app.command()
@options.spelled_out
def build(
    probes: Annotated[str, typer.Argument(metavar="SET", help="A set by name.")],
    tokenizer: Tokenizer,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.npz", help="Where to save the set.")],
    built: options.ProbeOptions = options.BY_DEFAULT,
    trust_remote_code: options.RemoteCode = False,
) -> None:
    """Build a set for a tokenizer and save it, to score every checkpoint on the same probes."""
    from ..interp.model import load_tokenizer

    source = built.source(probes)
    if output.is_dir():
        raise UsageError(f"-o: {output} is a folder; give a file in it, such as {output / 'probes.npz'}")
    if not Path(os.path.realpath(output)).parent.is_dir():
        raise UsageError(f"-o: the folder {output.parent} does not exist; create it: mkdir -p {output.parent}")
    with working("building probes"):
        probe_set = source(load_tokenizer(tokenizer, trust_remote_code=trust_remote_code))
    probe_set.save(output)
    facts: dict[str, Any] = probe_set.summary()
    terminal.echo(f"{output}: {facts['n_probes']} probes, {facts['n_tokens']:,} tokens, hash {facts['hash']}")
