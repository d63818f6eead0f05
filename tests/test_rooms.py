"""The direction of the arrows: which room imports from which, through which names, and no circles between files."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A room is a folder, or a file that lies in interp/ itself. Each imports from rooms before it only.
ORDER = (
    *("headscope.printable", "headscope.errors", "kernels", "probes"),
    *(f"interp.{name}" for name in ("packages", "lengths", "checkpoint_names", "environment", "levels")),
    *("interp.evidence", "interp.results", "interp.ablation", "interp.tasks", "interp.finetuned"),
    *(f"interp.{name}" for name in ("model", "estimators", "engine", "perplexity", "store", "analysis", "scoring")),
    *(f"interp.{name}" for name in ("unfinished", "evaluating", "finetune", "copying", "causal")),
    *("interp.sweep", "interp.monitor", "interp.report", "headscope"),
)
# Methods of data that the public contract puts there: imported inside the function, and nowhere else.
FACADES = {
    ("interp.results", "interp.store", "save"),
    ("interp.results", "interp.store", "to_xarray"),
    ("interp.results", "interp.analysis", "effective_length"),
    ("interp.ablation", "interp.store", "save"),
    ("interp.ablation", "interp.store", "load"),
    ("interp.tasks.answers", "interp.store", "save"),
    ("interp.tasks.answers", "interp.store", "load"),
    ("interp.finetuned", "interp.store", "save"),
    ("interp.finetuned", "interp.store", "load"),
    ("probes.probe", "probes.from_text", "from_text"),
    ("interp.perplexity.result", "interp.store", "save"),
    ("interp.perplexity.result", "interp.store", "load"),
    ("interp.perplexity.key_tokens", "interp.store", "save"),
    ("interp.copying.profile", "interp.copying.file", "save"),
    ("interp.copying.profile", "interp.copying.file", "load"),
}


@dataclass(frozen=True)
class Arrow:
    """One imported name. file, target: modules without "headscope."; inside: the function that imports, "" for none."""

    file: str
    target: str
    name: str
    inside: str
    for_types: bool

    def __str__(self) -> str:
        return f"{self.file} imports {self.name} from {self.target}"


def modules() -> dict[str, Path]:
    """Module (without "headscope.") -> file, of all that is installed."""
    found = {}
    for top in ("kernels", "probes", "interp", "headscope"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def named_in_all(module: str) -> list[str]:
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


FACES = {module: named_in_all(module) for module, path in MODULES.items() if path.name == "__init__.py"}


def room(module: str) -> str:
    """A folder at the top or in interp/, or a file of interp/; and the two files that all rooms import from."""
    parts = module.split(".")
    below_all = module in ("headscope.printable", "headscope.errors")
    return ".".join(parts[:2]) if parts[0] == "interp" and len(parts) > 1 or below_all else parts[0]


def arrows() -> Iterator[Arrow]:
    for module, path in MODULES.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        yield from _within(ast.parse(path.read_text()), module, package, "", False)


def _within(node: ast.AST, module: str, package: str, inside: str, for_types: bool) -> Iterator[Arrow]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        inside = node.name
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for_types = True
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.partition(".")[0] == "headscope":
                raise AssertionError(f"{module} imports {alias.name}; between rooms imports are relative")
    if isinstance(node, ast.ImportFrom):
        if not node.level:
            assert not str(node.module).startswith("headscope"), f"{module} imports {node.module}, not relatively"
        else:
            # headscope/ itself is the top package; the other rooms are mounted in it.
            base = ["headscope", *package.split(".")] if not package.startswith("headscope") else package.split(".")
            start = base[: len(base) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield Arrow(module, *_target(start, alias.name), inside, for_types)
    for child in ast.iter_child_nodes(node):
        yield from _within(child, module, package, inside, for_types)


def _target(start: list[str], name: str) -> tuple[str, str]:
    """The module that is imported from, and the name; a module that is imported as a name is both.

    A name of a room's face is of the face, also where a file behind it is called the same.
    """
    here = ".".join(start[1:]) if len(start) > 1 else ""
    if name in FACES.get(here, ()):
        return here, name
    for module in (f"{here}.{name}".strip("."), f"headscope.{here}.{name}".replace("..", ".")):
        if module in MODULES:
            return module, name
    return (here, name) if here in MODULES else (".".join(start), name)


# headscope.errors shows the errors of all rooms, each imported from its room on first use; only type checkers see how.
ARROWS = [arrow for arrow in arrows() if not (arrow.file == "headscope.errors" and arrow.for_types)]


def test_there_is_something_to_look_at() -> None:
    assert {room(module) for module in MODULES} - {"interp"} == set(ORDER)
    assert len(ARROWS) > 400
    assert Arrow("interp.scoring", "probes", "ProbeSet", "", False) in ARROWS
    assert any(arrow.for_types for arrow in ARROWS) and any(arrow.inside for arrow in ARROWS)


def test_rooms_import_from_rooms_before_them() -> None:
    wrong = [
        str(arrow)
        for arrow in ARROWS
        if ORDER.index(room(arrow.target)) > ORDER.index(room(arrow.file))
        and not (arrow.target == "headscope" and arrow.name == "__version__")
        and (arrow.file, room(arrow.target), arrow.inside) not in FACADES
    ]
    assert wrong == []


def test_rooms_use_what_others_name_in_all() -> None:
    wrong = []
    for arrow in ARROWS:
        here, there = room(arrow.file), room(arrow.target)
        if here == there or (arrow.target == "headscope" and arrow.name == "__version__"):
            continue
        if there not in FACES:
            continue  # a room of one file: all its names without an underscore are its face
        if arrow.target in FACES and arrow.name in ("*", arrow.target.rpartition(".")[2]):
            continue  # all that it names, or the room itself, as `headscope.probes` is
        # A room may have rooms in it, with faces of their own: report/figures, report/page.
        # For types, a name may come from the file that is called like it: mypy takes the one for the other.
        same_name = arrow.for_types and arrow.target == f"{there}.{arrow.name}" and arrow.name in FACES[there]
        if arrow.name not in FACES.get(arrow.target, ()) and not same_name:
            wrong.append(str(arrow))
    assert wrong == []


def test_no_private_names_cross_files() -> None:
    wrong = [str(arrow) for arrow in ARROWS if arrow.name.startswith("_") and not arrow.name.startswith("__")]
    assert wrong == []


def test_files_import_each_other_in_no_circle() -> None:
    """Whatever the import is for, at the top, in a function or for types: a reader goes down, and never in circles."""
    graph: dict[str, set[str]] = defaultdict(set)
    for arrow in ARROWS:
        if (arrow.file, room(arrow.target), arrow.inside) in FACADES:
            continue
        if (arrow.file, arrow.target, arrow.inside) in FACADES or arrow.name == "__version__":
            continue
        if arrow.target != arrow.file and not arrow.file.startswith(f"{arrow.target}."):
            graph[arrow.file].add(arrow.target)
    assert circles(graph) == []


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of files each of which reaches the others, two or more in each."""

    def reached(start: str) -> set[str]:
        found, todo = set(), list(graph.get(start, ()))
        while todo:
            one = todo.pop()
            if one not in found:
                found.add(one)
                todo += graph.get(one, ())
        return found

    reach = {file: reached(file) for file in list(graph)}
    groups = {
        tuple(sorted(other for other in reach if other in reach[file] and file in reach[other]))
        for file in reach
        if file in reach[file]
    }
    return [list(group) for group in sorted(groups)]


@pytest.mark.parametrize(("file", "target", "function"), sorted(FACADES))
def test_facades_import_where_they_are_called(file: str, target: str, function: str) -> None:
    found = {arrow.inside for arrow in ARROWS if arrow.file == file and target in (arrow.target, room(arrow.target))}
    assert function in found
    assert found <= {inside for one, other, inside in FACADES if (one, other) == (file, target)}


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e2"}, "e2": set()}) == [["a", "b", "c"]]
