"""`headscope sft-probe`: a model answers before and after a light fine-tune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, terminal
from .score import check_output, load, progress_bar
from .tasks import tasks_of

if TYPE_CHECKING:
    from ..probes import ProbeSet

RUN, BUILD = options.RUN, options.BUILD
TASKS = "ruler/niah_multikey_2,ruler/niah_multiquery,vt,mrcr_2,longbio/pronoun,nolit/literal"

LENGTHS, ITEMS = "512", 48  # of these, where nothing is said


def sft_probe(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Local folder, hub id (org/name, org/name/folder) or .gguf file.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE.h5", help="HDF5 file to write, or to add to."),
    ],
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="default (LoRA), small (all weights of a small model), or a .json file.")
    ] = "default",
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Fine-tune N times, instead of as often as the recipe says.")
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="What is asked before and after, as in evaluate; none of it may be in the recipe.",
        ),
    ] = TASKS,
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
    seed: Annotated[int, typer.Option(help="Of the probes that are asked.", rich_help_panel=BUILD)] = 0,
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
    """Fine-tune a model lightly on tasks unlike those asked: what can it do, once it knows the form of the question?

    \b
    headscope sft-probe ./my-model -o run.h5                          six tasks, 48 items each
    headscope sft-probe ./my-model --recipe small --seeds 3 -o run.h5
    headscope sft-probe ./my-model --tasks ruler,longbio --lengths 4k --recipe mine.json -o run.h5

    The model's files are only read. After a kill the same command goes on, with the seed that was being trained.
    """
    options.a_step("--checkpoint", checkpoint)
    options.at_least("--tokens-seen", tokens_seen, 0)
    options.at_least("--seed", seed, 0)
    options.at_least("--seeds", seeds, 1)
    if tasks == TASKS:
        lengths, items = lengths or LENGTHS, items or ITEMS
    asked = options.ProbeOptions(
        lengths=lengths, items=items, haystack=haystack, chat=chat, seed=seed, qa_file=qa_file, mrcr_file=mrcr_file
    )
    source = tasks_of(tasks, asked)
    from ..interp.finetune import files_of, read_recipe
    from ..interp.store import check_takes_sft_probe, checkpoints
    from ..interp.unfinished import left_behind

    wanted = read_recipe(recipe, seeds)
    there = output.is_file() and checkpoint in checkpoints(output)
    if not there and not left_behind(output, checkpoint):
        check_output(output, checkpoint, force=False)

    def fits(probe_set: ProbeSet) -> None:
        from ..interp.engine import check_probes
        from ..interp.estimators import choose, spans_of

        check_probes(probe_set, "auto", spans_of(choose(None)))
        check_takes_sft_probe(output, checkpoint, wanted.hash, wanted.seeds, probe_set.hash)

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
    from .. import sft_probe as probed
    from ..interp.report import sft_notes, sft_table

    with progress_bar() as progress:
        found = probed(
            loaded,
            probe_set,
            recipe=wanted,
            output=output,
            checkpoint=checkpoint,
            tokens_seen=tokens_seen,
            files=files_of(model, loaded),
            progress=progress,
        )
    terminal.console().print(sft_table(found))
    terminal.echo("\n".join(["", *sft_notes(found)]))
    terminal.echo(f"Written  {output}, checkpoint {checkpoint}; headscope answers {output} shows what was said before")
