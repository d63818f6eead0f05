"""`headscope perplexity`: the loss of a model on texts, by position and by length of context, and LongPPL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, terminal
from .errors import UsageError
from .score import load, progress_bar

if TYPE_CHECKING:
    from ..errors import Unsaved
    from ..interp.perplexity import KeyTokens, Perplexity, Texts

RUN = options.RUN
KEYS = "Key tokens"


def perplexity(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Local folder, hub id (org/name, org/name/folder) or .gguf file.")
    ],
    text: Annotated[
        list[str],
        typer.Option(
            "--text", metavar="[NAME=]DIR|FILE", help="A corpus: .txt, .md, .json(l), also .gz. Again for others."
        ),
    ],
    lengths: Annotated[str, typer.Option(metavar="1k,4k", help="Context lengths in tokens; 1k is 1024.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.h5", help="HDF5 file to write, beside scores or alone."),
    ] = None,
    stride: Annotated[
        str | None,
        typer.Option(metavar="16k", help="Windows every so many tokens; by default each text once, from its start."),
    ] = None,
    buckets: Annotated[
        str | None, typer.Option(metavar="1,1k,2k", help="Where ranges of positions begin; by default doublings.")
    ] = None,
    checkpoint: Annotated[
        int, typer.Option(metavar="STEP", help="Optimizer step these weights are from.", rich_help_panel=RUN)
    ] = 0,
    tokens_seen: Annotated[
        float | None,
        typer.Option(metavar="X", help="Training tokens until then, such as 8.4e9.", rich_help_panel=RUN),
    ] = None,
    key_tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="A frozen set of key tokens: also LongPPL.", rich_help_panel=KEYS),
    ] = None,
    find_key_tokens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Instead: find them with MODEL, the reference, and freeze them.",
            rich_help_panel=KEYS,
        ),
    ] = None,
    short: Annotated[
        str, typer.Option(metavar="4k", help="Context that key tokens do badly with.", rich_help_panel=KEYS)
    ] = "4k",
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    revision: options.Revision = None,
    tokenizer: options.TokenizerOption = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """What do texts cost a model, far into its context, and what is more context worth?

    \b
    headscope perplexity ./my-model --text books/ --text zh=chinese/ --lengths 1k,4k,32k -o run.h5
    headscope perplexity ./my-model --text books/ --lengths 32k --stride 16k
    headscope perplexity ./reference --text books/ --lengths 32k --find-key-tokens keys.json
    headscope perplexity ./my-model --text books/ --lengths 32k --key-tokens keys.json -o run.h5
    """
    options.a_step("--checkpoint", checkpoint)
    options.at_least("--tokens-seen", tokens_seen, 0)
    asked = options.read_lengths(lengths) or []
    starts = options.read_lengths(buckets, "--buckets")
    step = None if stride is None else one_length(stride, "--stride")
    short_context = one_length(short, "--short")
    corpora = read_corpora(text)
    if find_key_tokens is not None and (output or key_tokens or stride):
        raise UsageError(
            "--find-key-tokens writes its own file and reads whole texts; leave out -o, --key-tokens, --stride"
        )
    keys: KeyTokens | None = None
    if key_tokens is not None:
        from .. import KeyTokens

        keys = KeyTokens.load(key_tokens)
    if find_key_tokens is not None:
        from ..interp.store import check_writable

        check_writable(find_key_tokens, appends=False)

    def tokenised(tokenizer: Any) -> Texts:
        from ..interp.perplexity import tokenise

        return tokenise(corpora, tokenizer, asked, stride=step, buckets=starts)

    def fits(texts: Texts) -> None:
        from ..interp.store import check_takes_perplexity

        if keys is not None:
            keys.check(texts.documents)
        if output is not None:
            check_takes_perplexity(output, checkpoint, texts.hash, texts.tokenizer_fp)

    loaded, texts = load(
        model,
        tokenised,
        fits,
        building="reading texts",
        tokenizer=tokenizer,
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    if find_key_tokens is not None:
        from .. import find_key_tokens as found_in

        with progress_bar() as progress:
            frozen = found_in(loaded, texts, short=short_context, progress=progress)
        frozen.save(find_key_tokens)
        of = f"{len(frozen)} key tokens in {len(texts.documents)} texts"
        terminal.echo(f"{of}: surer by more than {frozen.alpha:g} nats than with the last {short_context} tokens alone")
        terminal.echo(f"Key tokens  {find_key_tokens}")
        return
    from .. import perplexity as measured

    with progress_bar() as progress:
        found = measured(loaded, texts, key_tokens=keys, progress=progress)
    unsaved = None if output is None else save(found, output, checkpoint, tokens_seen)
    try:
        show(found)
    finally:
        if unsaved is not None:
            raise unsaved
    if output is not None:
        terminal.echo(f"Perplexity  {output}, checkpoint {checkpoint}")


def show(found: Perplexity) -> None:
    from ..interp.report import perplexity_tables

    console = terminal.console()
    for title, table in perplexity_tables(found):
        console.print(title, style="bold")
        console.print(table)
        console.print()
    terminal.echo("Intervals: 95 %, over texts; with fewer than 12 of them there is none")


def save(found: Perplexity, path: Path, checkpoint: int, tokens_seen: float | None) -> Unsaved | None:
    """Write the file; where that fails or is interrupted, the perplexity goes elsewhere, and the error says where."""
    from ..errors import Unsaved
    from ..interp.store import save_elsewhere, unsaved_message

    def write(place: Path) -> None:
        found.save(place, checkpoint=checkpoint, tokens_seen=tokens_seen)

    try:
        write(path)
    except (Exception, KeyboardInterrupt) as error:
        rescued = save_elsewhere(path, write)
        then = "hs.Perplexity.load reads it, and its save() writes it where it belongs"
        unsaved = Unsaved(unsaved_message(path, error, rescued, "perplexity is", then), rescued)
        unsaved.__cause__ = error
        return unsaved
    return None


def one_length(text: str, option: str) -> int:
    """ "16k" -> 16384."""
    found = options.read_lengths(text, option) or []
    if len(found) != 1:
        raise options.bad(option, f"got {text!r}; give one length, such as 16k")
    return found[0]


def read_corpora(given: list[str], option: str = "--text") -> dict[str, Path]:
    """["books/", "zh=chinese/"] -> {"books": ..., "zh": ...}: a corpus without a name is called as its path is."""
    found: dict[str, Path] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not equals or Path(each).exists():
            name, path = Path(each).resolve().name.partition(".")[0], each
        if not name or not path or not Path(path).exists():
            raise options.bad(option, f"{path or each} does not exist; give a folder or file of texts, or NAME=PATH")
        if name in found:
            raise options.bad(option, f"two corpora are called {name!r}; name them: {name}2={path}")
        found[name] = Path(path)
    return found
