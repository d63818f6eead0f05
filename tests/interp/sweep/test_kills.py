"""A few of the kills that `python -m benchmarks.kills` does by the dozen, at home and on Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_sweeps_resume_to_the_same_file(tmp_path: Path):
    on_ray = 1 if find_spec("ray") else 0
    command = [sys.executable, "-m", "benchmarks.kills", "--local", "2", "--ray", str(on_ray), "--seed", "3"]
    command += ["--checkpoints", "4"]
    done = subprocess.run(
        [*command, "--to", str(tmp_path / "kills.json")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    local, *ray = json.loads((tmp_path / "kills.json").read_text())
    assert local["kills"] >= 2 and local["resumed"] >= 2
    assert len(ray) == on_ray
    for sweeps in (local, *ray):
        assert sweeps["kills"] >= 1
        assert sweeps["completed"] == sweeps["equal"] >= 1
        assert sweeps["reads"] > 0 and sweeps["unreadable"] == sweeps["trouble"] == []
