"""What the kernels share: rows of a tile, the keys they see, scores, and how a row is closed."""

# mypy: disable-error-code="no-untyped-def"
# (an annotation of a kernel's parameter would mean something to Triton)

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
NO_KEY = tl.constexpr(2147483647)


@triton.jit
def tile_rows(i_t, R, BM: tl.constexpr, G: tl.constexpr):
    """Of tile i_t over R rows of G heads: row, head and whether it exists, [BM]. A row behind the last repeats it."""
    o_m = i_t * BM + tl.arange(0, BM)
    return tl.minimum(o_m // G, R - 1), o_m % G, o_m < R * G


@triton.jit
def load_rows(p, o_d, D: tl.constexpr, BD: tl.constexpr):
    """[BM, BD] of p [BM, BD], 0 beyond D."""
    if BD == D:
        return tl.load(p)
    return tl.load(p, mask=(o_d < D)[None, :], other=0.0)


@triton.jit
def load_keys(p, o_n, o_d, begin, end, D: tl.constexpr, BD: tl.constexpr, MASKED: tl.constexpr):
    """[BN, BD] of keys or values; with MASKED nothing outside [begin, end) is read."""
    if MASKED:
        inside = ((o_n >= begin) & (o_n < end))[:, None]
        if BD != D:
            inside = inside & (o_d < D)[None, :]
        return tl.load(p, mask=inside, other=0.0)
    return load_rows(p, o_d, D, BD)


@triton.jit
def walked_keys(b_first, b_last, BN: tl.constexpr):
    """Keys a tile of rows walks.

    [begin, end) is what any row sees. ``low`` is the first block, and every row sees all of the blocks between
    ``clear_from`` and ``clear_to``. Rows that see nothing have no say: they are put right when the tile is done.
    """
    b_seen = b_first < b_last
    begin = tl.min(tl.where(b_seen, b_first, NO_KEY), 0)
    end = tl.max(tl.where(b_seen, b_last, 0), 0)
    clear_from = tl.cdiv(tl.max(tl.where(b_seen, b_first, 0), 0), BN) * BN
    clear_to = tl.min(tl.where(b_seen, b_last, NO_KEY), 0) // BN * BN
    return begin, end, begin // BN * BN, clear_from, tl.maximum(clear_from, clear_to)


@triton.jit
def scores(
    b_q,
    p_k,
    s_kn,
    o_d,
    b_first,
    b_last,
    begin,
    end,
    n,
    D: tl.constexpr,
    BD: tl.constexpr,
    BN: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Raw q.k of the keys n .. n + BN, [BM, BN] float32; -inf where a row does not see the key."""
    o_n = n + tl.arange(0, BN)
    b_k = load_keys(p_k + tl.cast(n, tl.int64) * s_kn, o_n, o_d, begin, end, D, BD, MASKED)
    return scores_of(b_q, b_k, o_n, b_first, b_last, PRECISION, MASKED)


@triton.jit
def scores_of(b_q, b_k, o_n, b_first, b_last, PRECISION: tl.constexpr, MASKED: tl.constexpr):
    """As ``scores``, of keys that are here already."""
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
    if MASKED:
        b_s = tl.where((o_n[None, :] >= b_first[:, None]) & (o_n[None, :] < b_last[:, None]), b_s, float("-inf"))
    return b_s


@triton.jit
def logit(b_s, mult, cap, UNIT: tl.constexpr, HAS_CAP: tl.constexpr):
    """Logit of raw scores, in nats with UNIT = 1 and in bits with UNIT = LOG2E; -inf stays -inf.

    mult = scale, or scale / softcap where scores are capped.
    """
    if HAS_CAP:
        # tanh x = 1 - 2 / (exp 2x + 1): off by about 1e-7 at most, and right at both infinities
        b_tanh = 1.0 - 2.0 / (tl.exp2(b_s * (mult * (2 * LOG2E))) + 1.0)
        return tl.where(b_s == float("-inf"), float("-inf"), b_tanh * (cap * UNIT))
    return b_s * (mult * UNIT)


@triton.jit
def least(mult):
    """What the highest raw score of a row starts from: below every score whose logit is finite, and itself finite as a
    logit in bits, so that it can be subtracted from that of a key at -inf and leaves it no weight.
    """
    return -3.4e38 / tl.maximum(mult * LOG2E, 1.0)


@triton.jit
def or_zero(b_x):
    """0 for -inf: what may be subtracted from -inf without making NaN of it."""
    return tl.where(b_x == float("-inf"), 0.0, b_x)


@triton.jit
def close_rows(b_m, b_l, b_sink, mult, cap, HAS_CAP: tl.constexpr, HAS_SINK: tl.constexpr):
    """Log-sum-exp, highest logit (both nats), and the factor that turns sum(weight * v) into the output.

    Of rows with the highest raw score b_m and b_l = sum(exp(logit - logit(b_m))); -inf and 0 where there is no key.
    """
    b_top = logit(b_m, mult, cap, 1.0, HAS_CAP)
    if HAS_CAP:
        b_l = tl.where(b_m == float("inf"), float("nan"), b_l)  # so it is without a soft-cap
    if HAS_SINK:
        b_high = or_zero(tl.maximum(b_top, b_sink))
        b_fade = tl.exp(b_top - b_high)
        b_total = b_l * b_fade + tl.exp(b_sink - b_high)
        b_lse = b_high + tl.log(b_total)
        b_share = tl.where(b_l == 0.0, 0.0, b_fade / b_total)
    else:
        b_lse = b_top + tl.log(b_l)
        b_share = tl.where(b_l == 0.0, 0.0, 1.0 / b_l)
    return b_lse, tl.where(b_lse != b_lse, b_lse, b_top), b_share
