"""Kernels compiled before a GPU is there: a folder of Triton's cache that is carried to it (`make gpu-bundle`).

Triton finds a kernel in its cache by a hash of its own compiler (sources and binary, so a release for another Python is
another compiler; ptxas; environment variables that change what is compiled), the kernel's source, its arguments' types,
and the device's architecture. ``bundle.json`` has the first, the second and the last, so that whether a bundle fits can
be said before anything runs. What it lacks is compiled where it runs, as ever, and so are the small C functions that
launch kernels.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

ABOUT = "bundle.json"


def identity(arch: int | None) -> dict[str, Any]:
    """What must agree where a bundle is made and where it is used; arch is 90 for compute capability 9.0."""
    import triton
    from triton._C.libtriton import get_cache_invalidating_env_vars
    from triton.backends.nvidia.compiler import get_ptxas_version
    from triton.runtime import cache

    settings = sorted(get_cache_invalidating_env_vars().items())
    compiler = f"{cache.triton_key()}{get_ptxas_version(arch or 90)}{settings}"
    return {
        "triton": triton.__version__,
        "compiler": sha256(compiler.encode()).hexdigest()[:16],
        "kernels": sha256("".join(settle()).encode()).hexdigest()[:16],
        "arch": arch,
    }


def settle() -> list[str]:
    """Hash all kernels, always in this order. A process must do so before its first launch to find what is in a bundle:
    in Triton 3.6, how often a constant counts in a kernel's hash depends on what was hashed before it.
    """
    return [kernel.cache_key for kernel in all_kernels() if hasattr(kernel, "cache_key")]  # not of interpreted ones


def all_kernels() -> list[Any]:
    from headscope.kernels.gpu import (
        clear_blocks,
        evidence_attention,
        key_mass,
        row_evidence,
        span_mass,
        split_attention,
        visible_keys,
    )

    return [
        clear_blocks.clear_blocks_kernel,
        evidence_attention.evidence_attention_kernel,
        key_mass.key_mass_kernel,
        row_evidence.row_evidence_kernel,
        row_evidence.merge_splits_kernel,
        span_mass.span_mass_kernel,
        split_attention.split_attention_kernel,
        split_attention.join_splits_kernel,
        visible_keys.visible_keys_kernel,
    ]


def put_to_use(folder: Path, arch: int | None = None) -> str:
    """Make it the cache of this process and those that it starts; says whether it fits, and if not why not."""
    folder = folder.absolute()
    if not (folder / ABOUT).is_file():
        return f"bundle does not fit: {folder.name} has no {ABOUT}; `make gpu-bundle` makes one"
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    for group in folder.glob("*/__grp__*.json"):  # Triton writes absolute paths
        content = json.loads(group.read_text(encoding="utf-8"))
        content["child_paths"] = {name: str(group.parent / name) for name in content["child_paths"]}
        group.write_text(json.dumps(content), encoding="utf-8")
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    here = identity(arch)
    differ = [f"{name} {about[name]}, here {here[name]}" for name in here if here[name] != about[name]]
    if differ:
        return f"bundle does not fit, kernels are compiled here: {'; '.join(differ)}"
    return f"bundle fits: {len(about['entries'])} kernels of triton {about['triton']} for sm_{about['arch']}"


def compiled_since(folder: Path) -> list[str]:
    """Names of kernels that were compiled into it since it was made."""
    about = folder / ABOUT
    had = set(json.loads(about.read_text(encoding="utf-8"))["entries"]) if about.is_file() else set()
    return sorted(path.stem for path in folder.glob("*/*.cubin") if path.parent.name not in had)
