"""The Triton kernels on a machine without a GPU: run by Triton's interpreter, and compiled for three architectures.

Each in a process of its own, because a kernel is compiled or interpreted for good when it is defined.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.long


def run(*cases: str, **environment: str) -> None:
    if find_spec("triton") is None:
        reason = "triton is not installed; pip install 'headscope[triton]'"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    path = os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", ""))).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(HERE / path) for path in cases)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]


def test_interpreted() -> None:
    """With the GPU tests as toys, so that a machine with a GPU does not find mistakes in the tests themselves."""
    toys = ("test_on_gpu.py", "../../interp/test_engine_on_gpu.py")
    cases = ("interpreter_cases.py", "../test_corners.py", "../test_key_mass.py", *toys)
    run(*cases, TRITON_INTERPRET="1", HEADSCOPE_GPU_TESTS="toy")


def test_compiled() -> None:
    """And the host side, of kernels that are not interpreted."""
    run("aot_cases.py", "host_cases.py", TRITON_INTERPRET="0")
