"""Every error of ours has one base and is in `hs.errors`, and nothing else of ours is raised for a user's mistake."""

from __future__ import annotations

import ast
import builtins
import re
from functools import cache
from pathlib import Path

import pytest

import headscope as hs
from command_line import fail
from headscope.cli.errors import user_message

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for room in ("headscope", "interp", "kernels", "probes") for path in (ROOT / room).rglob("*.py"))
# Raised and caught within their rooms; what comes out is a StoreError, a SweepError or a CheckpointError, or nothing.
INSIDE = {"_Damaged", "Busy", "_Unplaced", "_Stopped"}


@cache
def trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]


def test_every_error_class_is_listed_and_has_the_base() -> None:
    built_in = {name for name in dir(builtins) if name.endswith(("Error", "Exception"))} | {"Exception"}
    known = built_in | set(hs.errors.__all__)
    defined = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & (known | INSIDE):
                defined.add(node.name)
    assert defined - INSIDE == set(hs.errors.__all__)
    for name in hs.errors.__all__:
        kind = getattr(hs.errors, name)
        assert issubclass(kind, hs.errors.HeadscopeError) and kind.__name__ == name and kind.__doc__


def test_the_list_says_what_each_is() -> None:
    lines = re.findall(r"^(\w+) +\S.*\((.+)\)$", hs.errors.__doc__ or "", re.M)
    assert {name for name, _ in lines} == set(hs.errors.__all__) - {"HeadscopeError"}
    for name, bases in lines:
        above = {kind.__name__ for kind in getattr(hs.errors, name).__mro__[1:]}
        assert set(bases.split(", ")) <= above, name
    assert set(dir(hs.errors)) == set(hs.errors.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ProbError'"):
        hs.errors.ProbError  # noqa: B018


def test_a_built_in_error_is_never_raised_bare() -> None:
    bare = {"ValueError", "TypeError", "KeyError", "ImportError", "Exception"}
    found = []
    for path, tree in trees():
        for node in ast.walk(tree):
            raised = node.exc.func if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else None
            if isinstance(raised, ast.Name) and raised.id in bare:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} raises {raised.id}")
    assert not found, "the command line would show a traceback: use headscope.errors"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: hs.probes.build("gird", None),
        lambda: hs.read_scores("nowhere.h5"),
        lambda: hs.kernels.row_evidence(1, 2, q_positions=None),
        lambda: hs.analysis.read_trajectory("nowhere.h5"),
        lambda: hs.analysis.Watch(["a"], planned=0),
        lambda: hs.export("nowhere.h5", "cvs", "heads.csv"),
        lambda: hs.score_heads("nowhere", 3),
        lambda: hs.HeadMonitor([], "run.h5"),
        lambda: hs.load_model("./nowhere"),
    ],
)
def test_one_base_catches_them_in_every_room(wrong: object) -> None:
    with pytest.raises(hs.errors.HeadscopeError) as caught:
        wrong()  # type: ignore[operator]
    message = user_message(caught.value)
    assert message and "\n" not in message


def test_errors_of_others_keep_their_traceback() -> None:
    for error in (ValueError("of numpy"), TypeError("of torch"), RuntimeError("out of memory"), KeyError("of pandas")):
        assert user_message(error) is None


def test_the_command_line_tells_ours_in_one_line(tmp_path: Path) -> None:
    assert "nowhere.h5" in fail("export", tmp_path / "nowhere.h5", "--format", "csv")
    assert "--top belongs to --format qrhead" in fail("export", "run.h5", "--format", "csv", "--top", "3")
