"""`headscope copy-profile`: what every head copies on a text of one's own, over all its rows."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..printable import NAME, printable
from . import options, terminal
from .errors import UsageError
from .score import progress_bar, working

if TYPE_CHECKING:
    from .. import CopyProfile
    from ..errors import Unsaved


def copy_profile(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Local folder, hub id (org/name, org/name/folder) or .gguf file.")
    ],
    text: Annotated[Path, typer.Option("--text", metavar="FILE", help="A text in UTF-8, the longer the better.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.h5", help="HDF5 file to write.")],
    figures: options.Figures = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    revision: options.Revision = None,
    tokenizer: options.TokenizerOption = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """How often does every head copy the next token from a text, and from how far back?

    \b
    headscope copy-profile ./my-model --text book.txt -o profile.h5 --figures figures
    """
    words = read_text(text)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures: {figures} is a file; give a folder")
    from ..interp.copying import check_target

    check_target(output)
    from .. import copy_profile as profile_of
    from .. import load_model

    with working(f"loading {Path(model).name}"):
        loaded = load_model(
            model,
            tokenizer=tokenizer,
            revision=revision,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )
    encode: Any = loaded.tokenizer  # load_model finds one or raises
    ids = encode(words, verbose=False)["input_ids"]
    if len(ids) < 2:
        raise UsageError(f"--text: {text} is {len(ids)} tokens; give a longer text")
    with progress_bar() as progress:
        profile = profile_of(loaded, ids, progress=progress)
    unsaved = save(profile, output)
    try:
        show(profile)
    finally:
        if unsaved is not None:
            raise unsaved
    lines = [f"Profile  {output}"]
    if figures is not None:
        from ..plot import save_copy_figures

        with working("drawing figures"):
            paths = save_copy_figures(profile, figures)
        lines += [f"Figure   {path}" for path in paths if path.suffix == ".png"]
        lines.append(f"         and as .svg in {figures}")
    terminal.echo("\n" + "\n".join(lines))


def save(profile: CopyProfile, path: Path) -> Unsaved | None:
    """Write the file; where that fails or is interrupted, the profile goes elsewhere, and the error says where."""
    from ..errors import Unsaved
    from ..interp.store import save_elsewhere, unsaved_message

    try:
        profile.save(path)
    except (Exception, KeyboardInterrupt) as error:
        rescued = save_elsewhere(path, profile.save)
        then = f"mv {shlex.quote(str(rescued))} {shlex.quote(str(path))}"
        unsaved = Unsaved(unsaved_message(path, error, rescued, "profile is", then), rescued)
        unsaved.__cause__ = error
        return unsaved
    return None


def read_text(path: Path) -> str:
    if path.is_dir():
        raise UsageError(f"--text: {path} is a folder; give a text file")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"--text: {path} is not UTF-8 (byte {error.start}); convert it: iconv -t UTF-8") from error


def show(profile: CopyProfile) -> None:

    from ..interp.report import copy_table

    console = terminal.console()
    console.print(printable(profile.model_id, NAME), style="bold")
    size = f"{profile.n_layers} layers x {profile.n_heads} heads ({profile.n_kv_heads} KV)"
    console.print(f"{profile.n_tokens:,} tokens, {size}", style="dim")
    console.print()
    console.print(copy_table(profile))
