"""The same sweep on a real Ray cluster of several workers, one of which is killed while it works."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headscope as hs
from deadly import AT, Deadly, Fatal, Hopeless
from headscope.interp.sweep.checkpoints import find_checkpoints
from headscope.interp.sweep.ray_workers import ATTEMPTS
from headscope.interp.sweep.run import Options, SweepResult, run_sweep
from headscope.interp.sweep.same import differences
from headscope.interp.sweep.shards import ProbeSource, SweepError
from headscope.interp.sweep.worker import MakeWork
from tiny_run import make_run, small_probes

ray = pytest.importorskip("ray", reason="the extra headscope[ray] is not installed")
pytestmark = pytest.mark.long
PROBES = small_probes()
STEPS = (10, 20, 30, 40)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two slots, whatever the machine has; workers find the tests' helpers."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    patch.setenv("RAY_worker_niceness", "0")  # or the workers stand still while anybody else computes
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=10**8)
    yield
    ray.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), STEPS)


def sweep(checkpoints: Path, output: Path, make_work: MakeWork) -> SweepResult:
    source = ProbeSource(lambda _: PROBES)
    return run_sweep(find_checkpoints(checkpoints), source, output, Options(), ray="local", make_work=make_work)


def test_a_killed_worker_costs_nothing_but_time(cluster: None, checkpoints: Path, tmp_path: Path):
    (tmp_path / "tries").mkdir()
    deadly = functools.partial(Deadly, folder=tmp_path / "tries", times=1)
    result = sweep(checkpoints, tmp_path / "ray.h5", deadly)
    assert (result.done, result.failed) == (STEPS, {})
    tries = [path.name.split("-")[:2] for path in (tmp_path / "tries").iterdir()]
    assert sorted(int(step) for step, _ in tries) == [10, 20, 30, 30, 40]
    # The other worker may do all that is left before the one in place of the killed one is up.
    assert len({pid for step, pid in tries if int(step) == AT}) == 2, "tried again in another process"
    hs.sweep(checkpoints, PROBES, tmp_path / "local.h5")
    assert differences(tmp_path / "ray.h5", tmp_path / "local.h5") == []
    assert hs.sweep(checkpoints, PROBES, tmp_path / "ray.h5", ray=True).skipped == STEPS


def test_a_checkpoint_that_kills_every_worker_is_given_up(cluster: None, checkpoints: Path, tmp_path: Path):
    result = sweep(checkpoints, tmp_path / "ray.h5", functools.partial(Fatal, folder=tmp_path))
    tries = [path.name.split("-")[1] for path in tmp_path.glob(f"{AT}-*")]
    assert len(tries) == len(set(tries)) == ATTEMPTS > 2, "every one in a new process: lost workers are replaced"
    assert f"its worker was lost {ATTEMPTS} times" in result.failed.pop(AT)
    assert result.failed == dict.fromkeys([step for step in STEPS if step != AT], "nothing to score")


def test_workers_that_cannot_start_end_the_sweep(cluster: None, checkpoints: Path, tmp_path: Path):
    with pytest.raises(SweepError, match="workers cannot start: ImportError: no package for you"):
        sweep(checkpoints, tmp_path / "ray.h5", Hopeless)


def test_no_cluster_at_the_address(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # a cluster of this module may be connected
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(SweepError, match=r"no cluster at 'auto' \(no node answers\); start one"):
        hs.sweep(checkpoints, PROBES, tmp_path / "run.h5", ray="auto")


def refuse(**arguments: Any) -> None:
    raise ConnectionError("no node answers")
