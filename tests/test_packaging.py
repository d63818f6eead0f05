"""The rooms are one package wherever it runs: wheel or editable, in the repository or not, beside HF's `kernels`."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import headscope

pytestmark = pytest.mark.long
ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("kernels", "interp", "probes")
SHOW = "; ".join(f"import headscope.{room}; print(headscope.{room}.__file__)" for room in ROOMS)
FIND = "import importlib.util as u; " + "; ".join(f"print(u.find_spec('headscope.{room}').origin)" for room in ROOMS)


def python(code: str, *path: Path, cwd: Path, flags: tuple[str, ...] = ()) -> str:
    """Run `code` in a new interpreter started in `cwd` with `path` on PYTHONPATH; its output, or a failing test."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *flags, "-c", code]
    run = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def pip(*arguments: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with folders nobody listed anywhere, unpacked from its own source distribution."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("headscope", *ROOMS, "tests", "benchmarks"):
        if (ROOT / name).is_dir():  # git does not keep an empty benchmarks/
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for new in ("kernels/new_room", "interp/new_room/deeper", "benchmarks", "headscope/__pycache__"):
        (copy / new).mkdir(parents=True, exist_ok=True)
        (copy / new / "added.py").write_text("VALUE = 1\n")

    subprocess.run([sys.executable, "setup.py", "-q", "sdist", "-d", "out"], cwd=copy, capture_output=True, check=True)
    (archive,) = (copy / "out").glob("headscope-*.tar.gz")
    shutil.unpack_archive(archive, copy / "out", filter="data")
    return copy / "out" / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(sources), cwd=folder)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel), cwd=folder)
    return folder


def test_wheel_holds_the_rooms_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    version = headscope.__version__
    assert wheel.name == f"headscope-{version}-py3-none-any.whl"
    assert {name.split("/")[0] for name in names} == {"headscope", f"headscope-{version}.dist-info"}

    mounted = {"headscope": "headscope"} | {room: f"headscope/{room}" for room in ROOMS}
    expected = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in mounted.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    expected |= {"headscope/kernels/new_room/added.py", "headscope/interp/new_room/deeper/added.py"}
    assert {name for name in names if name.endswith(".py")} == expected
    assert "headscope/py.typed" in names
    assert {f"headscope/interp/report/page/report.{kind}" for kind in ("css", "js", "html.j2")} <= set(names)


def test_wheel_metadata(wheel: Path) -> None:
    (distribution,) = importlib.metadata.distributions(path=[str(wheel)])
    assert distribution.version == headscope.__version__
    assert distribution.metadata["Requires-Python"] == ">=3.11"
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert {"all", "dev", "gguf", "lens", "netcdf4", "parquet", "ray", "sft", "test", "triton"} == set(
        distribution.metadata.get_all("Provides-Extra", [])
    )
    (script,) = distribution.entry_points
    assert (script.group, script.name, script.value) == ("console_scripts", "headscope", "headscope.cli:main")


def test_wheel_in_a_foreign_directory(installed: Path, tmp_path: Path) -> None:
    code = f"{SHOW}; from headscope.kernels import RowEvidence, evidence_attention, merge, row_evidence"
    shown = python(code, installed, cwd=tmp_path).split()
    assert shown == [str(installed / "headscope" / room / "__init__.py") for room in ROOMS]


def test_wheel_from_the_repository_root(installed: Path) -> None:
    # `python -c` puts the current directory first: the checkout's own front door opens, and finds the checkout's rooms.
    assert python(FIND, installed, cwd=ROOT).split() == [str(ROOT / room / "__init__.py") for room in ROOMS]
    # Without it (-P, or an installed command), the wheel is used as if one were elsewhere.
    shown = python(FIND, installed, cwd=ROOT, flags=("-P",)).split()
    assert shown == [str(installed / "headscope" / room / "__init__.py") for room in ROOMS]


def test_editable_install_from_anywhere(tmp_path: Path) -> None:
    try:
        origin = importlib.metadata.distribution("headscope").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        origin = None
    if origin is None or not json.loads(origin).get("dir_info", {}).get("editable"):
        pytest.skip("headscope is not installed editable here")
    expected = [str(ROOT / room / "__init__.py") for room in ROOMS]
    assert python(SHOW, cwd=tmp_path).split() == expected
    assert python(SHOW, cwd=ROOT).split() == expected
    nothing = "import importlib.util as u; assert u.find_spec('probes') is None and u.find_spec('interp') is None"
    python(nothing, cwd=tmp_path)


@pytest.fixture
def hugging_face_kernels(tmp_path: Path) -> Path:
    """A stand-in for Hugging Face's `kernels`, with a submodule and metadata, as it would lie in site-packages."""
    site = tmp_path / "site"
    (site / "kernels").mkdir(parents=True)
    (site / "kernels" / "__init__.py").write_text("from kernels.utils import get_kernel\n__version__ = '0.0.1'\n")
    (site / "kernels" / "utils.py").write_text("def get_kernel(name):\n    return f'kernel {name}'\n")
    (site / "kernels-0.0.1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: kernels\nVersion: 0.0.1\n"
    (site / "kernels-0.0.1.dist-info" / "METADATA").write_text(metadata)
    return site


USE_BOTH = """
import sys
import kernels, kernels.utils, headscope.kernels
assert sys.path.index({root!r}) < sys.path.index({site!r})
assert sys.modules["kernels"] is kernels and kernels.__file__.startswith({site!r}), kernels.__file__
assert kernels.utils.__file__.startswith({site!r})
assert not hasattr(kernels, "row_evidence")
assert headscope.kernels.__file__.startswith({root!r})
headscope.kernels.row_evidence
print(kernels.get_kernel("relu"))
"""


def test_bare_kernels_is_hugging_faces(hugging_face_kernels: Path) -> None:
    code = USE_BOTH.format(root=str(ROOT), site=str(hugging_face_kernels))
    assert python(code, ROOT, hugging_face_kernels, cwd=ROOT) == "kernel relu\n"


def test_transformers_with_hugging_faces_kernels_beside_the_checkout(hugging_face_kernels: Path) -> None:
    code = "from transformers import LlamaForCausalLM; import kernels; print(kernels.get_kernel('relu'))"
    assert python(code, ROOT, hugging_face_kernels, cwd=ROOT) == "kernel relu\n"


def test_a_failing_kernels_distribution_fails_as_itself(hugging_face_kernels: Path) -> None:
    (hugging_face_kernels / "kernels" / "__init__.py").write_text("raise ImportError('built for another torch')\n")
    code = "try:\n import kernels\nexcept ImportError as error:\n print(error)"
    assert python(code, ROOT, hugging_face_kernels, cwd=ROOT) == "built for another torch\n"


def test_bare_kernels_is_empty_without_hugging_faces(sources: Path) -> None:
    # -S: no site-packages, so none is installed; two checkouts on the path must not send each other in circles.
    code = "import kernels, sys; print([n for n in vars(kernels) if not n.startswith('_')], 'torch' in sys.modules)"
    assert python(code, ROOT, sources, cwd=ROOT, flags=("-S",)) == "[] False\n"


def test_front_door_is_light() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'pandas', 'xarray', 'matplotlib'} & set(sys.modules)"
    assert python(f"import headscope, sys; print({heavy})", ROOT, cwd=ROOT) == "set()\n"
    assert python(f"import headscope.cli, sys; print('torch' in {heavy})", ROOT, cwd=ROOT) == "False\n"


FIGURES_ABSENT = """
import sys
from importlib.machinery import PathFinder

find, absent = PathFinder.find_spec, ("plotly", "jinja2", "typer", "matplotlib")
def find_others(name, path=None, target=None):
    return None if isinstance(name, str) and name.split(".")[0] in absent else find(name, path, target)
PathFinder.find_spec = staticmethod(find_others)

import headscope as hs
for name in hs.__all__:
    getattr(hs, name)
import headscope.interp.report.page
from builders import random_grid
from tiny_models import build
# transformers looks for Hugging Face's `kernels` here, and finds the checkout's folder of that name
scores = hs.score_heads(build("llama"), random_grid()[:2])
scores.save("run.h5")
assert hs.open("run.h5").sizes["head"] == 8
assert not {*absent} & {*sys.modules}
for needs in (
    lambda: hs.plot.head_heatmap(scores),
    lambda: hs.plot.top_heads(scores),
    lambda: hs.plot.save_figures(scores, "figures"),
    lambda: hs.plot.save_evolution_figures("run.h5", "figures"),
    lambda: headscope.interp.report.page.write_report("run.h5", "run.html"),
):
    try:
        needs()
    except hs.errors.MissingPackageError as error:
        print(error)
sys.argv = ["headscope", "--help"]
import headscope.__main__
"""


def test_scores_need_no_package_for_figures_page_or_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIGURES_ABSENT]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2, run.stderr
    told = [line.split("Install it: ") for line in run.stdout.splitlines()]
    assert [remedy for _, remedy in told] == ["pip install 'matplotlib'"] * 4 + ["pip install 'jinja2'"]
    (line,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: the command line needs the package typer") and "pip install 'typer'" in line


def test_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "headscope", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "score" in run.stdout


def test_public_names() -> None:
    from headscope.interp.results import HeadScores
    from headscope.interp.store.results_file import open as open_store

    for module in (headscope, headscope.errors, headscope.plot, headscope.analysis):
        for name in module.__all__:
            assert getattr(module, name) is not None
    assert headscope.HeadScores is HeadScores
    assert headscope.open is open_store
    assert headscope.probes.__name__ == "headscope.probes"
    assert set(headscope.__all__) <= set(dir(headscope))
    with pytest.raises(AttributeError, match="module 'headscope' has no attribute 'score_head'"):
        headscope.score_head  # noqa: B018
