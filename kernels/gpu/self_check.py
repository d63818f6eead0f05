"""Before a kind of call is trusted on this machine, a few of its rows are compared with the definition.

A kernel can be right in the interpreter and wrong on a device: another compiler, another GPU. Such numbers look like
any others, so each process asks once for every kind of call and every doubling of the number of keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import triton
from torch import Tensor

from .. import reference
from ..errors import KernelError
from ..evidence import RowEvidence
from ..rules import Rules
from ..sequences import Ragged, Sequences
from . import launch
from .row_evidence import layout

ROWS = 8  # compared, of all heads of the last batch entry
# Error of a score, in units of float32 of |q| |k|. Products of two half-precision numbers are exact, and tensor cores
# drop bits of the smaller ones while they add, on both sides. float32 keeps 10 bits where the caller allows tf32.
UNITS = {torch.bfloat16: 16, torch.float16: 16, torch.float32: 1 << 14}
TF32 = 2.0**-10
ROUNDING = 2e-5  # nats: exp2, and the order of summing its results

_trusted: set[tuple[object, ...]] = set()
_refused: dict[tuple[object, ...], str] = {}


def checked_evidence(
    q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, sequences: Ragged | None = None
) -> tuple[Tensor | None, RowEvidence]:
    """As ``launch.run_kernels``; raises KernelError where its first call of a kind fails or is wrong."""
    kind = _kind(q, k, v, rules, sequences or Sequences.of(q, k))
    if kind in _trusted or (q.is_cuda and torch.cuda.is_current_stream_capturing()):  # a graph's results come later
        return launch.run_kernels(q, k, v, rules, sequences)
    if kind in _refused:
        raise KernelError(_refused[kind])
    try:
        out, ev = launch.run_kernels(q, k, v, rules, sequences)
        if sequences is None:
            compared, wrong = compare(q, k, v, rules, out, ev)
        else:  # of the sequence with the most keys that any row asks about
            asked = [count if rows else -1 for count, rows in zip(sequences.key_counts, sequences.row_counts, strict=True)]
            i = max(range(len(asked)), key=asked.__getitem__)
            one_q, one_k, one_rules = sequences.alone(i, q, k, rules)
            compared, wrong = compare(one_q, one_k, None, one_rules, None, sequences.of_sequence(i, ev))
    except torch.OutOfMemoryError:
        raise
    except (triton.TritonError, RuntimeError) as error:
        _refused[kind] = _told(q, k, f"cannot run ({_first_line(error)})")
        raise KernelError(_refused[kind]) from error
    if wrong:
        _refused[kind] = _told(q, k, f"disagree with the definition, which should be reported ({'; '.join(wrong)})")
        raise KernelError(_refused[kind])
    if compared:
        _trusted.add(kind)
    return out, ev


def forget() -> None:
    """Ask again: for measurements and tests."""
    _trusted.clear()
    _refused.clear()


@torch.no_grad()
def compare(
    q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, out: Tensor | None, ev: RowEvidence
) -> tuple[bool, list[str]]:
    """Whether anything could be compared (not so if all is NaN, or no row sees a key), and what is wrong."""
    if 0 in q.shape[:3] or k.shape[2] == 0:
        return False, []
    rows = torch.linspace(0, q.shape[2] - 1, min(ROWS, q.shape[2]), dtype=torch.float64, device=q.device).round().long()

    def of_rows(x: Tensor | None) -> Tensor | None:
        return None if x is None else x[-1:, rows]

    spans = rules.spans
    some = replace(
        rules,
        q_positions=rules.q_positions[-1:, rows],
        key_limits=of_rows(rules.key_limits),
        key_starts=of_rows(rules.key_starts),
        k_positions=None if rules.k_positions is None else rules.k_positions[-1:],
        spans=None if spans is None else spans[-1:] if spans.dim() == 3 else spans[-1:, rows],
        topk=max(rules.topk, 2),  # the second tells whether the first is certain
    )
    q = q[-1:, :, rows]
    wanted_out, wanted = reference.evidence(q, k[-1:], None if v is None else v[-1:], some)
    size = float(_length(q) * _length(k[-1:]))
    limit = UNITS[q.dtype] * torch.finfo(torch.float32).eps * size * rules.scale + ROUNDING
    of_value = 0.0 if v is None else float(torch.stack(v[-1:].aminmax()).abs().max())
    if wanted.topk_logit is None or not (wanted.lse.isfinite().any() and limit + of_value < torch.inf):
        return False, []
    first, second = wanted.topk_logit[..., :2].unbind(-1)
    certain = ~(first - second <= 2 * limit)
    highest = wanted.topk_logit[..., : rules.topk]

    def wrong() -> Iterator[str]:
        yield from _off("log-sum-exp", ev.lse[-1:, :, rows], wanted.lse, limit)
        yield from _off("highest logit", ev.max_logit[-1:, :, rows], wanted.max_logit, limit)
        yield from _off("mass of spans", ev.span_mass[-1:, :, rows], wanted.span_mass, 4 * limit)
        key = ev.argmax_key[-1:, :, rows]
        yield from _off("highest key", key.where(certain, wanted.argmax_key), wanted.argmax_key, 0)
        if ev.topk_logit is not None:
            yield from _off("logits of the highest keys", ev.topk_logit[-1:, :, rows], highest, limit)
        if out is not None and wanted_out is not None:
            rounded = 2 * max(torch.finfo(q.dtype).eps, TF32)  # weights and output, on both sides
            yield from _off("output", out[-1:, :, rows], wanted_out, (rounded + 4 * limit) * of_value)

    return True, list(wrong())


def _off(what: str, got: Tensor, wanted: Tensor, limit: float) -> Iterator[str]:
    got, wanted = got.double(), wanted.double()
    error = (got - wanted).abs()
    bad = ~((error <= limit) | (got == wanted) | (got.isnan() & wanted.isnan()))
    if bad.any():
        at = bad.nonzero()[0].tolist()
        yield f"{what} {got[tuple(at)].item():.6g} instead of {wanted[tuple(at)].item():.6g}"


def _length(x: Tensor) -> Tensor:
    """Of the longest vector along the last axis; NaN if there is a NaN."""
    parts = x.split(1 << 14, dim=-2)  # the lengths of a million keys would be more scratch than all of the rest
    return torch.stack([torch.linalg.vector_norm(part, dim=-1, dtype=torch.float32).max() for part in parts]).max()


def _kind(q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, at: Sequences) -> tuple[object, ...]:
    """What makes another kernel of it, or another way through one."""
    group = q.shape[1] // k.shape[1]
    return (
        q.device,
        q.dtype,
        q.shape[-1],
        None if v is None else v.shape[-1],
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


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
