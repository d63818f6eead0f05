"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from enum import StrEnum
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ..errors import ArgumentError
from ..interp.checkpoint_names import LARGEST_STEP
from ..interp.lengths import LengthError, parse_length
from ..probes import list_kinds
from .errors import UsageError

if TYPE_CHECKING:
    from ..probes import ProbeSet

BUILD = "Probes"
LOAD = "Model"
RUN = "Run"


if TYPE_CHECKING:

    class Kind(StrEnum): ...
else:
    Kind = StrEnum("Kind", {kind: kind for kind in list_kinds()})


class Sharing(StrEnum):
    auto = "auto"
    exact = "exact"
    grafted = "grafted"


ProbesOption = Annotated[
    str, typer.Option("--probes", metavar="SET|FILE.npz", help="A set by name (headscope probes list) or a saved one.")
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(metavar="PATH|ID", help="Tokenizer, when it does not lie beside the model.", rich_help_panel=LOAD),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of a hub model, such as step1000.", rich_help_panel=LOAD)
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=LOAD)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...", rich_help_panel=LOAD)]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Open pytorch_model.bin, which can run code.", rich_help_panel=LOAD),
]
SharingOption = Annotated[
    Sharing,
    typer.Option(
        "--sharing",
        help="How probes share prefills: grafted is fast, exact is the gold standard.",
        rich_help_panel=RUN,
    ),
]
Generate = Annotated[
    bool,
    typer.Option("--generate", help="Also let the model answer, for Wu et al.'s gated count.", rich_help_panel=RUN),
]
Estimators = Annotated[
    str | None,
    typer.Option(
        "--estimators",
        metavar="NAME,...",
        help="Which scores to compute, such as needle_mass; retrieval always is.",
        rich_help_panel=RUN,
    ),
]
Figures = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Also draw the figures, as PNG and SVG, into this folder.")
]
RemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that comes with the model.", rich_help_panel=LOAD)
]


HaystackOption = Annotated[
    str | None,
    typer.Option(metavar="DIR|noise", help="Folder of your own texts, or noise sentences.", rich_help_panel=BUILD),
]
QaFile = Annotated[
    list[str] | None,
    typer.Option(
        "--qa-file",
        metavar="FILE",
        help="ruler: SQuAD or HotpotQA as published, or JSON Lines of context, question, answers.",
        rich_help_panel=BUILD,
    ),
]
MrcrFile = Annotated[
    list[str] | None,
    typer.Option(
        "--mrcr-file",
        metavar="FILE",
        help="mrcr: OpenAI's Parquet, or JSON Lines with its fields.",
        rich_help_panel=BUILD,
    ),
]


@dataclass(frozen=True)
class ProbeOptions:
    """What is asked of a probe set by name, as it was typed; the options of every command that builds one."""

    lengths: Annotated[
        str | None,
        typer.Option(metavar="1k,2k,4k", help="Context lengths in tokens; 1k is 1024.", rich_help_panel=BUILD),
    ] = None
    depths: Annotated[
        str | None,
        typer.Option(
            metavar="N|0,0.5,1",
            help="How many evenly spaced needle depths, or which (0 is the start).",
            rich_help_panel=BUILD,
        ),
    ] = None
    needles: Annotated[int | None, typer.Option(help="Needles a cell.", rich_help_panel=BUILD)] = None
    seed: Annotated[int, typer.Option(help="Same seed, same probes, everywhere.", rich_help_panel=BUILD)] = 0
    kind: Annotated[Kind | None, typer.Option(help="What the needle says.", rich_help_panel=BUILD)] = None
    distractors: Annotated[
        int | None, typer.Option(help="With --kind biography, other people around each.", rich_help_panel=BUILD)
    ] = None
    distances: Annotated[
        str | None,
        typer.Option(metavar="1k,2k", help="In interference, tokens behind the needle.", rich_help_panel=BUILD),
    ] = None
    interferences: Annotated[
        str | None,
        typer.Option(metavar="1k,2k", help="In interference, tokens before the needle.", rich_help_panel=BUILD),
    ] = None
    haystack: HaystackOption = None
    chat: Annotated[
        bool, typer.Option("--chat", help="Wrap probes in the tokenizer's chat template.", rich_help_panel=BUILD)
    ] = False
    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="With --chat, a system prompt.", rich_help_panel=BUILD),
    ] = None
    template_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--template-arg",
            metavar="NAME=VALUE",
            help="With --chat, a variable for the template, such as reasoning_effort=low; the value as JSON or text.",
            rich_help_panel=BUILD,
        ),
    ] = None
    items: Annotated[
        int | None, typer.Option(help="Suites: probes of every task at every length.", rich_help_panel=BUILD)
    ] = None
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", metavar="NAME,...", help="Suites: some of its tasks (probes list SUITE).", rich_help_panel=BUILD
        ),
    ] = None
    qa_file: QaFile = None
    compat: Annotated[
        str | None,
        typer.Option("--compat", metavar="ruler", help="ruler: its own choices as well.", rich_help_panel=BUILD),
    ] = None
    wording: Annotated[
        str | None,
        typer.Option("--wording", metavar="openai|deepmind", help="mrcr: whose questions.", rich_help_panel=BUILD),
    ] = None
    mrcr_file: MrcrFile = None

    def source(self, name: str) -> Callable[[Any], ProbeSet]:
        """What --probes and these mean, checked as far as possible without a tokenizer: tokenizer -> ProbeSet."""
        at_least("--needles", self.needles, 1)
        at_least("--distractors", self.distractors, 1)
        at_least("--items", self.items, 1)
        given: dict[str, Any] = {
            "lengths": read_lengths(self.lengths),
            "distances": read_lengths(self.distances, "--distances"),
            "interferences": read_lengths(self.interferences, "--interferences"),
            "depths": read_depths(self.depths),
            "needles": self.needles,
            "kind": self.kind.value if self.kind else None,
            "distractors": self.distractors,
            "haystack": self.haystack,
            "chat": self.chat or None,
            "system": self.system,
            "template_args": read_template_args(self.template_arg),
            "items": self.items,
            "tasks": read_names(self.task),
            "qa_file": self.qa_file or None,
            "compat": self.compat,
            "wording": self.wording,
            "mrcr_file": self.mrcr_file or None,
        }
        given = {option: value for option, value in given.items() if value is not None}
        if not self.chat and (self.system is not None or self.template_arg):
            raise bad("--system" if self.system is not None else "--template-arg", "is for chat templates; add --chat")
        if is_saved(name):
            return _saved(Path(name), given)

        from .. import probes

        known = probes.list_sets()
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            sets = ", ".join(known)
            raise UsageError(f"no probe set or file is called {name!r}; {hint}sets: {sets}; or give a saved .npz file")
        check_haystack(self.haystack)
        return lambda tokenizer: probes.build(name, tokenizer, seed=self.seed, **given)

    def recipe(self, name: str) -> dict[str, Any]:
        """The same as JSON-able values: who asks for the same gets the same probes."""
        found = {"set": name, **asdict(self), "kind": self.kind and self.kind.value}
        chat = {"system": found.pop("system"), "template_args": found.pop("template_arg")}
        later = (
            "distractors",
            "distances",
            "interferences",
            "items",
            "task",
            "qa_file",
            "compat",
            "wording",
            "mrcr_file",
        )
        for option in later:  # there are runs that are older than these
            if not found[option]:
                del found[option]
        return found | chat if self.system is not None or self.template_arg else found


BY_DEFAULT = ProbeOptions()


def spelled_out(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose `ProbeOptions` typer sees as options of their own, in the place of that parameter."""
    of_command, of_probes = (get_type_hints(each, include_extras=True) for each in (command, ProbeOptions))
    (packed,) = (name for name, kind in of_command.items() if kind is ProbeOptions)

    @wraps(command)
    def run(**given: Any) -> None:
        asked = ProbeOptions(**{name: given.pop(name) for name in of_probes})
        command(**given, **{packed: asked})

    single = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=of_probes[field.name])
        for field in fields(ProbeOptions)
    ]
    parameters: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        plain = parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=of_command[name])
        parameters += single if name == packed else [plain]
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def bad(option: str, message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=option)


def at_least(option: str, value: float | None, least: int) -> None:
    if value is not None and not least <= value < float("inf"):
        raise bad(option, f"got {value}; give a number from {least} up")


def a_temperature(value: float) -> None:
    if not 0 < value < float("inf"):
        raise bad("--temperature", f"got {value}; give a number above 0 (the greedy answer always is there)")


def check_haystack(given: str | None) -> None:
    if given not in (None, "stdlib", "noise") and not Path(given).exists():
        raise bad("--haystack", f"{given} does not exist; give a folder of texts, a text file, or noise")


def a_step(option: str, value: int | None) -> None:
    if value is not None and not 0 <= value <= LARGEST_STEP:
        raise bad(option, f"got {value}; give an optimizer step from 0 to {LARGEST_STEP}")


def read_lengths(text: str | None, option: str = "--lengths") -> list[int] | None:
    """ "1k,2k" -> [1024, 2048]."""
    if text is None:
        return None
    try:
        return [parse_length(part) for part in text.split(",")]
    except LengthError as error:
        raise bad(option, f"{error}, separated by commas") from error


def read_names(given: list[str] | None) -> list[str] | None:
    """["vt,cwe", "fwe"] -> ["vt", "cwe", "fwe"]."""
    return [name.strip() for text in given for name in text.split(",")] if given else None


def read_depths(text: str | None) -> int | list[float] | None:
    """ "11" -> 11 evenly spaced depths; "0,0.5,1" or "0.5" -> those fractions of the context."""
    if text is None:
        return None
    accepted = "give how many (11), or fractions of the context from 0 to 1 (0,0.5,1)"
    try:
        if text.strip().isdecimal() and int(text) > 0:
            return int(text)
        depths = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise bad("--depths", f"cannot read {text!r}; {accepted}") from error
    if not all(0.0 <= depth <= 1.0 for depth in depths) or text.strip() == "0":
        raise bad("--depths", f"got {text!r}; {accepted}")
    return depths


def read_estimators(text: str | None) -> list[str] | None:
    """ "needle_mass, wu_count" -> ["needle_mass", "wu_count"], checked."""
    if text is None:
        return None
    from ..interp.estimators import choose

    names = [name.strip() for name in text.split(",")]
    try:
        choose(names)
    except ArgumentError as error:
        raise bad("--estimators", str(error).removeprefix("estimators: ")) from error
    return names


def read_template_args(given: list[str] | None) -> dict[str, Any] | None:
    """["enable_thinking=false", "effort=low"] -> {"enable_thinking": False, "effort": "low"}."""
    read: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise bad("--template-arg", f"cannot read {text!r}; give NAME=VALUE, such as enable_thinking=false")
        constant = value.strip().lower() in ("true", "false", "null")  # True and False as Python writes them, too
        try:
            read[name.strip()] = json.loads(value.lower() if constant else value)
        except ValueError:
            read[name.strip()] = value
    return read or None


def is_saved(name: str) -> bool:
    """Whether --probes names a file and not a set."""
    return Path(name).suffix == ".npz" or Path(name).is_file()


def _saved(path: Path, given: dict[str, Any]) -> Callable[[Any], ProbeSet]:
    from ..probes import ProbeSet

    if given:
        names = {"template_args": "template-arg", "tasks": "task", "qa_file": "qa-file", "mrcr_file": "mrcr-file"}
        given_options = ", ".join(f"--{names.get(option, option)}" for option in given)
        raise UsageError(f"{given_options}: {path} holds probes that are built already; leave it out, or name a set")
    saved = ProbeSet.load(path)
    return lambda tokenizer: saved
