"""A few of the kills that `python -m benchmarks.kills` does by the dozen; test_ray.py has one on Ray."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_sweeps_resume_to_the_same_file(tmp_path: Path, warm: list[str]):
    command = [
        *warm,
        "-m",
        "benchmarks.kills",
        "--local",
        "2",
        "--ray",
        "0",
        "--seed",
        "3",
        "--checkpoints",
        "4",
    ]
    done = subprocess.run(
        [*command, "--to", str(tmp_path / "kills.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (sweeps,) = json.loads((tmp_path / "kills.json").read_text())
    assert sweeps["kills"] >= 2 and sweeps["resumed"] >= 2
    assert sweeps["completed"] == sweeps["equal"] >= 1
    assert sweeps["reads"] > 0 and sweeps["unreadable"] == sweeps["trouble"] == []
