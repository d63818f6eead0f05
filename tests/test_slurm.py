"""The commands of docs/slurm.md, taken from the page and run by bash, with Slurm played by environment variables."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from headscope.interp.store.results_file import checkpoints
from tiny_run import make_run, small_probes

pytestmark = pytest.mark.long
PAGE = (Path(__file__).parents[1] / "docs" / "slurm.md").read_text(encoding="utf-8")
SCRIPT, SUBMIT, BY_HAND = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: list[str]) -> Path:
    """A folder with a run and probes; `headscope` is this checkout's and `srun` just runs."""
    make_run(tmp_path / "run", (1000, 2000, 3000))
    small_probes().save(tmp_path / "grid.npz")
    for name, command in {"headscope": f'exec {shlex.join(warm)} -m headscope "$@"', "srun": 'exec "$@"'}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{command}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bash(script: str, **environment: str) -> str:
    done = subprocess.run(["bash", "-euc", script], env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_array_and_the_merge(place: Path):
    """One task of it; two at once are below."""
    given = {"RUN": "run", "PROBES": "grid.npz", "OUT": "run.h5", "SLURM_CPUS_PER_TASK": "1"}
    out = bash(SCRIPT, **given, SLURM_ARRAY_TASK_ID="1", SLURM_ARRAY_TASK_COUNT="2")
    assert "part 1 of 2 is in run.h5.shards" in out
    assert not (place / "run.h5").exists()
    (merge,) = re.findall(r"--wrap '(.*)'", SUBMIT)
    assert bash(merge, **given) == "run.h5: 2 checkpoints\n"
    assert checkpoints(place / "run.h5") == [1000, 3000]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_same_by_hand_all_at_once(place: Path):
    bash(BY_HAND)
    assert checkpoints(place / "run.h5") == [1000, 2000, 3000]
