"""What config.json describes, held against what the weights hold, before a model is built from it.

A config is a few numbers, and a model of ten million layers, or of a hidden size of a billion, would take hours or all
memory before transformers noticed that the weights are not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .reading import ModelError

_TEXTS = ("model_type",)
_LISTS = ("architectures",)
_OBJECTS = ("auto_map", "text_config", "quantization_config", "rope_scaling", "rope_parameters")
# What a model has of, by the names that configs use, and what every one of them needs.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "depth")
_OTHERS = (
    *("hidden_size", "n_embd", "d_model", "vocab_size", "intermediate_size", "n_inner", "ffn_dim", "head_dim"),
    *("num_attention_heads", "n_head", "num_heads", "num_key_value_heads", "max_position_embeddings", "n_positions"),
)
_MANY = ("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "moe_num_experts", "num_labels")
# A model may need parameters that are not in the file (it is then refused, and told which), but not without end.
FREE_ELEMENTS = 2**26
MORE_ELEMENTS = 2
FREE_BYTES, BYTES_EACH = 2**30, 16  # a file may hold more than the model uses (a vision tower), but not without end


class Held(NamedTuple):
    """How many tensors the weight files hold, of how many elements, in how many bytes.

    Where that is not told (pickles; packed weights), as many as the bytes can hold.
    """

    tensors: int
    elements: int
    bytes: int


def check_config(config: Mapping[str, Any], file: Path) -> None:
    """Raise ModelError where a part of config.json that decides what is built is of another type than it ever has."""

    def refuse(name: str, wanted: str) -> None:
        raise ModelError(f"{file}: {name} is {str(config[name])[:60]!r}, not {wanted}; copy or download it again")

    for names, kind, wanted in (
        (_TEXTS, str, "a text"),
        (_LISTS, list, "a list of texts"),
        (_OBJECTS, dict, "an object"),
    ):
        for name in names:
            value = config.get(name)
            if value is not None and not isinstance(value, kind):
                refuse(name, wanted)
            if isinstance(value, list) and not all(isinstance(item, str) for item in value):
                refuse(name, wanted)
    for name in (*_LAYERS, *_OTHERS, *_MANY):
        if not all(_is_count(item) for item in _items(config.get(name))):
            refuse(name, "a whole number from 0 up")
    if isinstance(config.get("text_config"), dict):
        check_config(config["text_config"], file)


def check_counts(config: Mapping[str, Any], file: Path, held: Held) -> None:
    """Raise ModelError where config.json has more layers than the weights have tensors, or experts than numbers."""
    for names, most, what in ((_LAYERS, held.tensors, "tensors"), (_MANY, held.elements, "numbers")):
        for name in names:
            value = max(_items(config.get(name)), default=0)
            if value > most and value > 1000:
                raise ModelError(
                    f"{file}: {name} is {value:,}, but the weights hold {most:,} {what}; they belong to different "
                    "models; give each its own config.json"
                )
    for name, value in config.items():
        if name.endswith("_config") and isinstance(value, dict) and name != "quantization_config":
            check_counts(value, file, held)


def check_described(model: Any, folder: Path, held: Held) -> None:
    """Raise ModelError where a model, built without memory from config.json, is of another size than the weights.

    model: on torch's meta device.
    """
    parameters = sum(p.numel() for p in model.parameters())
    needed = parameters + sum(b.numel() for b in model.buffers())
    if needed > FREE_ELEMENTS + MORE_ELEMENTS * held.elements:
        raise ModelError(
            f"{folder}: config.json describes a model of {needed:,} numbers, and the weights hold {held.elements:,}; "
            "they belong to different models; give each its own config.json"
        )
    if held.bytes > FREE_BYTES + BYTES_EACH * parameters:
        raise ModelError(
            f"{folder}: the weights take {held.bytes:,} bytes, and the model of {parameters:,} parameters that "
            "config.json describes uses few of them; they belong to different models; give each its own config.json"
        )


def elements(headers: Sequence[Mapping[str, Any]]) -> int:
    return sum(math.prod(entry["shape"]) for header in headers for entry in header.values())


def _items(value: Any) -> Iterator[Any]:
    """A number, or one for every layer; nothing where there is none."""
    if value is not None:
        yield from value if isinstance(value, list) else [value]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40
