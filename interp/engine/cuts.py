"""Causal attention of long chunks in calls of few shapes.

cuDNN, torch's fastest attention from Hopper on, plans anew for every shape and stride that it has not seen, for tens of
milliseconds or more: a prefill of 256K tokens by chunks of 4096 has 64 of them, and every prefix of its own length some
more. So a whole chunk attends to what lies before it in parts of its own size times powers of two, which are merged by
log-sum-exp: seven shapes for every prefill up to 256K. What is no whole chunk goes to kernels that take any shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...kernels import attend, merge_attention_states, plans_shapes

UNIT = 4096  # rows of a whole chunk
LEAST = 1024  # of fewer rows no chunk is worth a plan


@dataclass(frozen=True)
class Block:
    """Rows [start, end) of a sequence, and the parts [begin, end) of the keys before them; none where not `whole`."""

    start: int
    end: int
    before: tuple[tuple[int, int], ...]
    whole: bool


def unit_of(chunk: int) -> int:
    """Rows of a whole chunk where a forward holds `chunk` rows at most: a power of two."""
    return 1 << max(chunk, 1).bit_length() - 1


def blocks(start: int, end: int, unit: int) -> Iterator[Block]:
    """Cut rows [start, end) at multiples of `unit`, a power of two, and the keys before a whole block into powers."""
    while start < end:
        stop = min((start // unit + 1) * unit, end)
        whole = stop - start == unit >= LEAST
        yield Block(start, stop, tuple(_powers(start, unit)) if whole else (), whole)
        start = stop


def _powers(n: int, unit: int) -> Iterator[tuple[int, int]]:
    """[0, n) in parts of unit * 2 ** i keys, the largest first; n is a multiple of unit."""
    begin = 0
    for i in reversed(range((n // unit).bit_length())):
        if n // unit >> i & 1:
            yield begin, begin + (unit << i)
            begin += unit << i


def attend_any_shape(q: Tensor, k: Tensor, v: Tensor, **how: Any) -> tuple[Tensor, Tensor]:
    """`attend` by a kernel that does not plan: for shapes that hardly come again."""
    unplanned = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(unplanned) if plans_shapes(q, k, v) else nullcontext():
        return attend(q, k, v, **how)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float, sinks: Tensor | None, unit: int) -> Tensor:
    """Attention of the last rows of a sequence to all of it: `attend(..., causal=True)` in calls of few shapes.

    q [1, Hq, Q, D], k [1, Hkv, N, D], v [1, Hkv, N, Dv], N >= Q -> [1, Hq, Q, Dv].
    """
    first = k.shape[2] - q.shape[2]
    wide = torch.promote_types(q.dtype, torch.float32)  # up to six parts are merged: no rounding in between
    found = []
    for block in blocks(first, k.shape[2], unit):
        rows = q[:, :, block.start - first : block.end - first]
        if not block.whole:
            seen = _part(k, v, 0, block.end)
            found.append(attend_any_shape(rows, *seen, scale=scale, causal=True, sinks=sinks)[0])
            continue
        rows, own_keys, own_values = (_lone(x) for x in (rows, *_part(k, v, block.start, block.end)))
        out, lse = attend(rows, own_keys, own_values, scale=scale, causal=True, sinks=sinks)
        for begin, end in block.before:
            keys, values = (_lone(x) for x in _part(k, v, begin, end))
            beside, beside_lse = attend(rows, keys, values, scale=scale, causal=False)
            out, lse = merge_attention_states(out.to(wide), lse, beside.to(wide), beside_lse)
        found.append(out.to(q.dtype))
    return found[0] if len(found) == 1 else torch.cat(found, dim=2)


def _part(k: Tensor, v: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
    return k[:, :, begin:end], v[:, :, begin:end]


def _lone(x: Tensor) -> Tensor:
    """The stride of a batch of one says nothing, but would make another plan of it: it follows the number of rows."""
    return x[0][None]
