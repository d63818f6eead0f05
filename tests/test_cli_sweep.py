"""headscope sweep and merge as a user meets them: one command, one line a mistake, exit codes that tell."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import headscope as hs
from command_line import fail, run, succeed
from headscope.interp.store.results_file import checkpoints
from headscope.interp.sweep.same import differences
from tiny_run import make_run, small_probes


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run/checkpoint-10 ..` and `probes.npz`."""
    folder = tmp_path_factory.mktemp("here")
    make_run(folder / "run")
    small_probes().save(folder / "probes.npz")
    return folder


def arguments(here: Path, *more: object) -> list[object]:
    return ["sweep", here / "run", "--probes", here / "probes.npz", *more]


def test_a_sweep_and_the_same_again(here: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    out = succeed(*arguments(here, "-o", output))
    lines = out.splitlines()
    assert lines[0] == "3 checkpoints, steps 10 to 30"
    assert [line.split(":")[0] for line in lines[1:4]] == ["[1/3] step 10", "[2/3] step 20", "[3/3] step 30"]
    assert "left)" in lines[1] and "left)" not in lines[3] and "exact match 0%" in lines[1]
    header = "step tokens heads above chance above 0.1 top head score exact match NLL"
    assert lines[5].split() == header.split()
    assert [line.split()[0] for line in lines[6:9]] == ["10", "20", "30"]
    assert "3 scored now, 0 before, 0 failed" in out and lines[-1] == f"Scores   {output}"
    assert "0 scored now, 3 before, 0 failed" in succeed(*arguments(here, "-o", output))
    assert succeed("validate", output).startswith(f"{output} is in order: 3 checkpoints")


def test_a_sweep_of_tasks(here: Path, tmp_path: Path):
    tasks, output = here / "probes.npz", tmp_path / "run.h5"
    asked = ["sweep", here / "run" / "checkpoint-20", "--tasks", tasks, "--samples", 1, "-o", output]
    assert "1 scored now, 0 before, 0 failed" in succeed(*asked)
    assert hs.Answers.load(output, 20).n_samples == 1
    assert "0 scored now, 1 before, 0 failed" in succeed(*asked)
    for more, phrase in (
        (["--tasks", "vt", "--depths", "3"], "--depths is for --probes; leave it out with --tasks"),
        (["--tasks", "vt", "--probes", "grid"], "beside --tasks; give one of them"),
        (["--tasks", "vt", "--generate"], "lets the model answer, and so does --tasks"),
        (["--tasks", "mcrc"], "no suite, task or set is called 'mcrc'; did you mean mrcr?"),
        (["--samples", "2"], "is for --tasks"),
        (["--tasks", "vt", "--temperature", "0"], "give a number above 0"),
    ):
        assert phrase in fail("sweep", here / "run", *more, "-o", tmp_path / "no.h5")


def test_stages_are_told_in_their_order_before_anything_is_scored(here: Path, tmp_path: Path):
    for name, old in (("phase2-step4", 10), ("phase1-step50", 20), ("phase1-step70", 30)):
        shutil.copytree(here / "run" / f"checkpoint-{old}", tmp_path / "all" / name)
    probes, output = here / "probes.npz", tmp_path / "run.h5"
    out = succeed("sweep", tmp_path / "all", "--probes", probes, "-o", output).splitlines()
    assert out[:3] == [
        "3 checkpoints of 2 stages, in this order:",
        "  phase1: 2 checkpoints, steps 50 to 70",
        "  phase2: 1 checkpoint, step 4, on top of 70",
    ]
    assert out[5].startswith("[3/3] phase2 step 4: ")
    rows = [line.split()[:2] for line in out[6:] if line.startswith("phase")]
    assert rows == [["phase1", "50"], ["phase1", "70"], ["phase2", "4"]]
    assert checkpoints(output) == [50, 70, 74]
    report = " ".join(succeed("report", output, "-o", tmp_path / "run.html").split())
    assert "3 checkpoints of 2 stages, phase1 step 50 to 70; phase2 step 4" in report
    assert "From phase1 step 50 to phase2 step 4" in report
    assert "phase1 | phase2" in (tmp_path / "run.html").read_text()
    assert "at phase2 step 4" in (tmp_path / "run.html").read_text()
    (tmp_path / "all" / "phase1-step50").rename(tmp_path / "all" / "warmup-step50")
    message = fail("sweep", tmp_path / "all", "--probes", probes, "-o", tmp_path / "no.h5")
    assert "nothing tells which came first: phase1 (step 70), phase2 (step 4), warmup (step 50)" in message
    assert "--table steps.csv" in message and not (tmp_path / "no.h5").exists()


def test_parts_and_merge(here: Path, tmp_path: Path):
    output = tmp_path / "parts.h5"
    out = succeed(*arguments(here, "-o", output, "--only", "1/2"))
    assert f"part 1 of 2 is in {output}.shards; when all are: headscope merge {output}.shards -o {output}" in out
    succeed(*arguments(here, "-o", output, "--only", "2/2"))
    assert succeed("merge", f"{output}.shards", "-o", output) == f"{output}: 3 checkpoints\n"
    succeed(*arguments(here, "-o", tmp_path / "whole.h5"))
    assert differences(output, tmp_path / "whole.h5") == []


def test_failures_are_told_and_the_exit_code_says_so(here: Path, tmp_path: Path):
    shutil.copytree(here / "run", tmp_path / "run")
    os.truncate(tmp_path / "run" / "checkpoint-20" / "model.safetensors", 3000)
    output = tmp_path / "run.h5"
    result = run("sweep", f"{tmp_path}/run/*", "--probes", here / "probes.npz", "-o", output)
    assert result.exit_code == 1 and checkpoints(output) == [10, 30]
    assert "[2/3] step 20: failed: " in result.stdout and "2 scored now, 0 before, 1 failed" in result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("failed: step 20 (checkpoint-20): ") and "cut short" in line
    merged = run("merge", f"{output}.shards", "-o", tmp_path / "merged.h5")
    assert merged.exit_code == 1 and "failed: step 20: " in merged.stderr


def test_nothing_left_is_no_file(here: Path, tmp_path: Path):
    (tmp_path / "checkpoint-1").mkdir()
    result = run("sweep", tmp_path, "--probes", here / "probes.npz", "-o", tmp_path / "run.h5")
    assert result.exit_code == 1 and "no config.json" in result.stderr and not (tmp_path / "run.h5").exists()


def test_mistakes_cost_one_line(here: Path, tmp_path: Path):
    output = tmp_path / "run.h5"
    rest = ["--probes", here / "probes.npz", "-o", output]
    assert "no file or folder" in fail("sweep", tmp_path / "nowhere", *rest)
    assert "matches nothing" in fail("sweep", f"{tmp_path}/nothing-*", *rest)
    assert "no probe set or file is called" in fail("sweep", here / "run", "--probes", "gird", "-o", output)
    assert "does not exist; create it" in fail(*arguments(here, "-o", tmp_path / "no" / "run.h5"))
    assert "--only" in fail(*arguments(here, "-o", output, "--only", "3/2"))
    assert "--ray" in fail(*arguments(here, "-o", output, "--ray=somewhere"))
    assert "CSV" in fail(*arguments(here, "-o", output, "--table", tmp_path / "none.csv"))
    shutil.copytree(here / "run" / "checkpoint-10", tmp_path / "best")
    message = fail("sweep", here / "run", tmp_path / "best", *rest)
    assert "best: neither a table" in message and "--table steps.csv" in message
    assert "give a folder" not in fail("merge", tmp_path / "none.h5", "-o", output)
    assert not output.exists()


def test_saved_probes_take_no_options(here: Path, tmp_path: Path):
    saved = fail(*arguments(here, "--lengths", "1k", "-o", tmp_path / "run.h5"))
    assert "--lengths" in saved and "built already" in saved


def test_merge_refuses_what_does_not_belong_together(here: Path, tmp_path: Path):
    output, other = tmp_path / "run.h5", tmp_path / "other.h5"
    succeed(*arguments(here, "-o", output))
    message = fail("merge", output, f"{output}.shards", "-o", tmp_path / "merged.h5")
    assert "checkpoint 10 is in" in message and "leave one of them out" in message
    small_probes().__class__(small_probes()[:2], name="two").save(tmp_path / "two.npz")
    succeed("sweep", here / "run" / "checkpoint-20", "--probes", tmp_path / "two.npz", "-o", other)
    shard = tmp_path / "run.h5.shards" / "step-0000000010.h5"
    assert "its probe set is 'two'" in fail("merge", shard, other, "-o", tmp_path / "merged.h5")
    assert "holds checkpoint 20, 30, which is in no shard" in fail("merge", shard, "-o", output)
    assert checkpoints(output) == [10, 20, 30]


# The command line; a sweep waits at step 30, having said who it is, until somebody interrupts it.
STOPS_AT_30 = """
import os
import signal
from headscope.cli import main
from headscope.interp.sweep.worker import Worker
work = Worker.__call__

def stop(self, checkpoint, progress=None):
    if checkpoint.step == 30:
        print("at 30:", os.getpid(), flush=True)
        signal.pause()
    return work(self, checkpoint, progress)

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
Worker.__call__ = stop
main()
"""


def test_interrupted_by_the_keyboard(here: Path, tmp_path: Path, warm: list[str]):
    output, script = tmp_path / "run.h5", tmp_path / "stops_at_30.py"
    script.write_text(STOPS_AT_30)
    process = subprocess.Popen(
        [*warm, str(script), *map(str, arguments(here, "-o", output))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        text=True,
    )
    try:
        assert process.stdout is not None
        at_30 = next(line for line in process.stdout if line.startswith("at 30"))
        os.kill(int(at_30.split()[-1]), signal.SIGINT)
        _, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130, errors
    kept = f"what is done is kept in {output}; the same command goes on from there"
    assert errors.splitlines() == [kept, "interrupted"]
    assert checkpoints(output) == [10, 20]
    assert len(list((tmp_path / "run.h5.shards").glob("step-*.h5"))) == 2
