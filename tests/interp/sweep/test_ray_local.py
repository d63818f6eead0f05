"""A sweep that starts a Ray cluster of its own, as `--ray` without an address does."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

import headscope as hs
from deadly import Telling
from headscope.interp.sweep.checkpoints import find_checkpoints
from headscope.interp.sweep.run import Options, run_sweep
from headscope.interp.sweep.same import differences
from headscope.interp.sweep.shards import ProbeSource
from tiny_run import make_run, small_probes

ray = pytest.importorskip("ray", reason="the extra headscope[ray] is not installed")


def test_its_workers_are_no_nicer_than_their_caller_and_it_ends_with_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.delenv("RAY_worker_niceness", raising=False)
    checkpoints = make_run(tmp_path / "run", (10, 20))
    probes = small_probes()
    (tmp_path / "told").mkdir()
    assert not ray.is_initialized()

    work = functools.partial(Telling, folder=tmp_path / "told")
    source = ProbeSource(lambda _: probes)
    result = run_sweep(
        find_checkpoints(checkpoints), source, tmp_path / "ray.h5", Options(), ray="local", make_work=work
    )

    assert not ray.is_initialized()
    told = [path.name.split("-") for path in (tmp_path / "told").iterdir()]
    assert told and {niceness for _, niceness in told} == {str(os.nice(0))}
    assert str(os.getpid()) not in {pid for pid, _ in told}
    assert result.done == (10, 20)
    hs.sweep(checkpoints, probes, tmp_path / "local.h5")
    assert differences(tmp_path / "ray.h5", tmp_path / "local.h5") == []
