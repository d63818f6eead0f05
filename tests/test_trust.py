"""What the source never does: unpickle, run code that a checkpoint brings, or hand text to a shell. See SECURITY.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ("headscope", "interp", "kernels", "probes")
FOLDERS = (*INSTALLED, "benchmarks", "examples", "tests", "docs")
UNPICKLE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def names(tree: ast.Module) -> dict[str, str]:
    """What the names of a file stand for: {"t": "torch", "read": "torch.load"}."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def called(node: ast.expr, known: dict[str, str]) -> str:
    """The full name of what is called or named, "" where that is not told."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        above = called(node.value, known)
        return f"{above}.{node.attr}" if above else ""
    return ""


def faults(source: str, installed: bool = True) -> Iterator[str]:
    """What in this source must not be there."""
    tree = ast.parse(source)
    known = names(tree)
    inside = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        handed_on = isinstance(node, ast.Name | ast.Attribute) and id(node) not in inside
        if handed_on and called(node, known) in ("torch.load", "torch.serialization.load"):
            yield f"line {node.lineno}: torch.load is handed on"
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.replace(" ", "")
            if "weights_only=False" in text and installed:
                yield f"line {node.lineno}: a command with weights_only=False"
        if isinstance(node, ast.Import | ast.ImportFrom) and installed:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if bad := UNPICKLE & {module.partition(".")[0] for module in modules}:
                yield f"line {node.lineno}: imports {bad}"
        if not isinstance(node, ast.Call):
            continue
        what = called(node.func, known)
        given = {keyword.arg: keyword.value for keyword in node.keywords}

        def is_true(name: str, given: dict[str | None, ast.expr] = given) -> bool:
            value = given.get(name)
            return isinstance(value, ast.Constant) and value.value is True

        if what in ("torch.load", "torch.serialization.load") and not is_true("weights_only"):
            yield f"line {node.lineno}: {what} without weights_only=True"
        if not installed:
            continue
        if is_true("trust_remote_code") or is_true("shell"):
            yield f"line {node.lineno}: {what} runs what it is given"
        if what in ("numpy.load", "numpy.lib.format.read_array") and (
            not isinstance(given.get("allow_pickle"), ast.Constant) or is_true("allow_pickle")
        ):
            yield f"line {node.lineno}: {what} without allow_pickle=False"
        if what in ("eval", "exec", "os.system", "os.popen", "yaml.load", "torch.hub.load"):
            yield f"line {node.lineno}: {what}"


SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_nothing_that_is_installed_or_shown_does_it() -> None:
    assert len(SOURCES) > 200
    found = []
    for path in SOURCES:
        source, installed = path.read_text(encoding="utf-8"), path.relative_to(ROOT).parts[0] in INSTALLED
        if installed or re.search(r"\bload\b", source):  # of what is only shown, calls of `load` alone matter
            found += [f"{path.relative_to(ROOT)}, {fault}" for fault in faults(source, installed)]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(x)",
        "import torch as t\nt.load(x, weights_only=False)",
        "from torch import load as read\nread(x, weights_only=flag)",
        "from torch.serialization import load\nload(x)",
        "import torch\nread = torch.load",
        "import torch\nmap(torch.load, files)",
        "import torch\ntorch.load(x, **options)",
        "a = 'torch.load(f, weights_only = False)'",
        "import numpy as np\nnp.load(x, allow_pickle=True)",
        "import numpy\nnumpy.load(x)",
        "import pickle",
        "from pickle import loads",
        "M.from_pretrained(x, trust_remote_code=True)",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import os\nos.system(x)",
        "eval(x)",
    ],
)
def test_the_test_would_notice(source: str) -> None:
    assert list(faults(source))
