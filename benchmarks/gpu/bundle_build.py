"""Fill a bundle with the kernels that the smoke, rows, attention and tune parts launch, on a machine without a GPU.

    python -m benchmarks.gpu.bundle_build FOLDER [--arch 90] [--dims 128] [--there TRITON]

The parts' own code runs, on tensors without contents, up to each launch, where Triton compiles instead of launching:
what is compiled is what will be asked for. ``--there`` is the unpacked `triton` package of the machine that the bundle
is for, where that is another build of the same release (for another Python): its hash goes into the names.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from ..smollm2 import say
from . import attention_part, rows_part, smoke_check, tune_part
from .bundle import ABOUT, identity
from .compiled import SHARED
from .record import Record
from .stage import Stage

PROCESSORS = {80: 108, 90: 132, 100: 148}  # of A100, H100 and H200, B200: splits are cut for them
RESULTS = {"at", "part_at", "more_at", "part_block"}  # the host looks into them


class Planned(Stage):
    """A stage whose tensors have shapes and no contents; what is to be measured is called once."""

    arch = 90

    @property
    def device(self) -> torch.device:
        return torch.device("meta")

    @property
    def shared_memory(self) -> int:
        return SHARED[self.arch]

    def randn(self, *shape: int, seed: int = 0) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def wait(self) -> None:
        pass

    def free(self) -> None:
        pass

    def ms(self, run: Callable[[], Any], **options: Any) -> float:
        run()
        return 1.0

    graph_ms = ms

    @contextmanager
    def memory(self) -> Iterator[list[int]]:
        yield [0]

    bandwidth = flops = exps = 1.0  # type: ignore[assignment]


class Nothing(Record):
    def add(self, what: str, measured: float | None = None, unit: str = "", **more: Any) -> None:
        pass


class Driver:
    """As much of one as compiling asks for."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(arch: int) -> Iterator[list[str]]:
    """Every launch inside compiles for the architecture and does nothing else; yields what was asked for."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from headscope.kernels import api
    from headscope.kernels.gpu import configs, launch, row_evidence, self_check, split_attention

    asked: list[str] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        name = self.fn.__name__
        try:
            built = run(self, *args, grid=grid, warmup=True, **options)
        except Exception as error:  # a candidate that the compiler gives up on: the device will say so too
            asked.append(f"{name}: {type(error).__name__}")
            raise
        if built is not None and built.hash not in asked:
            asked.append(built.hash)
        for parameter, value in zip(self.arg_names, args, strict=False):
            if parameter in RESULTS and isinstance(value, Tensor):
                value.zero_()

    def tile(table: Any, q: Tensor, dim: int) -> Any:
        return configs.table_tile(table, arch, q.dtype, dim)

    driver.set_active(Driver(arch))
    with ExitStack() as patches:
        for where, name, by in (
            (JITFunction, "run", compile_only),
            (configs, "_look_up", tile),
            (configs, "architecture", lambda device: arch),
            (configs, "processors", lambda device: PROCESSORS[arch]),
            (row_evidence, "processors", lambda device: PROCESSORS[arch]),
            (split_attention, "processors", lambda device: PROCESSORS[arch]),
            (api, "implementation", lambda q, v=None, *, topk=0, impl="auto": impl.replace("auto", "triton")),
            (self_check, "checked_evidence", launch.run_kernels),  # there is nothing to compare
            (self_check, "checked_key_mass", launch.run_key_mass),
            (rows_part, "prefill_ms", lambda *a, **o: {}),
            (attention_part, "prefill_ms", lambda *a, **o: {}),
            (attention_part, "_cold_prefill", lambda *a: None),
            (attention_part, "_against_float64", lambda *a: None),
            (attention_part, "attend", lambda *a, **o: None),
            (attention_part, "cudnn", lambda *a, **o: None),
            (attention_part, "flash", lambda *a, **o: None),
            (attention_part, "_winning_blocks", lambda *a: 0.0),
            (tune_part, "_compare", _call_each),
            (tune_part, "_best", lambda *a, **o: None),
        ):
            patches.enter_context(patch.object(where, name, by))
        yield asked


def _call_each(stage: Stage, record: Record, what: str, runs: tune_part.Runs, *rest: Any) -> dict[str, float]:
    for call in runs.values():
        try:
            call()
        except Exception as error:
            say(f"{what}: {type(error).__name__}: {error}".splitlines()[0][:120])
    return {}


def calls(arch: int, dims: tuple[int, ...], cases: list[smoke_check.Case] | None = None) -> Iterator[tuple[str, Any]]:
    """What the parts do, in steps. ``cases``: of the smoke part; all of them if None."""
    stage = Planned(False, dims)
    object.__setattr__(stage, "arch", arch)
    for case in smoke_check.cases(False) if cases is None else cases:
        yield f"smoke: {case.what}", partial(smoke_check.check, case, torch.device("cpu"))
    if cases is None:
        for part in (rows_part, attention_part, tune_part):
            yield part.__name__.rpartition(".")[2], partial(part.run, stage, Nothing("", Path(os.devnull)))


def fill(folder: Path, arch: int, steps: Iterator[tuple[str, Any]], there: Path | None = None) -> int:
    """Compile into the folder and describe it; returns the number of kernels."""
    import triton
    from triton.runtime import cache

    folder.mkdir(parents=True, exist_ok=True)
    key = cache.triton_key()
    if there is not None:
        key = _key_of(there, Path(triton.__file__).parent, key)
    before = os.environ.get("TRITON_CACHE_DIR")
    os.environ["TRITON_CACHE_DIR"] = str(folder.absolute())
    try:
        with patch.object(cache, "triton_key", lambda: key), compiling(arch) as asked, torch.no_grad():
            triton.knobs.compilation.store_binary_only = True  # without the stages before it: a fifth of the size
            about = identity(arch)
            for what, call in steps:
                had = len(asked)
                call()
                say(f"{what}: {len(asked) - had} new")
        _drop_sources(folder)
        entries = sorted(path.parent.name for path in folder.glob("*/*.cubin"))
        (folder / ABOUT).write_text(json.dumps({**about, "entries": entries}, indent=1), encoding="utf-8")
    finally:
        os.environ.pop("TRITON_CACHE_DIR")
        os.environ.update({} if before is None else {"TRITON_CACHE_DIR": before})
    return len(entries)


def _drop_sources(folder: Path) -> None:
    """Half of what is left is the first stage's text, which nobody reads again."""
    for group in folder.glob("*/__grp__*.json"):
        files = json.loads(group.read_text(encoding="utf-8"))["child_paths"]
        for name in [name for name in files if name.endswith(".source")]:
            Path(files.pop(name)).unlink(missing_ok=True)
        group.write_text(json.dumps({"child_paths": files}), encoding="utf-8")


def _key_of(there: Path, here: Path, key: str) -> str:
    """Triton's hash of itself for another build of the same sources."""
    differ = [path for path in here.rglob("*.py") if path.read_bytes() != (there / path.relative_to(here)).read_bytes()]
    if differ:
        raise SystemExit(f"error: {there} is another release than {here}: {differ[0].name} differs")
    binaries = [sha256((folder / "_C" / "libtriton.so").read_bytes()).hexdigest() for folder in (here, there)]
    assert binaries[0] in key
    return key.replace(*binaries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--arch", type=int, default=90, choices=PROCESSORS)
    parser.add_argument("--dims", type=int, nargs="+", default=[128], help="head sizes of the tune part (%(default)s)")
    parser.add_argument("--there", type=Path, help="triton package of the machine that it is for")
    given = parser.parse_args()
    count = fill(given.folder, given.arch, calls(given.arch, tuple(given.dims)), given.there)
    size = sum(path.stat().st_size for path in given.folder.rglob("*") if path.is_file())
    say(f"{count} kernels, {size / (1 << 20):.1f} MB in {given.folder}")


if __name__ == "__main__":
    main()
