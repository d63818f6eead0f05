"""How an answer is judged: the official metric of every benchmark, on text, in [0, 1]; and what was said instead.

A metric says how much of what was wanted is there. What it does not say stands beside it: `precision`, because recall
is perfect for a list of everything; `rival`, the wrong answer of the context that was given; MRCR's score above what a
sibling reply gets by chance.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from difflib import SequenceMatcher
from functools import lru_cache

from ...probes import Task

# An MRCR reply is taken for the one it is most like, from this ratio on; half of a reply has .67 with the whole.
RESEMBLES = 0.6
_NUMBER = re.compile(r"(?<![\w.,-])-?\d+(?:,\d{3})*(?:\.\d+)?|\d+(?:,\d{3})*(?:\.\d+)?")
_BLANKS = re.compile(r"\s+")
_FULL_STOPS = ".!。！।۔؟?？"


@dataclass(frozen=True)
class Judged:
    """What is found in one answer.

    score: the task's own metric, 0 to 1.
    precision: of the golds and rivals that the answer names, the share that are golds; NaN where it names none, and
        for metrics that take one answer only ("exact", "mrcr", "last_number").
    rival: index in `task.rivals` of the first wrong answer that is named, instead of the right one or beside it; -1.
    above_chance: for "mrcr", (score - chance) / (1 - chance), where chance is the mean score of a reply drawn at random
        from the right one and its siblings: 0 for not knowing which, 1 for the right one; NaN elsewhere.
    """

    score: float
    precision: float = float("nan")
    rival: int = -1
    above_chance: float = float("nan")


def judge(task: Task, text: str) -> Judged:
    """Judge an answer by its task's metric. text: what was said, to the stop that ended it, if any."""
    score = SCORES[task.metric](text, task)
    if task.metric == "mrcr":
        chance = mrcr_chance(task)
        above = (score - chance) / (1 - chance) if chance < 1 else float("nan")
        return Judged(score, rival=_replied(text, task), above_chance=above)
    if task.metric == "last_number":
        said = last_number(text)
        wrong = (i for i, rival in enumerate(task.rivals) if said is not None and last_number(rival) == said)
        return Judged(score, rival=next(wrong, -1) if score < 1 else -1)
    found = named(text, [*task.golds, *task.rivals])
    wrong_at = {i - len(task.golds): at for i, at in found.items() if i >= len(task.golds)}
    rival = min(wrong_at, key=lambda i: wrong_at[i], default=-1)
    if task.metric == "exact" or not found:
        return Judged(score, rival=rival)
    return Judged(score, precision=1 - len(wrong_at) / len(found), rival=rival)


def string_match_all(text: str, task: Task) -> float:
    """RULER's metric (arXiv 2404.06654): the share of the golds that are in the text, in any case of letters."""
    return sum(gold.lower() in text.lower() for gold in task.golds) / len(task.golds)


def string_match_part(text: str, task: Task) -> float:
    """RULER's metric for questions with several wordings of one answer: 1 where any gold is in the text.

    lm-evaluation-harness 4e7e0d4 takes the mean over the golds instead, and gives less than 1 for a right answer.
    """
    return float(any(gold.lower() in text.lower() for gold in task.golds))


def exact(text: str, task: Task) -> float:
    """1 where the text is the gold: but for compatibility forms and case (NFKC, casefold), runs of white space, and
    white space and one full stop, question or exclamation mark at the ends. Articles, commas and digits count.
    """
    return float(_normal(text) in {_normal(gold) for gold in task.golds})


def mrcr(text: str, task: Task) -> float:
    """OpenAI's MRCR (the grader of its data card): 0 unless the response starts with the random prefix, here also
    behind blanks; else the ratio of difflib between response and answer, both without the prefix.

    The order of the two (response, answer) and difflib's "autojunk" are those of the grader: the other order differs by
    up to .05, and without autojunk two unrelated texts of 900 letters have .24 instead of .07. Half of the right answer
    has .67, so that an answer which the limit of tokens cut off is to be told apart (`Answers.end`).
    """
    response = text.lstrip()
    if not response.startswith(task.prefix):
        return 0.0
    return _ratio(response.removeprefix(task.prefix), task.golds[0].removeprefix(task.prefix))


@lru_cache(maxsize=64)  # the same for all answers to a probe
def mrcr_chance(task: Task) -> float:
    """The mean score of a reply drawn at random from the right one and its siblings: .5, .25, .125 and a little more
    for 2, 4 and 8 needles. They are given with the prefix: the task is which one, and not whether to say the prefix.
    """
    answer = task.golds[0].removeprefix(task.prefix)
    ratios = [_ratio(rival.removeprefix(task.prefix), answer) for rival in task.rivals]
    return sum([1.0, *ratios]) / (1 + len(ratios))


def longbio(text: str, task: Task) -> float:
    """LongBio's metric (arXiv 2506.02921): 1 where the gold is in the text, in any case of letters; where there are
    several, each behind the one before, as they were asked for: all or nothing.

    (7238f69 first cuts the answer with `answer[: answer.find("Question: ")]`, which drops the last letter of one
    without that text. Here the task's stop texts end an answer, and one without them is taken as it is.)
    """
    at, said = 0, text.lower()
    for gold in task.golds:
        found = said.find(gold.lower(), at)
        if found < 0:
            return 0.0
        at = found + len(gold)
    return 1.0


def of_last_number(text: str, task: Task) -> float:
    """LongBio's metric for computed answers: 1 where the last number in the text is the gold's, as a value (1,234.0 is
    1234). The digits of a date or a name are numbers too.
    """
    said = last_number(text)
    return float(said is not None and said == last_number(task.golds[0]))


SCORES: dict[str, Callable[[str, Task], float]] = {
    "exact": exact,
    "string_match_all": string_match_all,
    "string_match_part": string_match_part,
    "mrcr": mrcr,
    "longbio": longbio,
    "last_number": of_last_number,
}


def last_number(text: str) -> Decimal | None:
    """The last number in a text, as a value; None where there is none. A hyphen after a letter or digit is no sign."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def named(text: str, candidates: Sequence[str]) -> dict[int, int]:
    """Index -> first place, of the candidates that are in a text, in any case of letters.

    What is part of a longer one is not named by it: "Paris" is not, in "Paris Hilton", where both are candidates.
    """
    left, found = text.lower(), {}
    for i in sorted(range(len(candidates)), key=lambda i: -len(candidates[i])):
        wanted = candidates[i].lower()
        if (at := left.find(wanted)) >= 0:
            found[i] = at
            left = left.replace(wanted, "\0" * len(wanted))
    return found


def _replied(text: str, task: Task) -> int:
    """Which sibling an MRCR response is: -1 for the right one, or none that it is like."""
    body = text.lstrip().removeprefix(task.prefix)
    ratios = [_ratio(body, reply.removeprefix(task.prefix)) for reply in (task.golds[0], *task.rivals)]
    best = max(range(len(ratios)), key=ratios.__getitem__)
    return best - 1 if ratios[best] >= RESEMBLES else -1


def _ratio(response: str, answer: str) -> float:
    return SequenceMatcher(None, response, answer).ratio()


def _normal(text: str) -> str:
    plain = _BLANKS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
    return plain[:-1].rstrip() if plain.endswith(tuple(_FULL_STOPS)) else plain
