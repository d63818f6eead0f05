"""A transformers causal LM, run row by row with exact positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..checkpoint_names import local_model_name
from .attention import CaptureError, attending, may_stop, routed, stopping_after
from .output_weights import OutputWeights
from .prefix_cache import PrefixCache
from .rope import keys_last, longest_sequence, rope_of, rope_types
from .temperature import rows_at

_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


class HuggingFaceModel:
    """An `Adapter` for transformers' causal LMs.

    Attributes:
        model: the transformers model.
        name: its hub id or the last part of its path, else its class, for messages and files.
        n_layers, n_kv_heads: from the text config; head counts are read off the queries instead (tensor parallelism).
    """

    def __init__(self, model: Any):
        self.model = model
        self.config = model.config.get_text_config(decoder=True)
        self.name = local_model_name(str(getattr(model.config, "_name_or_path", "") or "")) or type(model).__name__
        self.n_layers = int(self.config.num_hidden_layers)
        if model.get_output_embeddings() is None:
            raise CaptureError(
                f"{type(model).__name__} has no output embeddings; give the causal LM, not its base model"
            )
        if all(parameter.is_meta for parameter in model.parameters()) and self.device.type == "meta":
            raise CaptureError(
                f"the weights of {self.name} are on torch's meta device, so there are none; load the model with them "
                "(nnsight: dispatch=True)"
            )

    @property
    def context(self) -> int | None:
        """Longest sequence that the model is made for, or None when its config does not say."""
        return longest_sequence(self.config)

    @property
    def n_kv_heads(self) -> int:
        heads = int(getattr(self.config, "num_attention_heads", 0))
        return int(getattr(self.config, "num_key_value_heads", None) or heads)

    @property
    def device(self) -> torch.device:
        embeddings = self.model.get_input_embeddings()
        device: torch.device = embeddings.weight.device
        if device.type == "meta":  # accelerate keeps an offloaded weight elsewhere until it is computed with
            place = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)  # 0 is a GPU
            device = device if place is None else torch.device(place)
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in: autocast's dtype inside autocast, else that of its weights."""
        if torch.is_autocast_enabled(self.device.type):
            return torch.get_autocast_dtype(self.device.type)
        weight = self.model.get_output_embeddings().weight
        # a quantised layer's weight is a method, or integers
        dtype: torch.dtype = getattr(weight, "dtype", None) or self.model.dtype
        return dtype if dtype.is_floating_point else self.model.dtype

    @property
    def n_embeddings(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])

    @property
    def n_logits(self) -> int:
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def ends(self) -> set[int]:
        """Token ids that end a generated text."""
        end = getattr(self.model.generation_config, "eos_token_id", None)
        return set(end) if isinstance(end, list) else {end} if end is not None else set()

    def attention(self) -> str:
        """The attention implementation that the model is set to now."""
        return str(self.config._attn_implementation)

    def alone_because(self) -> str | None:
        """Why probes of this model cannot share a prefill, or None when they can."""
        types = set(getattr(self.config, "layer_types", None) or _ATTENTION_LAYERS)
        if others := types - _ATTENTION_LAYERS:
            return f"layers of type {', '.join(sorted(others))} keep a state that cannot be cut at a position"
        if rope := rope_types(self.config) & _LENGTH_DEPENDENT_ROPE:
            return f"RoPE of type {', '.join(sorted(rope))} depends on the total length"
        return None

    def in_pieces(self, length: int) -> AbstractContextManager[None] | None:
        """Inside, parts of a sequence of `length` tokens run as in one forward of it all; None where they cannot.

        For models whose probes run alone for their RoPE, which can be told the length.
        """
        others = set(getattr(self.config, "layer_types", None) or ()) - _ATTENTION_LAYERS
        known = rope_types(self.config) & _LENGTH_DEPENDENT_ROPE
        return rope_of(self.model, length) if known and not others else None

    def as_defined(self) -> AbstractContextManager[None]:
        """Eager attention: SDPA may leave out what the authors define, as it once did with the soft-cap of Gemma 2."""
        return attending(self.model, "eager")

    def routed(self, length: int) -> AbstractContextManager[None]:
        """Attention goes through headscope inside this block; see `capture.routed`."""
        return routed(self.model, length)

    def forward(self, ids: Tensor, positions: Tensor, cache: PrefixCache | None, rows: Tensor) -> Tensor:
        """Run tokens and return the logits of some rows.

        Args:
            ids, positions: int64 [B, m].
            cache: where keys go, or None to keep none.
            rows: int64 [A], indices into the flattened [B * m] rows. Without any only the keys are wanted, and the
                forward ends with the last layer's attention, unless somebody waits for the end of it.

        Returns:
            Logits [A, vocabulary]; no other row's logits are computed. Nothing [0, 0] where the forward was ended.
        """
        last = self.n_layers - 1 if not len(rows) and may_stop(self.model, self.n_layers - 1) else None
        kept = rows if len(rows) else rows.new_zeros(1)  # a head may not take none
        out = None
        with stopping_after(last), rows_at(positions, 0 if cache is None else cache.length):
            out = self._run(ids, positions, cache, kept, use_cache=cache is not None)
        if out is None:
            return torch.empty(0, 0, device=ids.device)
        return _logits(out)[: len(rows)]

    def output_weights(self) -> OutputWeights:
        """What the heads write to, see `ShowsOutput`."""
        return OutputWeights(self, self.model, self.model.get_output_embeddings())

    @property
    def keys_last(self) -> int | None:
        """Tokens up to which a sequence may go on behind its keys, see `GoesOn`."""
        return keys_last(self.config)

    def go_on(self, ids: Tensor, positions: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run tokens [1, m] of one sequence in the cache that the model itself makes, behind those that `state` holds.

        Returns:
            Logits [1, vocabulary] of the last row, and the cache.
        """
        last = torch.tensor([ids.shape[1] - 1], device=ids.device)
        out = self._run(ids, positions, state, last, use_cache=True)
        return _logits(out), out.past_key_values

    def _run(self, ids: Tensor, positions: Tensor, cache: Any, rows: Tensor, *, use_cache: bool) -> Any:
        with _only_rows(self.model.get_output_embeddings(), rows), self._named_outputs():
            return self.model(
                input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=use_cache, return_dict=True
            )

    @contextmanager
    def _named_outputs(self) -> Iterator[None]:
        """Inner models answer by name too, whatever their config says: the argument reaches only the outer one."""
        configs = {id(m.config): m.config for m in self.model.modules() if isinstance(m, PreTrainedModel)}
        plain = [config for config in configs.values() if config.return_dict is False]
        try:
            for config in plain:
                config.return_dict = True
            yield
        finally:
            for config in plain:
                config.return_dict = False

    def reset_dynamic_rope(self) -> None:
        """Reset a RoPE that remembers the longest sequence it has seen, by one forward of one token."""
        if rope_types(self.config) & _LENGTH_DEPENDENT_ROPE:
            zero = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            self.forward(zero, zero, None, zero[0])


def _logits(out: Any) -> Tensor:
    """[rows, vocabulary]"""
    logits: Tensor = out.logits
    return logits.reshape(-1, logits.shape[-1])


@contextmanager
def _only_rows(head: torch.nn.Module, rows: Tensor) -> Iterator[None]:
    """Let the output embedding see only some rows, so that soft-caps and logit scales behind it still apply."""

    def keep(_: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *rest = args
        return (hidden.reshape(-1, hidden.shape[-1])[rows.to(hidden.device)][None], *rest)

    handle = head.register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
