"""`describe()` answers every question, and a question that cannot be answered does not stop the others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import headscope
from headscope.interp import environment

ROOT = Path(__file__).resolve().parents[1]


def test_versions_are_those_of_the_imported_packages() -> None:
    import h5py
    import numpy as np

    found = environment.describe()
    assert found["headscope"] == headscope.__version__
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert found["hdf5"] == h5py.version.hdf5_version
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpu_count"] >= 1
    assert json.loads(json.dumps(found)) == found


def test_devices_match_torch() -> None:
    found = environment.describe()
    if torch.cuda.is_available():
        assert len(found["devices"]) == torch.cuda.device_count()
    assert "sdpa" in found["attention_backends"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_commit_is_the_checkouts() -> None:
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    found = environment.describe()
    assert found["git_commit"] == head.stdout.strip()
    assert isinstance(found["git_dirty"], bool)


def test_no_commit_for_a_package_inside_somebody_elses_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    installed = tmp_path / "venv" / "headscope" / "interp" / "environment.py"
    installed.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    found = environment.describe()
    assert found["git_commit"] is None
    assert found["git_dirty"] is None


def test_a_failure_becomes_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> bool:
        raise RuntimeError("driver mismatch")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    monkeypatch.setenv("PATH", "")  # no git either
    found = environment.describe()
    assert found["devices"] == "unavailable (RuntimeError: driver mismatch)"
    assert found["attention_backends"] == "unavailable (RuntimeError: driver mismatch)"
    if (ROOT / ".git").exists():
        assert found["git_commit"].startswith("unavailable (FileNotFoundError")
    assert found["torch"] == torch.__version__


def test_a_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise environment.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment.importlib.metadata, "version", missing)
    assert environment.describe()["triton"] is None


def test_report_has_a_line_for_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delenv("HF_HOME", raising=False)
    found = environment.describe()
    report = dict(line.split(maxsplit=1) for line in environment.format_report(found).splitlines())
    assert set(report) == {*found, *environment.SWITCHES} - {"switches"}
    assert report["TRITON_INTERPRET"] == "1"
    assert report["HF_HOME"] == "-"
    assert report["torch"] == torch.__version__
    assert environment.format_report({"devices": ["A", "B"], "cuda": None}) == "devices  A, B\ncuda     -"
