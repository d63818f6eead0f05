"""`headscope ablate`: do the heads of a results file matter?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, terminal
from .errors import UsageError
from .files import ResultsFile
from .score import load, progress_bar, working

if TYPE_CHECKING:
    from .. import HeadScores
    from ..interp.ablation import Ablation
    from ..probes import ProbeSet

RUN = options.RUN


class Mode(StrEnum):
    zero = "zero"
    mean = "mean"
    resample = "resample"
    needle_only = "needle_only"
    from_needle = "from_needle"


@options.spelled_out
def ablate(
    file: ResultsFile,
    model: Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="The model that was scored.")],
    top: Annotated[
        str | None, typer.Option(metavar="1,2,5", help="How many leading heads at a time; by default 1,2,5,10,20.")
    ] = None,
    controls: Annotated[int, typer.Option(metavar="N", help="Random sets beside each of these, of either kind.")] = 20,
    mode: Annotated[
        Mode, typer.Option(help="What becomes of a head's output; needle_only: it cannot see the needle.")
    ] = Mode.zero,
    rows: Annotated[
        str,
        typer.Option(metavar="PART,...", help="Where: answer, question, context, or all. With context: slow."),
    ] = "answer",
    each: Annotated[
        int | None, typer.Option(metavar="N", help="Leading heads to change one by one; by default the most of --top.")
    ] = None,
    kv_groups: Annotated[bool, typer.Option("--kv-groups", help="All heads of a key-value head at once.")] = False,
    answers: Annotated[bool, typer.Option("--answers", help="Also let the model answer by itself.")] = False,
    figures: options.Figures = None,
    probes: Annotated[
        str | None,
        typer.Option(
            "--probes",
            metavar="SET|FILE.npz",
            help="As the file was scored with; by default what its sweep has kept, or heads.",
        ),
    ] = None,
    built: options.ProbeOptions = options.BY_DEFAULT,
    checkpoint: Annotated[
        int | None,
        typer.Option(metavar="STEP", help="Which one the model is: by default the last.", rich_help_panel=RUN),
    ] = None,
    sharing: options.SharingOption = options.Sharing.auto,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    revision: options.Revision = None,
    tokenizer: options.TokenizerOption = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.AllowPickle = False,
) -> None:
    """Do these heads matter? Change the leading ones, and random others, and see whether the model still retrieves.

    Heads are chosen on half of the needles and measured on the other half. The results go into the file.

    \b
    headscope ablate run.h5 --model ./my-model --top 1,2,5,10,20 --controls 20
    headscope ablate run.h5 --model ./my-model --mode needle_only --kv-groups
    """
    sizes = read_top(top)
    options.at_least("--controls", controls, 0)
    options.at_least("--each", each, 0)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures: {figures} is a file; give a folder")
    from ..interp.causal import check_asked
    from ..interp.store import beside, check_takes_ablation, checkpoints, read_scores

    steps = checkpoints(file)
    step = steps[-1] if checkpoint is None else checkpoint
    scores = read_scores(file, step)
    parts = check_asked(mode.value, rows, answers=answers, controls=controls, top=sizes, each=each)
    how = {"mode": mode.value, "rows": " ".join(parts), "unit": "kv_group" if kv_groups else "head"}
    check_takes_ablation(file, step, **how)
    kept = beside(file, "{}.shards") / "probes.npz"
    source = built.source(str(kept) if probes is None and kept.is_file() else probes or "heads")

    def fits(probe_set: ProbeSet) -> None:
        if probe_set.hash != scores.probe_set_hash and not {p.needle_id for p in probe_set} - {
            *scores.probes["needle_id"]
        }:
            raise UsageError(
                f"--probes: {file} was scored on {scores.probe_set_name!r} ({scores.probe_set_hash[:12]}), and this is "
                f"{probe_set.name!r} ({probe_set.hash[:12]}); build it with the same options, or give other needles"
            )

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
    from .. import ablate as ablated

    with progress_bar() as progress:
        found = ablated(
            loaded,
            probe_set,
            scores,
            mode=mode.value,
            rows=rows,
            top=sizes,
            controls=controls,
            each=each,
            kv_groups=kv_groups,
            answers=answers,
            sharing=sharing.value,
            alone=scores.provenance.get("sharing") == "alone" or None,
            seed=built.seed,
            progress=progress,
        )
    show(found)
    save(found, file, step, scores)
    lines = [f"Ablation {file}, checkpoint {step}"]
    if figures is not None:
        from ..plot import save_ablation_figures

        with working("drawing figures"):
            paths = save_ablation_figures(found, figures)
        lines += [f"Figure   {path}" for path in paths if path.suffix == ".png"]
    terminal.echo("\n" + "\n".join(lines))


def save(found: Ablation, file: Path, step: int, scores: HeadScores) -> None:
    """Into the file; where that fails or is interrupted, elsewhere with the scores, and the error says where."""
    from ..interp.store import Beside, rescue

    try:
        found.save(file, checkpoint=step)
    except (Exception, KeyboardInterrupt) as error:
        raise rescue(scores, file, step, None, error, more=Beside(ablation=found)) from error


def read_top(text: str | None) -> list[int] | None:
    """ "1,2,5" -> [1, 2, 5]."""
    if text is None:
        return None
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise options.bad("--top", f"cannot read {text!r}; give numbers of heads, such as 1,2,5,10") from error
    if min(sizes) < 1:
        raise options.bad("--top", f"got {text!r}; give numbers from 1 on")
    return sizes


def show(found: Ablation) -> None:
    from rich.text import Text

    from ..interp.report import dose_table, effect_table

    console = terminal.console()
    what: dict[str, Any] = {"head": "heads", "kv_group": "groups of heads with one key-value head"}
    console.print(Text(f"{found.model_id}: {found.mode} in the rows of {', '.join(found.rows)}", style="bold"))
    needles = len({*found.probes["needle_id"].tolist()})
    console.print(f"{what[found.unit]}, {len(found)} probes of {needles} needles that did not choose them", style="dim")
    console.print()
    console.print(dose_table(found))
    if found.of("one"):
        console.print()
        console.print(effect_table(found))
