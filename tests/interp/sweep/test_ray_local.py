"""A sweep that starts a Ray cluster of its own, as `--ray` without an address does."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
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


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}  # as /proc has them


def listening() -> set[str]:
    """Addresses at which this process and those below it wait for connections, as /proc has them."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    ours, size = {os.getpid()}, 0
    while len(ours) > size:
        size = len(ours)
        ours |= {pid for pid, parent in parents.items() if parent in ours}
    sockets = set()
    for link in (link for pid in ours for link in Path(f"/proc/{pid}/fd").glob("*")):
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(link).removeprefix("socket:[").rstrip("]"))
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}


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
    found, before, at = find_checkpoints(checkpoints), dict(os.environ), set[str]()

    def look(*_: object) -> None:
        at.update(listening() if sys.platform == "linux" else LOOPBACK)

    result = run_sweep(found, source, tmp_path / "ray.h5", Options(), ray="local", make_work=work, on_checkpoint=look)
    assert at and at <= LOOPBACK, "whoever reaches a port of Ray's can run code"
    assert os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == before.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")

    assert not ray.is_initialized()
    told = [path.name.split("-") for path in (tmp_path / "told").iterdir()]
    assert told and {niceness for _, niceness in told} == {str(os.nice(0))}
    assert str(os.getpid()) not in {pid for pid, _ in told}
    assert result.done == (10, 20)
    hs.sweep(checkpoints, probes, tmp_path / "local.h5")
    assert differences(tmp_path / "ray.h5", tmp_path / "local.h5") == []
