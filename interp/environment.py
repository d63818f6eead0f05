"""What a run stood on: versions, devices and switches, for bug reports (`headscope env`) and for a file's provenance.

Nothing here raises. A package that is not installed is None, and a question that fails is answered by the failure.
"""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

SWITCHES = ("TRITON_INTERPRET", "HF_HOME", "HF_HUB_OFFLINE")
"""Environment variables that change what runs, or where models come from."""


def describe() -> dict[str, Any]:
    """The environment of this process, as JSON-able values in a fixed order.

    `git_commit` and `git_dirty` are None outside a checkout; `devices` is empty on a machine without an accelerator.
    `cpu_count` counts the processors this process may use.
    """
    return {
        "headscope": _attempt(_headscope_version),
        "git_commit": _attempt(_git_commit),
        "git_dirty": _attempt(_git_dirty),
        "python": platform.python_version(),
        "platform": _attempt(platform.platform),
        "cpu": _attempt(_cpu_name),
        "cpu_count": _attempt(_cpu_count),
        "torch": _attempt(_torch_version),
        "triton": _attempt(_version, "triton"),
        "transformers": _attempt(_version, "transformers"),
        "tokenizers": _attempt(_version, "tokenizers"),
        "transformer_lens": _attempt(_version, "transformer-lens"),
        "numpy": _attempt(_version, "numpy"),
        "h5py": _attempt(_version, "h5py"),
        "hdf5": _attempt(_hdf5_version),
        "cuda": _attempt(_cuda_version),
        "devices": _attempt(_devices),
        "attention_backends": _attempt(_attention_backends),
        "switches": {name: os.environ.get(name) for name in SWITCHES},
    }


def for_files() -> dict[str, Any]:
    """`describe()` without paths of this machine: files are for sharing."""
    found = describe()
    switches = {name: "set" if os.sep in (value or "") else value for name, value in found["switches"].items()}
    return {**found, "switches": switches}


def format_report(environment: dict[str, Any]) -> str:
    """`describe()` as aligned lines of text, ready to be pasted into a bug report."""
    switches = environment.get("switches", {})
    rows = {name: value for name, value in environment.items() if name != "switches"} | switches
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {_as_text(value)}" for name, value in rows.items())


def _as_text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def _attempt(question: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return question(*arguments)
    except Exception as error:  # a broken driver or library is something to report, not a reason to stop
        return f"unavailable ({type(error).__name__}: {error})"


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_version() -> str:
    import torch

    return str(torch.__version__)  # names the build too (+cu130), which the distribution's metadata may not


def _headscope_version() -> str:
    from .. import __version__

    return __version__


def _git(*arguments: str) -> str | None:
    """Output of a git command in our own checkout; None for an installed package, even inside a repository."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip() or f"git returned {run.returncode}")
    return run.stdout.strip()


def _git_commit() -> str | None:
    return _git("rev-parse", "HEAD")


def _git_dirty() -> bool | None:
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return None if changes is None else bool(changes)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _cpu_count() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _hdf5_version() -> str:
    import h5py

    return str(h5py.version.hdf5_version)


def _cuda_version() -> str | None:
    import torch

    return torch.version.cuda or getattr(torch.version, "hip", None)


def _devices() -> list[str]:
    import torch

    if torch.cuda.is_available():
        return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ["Apple MPS"] if torch.backends.mps.is_available() else []


def _attention_backends() -> list[str]:
    """What scaled_dot_product_attention may choose from here, then separate attention packages."""
    import torch

    backends = torch.backends.cuda
    found = ["sdpa"]
    if torch.cuda.is_available():
        candidates = {
            "sdpa:flash": backends.is_flash_attention_available() and backends.flash_sdp_enabled(),
            "sdpa:cudnn": torch.backends.cudnn.is_available() and backends.cudnn_sdp_enabled(),
            "sdpa:efficient": backends.mem_efficient_sdp_enabled(),
        }
        found += [name for name, usable in candidates.items() if usable]
    versions = {name: _version(name) for name in ("flash-attn", "flash-attn-4", "xformers")}
    return found + [f"{name} {version}" for name, version in versions.items() if version is not None]
