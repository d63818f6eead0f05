"""The keys and values of one trunk, in buffers that are allocated once and never copied."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from .capture import autocasted


class TrunkCache(Cache):
    """A transformers cache that prefills one sequence in place, and leaves the rows of tails beside it.

    `DynamicCache` concatenates at every chunk (twice the memory, quadratic traffic); here layer l's buffer is
    [1, Hkv, capacity, D] and a chunk is written where it belongs. With `frozen`, new keys are handed back untouched:
    the attention of a tail reads the trunk from here and its own keys from its arguments.

    Args:
        capacity: how many positions the buffers hold.
    """

    def __init__(self, capacity: int):
        super().__init__(layers=[])
        self.capacity = capacity
        self.length = 0  # tokens that are valid before the chunk being written
        self.frozen = False
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.frozen:
            return key_states, value_states
        # under autocast RoPE may leave keys in float32; tails read them here, in the dtype of their own queries
        key_states, value_states = autocasted(key_states), autocasted(value_states)
        if layer_idx not in self.keys:
            self.keys[layer_idx] = key_states.new_empty(self._shape(key_states))
            self.values[layer_idx] = value_states.new_empty(self._shape(value_states))
        end = self.length + key_states.shape[2]
        self.keys[layer_idx][:, :, self.length : end] = key_states
        self.values[layer_idx][:, :, self.length : end] = value_states
        return self.keys[layer_idx][:, :, :end], self.values[layer_idx][:, :, :end]

    def _shape(self, states: Tensor) -> tuple[int, int, int, int]:
        return 1, states.shape[1], self.capacity, states.shape[3]

    # Asked by transformers for default positions and mask sizes; masks are functions of positions here, so the sizes
    # only have to be consistent.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        rows = query_length if isinstance(query_length, int) else len(query_length)
        return self.length + rows, 0
