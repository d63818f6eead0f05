"""The next checkpoint's weights in the module of the one before: building a module again is most of a small load.

Only where nothing but the values can differ. Everything else (other names in the file than in the module, quantised
weights, code that comes with the checkpoint) is left to a fresh load.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .reading import read_json
from .weights import Weights, safetensors_header

if TYPE_CHECKING:
    import torch

# What a config says about the file it stands in, and not about the model.
_BESIDES = ("_name_or_path", "transformers_version", "_commit_hash")


@dataclass(frozen=True)
class WeightSignature:
    """What two checkpoints must have in common for the weights of one to go into the module of the other.

    configs: config.json and generation_config.json, as sorted JSON. tensors: name -> (dtype in the file, shape).
    """

    configs: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    dtype: str
    device: str


def weight_signature(
    path: Path, weights: Weights, dtype: str | torch.dtype, device: torch.device
) -> WeightSignature | None:
    """The signature of a checkpoint on disk; None where only a fresh load is certain to be right."""
    if weights.kind != "safetensors":
        return None
    config = read_json(path / "config.json", "")
    if "auto_map" in config or "quantization_config" in config:
        return None
    generation = path / "generation_config.json"
    configs = [config, read_json(generation, "") if generation.is_file() else {}]
    kept = [{name: value for name, value in each.items() if name not in _BESIDES} for each in configs]
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in weights.files:
        for name, entry in safetensors_header(file)[0].items():
            if name in tensors:
                return None  # two files disagree about who holds it
            tensors[name] = (str(entry["dtype"]), tuple(entry["shape"]))
    return WeightSignature(json.dumps(kept, sort_keys=True), tensors, str(dtype), str(device))


def fits(model: torch.nn.Module, pattern: WeightSignature) -> bool:
    """Whether the file's tensors are the module's own, name by name, and leave none of them as it was."""
    state = model.state_dict()
    if not pattern.tensors.keys() <= state.keys():
        return False
    filled: dict[int, str] = {}
    for name, (_, shape) in pattern.tensors.items():
        tensor = state[name]
        if tuple(tensor.shape) != shape or tensor.is_meta or tensor.data_ptr() in filled:
            return False
        filled[tensor.data_ptr()] = name
    # Tied weights are stored once: the other name is filled along with the first.
    return all(tensor.data_ptr() in filled for tensor in state.values())


def load_into(model: Any, path: Path, weights: Weights) -> None:
    """Overwrite every tensor of the module with the file's, converted as a fresh load converts them."""
    import torch
    from safetensors import safe_open

    state = model.state_dict()
    with torch.no_grad():
        for file in weights.files:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    state[name].copy_(tensors.get_tensor(name))
    model.config._name_or_path = str(path)
