"""Every kernel and option on small inputs against the reference in float64: all that is wrong, in one call.

Cases are spread over processes, because compiling takes the time, and because an illegal access on a GPU is the end of
the process that did it: the case is named, and a new process goes on behind it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from . import bundle
from .record import FAILED, Record
from .smoke_check import cases, check
from .stage import Stage, interpret

SECONDS = 95  # less than the part's own limit, so that what was found until then is told
WORKERS = 8


def run(stage: Stage, record: Record) -> None:
    every = cases(stage.toy)
    workers = 1 if stage.toy else min(WORKERS, os.cpu_count() or 1, len(every))
    until = monotonic() + SECONDS * (1000 if stage.toy else 1)  # a toy's time tells of the machine's other work
    shards = [list(range(len(every)))[i::workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        answers = {}
        for found in pool.map(lambda shard: _watch(shard, until, stage.toy), shards):
            answers |= found
    wrong = {i: answer for i, answer in answers.items() if answer["problems"]}
    detail = {"seconds": {every[i].what: round(answer["seconds"], 1) for i, answer in sorted(answers.items())}}
    record.add(f"cases right, of {len(every)}", len(every) - len(wrong), at_least=len(every), detail=detail)
    for i, answer in sorted(wrong.items()):
        said = "\n".join([*answer["problems"], *answer.get("trace", [])])
        record.add(every[i].what, problem=f"{FAILED}: {answer['problems'][0]}"[:150], detail={"tail": said})


def _watch(shard: list[int], until: float, toy: bool) -> dict[int, dict[str, Any]]:
    """Answers of one process after another, until each case has one."""
    answers: dict[int, dict[str, Any]] = {}
    while left := [i for i in shard if i not in answers]:
        command = [sys.executable, "-m", "benchmarks.gpu.smoke_part", *(["--toy"] if toy else []), *map(str, left)]
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            said, complaint = process.communicate(timeout=max(1.0, until - monotonic()))
            problem = f"the process ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            process.kill()
            said, complaint = process.communicate()
            problem = "not done in time"
        for line in said.splitlines():
            if line.startswith("{"):
                answer = json.loads(line)
                answers[answer["case"]] = answer
        unanswered = [i for i in left if i not in answers]
        ended = unanswered if monotonic() >= until else unanswered[: process.returncode != ENDS_AFTER_AN_ANSWER]
        for i in ended:
            answers[i] = {"problems": [problem], "seconds": 0.0, "trace": complaint.splitlines()[-20:]}
    return answers


ENDS_AFTER_AN_ANSWER = 3  # exit code: the device is unusable, and the case that did it has been told


def main(arguments: list[str]) -> None:
    toy = arguments[:1] == ["--toy"]
    if toy:
        interpret()
    bundle.settle()
    every, device = cases(toy), torch.device("cpu" if toy else "cuda")
    for i in map(int, arguments[toy:]):
        began = monotonic()
        answer: dict[str, Any] = {"case": i, "problems": [], "trace": []}
        try:
            answer["problems"] = check(every[i], device)
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            answer["problems"] = [f"{type(error).__name__}: {said[0]}"]
            answer["trace"] = traceback.format_exc().splitlines()[-12:]
        answer["seconds"] = monotonic() - began
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if not toy and answer["problems"]:
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                os._exit(ENDS_AFTER_AN_ANSWER)


if __name__ == "__main__":
    main(sys.argv[1:])
