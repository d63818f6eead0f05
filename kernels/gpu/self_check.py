"""The Triton kernels, compared with the definition on the first use of each kind of call; see ``first_use.py``."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .. import first_use
from ..evidence import RowEvidence
from ..rules import Rules
from . import launch

FAILURES = (triton.TritonError, RuntimeError)


def checked_evidence(q: Tensor, k: Tensor, v: Tensor | None, rules: Rules) -> tuple[Tensor | None, RowEvidence]:
    """As ``launch.run_kernels``; raises KernelError where its first call of a kind fails or is wrong."""

    def compare(found: tuple[Tensor | None, RowEvidence]) -> tuple[bool, list[str]]:
        parts = {"out": found[0], **vars(found[1])}
        return first_use.compare(q, k, v, rules, {name: x for name, x in parts.items() if x is not None})

    return first_use.checked(
        _kind(q, k, v, rules),
        lambda: launch.run_kernels(q, k, v, rules),
        compare,
        lambda what: _told(q, k, what),
        FAILURES,
    )


def _kind(q: Tensor, k: Tensor, v: Tensor | None, rules: Rules) -> tuple[object, ...]:
    """What makes another kernel of it, or another way through one."""
    group = q.shape[1] // k.shape[1]
    return (
        q.device,
        q.dtype,
        q.shape[-1],
        None if v is None else v.shape[-1],
        group,
        min(group * q.shape[2], 128).bit_length(),
        k.shape[2].bit_length(),
        rules.topk,
        *(x is None for x in (rules.window, rules.key_starts, rules.softcap, rules.sinks, rules.k_positions)),
        rules.spans is None,
    )


def _told(q: Tensor, k: Tensor, what: str) -> str:
    device = torch.cuda.get_device_name(q.device) if q.is_cuda else str(q.device)
    with_what = f"{device}, triton {triton.__version__}, {q.dtype}, d_head {q.shape[-1]}, {k.shape[2]} keys"
    return f'the Triton kernels {what}; {with_what}. impl="auto" uses the reference instead, which is slower'
