"""Before a kind of call is trusted on this machine, a few of its rows are compared with the definition.

A kernel can be right elsewhere and wrong here: another compiler, another GPU, another version of a library. Such
numbers look like any others, so each process asks once for every kind of call and every doubling of the number of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from . import reference
from .errors import KernelError
from .rules import Rules

ROWS = 8  # compared, of all heads of the last batch entry
# Error of a score, in units of float32 (float64) of |q| |k|. Products of two half-precision numbers are exact, and
# tensor cores drop bits of the smaller ones while they add, on both sides. float32 keeps 10 bits where the caller
# allows tf32.
UNITS = {torch.bfloat16: 16, torch.float16: 16, torch.float32: 1 << 14, torch.float64: 16}
TF32 = 2.0**-10
ROUNDING = 2e-5  # nats: exp2, and the order of summing its results

_trusted: set[Hashable] = set()
_refused: dict[Hashable, str] = {}
Found = TypeVar("Found")


def checked(
    kind: Hashable,
    run: Callable[[], Found],
    compare: Callable[[Found], tuple[bool, list[str]]],
    told: Callable[[str], str],
    failures: tuple[type[Exception], ...],
) -> Found:
    """What `run` gives; KernelError if the first call of its kind failed, with one of `failures`, or was wrong.

    `compare` says whether anything could be compared, and what is wrong; `told` makes a message of what happened.
    """
    if kind in _trusted or _capturing():
        return run()
    if kind in _refused:
        raise KernelError(_refused[kind])
    try:
        found = run()
        compared, wrong = compare(found)
    except torch.OutOfMemoryError:
        raise
    except failures as error:
        _refused[kind] = told(f"cannot run ({_first_line(error)})")
        raise KernelError(_refused[kind]) from error
    if wrong:
        _refused[kind] = told(f"disagree with the definition, which should be reported ({'; '.join(wrong)})")
        raise KernelError(_refused[kind])
    if compared:
        _trusted.add(kind)
    return found


def forget() -> None:
    """Ask again: for measurements and tests."""
    _trusted.clear()
    _refused.clear()


@torch.no_grad()
def compare(
    q: Tensor, k: Tensor, v: Tensor | None, rules: Rules, found: dict[str, Tensor], rounding: float = ROUNDING
) -> tuple[bool, list[str]]:
    """Whether anything could be compared (not so if all is NaN, or no row sees a key), and what is wrong.

    found: "out" and fields of `RowEvidence`, as far as there are any.
    """
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
        topk=max(rules.topk, 2) if "argmax_key" in found else 0,  # the second tells whether the first is certain
    )
    q = q[-1:, :, rows]
    wanted_out, wanted = reference.evidence(q, k[-1:], None if v is None else v[-1:], some)
    limit = score_limit(q, k[-1:], rules.scale, rounding)
    of_value = 0.0 if v is None else float(torch.stack(v[-1:].aminmax()).abs().max())
    if not (wanted.lse.isfinite().any() and limit + of_value < torch.inf):
        return False, []
    rounded = 2 * torch.finfo(q.dtype).eps
    if q.dtype != torch.float64:
        rounded = max(rounded, 2 * TF32)  # weights and output, on both sides
    highest = wanted.topk_logit
    expected: dict[str, tuple[str, Tensor | None, float]] = {
        "lse": ("log-sum-exp", wanted.lse, limit),
        "max_logit": ("highest logit", wanted.max_logit, limit),
        "span_mass": ("mass of spans", wanted.span_mass, 4 * limit),
        "argmax_key": ("highest key", wanted.argmax_key, 0),
        "topk_logit": ("logits of the highest keys", None if highest is None else highest[..., : rules.topk], limit),
        "out": ("output", wanted_out, (rounded + 4 * limit) * of_value),
    }

    def wrong() -> Iterator[str]:
        for name, (what, right, most) in expected.items():
            if name in found and right is not None:
                got = found[name][-1:, :, rows]
                if name == "argmax_key" and highest is not None:
                    got = got.where(~(highest[..., 0] - highest[..., 1] <= 2 * limit), right)
                yield from off(what, got, right, most)

    return True, list(wrong())


def score_limit(q: Tensor, k: Tensor, scale: float, rounding: float = ROUNDING) -> float:
    """By how many nats two ways to compute a log-sum-exp may differ; NaN or infinite if q or k is."""
    wide = torch.finfo(torch.promote_types(q.dtype, torch.float32))
    if q.dtype == torch.float64:
        rounding = 1e-10
    return UNITS[q.dtype] * wide.eps * float(_length(q) * _length(k)) * scale + rounding


def off(what: str, got: Tensor, wanted: Tensor, limit: float | Tensor) -> Iterator[str]:
    """At most one line about what lies further from what is wanted than the limit."""
    got, wanted = got.double(), wanted.double()
    error = (got - wanted).abs()
    bad = ~((error <= limit) | (got == wanted) | (got.isnan() & wanted.isnan()))
    if bad.any():
        at = tuple(bad.nonzero()[0].tolist())
        yield f"{what} {got[at].item():.6g} instead of {wanted[at].item():.6g}"


def _length(x: Tensor) -> Tensor:
    """Of the longest vector along the last axis; NaN if there is a NaN."""
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = x.split(1 << 14, dim=-2)  # the lengths of a million keys would be more scratch than all of the rest
    return torch.stack([torch.linalg.vector_norm(part, dim=-1, dtype=wide).max() for part in parts]).max()


def _capturing() -> bool:
    """A CUDA graph is being recorded: its results come later."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
