"""The keys and values of one prefix, in buffers that are allocated once and never copied."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache


class PrefixCache(Cache):
    """A transformers cache that prefills one sequence in place, and leaves the rows of suffixes beside it.

    `DynamicCache` concatenates at every chunk (twice the memory, quadratic traffic); here layer l's buffer is
    [1, Hkv, capacity, D] and a chunk is written where it belongs, by the pass whose attention is asked (`put`). What a
    model gives its cache goes straight back to it: some keep latents there and expand them to keys afterwards (MLA,
    arXiv 2405.04434), and what suffixes need is what attention reads.

    Args:
        capacity: how many positions the buffers hold.
    """

    def __init__(self, capacity: int):
        super().__init__(layers=[])
        self.capacity = capacity
        self.length = 0  # tokens that are valid before the chunk being written
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return key_states, value_states

    def put(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write a chunk's keys and values [1, Hkv, Q, D] behind those that are valid; views of all until its end."""
        if layer not in self.keys:
            self.keys[layer], self.values[layer] = (x.new_empty(self._shape(x)) for x in (k, v))
        end = self.length + k.shape[2]
        self.keys[layer][:, :, self.length : end] = k
        self.values[layer][:, :, self.length : end] = v
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def _shape(self, states: Tensor) -> tuple[int, int, int, int]:
        return 1, states.shape[1], self.capacity, states.shape[3]

    # Asked by transformers for default positions and mask sizes; masks are functions of positions here, so the sizes
    # only have to be consistent.
    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: Any, layer_idx: int = 0) -> tuple[int, int]:
        rows = query_length if isinstance(query_length, int) else len(query_length)
        return self.length + rows, 0
