"""The Triton kernels, compared with the definition on the first use of each kind of call; see ``first_use.py``."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from torch import Tensor

from .. import first_use, reference
from ..evidence import RowEvidence
from ..rules import Rules
from ..sequences import Ragged, Sequences
from . import launch
from .evidence_attention import fitting
from .row_evidence import layout

FAILURES = (triton.TritonError, RuntimeError)
KEYS = 64  # whose mass is compared


def checked_evidence(
    q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, sequences: Ragged | None = None
) -> tuple[Tensor | None, RowEvidence]:
    """As ``launch.run_kernels``; raises KernelError where its first call of a kind fails or is wrong."""

    def compare(found: tuple[Tensor | None, RowEvidence]) -> tuple[bool, list[str]]:
        out, ev, one = found[0], found[1], (q, k, rules)
        if sequences is not None:
            if sequences.batch == 0:
                return False, []
            i = sequences.telling()
            one, ev = sequences.alone(i, q, k, rules), sequences.of_sequence(i, ev)
        parts = {"out": out, **vars(ev)}
        present = {name: x for name, x in parts.items() if x is not None}
        return first_use.compare(one[0], one[1], v, one[2], present)

    return first_use.checked(
        _kind(q, k, v, rules, sequences or Sequences.of(q, k)),
        lambda: launch.run_kernels(q, k, v, rules, sequences),
        compare,
        lambda what: _told(q, k, what),
        FAILURES,
    )


def checked_key_mass(q: Tensor, k: Tensor, lse: Tensor, rules: Rules) -> Tensor:
    """As ``launch.run_key_mass``, likewise."""
    n = k.shape[2]

    def compare(found: Tensor) -> tuple[bool, list[str]]:
        if 0 in q.shape[:3] or n == 0:
            return False, []
        some = torch.linspace(0, n - 1, min(KEYS, n), dtype=torch.float64, device=q.device).round().long()
        of_last = replace(
            rules,
            q_positions=rules.q_positions[-1:],
            key_limits=None if rules.key_limits is None else rules.key_limits[-1:],
            key_starts=None if rules.key_starts is None else rules.key_starts[-1:],
            k_positions=some[None] if rules.k_positions is None else rules.k_positions[-1:, some],
        )
        keys = k[-1:, :, some]
        wanted = reference.key_mass(q[-1:], keys, lse[-1:], of_last)
        limit = first_use.score_limit(q[-1:], keys, rules.scale)
        if not (lse[-1:].isfinite().any() and limit < torch.inf):
            return False, []
        most = 2 * limit * wanted + torch.finfo(torch.float32).eps
        return True, list(first_use.off("mass of keys", found[-1:, :, some], wanted, most))

    return first_use.checked(
        ("key_mass", *_kind(q, k, None, rules, Sequences.of(q, k))),
        lambda: launch.run_key_mass(q, k, lse, rules),
        compare,
        lambda what: _told(q, k, what),
        FAILURES,
    )


def _kind(q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, at: Sequences) -> tuple[object, ...]:
    """What makes another kernel of it, or another way through one."""
    group = q.shape[1] // k.shape[1]
    return (
        q.device,
        q.dtype,
        q.shape[-1],
        None if v is None else (v.shape[-1], fitting(q, k, v)),
        group,
        min(group * at.rows, 128).bit_length(),
        at.keys.bit_length(),
        (at.row_starts is None, at.key_starts is None, at.page),
        rules.topk,
        v is None and layout(q, k, at, rules.topk).rescan,
        *(x is None for x in (rules.window, rules.key_starts, rules.softcap, rules.sinks, rules.k_positions)),
        rules.spans is None,
    )


def _told(q: Tensor, k: Tensor, what: str) -> str:
    device = torch.cuda.get_device_name(q.device) if q.is_cuda else str(q.device)
    with_what = f"{device}, triton {triton.__version__}, {q.dtype}, d_head {q.shape[-1]}, {k.shape[2]} keys"
    return f'the Triton kernels {what}; {with_what}. impl="auto" uses the reference instead, which is slower'
