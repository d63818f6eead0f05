"""Step and training tokens of a checkpoint, from its name or from the trainer's state beside its weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

LARGEST_STEP = 2**31 - 1
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


def step_of_tokens(tokens: float) -> int | None:
    """The number that stands for a step where only tokens are told: millions of tokens, when these are whole."""
    millions = tokens / MILLION
    return int(millions) if millions == int(millions) else None


def read_amount(text: str) -> float:
    """ "8.4e9" and "20B" as a number of tokens. Raises ValueError."""
    match = re.fullmatch(_AMOUNT, text.strip(), re.I)
    value = float(match[1]) * _UNITS[match[2].upper()] if match else float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{text!r} is no number of tokens")
    return value


def trainer_state(folder: Path) -> tuple[int | None, float | None]:
    """global_step and num_input_tokens_seen of the trainer_state.json in a folder; None where it does not tell."""
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        step, tokens = state.get("global_step"), state.get("num_input_tokens_seen")
    except (OSError, ValueError, AttributeError):
        return None, None
    # The trainer writes 0 tokens when it was not asked to count them.
    counted = isinstance(tokens, int | float) and (tokens > 0 or step == 0)
    return (step if isinstance(step, int) and step >= 0 else None), (float(tokens) if counted else None)
