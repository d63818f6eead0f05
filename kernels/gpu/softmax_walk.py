"""The loop of attention with evidence: online softmax over blocks of keys (FlashAttention, arXiv 2205.14135)."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import LOG2E, load_keys, logit, scores


@triton.jit
def walk(
    b_q, p_k, p_v, s_kn, s_vn, o_d, o_e, b_first, b_last, begin, end, n_from, n_to,
    b_m, b_l, b_block, b_o, mult, cap,
    D: tl.constexpr, BD: tl.constexpr, DV: tl.constexpr, BDV: tl.constexpr, BN: tl.constexpr, HAS_CAP: tl.constexpr,
    EVIDENCE: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The blocks of [n_from, n_to) into the state of the rows (see ``weigh``) and their output."""
    for n in range(n_from, n_to, BN):
        b_s = scores(b_q, p_k, s_kn, o_d, b_first, b_last, begin, end, n, D, BD, BN, PRECISION, MASKED)
        b_p, b_fade, b_m, b_l, b_block = weigh(b_s, n, b_m, b_l, b_block, mult, cap, HAS_CAP, EVIDENCE)
        o_n = n + tl.arange(0, BN)
        b_v = load_keys(p_v + tl.cast(n, tl.int64) * s_vn, o_n, o_e, begin, end, DV, BDV, MASKED)
        b_o = tl.dot(b_p.to(b_v.dtype), b_v, b_o * b_fade[:, None], input_precision=PRECISION)
    return b_m, b_l, b_block, b_o


@triton.jit
def weigh(b_s, n, b_m, b_l, b_block, mult, cap, HAS_CAP: tl.constexpr, EVIDENCE: tl.constexpr):
    """The weights of the keys from n on by their scores, what earlier sums fade by, and the state of the rows:

    highest raw score (from ``least`` on), sum of exp(logit - its logit), and first key of the block it is in.
    """
    b_top = tl.max(b_s, 1)
    if EVIDENCE:
        b_block = tl.where(b_top > b_m, n, b_block)  # strictly greater: the earlier block keeps a tie
    b_new = tl.maximum(b_m, b_top)
    b_shift = logit(b_new, mult, cap, LOG2E, HAS_CAP)
    b_p = tl.exp2(logit(b_s, mult, cap, LOG2E, HAS_CAP) - b_shift[:, None])
    b_fade = tl.exp2(logit(b_m, mult, cap, LOG2E, HAS_CAP) - b_shift)
    return b_p, b_fade, b_new, b_l * b_fade + tl.sum(b_p, 1), b_block
