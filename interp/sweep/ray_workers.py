"""The same sweep on Ray: one actor a GPU or CPU slot, a checkpoint is a task; a lost worker's task is tried again."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

from ..packages import need
from .checkpoints import Checkpoint
from .shards import SweepError
from .worker import MakeWork, Outcome, Setup, Work

ATTEMPTS = 3  # a checkpoint that takes its worker down with it (out of memory, say) must not do so for ever
LOCAL = "local"  # `--ray` without an address

log = logging.getLogger(__name__)


class _Actor:
    """Runs in a process of its own and keeps its module from one checkpoint to the next."""

    def __init__(self, make_work: MakeWork, setup: Setup) -> None:
        self.work: Work = make_work(setup)

    def run(self, checkpoint: Checkpoint) -> Outcome:
        return self.work(checkpoint)


def outcomes(todo: Sequence[Checkpoint], setup: Setup, make_work: MakeWork, address: str) -> Iterator[Outcome]:
    """The outcome of every checkpoint, as they come in. No file is written here.

    address: of a running cluster ("auto", "ray://host:10001", "host:6379"), or "local": one on this machine for as long
    as the sweep takes. A process that is connected to a cluster already uses that one.

    Raises SweepError when the cluster cannot be reached; MissingPackageError without ray.
    """
    ray = need("ray", "a sweep on Ray", install="headscope[ray]")
    with _cluster(ray, address):
        new_actor, slots = _actors(ray, setup, make_work)
        waiting = deque((checkpoint, 1) for checkpoint in todo)
        busy: dict[Any, tuple[Any, Checkpoint, int, float]] = {}
        idle = [new_actor() for _ in range(min(slots, len(todo)))]
        finished: deque[Outcome] = deque()
        try:
            while waiting or busy or finished:
                while waiting and idle:
                    actor = idle.pop()
                    checkpoint, attempt = waiting.popleft()
                    busy[actor.run.remote(checkpoint)] = (actor, checkpoint, attempt, time.monotonic())
                # Nobody waits for work while a result is written: first all that have finished get the next checkpoint.
                ready, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0) if busy else ([], [])
                if not ready and not finished:
                    ready, _ = ray.wait(list(busy), num_returns=1)
                for reference in ready:
                    actor, checkpoint, attempt, start = busy.pop(reference)
                    try:
                        finished.append(ray.get(reference))
                        idle.append(actor)
                    except ray.exceptions.RayError as error:
                        if getattr(error, "actor_init_failed", False):
                            raise SweepError(
                                f"ray: workers cannot start: {_last_words(error)}; all machines need the same headscope"
                            ) from error
                        log.info("the worker on checkpoint %d was lost: %s", checkpoint.step, error)
                        _kill(ray, actor)
                        if attempt < ATTEMPTS:
                            waiting.appendleft((checkpoint, attempt + 1))
                        else:
                            reason = f"its worker was lost {ATTEMPTS} times, at last with: {_last_words(error)}"
                            finished.append(Outcome(checkpoint, None, reason, time.monotonic() - start, 0.0))
                        if len(waiting) > len(idle):
                            idle.append(new_actor())
                if not ready and finished:
                    yield finished.popleft()
        finally:
            for actor in [*idle, *(entry[0] for entry in busy.values())]:
                _kill(ray, actor)


@contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """Connect, unless that was done before; what was connected here is let go of here."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns about what it will do one day
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        os.environ.setdefault("RAY_worker_niceness", "0")  # not 15: beside a data loader the sweep would stand still
        arguments |= {"address": "local", "include_dashboard": False}
    else:
        arguments["address"] = address
    with _on_loopback() if address == LOCAL else nullcontext():
        try:
            ray.init(**arguments)
        except Exception as error:  # of a node that is slow to start it says so in a plain Exception
            raise SweepError(
                f"ray: no cluster at {address!r} ({_last_words(error)}); start one, or leave out the "
                "address; where a cluster asks for a token, set RAY_AUTH_MODE=token"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """A cluster that is started inside is for this machine alone: whoever reaches a port of Ray's can run code.

    Ray has no argument for it. It takes the loopback address where clusters of several machines are switched off, as
    they are on macOS and Windows: its processes by a variable of the environment, this one by what it read of that.
    """
    from ray._private import ray_constants

    alone = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with patch.dict(os.environ, alone), patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False, create=True):
        yield


def _actors(ray: Any, setup: Setup, make_work: MakeWork) -> tuple[Any, int]:
    """How to start an actor, and how many the cluster has room for."""
    have = ray.cluster_resources()
    gpus = 0 if setup.device == "cpu" else int(have.get("GPU", 0))
    slots = gpus or max(1, int(have.get("CPU", 1)) // setup.threads)
    cpus = min(setup.threads, int(have.get("CPU", 1)))
    remote = ray.remote(num_cpus=0 if gpus else cpus, num_gpus=1 if gpus else 0, max_restarts=0)(_Actor)
    shared = ray.put(setup)  # the probes travel once
    return lambda: remote.remote(make_work, shared), slots


def _kill(ray: Any, actor: Any) -> None:
    try:
        ray.kill(actor)
    except Exception as error:  # it is gone already, or the cluster is
        log.debug("cannot end a worker: %s", error)


def _last_words(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
