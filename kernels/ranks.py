"""Evidence of keys that lie on several GPUs: the same small merge, across the ranks of a process group."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import distributed

from ..errors import ArgumentError
from .evidence import RowEvidence, merge

if TYPE_CHECKING:
    from torch import Tensor


def merge_across_ranks(ev: RowEvidence, group: distributed.ProcessGroup | None = None) -> RowEvidence:
    """Evidence over the keys of all ranks, of which each has its own: on every rank, the same to the last bit.

    Every rank of the group calls it with the same rows and spans, and keys at their positions in the whole sequence
    (``k_positions``); ranks may have no keys at all. A learned sink must be part of exactly one rank's evidence. What
    travels is the evidence, a few numbers a row: never keys, never scores.

    Args:
        ev: this rank's evidence, on a device that the group's backend takes.
        group: a process group; default all ranks.

    Raises:
        ValueError: there is no process group, or the ranks differ in rows, spans, top-k or dtype (on every rank alike).
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise ArgumentError("there is no process group; call torch.distributed.init_process_group() on every rank")
    if distributed.get_rank(group) < 0:
        raise ArgumentError("this rank is no member of the group; call merge_across_ranks on the group's ranks only")
    kinds = _of_ranks(_described(ev), group)
    other = next((rank for rank, kind in enumerate(kinds) if not torch.equal(kind, kinds[0])), None)
    if other is not None:
        first, second = (kinds[rank].tolist() for rank in (0, other))
        raise ArgumentError(
            f"ranks 0 and {other} of the group differ in [B, Hq, R, spans, topk, bytes of a float]: {first} and "
            f"{second}; all ranks must describe the same rows with the same spans and topk"
        )
    parts: list[dict[str, Tensor]] = [{} for _ in kinds]
    for field in fields(ev):
        if getattr(ev, field.name) is not None:
            for part, x in zip(parts, _of_ranks(getattr(ev, field.name), group), strict=True):
                part[field.name] = x
    return reduce(merge, [RowEvidence(**part) for part in parts])


def _described(ev: RowEvidence) -> Tensor:
    topk = -1 if ev.topk_key is None else ev.topk_key.shape[-1]
    return torch.tensor([*ev.span_mass.shape, topk, ev.lse.element_size()], device=ev.lse.device)


def _of_ranks(x: Tensor, group: distributed.ProcessGroup | None) -> list[Tensor]:
    x = x.contiguous()
    found = [torch.empty_like(x) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(found, x, group=group)
    return found
