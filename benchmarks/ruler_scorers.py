"""Do our answers to RULER's tasks get the same score from lm-evaluation-harness as from us?

    python -m benchmarks.ruler_scorers PATH/lm_eval/tasks/ruler/common_utils.py

200 made-up answers to probes of all tasks, of five kinds: right, some of it, wrong, everything there is, nothing. Each
is judged by `headscope.interp.tasks` and by their `process_results` (`process_results_part` for questions), which is
read from the file named and is no part of headscope. Theirs takes the mean over the right wordings of one answer,
RULER's own code takes the best of them: where a question has several wordings they differ, and nowhere else; any other
difference fails the command.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from headscope.interp.tasks.metrics import judge
from headscope.probes import Probe, build

from .languages import smollm2
from .machine import machine, one_line, write_results
from .smollm2 import say

ANSWERS = 200
KINDS = ("right", "some", "wrong", "everything", "nothing")
# Two questions with several right wordings, as SQuAD has them, and one with a single one.
QUESTIONS = [
    (
        "The bridge of Voss was opened in May 1907 by Eva Lund.",
        "When was it opened?",
        ["May 1907", "1907", "in May 1907"],
    ),
    (
        "Narvik lies in the far north, by a fjord.",
        "Where does Narvik lie?",
        ["in the far north", "north", "by a fjord"],
    ),
    ("Tea is sold at four every day.", "When is tea sold?", ["at four"]),
]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("theirs", type=Path, help="common_utils.py of lm-evaluation-harness's ruler tasks")
    theirs = scorer(arguments.parse_args().theirs)
    found = machine()
    say(one_line(found))
    rows = [row for probe, kind, text in answers() for row in [{"kind": kind, **judged(theirs, probe, text)}]]
    for kind in KINDS:
        own = [row for row in rows if row["kind"] == kind]
        say(
            f"{kind:>10}: {len(own)} answers, ours {np.mean([row['ours'] for row in own]):.3f}, theirs "
            f"{np.mean([row['theirs'] for row in own]):.3f}"
        )
    equal = sum(row["ours"] == row["theirs"] for row in rows)
    defect = sum(row["ours"] != row["theirs"] and row["part"] and row["golds"] > 1 for row in rows)
    say(f"{len(rows)} answers: {equal} equal, {defect} where a question has several wordings")
    results = {"answers": len(rows), "equal": equal, "several wordings": defect, "rows": rows}
    path = write_results("ruler-scorers", results, found)
    say(f"written to {path.name}")
    sys.exit(equal + defect != len(rows))


def scorer(path: Path) -> Any:
    """Their module, from its file."""
    spec = spec_from_file_location("their_scorer", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is no Python file; give lm_eval/tasks/ruler/common_utils.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answers() -> Iterator[tuple[Probe, str, str]]:
    """(probe, kind, text): every kind for every probe, until there are enough."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "own.jsonl"
        own.write_text(
            "\n".join(json.dumps({"context": c, "question": q, "answers": a}) for c, q, a in QUESTIONS),
            encoding="utf-8",
        )
        probes = [*build("ruler", smollm2(), lengths=[1024], items=3)]
        probes += build("ruler", smollm2(), tasks=["qa_1"], lengths=[512], items=3, qa_file=own)
    numbers, made = np.random.default_rng(0), 0
    while True:
        for probe in probes:
            for kind in KINDS:
                if made == ANSWERS:
                    return
                yield probe, kind, said(probe, kind, numbers)
                made += 1


def said(probe: Probe, kind: str, numbers: np.random.Generator) -> str:
    """What a model might say, as models do: other letters in size, line ends, words around it."""
    task = probe.task
    assert task is not None
    if kind == "nothing":
        return str(numbers.choice(["", "\n", "I cannot find it.", "\x00\t"]))
    rivals = list(task.rivals) or ["7777777"]
    words = {
        "right": list(task.golds) if task.metric == "string_match_all" else [task.golds[0]],
        "some": list(task.golds[: max(1, len(task.golds) // 2)]) + rivals[:1],
        "wrong": [str(numbers.choice(rivals))],
        "everything": list(task.golds) + rivals,
    }[kind]
    order = numbers.permutation(len(words)) if kind == "everything" else range(len(words))
    text = str(numbers.choice([", ", " ", "\n- "])).join(words[i] for i in order)
    return str(numbers.choice([text, text.upper(), f"  The answer is {text}.\n", f"{text}\n\nQuestion: another one?"]))


def judged(theirs: Any, probe: Probe, text: str) -> dict[str, Any]:
    task = probe.task
    assert task is not None
    part = task.metric == "string_match_part"
    process = theirs.process_results_part if part else theirs.process_results
    document = {"max_length": task.length, "outputs": list(task.golds)}
    return {
        "task": probe.variant,
        "golds": len(task.golds),
        "part": part,
        "ours": float(judge(task, text).score),
        "theirs": float(process(document, [text])[str(task.length)]),
    }


if __name__ == "__main__":
    main()
