"""Quantised checkpoints: what transformers needs to read them, said before it is missed."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .reading import ModelError

if TYPE_CHECKING:
    import torch


class _Method(NamedTuple):
    """title: how people call it. packages: requirements, as pip takes them. gpu: there is no way to run it on a CPU.

    unread: transformers 5 has the name and the check for the package, and raises NotImplementedError at the weights.
    """

    title: str
    packages: tuple[str, ...]
    gpu: bool = False
    unread: bool = False


# By quant_method; what transformers' quantizers ask for in validate_environment.
METHODS = {
    "bitsandbytes": _Method("bitsandbytes", ("bitsandbytes>=0.46.1", "accelerate")),
    "gptq": _Method("GPTQ", ("gptqmodel", "optimum")),
    "awq": _Method("AWQ", ("gptqmodel", "accelerate")),
    "torchao": _Method("torchao", ("torchao>=0.15.0",)),
    "compressed-tensors": _Method("compressed-tensors", ("compressed-tensors>=0.15.0",)),
    "hqq": _Method("HQQ", ("hqq>=0.2.1",), unread=True),
    "quanto": _Method("quanto", ("optimum-quanto", "accelerate")),
    "aqlm": _Method("AQLM", ("aqlm[gpu,cpu]", "accelerate")),
    "vptq": _Method("VPTQ", ("vptq>=0.0.4", "accelerate"), gpu=True),
    "spqr": _Method("SpQR", ("spqr_quant[gpu]", "accelerate"), gpu=True),
    "higgs": _Method("HIGGS", ("flute-kernel>=0.4.1", "fast_hadamard_transform", "accelerate"), gpu=True),
    "eetq": _Method("EETQ", ("kernels", "accelerate"), gpu=True),
    "fbgemm_fp8": _Method("FP8 (fbgemm)", ("fbgemm-gpu", "accelerate"), gpu=True),
    "fp_quant": _Method("FP-Quant", ("fp_quant",), gpu=True),
    "fouroversix": _Method("FourOverSix", ("fouroversix",)),
    "auto-round": _Method("AutoRound", ("auto-round>=0.5.0",)),
    "quark": _Method("Quark", ("amd-quark",)),
    "sinq": _Method("SINQ", ("sinq",)),
    "bitnet": _Method("BitNet", ("accelerate",)),
    "fp8": _Method("FP8", ("accelerate",)),
    "mxfp8": _Method("MXFP8", ("accelerate",)),
    "mxfp4": _Method("MXFP4", ("accelerate",)),
    "metal": _Method("Metal", ()),
    "gemma": _Method("Gemma's own scheme", ()),
}

_OTHERWISE = "give the model before it was quantised, or one that is quantised in another way"


def method(config: dict[str, Any]) -> str | None:
    """How the weights are quantised by config.json (None: they are not): a key of METHODS, or an unknown name."""
    quantised = config.get("quantization_config")
    if not isinstance(quantised, dict) or not quantised:
        return "mlx" if isinstance(config.get("quantization"), dict) else None
    if quantised.get("load_in_4bit") or quantised.get("load_in_8bit"):
        return "bitsandbytes"
    named = quantised.get("quant_method")
    if named is None and "bits" in quantised and "group_size" in quantised and "quantization" in config:
        return "mlx"
    return str(named)


def check_quantisation(config: dict[str, Any], path: Path, device: torch.device) -> None:
    """Raise ModelError where transformers cannot read these weights: at all, on this device, or without a package."""
    name = method(config)
    if name is None:
        return
    if name == "mlx":
        raise ModelError(
            f"{path} is quantised for MLX, which transformers does not read; on a Mac: python -m mlx_lm convert "
            f"--hf-path {path} --dequantize --mlx-path {path}-dequantized; or {_OTHERWISE}"
        )
    from transformers import __version__

    found = METHODS.get(name)
    if found is None:
        raise ModelError(
            f"{path} is quantised with {name}, which transformers {__version__} does not read; {_OTHERWISE}"
        )
    if found.unread:
        raise ModelError(
            f"{path} is quantised with {found.title}, which needs pip install {found.packages[0]!r} and a transformers "
            f"that reads it ({__version__} does not yet); {_OTHERWISE}"
        )
    lacking = [package for package in found.packages if not _installed(package)]
    pip = " ".join(f"'{package}'" if set(package) & set("<>[") else package for package in lacking)
    if found.gpu and device.type == "cpu":
        also = f" (and pip install {pip})" if lacking else ""
        raise ModelError(
            f"{path} is quantised with {found.title}, which cannot run on a CPU; use a GPU{also}, or {_OTHERWISE}"
        )
    if lacking:
        raise ModelError(f"{path} is quantised with {found.title}; pip install {pip}, or {_OTHERWISE}")


def _installed(requirement: str) -> bool:
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    try:
        return wanted.specifier.contains(importlib.metadata.version(wanted.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False
