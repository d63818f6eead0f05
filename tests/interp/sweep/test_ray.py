"""The same sweep on a real Ray cluster of several workers: it, or one of them, is killed while it works."""

from __future__ import annotations

import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import headscope as hs
from benchmark_modules import benchmark
from deadly import AT, Deadly, Endless, Fatal, Hopeless
from headscope.interp.sweep.checkpoints import find_checkpoints
from headscope.interp.sweep.ray_workers import ATTEMPTS
from headscope.interp.sweep.run import Options, SweepResult, run_sweep
from headscope.interp.sweep.same import differences
from headscope.interp.sweep.shards import ProbeSource, SweepError
from headscope.interp.sweep.worker import MakeWork, Worker
from tiny_run import make_run, small_probes

ray = pytest.importorskip("ray", reason="the extra headscope[ray] is not installed")
kills = benchmark("kills")
pytestmark = pytest.mark.long
PROBES = small_probes()
STEPS = (10, 20, 30, 40)


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The address of a cluster with two slots, whatever the machine has; workers find the tests' helpers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        with kills.cluster() as address:
            yield address


@pytest.fixture(scope="module")
def cluster(head: str) -> Iterator[None]:
    """This process is connected to it."""
    ray.init(address=head, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), STEPS)


@pytest.fixture(scope="module")
def local(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the sweep writes without Ray."""
    output = tmp_path_factory.mktemp("local") / "local.h5"
    hs.sweep(checkpoints, PROBES, output)
    return output


def sweep(checkpoints: Path, output: Path, make_work: MakeWork, address: str = "local") -> SweepResult:
    source = ProbeSource(lambda _: PROBES)
    return run_sweep(find_checkpoints(checkpoints), source, output, Options(), ray=address, make_work=make_work)


def test_a_killed_sweep_goes_on(head: str, checkpoints: Path, local: Path, tmp_path: Path):
    """Stands before the tests that connect this process: it is forked here."""
    output = tmp_path / "ray.h5"
    child = kills._fork(lambda: sweep(checkpoints, output, Endless, head))
    while len(list(tmp_path.glob("ray.h5.shards/step-*.h5"))) < 3:
        assert kills._wait(child, 0) is None, "the sweep ended by itself"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    kills._wait(child)
    result = sweep(checkpoints, output, Worker, head)
    assert (result.done, result.skipped, result.failed) == ((AT,), tuple(step for step in STEPS if step != AT), {})
    assert differences(output, local) == []


def test_a_killed_worker_costs_nothing_but_time(cluster: None, checkpoints: Path, local: Path, tmp_path: Path):
    (tmp_path / "tries").mkdir()
    deadly = functools.partial(Deadly, folder=tmp_path / "tries", times=1)
    result = sweep(checkpoints, tmp_path / "ray.h5", deadly)
    assert (result.done, result.failed) == (STEPS, {})
    tries = [path.name.split("-")[:2] for path in (tmp_path / "tries").iterdir()]
    assert sorted(int(step) for step, _ in tries) == [10, 20, 30, 30, 40]
    # The other worker may do all that is left before the one in place of the killed one is up.
    assert len({pid for step, pid in tries if int(step) == AT}) == 2, "tried again in another process"
    assert differences(tmp_path / "ray.h5", local) == []
    assert hs.sweep(checkpoints, PROBES, tmp_path / "ray.h5", ray=True).skipped == STEPS


def test_a_checkpoint_that_kills_every_worker_is_given_up(cluster: None, checkpoints: Path, tmp_path: Path):
    result = sweep(checkpoints, tmp_path / "ray.h5", functools.partial(Fatal, folder=tmp_path))
    tries = [path.name.split("-")[1] for path in tmp_path.glob(f"{AT}-*")]
    assert len(tries) == len(set(tries)) == ATTEMPTS > 2, "every one in a new process: lost workers are replaced"
    assert f"its worker was lost {ATTEMPTS} times" in result.failed.pop(AT)
    assert result.failed == dict.fromkeys([step for step in STEPS if step != AT], "nothing to score")


def test_workers_that_cannot_start_end_the_sweep(cluster: None, tmp_path: Path):
    make_run(tmp_path, STEPS[:1])
    with pytest.raises(SweepError, match="workers cannot start: ImportError: no package for you"):
        sweep(tmp_path, tmp_path / "ray.h5", Hopeless)


def test_no_cluster_at_the_address(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # a cluster of this module may be connected
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(SweepError, match=r"no cluster at 'auto' \(no node answers\); start one"):
        hs.sweep(checkpoints, PROBES, tmp_path / "run.h5", ray="auto")


def refuse(**arguments: Any) -> None:
    raise ConnectionError("no node answers")
