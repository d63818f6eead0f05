"""What does MRCR's metric give for a reply drawn at random, beside what is published for it?

    python -m benchmarks.mrcr_floors [--items 200]

CPU, no model and no tokenizer: transcripts of our own as text. "relevant": one of the replies to the request that is
asked about, the right one among them; "any": any reply of the transcript; both behind the right hash. Published, for
texts that a model wrote, are 51, 27 and 15 % with 2, 4 and 8 needles, and about 1 % (eval_hub/mrcr_v2). A relevant
reply has 1/n and (n - 1)/n of what two siblings have in common; that share is printed as well.
"""

from __future__ import annotations

import argparse
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from headscope.probes.passage import Passage
from headscope.probes.seeds import rng
from headscope.probes.suite import Draw
from headscope.probes.suites.mrcr import NEEDLES, SUITE, WORDINGS

from .machine import machine, one_line, write_results
from .smollm2 import say

PUBLISHED = {2: 0.51, 4: 0.27, 8: 0.15}
TOLERANCE = 0.03
TURNS = 60  # beside the needles, some 8K tokens


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--items", type=int, default=200)
    options = arguments.parse_args()
    found = machine()
    say(one_line(found))
    say(f"{'wording':9} {'needles':>7} {'relevant':>9} {'published':>9} {'siblings':>9} {'any':>6}")
    rows: list[dict[str, Any]] = []
    for wording in WORDINGS:
        for needles in NEEDLES:
            row = {"wording": wording, "needles": needles, **floors(wording, needles, options.items)}
            rows.append(row)
            say(
                f"{wording:9} {needles:7} {row['relevant']:9.3f} {PUBLISHED[needles]:9.2f} {row['siblings']:9.3f} "
                f"{row['any']:6.3f}"
            )
    wrong = [row for row in rows if abs(row["relevant"] - PUBLISHED[row["needles"]]) > TOLERANCE]
    say(f"{len(rows) - len(wrong)} of {len(rows)} within {TOLERANCE} of what is published")
    say(write_results("mrcr-floors", {"items": options.items, "rows": rows}, found).name)


def floors(wording: str, needles: int, items: int) -> dict[str, float]:
    relevant, siblings, others = [], [], []
    for seed in range(items):
        passage = made(wording, needles, seed)
        task = passage.task
        gold = task.golds[0].removeprefix(task.prefix)
        scores = [score(rival, gold) for rival in task.rivals]
        siblings += scores
        relevant.append((1 + sum(scores)) / needles)
        text = "".join(piece.text for piece in passage.pieces)
        replies = [turn.partition("\n\nUser: ")[0].strip() for turn in text.split("\n\nAssistant: ")[1:]]
        drawn = replies[int(rng(seed, "any").integers(len(replies)))]
        others.append(score(drawn, gold))
    return {
        "relevant": round(float(np.mean(relevant)), 4),
        "siblings": round(float(np.mean(siblings)), 4),
        "any": round(float(np.mean(others)), 4),
    }


def score(response: str, answer: str) -> float:
    """OpenAI's grader, behind the right hash: the order of the two and difflib's "autojunk" are its."""
    return SequenceMatcher(None, response, answer).ratio()


def made(wording: str, needles: int, seed: int) -> Passage:
    draw = Draw(
        rng(seed, "mrcr floors", "own"),
        rng(seed, "mrcr floors", wording, needles),
        length=8192,
        options={"wording": wording},
        text=None,  # no haystack is in it
    )
    return SUITE.tasks[f"mrcr_{needles}"].draw(draw).make(TURNS)


if __name__ == "__main__":
    main()
