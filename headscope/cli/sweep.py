"""`headscope sweep` and `headscope merge`: every checkpoint of a run into one file, on one machine or many."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from . import options, terminal
from .perplexity import read_corpora
from .score import progress_bar
from .tasks import recipe_of_tasks, tasks_of

if TYPE_CHECKING:
    from ..interp.perplexity import KeyTokens, Texts
    from ..interp.sweep import Checkpoint, Outcome, SweepResult

TEXTS = "Texts"
_ADDRESS = re.compile(r"auto|local|ray://\S+|[\w.-]+:\d+")
_RECIPE = re.compile(r"default|small|\S*\.json")
_ALONE = {"--ray": (_ADDRESS, "local"), "--sft-probe": (_RECIPE, "default")}


class WithRay(TyperCommand):
    """`--ray` takes an address or none, `--sft-probe` a recipe or none; what follows is one only when it looks so."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        following = [*args[1:], ""]
        args = [
            f"{arg}={_ALONE[arg][1]}" if arg in _ALONE and not _ALONE[arg][0].fullmatch(after) else arg
            for arg, after in zip(args, following, strict=True)
        ]
        return list(super().parse_args(ctx, args))


@options.spelled_out
def sweep(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="CKPT...",
            help="Folders, globs, a folder of checkpoints, .gguf files, org/name/folder@revision, pythia-70m@1000.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE.h5", help="HDF5 file of all checkpoints; shards go beside it."),
    ],
    probes: options.ProbesOption = "heads",
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...", help="Instead of --probes: tasks that every checkpoint also answers, as in evaluate."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", help="With --tasks, answers to draw beside the greedy one.")] = 0,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="With --tasks, of what is drawn.", rich_help_panel=options.RUN)
    ] = 1.0,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--perplexity-text",
            metavar="[NAME=]DIR|FILE",
            help="A corpus whose loss every checkpoint is measured by as well. Again for others.",
            rich_help_panel=TEXTS,
        ),
    ] = None,
    text_lengths: Annotated[
        str | None,
        typer.Option("--perplexity-lengths", metavar="1k,4k", help="Context lengths of these.", rich_help_panel=TEXTS),
    ] = None,
    key_tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="A frozen set of key tokens: also LongPPL.", rich_help_panel=TEXTS),
    ] = None,
    sft_probe: Annotated[
        str | None,
        typer.Option(
            metavar="[RECIPE]",
            help="With --tasks: also fine-tune every checkpoint (default, small or a .json file) and ask again.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Columns checkpoint,step,tokens_seen,stage, where names do not tell."),
    ] = None,
    built: options.ProbeOptions = options.BY_DEFAULT,
    sharing: options.SharingOption = options.Sharing.auto,
    generate: options.Generate = False,
    estimators: options.Estimators = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Spread over a Ray cluster: of this machine, or at ADDRESS.",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only part I of N, as shards; for job arrays, see merge.", rich_help_panel=options.RUN
        ),
    ] = None,
    replace_changed: Annotated[
        bool,
        typer.Option(
            "--replace-changed",
            help="Score again what has other weights now, or lacks an estimator.",
            rich_help_panel=options.RUN,
        ),
    ] = False,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    tokenizer: options.TokenizerOption = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Score every checkpoint of a training run on the same probes. Interrupt it when you like; run it again to go on.

    \b
    headscope sweep run/checkpoint-* -o run.h5
    headscope sweep run/ --probes grid --lengths 1k,2k,4k --depths 11 -o run.h5
    headscope sweep run/ --tasks ruler,mrcr --lengths 4k,8k -o run.h5     heads and answers of the same contexts
    headscope sweep run/ --perplexity-text books/ --perplexity-lengths 4k,32k -o run.h5
    headscope sweep run/ --tasks vt,mrcr_2 --lengths 512 --sft-probe -o run.h5     and again once fine-tuned
    headscope sweep run/ --table steps.csv -o run.h5      steps from a CSV
    headscope sweep run-8k/ run-32k/ -o run.h5            runs that follow each other, in this order
    headscope sweep run/ --ray -o run.h5                  one worker a GPU
    headscope sweep org/model@step1000 org/model@step2000 -o run.h5
    headscope sweep 'pythia-70m@*000' -o pythia.h5        TransformerLens labels

    Exit code 0: all checkpoints are in the file; 1: some failed, with their reasons; 2: nothing was begun.
    """
    wanted = options.read_estimators(estimators)
    if tasks is None:
        if samples or temperature != 1:
            raise options.bad(
                "--samples" if samples else "--temperature", "is for --tasks, which names what is answered"
            )
        if sft_probe is not None:
            raise options.bad("--sft-probe", "is for --tasks, which names what is asked before and after")
        source, recipe = built.source(probes), None if options.is_saved(probes) else built.recipe(probes)
    else:
        if probes != "heads":
            raise options.bad("--probes", f"got {probes!r} beside --tasks; give one of them (--tasks also takes sets)")
        if generate:
            raise options.bad("--generate", "lets the model answer, and so does --tasks; give one of them")
        options.at_least("--samples", samples, 0)
        options.a_temperature(temperature)
        source, recipe = tasks_of(tasks, built), recipe_of_tasks(tasks, built)
    share = read_part(only)
    if ray is not None and not _ADDRESS.fullmatch(ray):
        raise options.bad("--ray", f"got {ray!r}; give nothing, auto, host:port or ray://host:port")
    from ..interp.finetune import read_recipe
    from ..interp.sweep import Options, ProbeSource, find_checkpoints, run_sweep, stage_lines
    from ..interp.tasks import Drawing

    texts, keys = texts_of(text, text_lengths, key_tokens)
    drawing = None if tasks is None else Drawing(samples, temperature, built.seed)
    tuned = None if sft_probe is None else read_recipe(sft_probe)
    found = find_checkpoints(checkpoints, table)
    terminal.echo("\n".join([headline(found), *(f"  {line}" for line in stage_lines(found))]))
    chosen = Options(
        sharing.value,
        generate,
        wanted,
        tokenizer,
        dtype,
        device,
        trust_remote_code,
        allow_pickle,
        drawing,
        texts,
        keys,
        tuned,
    )
    try:
        with reporting() as (progress, told):
            result = run_sweep(
                found,
                ProbeSource(source, recipe),
                output,
                chosen,
                replace_changed=replace_changed,
                only=share,
                ray=ray,
                progress=progress,
                on_checkpoint=told,
            )
    except KeyboardInterrupt:
        terminal.echo(f"what is done is kept in {output}; the same command goes on from there", err=True)
        raise typer.Exit(130) from None
    conclude(result, output, share)


def texts_of(
    text: list[str] | None, lengths: str | None, key_tokens: Path | None
) -> tuple[Callable[[Any], Texts] | None, KeyTokens | None]:
    """What is to be read, as tokenizer -> texts, and its key tokens."""
    if text is None:
        if lengths is not None or key_tokens is not None:
            option = "--key-tokens" if lengths is None else "--perplexity-lengths"
            raise options.bad(option, "is for --perplexity-text, which names what is read")
        return None, None
    asked = options.read_lengths(lengths, "--perplexity-lengths")
    if asked is None:
        raise options.bad("--perplexity-lengths", "is missing; give context lengths, such as 1k,4k")
    corpora = read_corpora(text, "--perplexity-text")
    from ..interp.perplexity import KeyTokens, tokenise

    keys = None if key_tokens is None else KeyTokens.load(key_tokens)
    return lambda tokenizer: tokenise(corpora, tokenizer, asked), keys


def merge(
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD...", help="Results files, or the .shards folder of a sweep.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.h5", help="HDF5 file to write.")],
) -> None:
    """Put results files together in the order of their steps: the shards of a sweep, or any others of one run.

    \b
    headscope merge run.h5.shards -o run.h5
    headscope merge first-half.h5 second-half.h5 -o run.h5
    """
    from .. import merge as merge_files
    from ..interp.store import checkpoints

    failed = merge_files(shards, output)
    n = len(checkpoints(output))
    terminal.echo(f"{output}: {n} checkpoint{'s' if n != 1 else ''}")
    tell_failures(failed, {})


def read_part(text: str | None) -> tuple[int, int] | None:
    """ "2/8" -> (2, 8)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise options.bad("--only", f"got {text!r}; give a part and how many there are, such as 1/8 to 8/8")
    return int(match[1]), int(match[2])


def headline(found: list[Checkpoint]) -> str:
    n, first, last = len(found), found[0].step, found[-1].step
    if stages := len({checkpoint.stage for checkpoint in found}) - 1:
        return f"{n} checkpoints of {stages + 1} stages, in this order:"
    if n == 1:
        return f"1 checkpoint, step {first:,} ({found[0].told_by})"
    unit = " (millions of tokens)" if all(c.told_by == "millions of tokens" for c in found) else ""
    return f"{n} checkpoints, steps {first:,} to {last:,}{unit}"


@contextmanager
def reporting() -> Iterator[tuple[Callable[[int, int, str], None] | None, Callable[[Outcome, int, int], None] | None]]:
    """A bar on a terminal; elsewhere a line a checkpoint, with the time left."""
    with progress_bar() as progress:
        if progress is not None:
            yield progress, None
            return
        start = time.monotonic()

        def line(outcome: Outcome, done: int, total: int) -> None:
            from ..interp.sweep import outcome_line

            scores = outcome.scores
            words = f"failed: {outcome.reason}" if scores is None else outcome_line(scores)
            left = (time.monotonic() - start) / done * (total - done)
            then = f", about {duration(left)} left" if done < total else ""
            terminal.echo(f"[{done}/{total}] {outcome.checkpoint.place}: {words} ({duration(outcome.seconds)}{then})")
            sys.stdout.flush()

        yield None, line


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def conclude(result: SweepResult, output: Path, share: tuple[int, int] | None) -> None:

    from ..interp.store import beside
    from ..interp.sweep import summary_table

    if share is None and output.exists():
        console = terminal.console()
        console.print()
        console.print(summary_table(output))
        console.print()
    done, skipped = len(result.done), len(result.skipped)
    terminal.echo(f"{done} scored now, {skipped} before, {len(result.failed)} failed")
    if share is not None:
        shards = beside(output, "{}.shards")
        then = f"headscope merge {shards} -o {output}"
        terminal.echo(f"part {share[0]} of {share[1]} is in {shards}; when all are: {then}")
    elif output.exists():
        terminal.echo(f"Scores   {output}")
    tell_failures(result.failed, result.names)


def tell_failures(failed: dict[int, str], names: dict[int, str]) -> None:
    """Say what failed and why, and end with exit code 1 if anything did."""
    for step, reason in failed.items():
        name = f" ({names[step]})" if step in names else ""
        terminal.echo(f"failed: step {step}{name}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)
