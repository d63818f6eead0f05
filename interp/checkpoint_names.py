"""Step, training tokens and stage of a checkpoint, from its name or from the trainer's state beside its weights.

And what a model is called in a file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PureWindowsPath

from ..errors import ArgumentError

LARGEST_STEP = 2**31 - 1
LARGEST_STATE = 2**28  # bytes of a trainer's state; a log of a million steps has less
MILLION = 1_000_000

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
# checkpoint-2000, ckpt_2000, step1000, global_step500, iter_0001000, epoch=1-step=300; but not step5k or step1.5.
_STEP = re.compile(
    r"(?<![a-z])(?:(?:global[-_]?)?step|checkpoint|ckpt|iter(?:ation)?)[-_=]?(\d+)(?![\da-z]|\.\d)", re.I
)
_NUMBER = re.compile(r"\d+")
_AMOUNT = r"(\d+(?:\.\d+)?)([KMBT]?)"
_TOKENS = (
    re.compile(rf"(?<![a-z])tok(?:en)?s?[-_=]?{_AMOUNT}(?![\da-z])", re.I),
    re.compile(rf"(?<![\da-z.]){_AMOUNT}[-_]?tok(?:en)?s?(?![a-z])", re.I),
)
_NUMBERED = re.compile(r"(?<![a-z])([a-z]{2,})[-_= ]?(\d+)(?![\da-z]|\.\d)", re.I)
_LENGTH = re.compile(r"(?<![\da-z.])(\d+)([KM])(?![\da-z])", re.I)
_MEASURED = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+", re.I)
# What differs between the checkpoints of one stage: how far it is, how good, in which form, and which is the last.
_NO_STAGE = {
    *("epoch", "epochs", "ep", "e", "batch", "sample", "samples", "seen", "time", "hours"),
    *("loss", "val", "train", "eval", "acc", "accuracy", "ppl", "score", "metric", "grad", "norm"),
    *("hf", "unsharded", "merged", "converted", "consolidated", "ema", "fp", "bf", "float", "bfloat", "model"),
    *("final", "last", "latest", "best", "end"),
}
STAGE_WORDS = ("stage", "phase", "part", "round", "cycle")
BRANCH_WORDS = ("ingredient", "seed", "branch", "fork", "replica", "trial", "variant")


def model_name(name: str) -> str:
    """A hub id as it is, of a path its last part: files are for sharing, and do not tell where they were made.

    A folder of the hub's cache is called by its hub id.
    """
    path = PureWindowsPath(name) if PureWindowsPath(name).drive else Path(name)
    if not path.is_absolute() and not name.startswith((".", "~")):
        return name
    for at, part in enumerate(path.parts):
        if part.startswith("models--") and path.parts[at + 1 : at + 2] == ("snapshots",):
            return "/".join([*part.split("--")[1:], *path.parts[at + 3 :]])
    return path.name or name


def local_model_name(name: str) -> str:
    """The same on the machine where the model lies: there a relative path can be told from a hub id."""
    return model_name(str(Path(name).resolve())) if name and Path(name).exists() else model_name(name)


def steps_in(name: str) -> set[int]:
    """Every step that a name tells; a name that is nothing but a number is one."""
    if _NUMBER.fullmatch(name):
        return {int(name)}
    return {int(match[1]) for match in _STEP.finditer(name)}


def tokens_in(name: str) -> float | None:
    """Training tokens that a name tells: "step1000-tokens4B", "20B-tokens", or "20B" and nothing else."""
    amounts = [match for pattern in _TOKENS for match in pattern.finditer(name)]
    if not amounts and (whole := re.fullmatch(_AMOUNT, name, re.I)) and whole[2]:
        amounts = [whole]
    found = {float(amount[1]) * _UNITS[amount[2].upper()] for amount in amounts}
    return found.pop() if len(found) == 1 else None


def stage_in(name: str) -> str:
    """What a name says beside step and tokens, "stage2-ingredient1"; "" when that tells no stage from another."""
    rest = name if not (_NUMBER.fullmatch(name) or re.fullmatch(_AMOUNT, name, re.I)) else ""
    for pattern in (_STEP, *_TOKENS):
        rest = pattern.sub("", rest)
    rest = re.sub(r"[-_=+., ]*([-_=+., ])[-_=+., ]*", r"\1", rest).strip("-_=+., ")
    return rest if any(stage_key(rest)) else ""


def stage_key(label: str) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...], tuple[float, ...]]:
    """What two labels of one stage have in common: words, numbered words and context lengths."""
    label = _MEASURED.sub("", label)
    words = re.split(r"[^a-z]+", re.sub(r"[a-z]*\d[\da-z]*", " ", label.lower()))
    return tuple(word for word in words if word and word not in _NO_STAGE), tuple(numbered(label)), lengths(label)[0]


def numbered(text: str) -> list[tuple[str, int]]:
    """Every word with its number, in order: "stage2-ingredient1" -> [("stage", 2), ("ingredient", 1)]."""
    found = [(match[1].lower(), int(match[2])) for match in _NUMBERED.finditer(text)]
    return [pair for pair in found if pair[0] not in _NO_STAGE]


def lengths(text: str) -> tuple[tuple[float, ...], str]:
    """Context lengths in order, and the text without them: "lc-4k-to-32k" -> (4000, 32000), "lc-#-to-#"."""
    found = tuple(float(match[1]) * _UNITS[match[2].upper()] for match in _LENGTH.finditer(text))
    return found, _LENGTH.sub("#", text).lower()


def step_of_tokens(tokens: float) -> int | None:
    """The number that stands for a step where only tokens are told: millions of tokens, when these are whole."""
    millions = tokens / MILLION
    return int(millions) if millions == int(millions) else None


def read_amount(text: str) -> float:
    """ "8.4e9" and "20B" as a number of tokens. Raises ValueError."""
    match = re.fullmatch(_AMOUNT, text.strip(), re.I)
    value = float(match[1]) * _UNITS[match[2].upper()] if match else float(text)
    if not 0 <= value < float("inf"):
        raise ArgumentError(f"{text!r} is no number of tokens")
    return value


def trainer_state(folder: Path) -> tuple[int | None, float | None]:
    """global_step and num_input_tokens_seen of the trainer_state.json in a folder; None where it does not tell."""
    try:
        file = folder / "trainer_state.json"
        if not file.is_file() or file.stat().st_size > LARGEST_STATE:
            return None, None
        state = json.loads(file.read_text(encoding="utf-8"))
        step, tokens = state.get("global_step"), state.get("num_input_tokens_seen")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None, None
    # The trainer writes 0 tokens when it was not asked to count them.
    counted = isinstance(tokens, int | float) and (tokens > 0 or step == 0)
    return (step if isinstance(step, int) and step >= 0 else None), (float(tokens) if counted else None)
