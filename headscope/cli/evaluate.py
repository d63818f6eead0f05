"""`headscope evaluate` and `headscope answers`: a model answers, and what it said is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, terminal
from .errors import UsageError
from .files import ResultsFile
from .score import check_output, load, progress_bar
from .tasks import tasks_of

if TYPE_CHECKING:
    from ..probes import ProbeSet

RUN, BUILD = options.RUN, options.BUILD


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Local folder, hub id (org/name, org/name/folder) or .gguf file.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE.h5", help="HDF5 file to write, or to append a checkpoint to."),
    ],
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Suites (ruler), tasks (vt, ruler/vt, niah for all niah_*), sets, saved .npz files.",
        ),
    ] = "ruler",
    lengths: Annotated[
        str | None,
        typer.Option(metavar="4k,8k", help="Context lengths in tokens; 1k is 1024.", rich_help_panel=BUILD),
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="Probes of every task at every length.", rich_help_panel=BUILD)
    ] = None,
    haystack: options.HaystackOption = None,
    qa_file: options.QaFile = None,
    mrcr_file: options.MrcrFile = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Wrap probes in the tokenizer's chat template.", rich_help_panel=BUILD)
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the probes, and of what is drawn.", rich_help_panel=BUILD)] = 0,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Answers to draw beside the greedy one; pass@3 needs 3.")
    ] = 0,
    temperature: Annotated[float, typer.Option(metavar="T", help="Of what is drawn.", rich_help_panel=RUN)] = 1.0,
    sharing: options.SharingOption = options.Sharing.auto,
    no_heads: Annotated[
        bool,
        typer.Option("--no-heads", help="Answers only, for a checkpoint that has its scores.", rich_help_panel=RUN),
    ] = False,
    checkpoint: Annotated[
        int, typer.Option(metavar="STEP", help="Optimizer step these weights are from.", rich_help_panel=RUN)
    ] = 0,
    tokens_seen: Annotated[
        float | None,
        typer.Option(metavar="X", help="Training tokens until then, such as 8.4e9.", rich_help_panel=RUN),
    ] = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    revision: options.Revision = None,
    tokenizer: options.TokenizerOption = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Let a model answer tasks: what does it say, and what did its heads do in the same contexts?

    \b
    headscope evaluate ./my-model --tasks ruler,mrcr,longbio --lengths 4k,8k -o run.h5
    headscope evaluate ./my-model --tasks niah_single_1,vt --items 20 --samples 3 -o run.h5
    headscope answers run.h5 --wrong
    """
    options.a_step("--checkpoint", checkpoint)
    options.at_least("--tokens-seen", tokens_seen, 0)
    options.at_least("--samples", samples, 0)
    options.at_least("--seed", seed, 0)
    options.a_temperature(temperature)
    asked = options.ProbeOptions(
        lengths=lengths, items=items, haystack=haystack, chat=chat, seed=seed, qa_file=qa_file, mrcr_file=mrcr_file
    )
    source = tasks_of(tasks, asked)
    from ..interp.unfinished import left_behind

    if not no_heads and not left_behind(output, checkpoint):
        check_output(output, checkpoint, force=False)

    def fits(probe_set: ProbeSet) -> None:
        from ..interp.engine import check_probes
        from ..interp.estimators import choose, spans_of
        from ..interp.store import check_takes

        check_probes(probe_set, sharing.value, spans_of(choose(None)))
        if not left_behind(output, checkpoint):  # else `evaluate` sees whether it is what this command has saved
            check_takes(output, checkpoint, probe_set.hash, samples=samples, scores=not no_heads)

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
    from .. import evaluate as answered
    from ..interp.report import task_table

    with progress_bar() as progress:
        answers = answered(
            loaded,
            probe_set,
            samples=samples,
            temperature=temperature,
            seed=seed,
            sharing=sharing.value,
            heads=not no_heads,
            output=output,
            checkpoint=checkpoint,
            tokens_seen=tokens_seen,
            progress=progress,
        )
    terminal.console().print(task_table(answers))
    terminal.echo(
        f"\nAnswers  {output}, checkpoint {checkpoint}; headscope answers {output} --wrong shows what was said"
    )


def answers(
    file: ResultsFile,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only what is not wholly right.")] = False,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="Only this task.")] = None,
    checkpoint: Annotated[
        int | None, typer.Option(metavar="STEP", help="Which checkpoint: by default the last that has answers.")
    ] = None,
) -> None:
    """What a model was asked, what is right, what it said, and which wrong answer of the context that is.

    \b
    headscope answers run.h5 --wrong
    headscope answers run.h5 --task vt --checkpoint 2000
    """
    from difflib import get_close_matches

    from .. import Answers
    from ..interp.report import answer_lines

    found = Answers.load(file, checkpoint)
    known = list(dict.fromkeys(found.probes["task"].tolist()))
    if task is not None and task not in known:
        near = get_close_matches(task, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"--task: {file} has no answers to {task!r}; {hint}it has {', '.join(known)}")
    frame = found.wrong() if wrong else found.to_dataframe()
    if task is not None:
        frame = frame[frame["task"] == task]
    asked = len(found) if task is None else known and int((found.probes["task"] == task).sum())
    for line in answer_lines(frame):
        terminal.echo(line)
    terminal.echo(f"{len(frame)} of {asked} answers" + (" are not wholly right" if wrong else ""))
