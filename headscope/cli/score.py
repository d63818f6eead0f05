"""`headscope score`: load a model, build probes, score every head, save, show."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from . import options, terminal
from .errors import UsageError

if TYPE_CHECKING:
    from .. import HeadScores
    from ..errors import Unsaved
    from ..interp.model import LoadedModel
    from ..probes import ProbeSet

RUN = options.RUN
Asked = TypeVar("Asked")


@options.spelled_out
def score(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Local folder, hub id (org/name, org/name/folder) or .gguf file.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE.h5", help="HDF5 file to write, or to append a checkpoint to."),
    ],
    probes: options.ProbesOption = "heads",
    figures: options.Figures = None,
    built: options.ProbeOptions = options.BY_DEFAULT,
    sharing: options.SharingOption = options.Sharing.auto,
    check_sharing: Annotated[
        int,
        typer.Option(metavar="N", help="Run N probes exactly as well; report the difference.", rich_help_panel=RUN),
    ] = 0,
    generate: options.Generate = False,
    estimators: options.Estimators = None,
    checkpoint: Annotated[
        int, typer.Option(metavar="STEP", help="Optimizer step these weights are from.", rich_help_panel=RUN)
    ] = 0,
    tokens_seen: Annotated[
        float | None,
        typer.Option(metavar="X", help="Training tokens until then, such as 8.4e9.", rich_help_panel=RUN),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an existing file that holds a single checkpoint.", rich_help_panel=RUN),
    ] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    revision: options.Revision = None,
    tokenizer: options.TokenizerOption = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Score every attention head of a model: which ones copy from far away?

    \b
    headscope score ./my-model -o run.h5
    headscope score ./my-model --probes grid --lengths 1k,2k,4k --depths 11 --figures figures -o run.h5
    headscope score EleutherAI/pythia-1b --revision step1000 --checkpoint 1000 -o pythia.h5
    headscope score model.gguf --probes my-probes.npz -o run.h5
    """
    options.at_least("--check-sharing", check_sharing, 0)
    options.a_step("--checkpoint", checkpoint)
    options.at_least("--tokens-seen", tokens_seen, 0)
    asked = options.read_estimators(estimators)
    source = built.source(probes)
    check_output(output, checkpoint, force)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures: {figures} is a file; give a folder")

    def fits(probe_set: ProbeSet) -> None:
        from ..interp.engine import check_probes
        from ..interp.estimators import choose, spans_of

        check_probes(probe_set, sharing.value, spans_of(choose(asked)))
        if output.exists() and not force:
            check_same_probes(output, probe_set)

    loaded, probe_set = load(
        model,
        source,
        fits,
        tokenizer=tokenizer,
        revision=revision,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    from .. import score_heads
    from ..interp.store import runs_alone

    start = time.monotonic()
    with progress_bar() as progress:
        scores = score_heads(
            loaded,
            probe_set,
            sharing=sharing.value,
            check_sharing=check_sharing,
            generate=generate,
            estimators=asked,
            alone=None if force else runs_alone(output),
            progress=progress,
        )
    seconds = time.monotonic() - start
    unsaved = save(scores, output, checkpoint, tokens_seen, force)
    try:
        show(scores, seconds)
    finally:
        if unsaved is not None:
            raise unsaved
    lines = [f"Scores   {output}, checkpoint {checkpoint}"]
    if figures is not None:
        from ..plot import save_figures

        with working("drawing figures"):
            paths = save_figures(scores, figures)
        lines += [f"Figure   {path}" for path in paths if path.suffix == ".png"]
        lines.append(f"         and as .svg in {figures}")
    terminal.echo("\n" + "\n".join(lines))


def load(
    model: str,
    source: Callable[[Any], Asked],
    check: Callable[[Asked], None],
    *,
    tokenizer: str | None,
    revision: str | None,
    trust_remote_code: bool,
    building: str = "building probes",
    **rest: Any,
) -> tuple[LoadedModel, Asked]:
    """The model and its probes; the probes first, so that what is wrong with them is said before big weights load.

    So it is with texts, or whatever else `source` makes with a tokenizer.
    """
    from .. import load_model
    from ..errors import ModelError
    from ..interp.model import folder_weights, load_tokenizer

    arguments: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code, **rest}
    if tokenizer is None and model.endswith(".gguf"):
        # Everything is in one file; reading its vocabulary a second time would cost more than it saves.
        with working(f"loading {Path(model).name}"):
            loaded = load_model(model, **arguments)
        with working(building):
            asked = source(loaded.tokenizer)
        check(asked)
        return loaded, asked
    if model and Path(model).is_dir():
        folder_weights(Path(model), rest["allow_pickle"])  # a folder of something else is not asked for its tokenizer
    origin = f"{model}@{revision}" if revision and "@" not in model and not Path(model).exists() else model
    with working(building):
        try:
            chosen = load_tokenizer(tokenizer or origin, trust_remote_code=trust_remote_code)
        except ModelError as error:
            if tokenizer is not None:
                raise
            raise UsageError(re.sub("^tokenizer:", "MODEL:", str(error))) from error
        asked = source(chosen)
    check(asked)
    with working(f"loading {Path(model).name}"):
        return load_model(model, tokenizer=chosen, **arguments), asked


def check_output(path: Path, checkpoint: int, force: bool) -> None:
    """Raise, before any work is done, when the scores could not be written to `path` afterwards."""
    if path.is_dir():
        raise UsageError(f"-o: {path} is a folder; give a file in it, such as {path / 'run.h5'}")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise UsageError(f"-o: the folder {path.parent} does not exist; create it: mkdir -p {path.parent}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"-o: the folder {path.parent} is not writable; choose another place for {path.name}")
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"-o: {path} is read-only; make it writable, or choose another file")

    from ..interp.store import check_writable, checkpoints

    steps = checkpoints(path) if path.exists() else []  # a foreign or damaged file ends here, and is not touched
    if force and len(steps) > 1:
        raise UsageError(f"--force: {path} holds {len(steps)} checkpoints; delete it yourself if you mean it")
    if not force and steps and checkpoint <= steps[-1]:
        merge = "" if checkpoint in steps else " (`headscope merge` puts the two in order)"
        back = "" if checkpoint == steps[-1] else (
            f"; if training went back: python -c \"from headscope.interp.store import set_aside; "
            f"set_aside('{path}', {checkpoint})\" keeps the file as it was beside, and this one up to there"
        )  # fmt: skip
        raise UsageError(
            f"-o: {path} already holds checkpoint {steps[-1]}; append with --checkpoint {steps[-1] + 1} or later, "
            f"replace the file with --force, or choose another{merge}{back}"
        )
    check_writable(path)


def check_same_probes(path: Path, probes: ProbeSet) -> None:
    from .. import read_scores

    there = read_scores(path)
    if there.probe_set_hash != probes.hash:
        other = f"{there.probe_set_name!r} ({there.probe_set_hash[:12]})"
        raise UsageError(
            f"-o: {path} holds scores on the probe set {other}, and this one is {probes.name!r} ({probes.hash[:12]}); "
            "build it with the same options, seed, tokenizer and chat template (or once: headscope probes build, then "
            "--probes FILE.npz), or choose another file"
        )


def save(scores: HeadScores, path: Path, checkpoint: int, tokens_seen: float | None, force: bool) -> Unsaved | None:
    """Write the file; where that fails or is interrupted, the scores go elsewhere, and the error says where."""
    from ..interp import store

    try:
        if force and path.exists():
            store.write(path, [(checkpoint, tokens_seen, scores)])
        else:
            store.append(path, scores, checkpoint, tokens_seen)
    except (Exception, KeyboardInterrupt) as error:
        unsaved = store.rescue(scores, path, checkpoint, tokens_seen, error)
        unsaved.__cause__ = error
        return unsaved
    return None


def show(scores: HeadScores, seconds: float) -> None:
    from rich.text import Text

    from ..interp.report import facts, model_name, summary

    console = terminal.console()
    console.print(Text(model_name(scores), style="bold"))
    console.print(", ".join([*facts(scores), f"{seconds:.1f} s"]), style="dim")
    console.print()
    console.print(summary(scores))
    checked = scores.provenance.get("check_sharing")
    if checked:
        pearson, largest = ("-" if checked[x] is None else f"{checked[x]:.3f}" for x in ("pearson", "max_difference"))
        console.print(
            f"\nOf these, {checked['n_probes']} probes were run exactly as well: Pearson over heads {pearson}, largest "
            f"difference of a head {largest}, NLL {checked['nll_gap']:+.3f}"
        )


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner while something without a length runs; nothing where stderr is not a terminal."""

    console = terminal.console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar with the time left, fed by (done, total, what); None where stderr is not a terminal."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = terminal.console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield report
