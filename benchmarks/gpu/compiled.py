"""Compile a kernel for an architecture that is not here, and read what came out: loop, registers, spills."""

from __future__ import annotations

import re
import subprocess
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from headscope.kernels.gpu.configs import FUSED, Tile
from headscope.kernels.gpu.kernel_args import KernelArgs

SHARED: dict[int | str, int] = {  # bytes a block may have (CUDA C++ Programming Guide; AMD's CDNA ISA guides)
    **{80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024},
    **{"gfx942": 64 * 1024, "gfx950": 160 * 1024},
}
RESERVED = 1024  # bytes of shared memory that every block has on top; a processor has as much as SHARED and this
TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}  # in PTX
MMA = re.compile(r"\b(HMMA|HGMMA|UTC\w*MMA)\b")
BRANCH = re.compile(r"\bBRA[.\w]*\s.*`\((\.L_x_\d+)\)")
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


@dataclass(frozen=True)
class Compiled:
    arch: int | str
    ptx: str
    """or AMD's assembly"""
    cubin: bytes
    warps: int
    shared: int
    """bytes"""
    spills: int
    """bytes of spill stores"""

    @cached_property
    def sass(self) -> str:
        with NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            return _run(TOOLS / "nvdisasm", "-c", file.name)

    @cached_property
    def registers(self) -> int:
        """of a thread"""
        with NamedTemporaryFile(suffix=".cubin") as file:
            file.write(self.cubin)
            file.flush()
            found = re.search(r"\bREG:(\d+)", _run(TOOLS / "cuobjdump", "--dump-resource-usage", file.name))
        assert found
        return int(found[1])

    @property
    def programs(self) -> int:
        """How many fit on a processor at once, by registers (given to a warp 256 at a time), memory and threads."""
        by_registers = 4 * (16384 // (-(-self.registers // 8) * 256)) // self.warps
        return min(by_registers, (SHARED[self.arch] + RESERVED) // (self.shared + RESERVED), 64 // self.warps)

    def facts(self) -> dict[str, int]:
        """What can be known about a kernel without running it."""
        has_loop = MMA.search(self.sass) and "MUFU.EX2" in self.sass
        loop = {"loop": self.main_loop if has_loop else 0, "registers": self.registers, "spills": self.spills}
        return {**loop, "shared": self.shared, "programs": self.programs}

    @cached_property
    def main_loop(self) -> int:
        """Instructions of the smallest loop that has both matrix products and exponentials."""
        lines = [line for line in map(str.strip, self.sass.splitlines()) if line]
        label = {line[:-1]: at for at, line in enumerate(lines) if re.fullmatch(r"\.L_x_\d+:", line)}
        sizes = []
        for at, line in enumerate(lines):
            jump = BRANCH.search(line)
            if jump and (begin := label.get(jump[1], at)) < at:
                body = [x for x in lines[begin : at + 1] if x.startswith("/*")]
                if any(MMA.search(x) for x in body) and any("MUFU.EX2" in x for x in body):
                    sizes.append(len(body))
        if not sizes:
            raise AssertionError("found no loop with matrix products and exponentials")
        return min(sizes)


def types(kernel: Any, dtype: str) -> dict[str, str]:
    """Triton types by the parameters' names: tensors of the model, results, strides, scalars."""
    known = {
        **dict.fromkeys(("q", "k", "v", "out"), f"*{dtype}"),
        **dict.fromkeys(
            ("first", "last", "part_at", "part_block", "more_at", "row_starts", "key_starts", "table"), "*i32"
        ),
        **dict.fromkeys(("part_m", "part_l", "part_o", "more", "lse", "max_logit", "mass", "sinks"), "*fp32"),
        **dict.fromkeys(("at", "spans", "positions", "limits", "starts"), "*i64"),
        "mult": "fp32",
        "cap": "fp32",
    }
    return {name: known.get(name, "i32") for name in kernel.arg_names}


def constants(kernel: Any, dtype: str, dim: int, tile: Tile, **options: Any) -> dict[str, Any]:
    """Causal rows with a limit each and four query heads to a key head, unless options say otherwise."""
    every = {
        "s_qd": 1, "s_kd": 1, "s_vd": 1, "s_se": 1,
        "G": 4, "D": dim, "BD": KernelArgs.padded(dim), "DV": dim, "BDV": KernelArgs.padded(dim),
        "BM": tile.rows, "BN": tile.keys, "K": 0, "EVIDENCE": True,
        "CLEAR_DONE": False, "PREFETCH": False, "SPECIALISED": tile.warps == 4,
        "HAS_FIRST": False, "HAS_CAP": False, "HAS_SINK": False, "RESCAN": False,
        "CAUSAL": True, "HAS_WINDOW": False, "HAS_LIMIT": True, "HAS_START": False,
        "PACKED_Q": False, "PACKED_K": False, "PAGE": 0,
        "PRECISION": "tf32x3" if dtype == "fp32" else "ieee", **options,
    }  # fmt: skip
    return {name: value for name, value in every.items() if name in kernel.arg_names}


def build(kernel: Any, arch: int | str, dtype: str, dim: int, tile: Tile, **options: Any) -> Compiled:
    """With a tile of configs.py."""
    const = constants(kernel, dtype, dim, tile, **options)
    most = {} if tile.registers is None else {"maxnreg": tile.registers}
    return compiled(kernel, arch, types(kernel, dtype), const, warps=tile.warps, stages=tile.stages, **most)


def compiled(
    kernel: Any,
    arch: int | str,
    types: dict[str, str],
    constants: dict[str, Any],
    *,
    warps: int,
    stages: int,
    **more: Any,
) -> Compiled:
    """``arch``: 80 for compute capability 8.0, or AMD's "gfx942". ``types``: Triton type of each argument that is not
    constant; pointers and strides count as multiples of 16.
    """
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    aligned = [name for name in names if name not in constants and (types[name][0] == "*" or name.startswith("s_"))]
    attrs = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attrs)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": FUSED, **more}
    if isinstance(arch, str):
        built = triton.compile(source, target=GPUTarget("hip", arch, 64), options=options)
        text = built.asm["amdgcn"]
        (words,) = map(int, re.findall(r"\.vgpr_spill_count:\s+(\d+)", text))
        return Compiled(arch, text, b"", warps, built.metadata.shared, 4 * words)
    said = StringIO()
    with redirect_stdout(said), knobs.nvidia.scope(), knobs.compilation.scope():
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True  # what comes from Triton's cache has no log
        built = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    spills = re.search(r"(\d+) bytes spill stores", said.getvalue())
    assert spills, said.getvalue()
    return Compiled(arch, built.asm["ptx"], built.asm["cubin"], warps, built.metadata.shared, int(spills[1]))


def _run(*command: object) -> str:
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{command[0]}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr
