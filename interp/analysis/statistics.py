"""Correlations between curves of few checkpoints, said with everything that is needed to believe or doubt them.

Any two curves that rise and level off correlate: over the paper's six checkpoints two unrelated ones give r > 0.8 most
of the time. So r is never given alone, and the verdict asks for more than a common way up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

from ...errors import ArgumentError
from .trends import components, log_progress, residuals, saturating_curves

MIN_CHECKPOINTS = 8  # with fewer no correlation is judged; also the most for which all orders are tried
_FEWEST_TERMS = 3  # components of smooth curves that are always taken out
_FEWEST_LEFT = 3  # degrees of freedom that must remain for the test
_ORDERS = 9_999
_PAIRS = 2_000
ALPHA = 0.05


@dataclass(frozen=True)
class Correlation:
    """Two curves over n checkpoints. Numbers that cannot be had (too few checkpoints, a constant curve) are NaN.

    pearson, spearman: raw correlations, ranks tie-averaged. ci: 95 % Fisher interval of pearson, from n = 4.
    p: two-sided, t with n - 2 degrees of freedom; it takes checkpoints for independent draws, which they are not.
    p_permutation: share of orders of y with |r| at least as large; all n! up to 8 (`exact`), else 9,999 random ones.
    r_differences: Pearson r of the changes from checkpoint to checkpoint.
    r_partial: Pearson r with log(tokens) held fixed.
    p_saturating: how often two unrelated saturating curves on these checkpoints, as noisy as these two, correlate at
        least this strongly. Often near 1: then r says nothing.
    r_detrended, p_detrended: Pearson r of what is left when every saturating or S-shaped way up is taken out of both,
        and its p (t with n - 2 - trend_terms degrees of freedom). NaN, with trend_terms 0, where it cannot be had.
    leave_one_out: least and greatest r when one checkpoint is left out.
    verdict: "supported" (p_detrended <= 0.05 and the same sign as r), "trend only" (r is strong, but a common way up
        would do), "not supported", or "insufficient"; words say why.
    """

    n: int
    pearson: float
    spearman: float
    ci: tuple[float, float]
    p: float
    p_permutation: float
    exact: bool
    r_differences: float
    r_partial: float
    p_saturating: float
    r_detrended: float
    p_detrended: float
    trend_terms: int
    leave_one_out: tuple[float, float]
    verdict: str
    words: str


def correlate(x: np.ndarray, y: np.ndarray, tokens: np.ndarray | None = None, *, seed: int = 0) -> Correlation:
    """How two curves x [n] and y [n] go together over checkpoints; tokens [n] is the progress of training at each.

    Checkpoints where a value is NaN are left out and not counted in n. Without tokens the common way up cannot be
    taken out, and the verdict is "insufficient".

    Raises ValueError when the arrays are not of one length, or tokens are negative or not distinct.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ArgumentError(f"x and y must be two curves of the same length, got the shapes {x.shape} and {y.shape}")
    known = np.isfinite(x) & np.isfinite(y)
    progress = None
    if tokens is not None:
        progress = np.asarray(tokens, np.float64)
        if progress.shape != x.shape:
            raise ArgumentError(f"tokens must have one entry a checkpoint, {len(x)}, got the shape {progress.shape}")
        known &= np.isfinite(progress)
        order = np.argsort(progress[known], kind="stable")
        x, y, progress = x[known][order], y[known][order], progress[known][order]
        if (progress < 0).any() or (np.diff(progress) <= 0).any():
            raise ArgumentError(f"tokens must be distinct and not negative, got {progress.tolist()}")
    else:
        x, y = x[known], y[known]

    n, r = len(x), _pearson(x, y)
    out = {"r_partial": np.nan, "p_saturating": np.nan, "r_detrended": np.nan, "p_detrended": np.nan}
    terms = 0
    if progress is not None and n >= 4 and not np.isnan(r):
        way = log_progress(progress)
        out["r_partial"] = _partial(x, y, way[None])
        out["r_detrended"], out["p_detrended"], terms = _detrended(x, y, progress)
        out["p_saturating"] = _unrelated(x, y, progress, max(terms, min(_FEWEST_TERMS, n - 3)), r, seed)
    by_chance, exact = _permutation(x, y, r, seed)
    from scipy import stats

    ranks = stats.rankdata(x), stats.rankdata(y)
    found = Correlation(
        n=n,
        pearson=r,
        spearman=_pearson(*ranks),
        ci=_fisher(r, n),
        p=float(p_of_r(r, n)) if n >= 3 and not np.isnan(r) else float("nan"),
        p_permutation=by_chance,
        exact=exact,
        r_differences=_pearson(np.diff(x), np.diff(y)),
        leave_one_out=_leave_one_out(x, y),
        trend_terms=terms,
        verdict="",
        words="",
        **out,
    )
    verdict, why = _judge(found, progress is not None)
    return Correlation(**{**vars(found), "verdict": verdict, "words": _in_words(found, why)})


def p_of_r(r: np.ndarray | float, n: np.ndarray | int) -> np.ndarray:
    """Two-sided p of Pearson's r over n pairs: t with n - 2 degrees of freedom. Arrays broadcast.

    Raises ValueError when |r| is above 1 or n below 3.
    """
    from scipy import stats

    r, n = np.asarray(r, np.float64), np.asarray(n)
    if (np.abs(r) > 1).any():
        raise ArgumentError(f"r must lie between -1 and 1, got {r[np.abs(r) > 1].ravel()[0] if r.ndim else r}")
    if (n < 3).any():
        raise ArgumentError(f"n must be at least 3, got {n.min()}")
    with np.errstate(divide="ignore"):
        t = np.abs(r) * np.sqrt((n - 2) / (1 - r**2))
    return np.asarray(2 * stats.t.sf(t, n - 2))[()]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p of any shape: reject where it is at most alpha, and the chance of any false one is alpha.

    NaN stays NaN and is not counted as a test. Raises ValueError when a p is not between 0 and 1.
    """
    values, known, adjusted = _p_values(p)
    order = np.argsort(values, kind="stable")
    m = len(values)
    stepped = np.minimum(np.maximum.accumulate(values[order] * (m - np.arange(m))), 1.0)
    values[order] = stepped
    adjusted[known] = values
    return adjusted


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's adjusted p (q values) of any shape; NaN as in `holm`."""
    from scipy import stats

    values, known, adjusted = _p_values(p)
    if len(values):
        adjusted[known] = stats.false_discovery_control(values)
    return adjusted


def _p_values(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p = np.array(p, np.float64)
    known = ~np.isnan(p)
    if ((p[known] < 0) | (p[known] > 1)).any():
        raise ArgumentError(f"p must lie between 0 and 1, got {p[known].min()} to {p[known].max()}")
    return p[known], known, p


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3 or _constant(x) or _constant(y):
        return float("nan")
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))


def _constant(x: np.ndarray) -> bool:
    return bool(np.ptp(x) <= 1e-12 * np.abs(x).max())


def _fisher(r: float, n: int) -> tuple[float, float]:
    if n < 4 or np.isnan(r):
        return (float("nan"), float("nan"))
    with np.errstate(divide="ignore"):
        z, half = np.arctanh(r), 1.959963984540054 / np.sqrt(n - 3)
    return (float(np.tanh(z - half)), float(np.tanh(z + half)))


def _leave_one_out(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    if len(x) < 4:
        return (float("nan"), float("nan"))
    left = [_pearson(np.delete(x, i), np.delete(y, i)) for i in range(len(x))]
    return (float("nan"), float("nan")) if np.isnan(left).all() else (float(np.nanmin(left)), float(np.nanmax(left)))


@lru_cache(maxsize=8)
def _orders(n: int) -> np.ndarray:
    return np.array(list(permutations(range(n))))


def _random_orders(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (_ORDERS, 1)), axis=1)


def _permutation(x: np.ndarray, y: np.ndarray, r: float, seed: int) -> tuple[float, bool]:
    n = len(x)
    exact = n <= MIN_CHECKPOINTS
    if n < 3 or np.isnan(r):
        return float("nan"), exact
    orders = _orders(n) if exact else _random_orders(n, seed)
    a, b = x - x.mean(), y - y.mean()
    reached = np.abs(b[orders] @ a) >= abs(a @ b) * (1 - 1e-9)
    return float(reached.mean() if exact else (reached.sum() + 1) / (len(orders) + 1)), exact


def _partial(x: np.ndarray, y: np.ndarray, given: np.ndarray) -> float:
    rows = np.linalg.qr((given - given.mean(axis=1, keepdims=True)).T)[0].T
    a, b = residuals(x, rows), residuals(y, rows)
    if (a**2).sum() <= 1e-20 * (x**2).sum() or (b**2).sum() <= 1e-20 * (y**2).sum():
        return float("nan")
    return _pearson(a, b)


def _detrended(x: np.ndarray, y: np.ndarray, progress: np.ndarray) -> tuple[float, float, int]:
    """r and p beyond smooth curves, and how many components were taken out; NaN, NaN, 0 where it cannot be done.

    As many components go as it takes until no curve of the family, at the height of these, could leave more than half
    of the noise that remains. Then what remains is noise, and its r has the usual t distribution on fewer degrees of
    freedom. With few or almost noiseless checkpoints that point is never reached.
    """
    n = len(x)
    if n < MIN_CHECKPOINTS:
        return float("nan"), float("nan"), 0
    from scipy import stats

    rows, left = components(progress)
    for k in range(_FEWEST_TERMS, min(n - 1 - _FEWEST_LEFT, len(left))):
        a, b = residuals(x, rows[:k]), residuals(y, rows[:k])
        noise = [np.sqrt((e**2).sum() / (n - 1 - k)) for e in (a, b)]
        if all(left[k] * np.ptp(curve) <= e / 2 for curve, e in zip((x, y), noise, strict=True)):
            r = _pearson(a, b)
            df = n - 2 - k
            t = abs(r) * np.sqrt(df / max(1 - r**2, 1e-300))
            return r, float(2 * stats.t.sf(t, df)), k
    return float("nan"), float("nan"), 0


def _unrelated(x: np.ndarray, y: np.ndarray, progress: np.ndarray, terms: int, r: float, seed: int) -> float:
    """How often |r| of unrelated saturating curves with the noise of these two is at least |r|."""
    n, rng = len(x), np.random.default_rng(seed)
    rows = components(progress)[0][:terms]
    family = saturating_curves(progress)
    pairs = []
    for curve in (x, y):
        noise = np.sqrt((residuals(curve, rows) ** 2).sum() / max(n - 1 - terms, 1)) / np.ptp(curve)
        pairs.append(family[rng.integers(len(family), size=_PAIRS)] + noise * rng.normal(size=(_PAIRS, n)))
    a, b = (curves - curves.mean(axis=1, keepdims=True) for curves in pairs)
    correlations = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return float(((np.abs(correlations) >= abs(r) - 1e-12).sum() + 1) / (_PAIRS + 1))


def _judge(found: Correlation, has_tokens: bool) -> tuple[str, str]:
    if np.isnan(found.pearson):
        return "insufficient", "one of the two does not vary, or fewer than three checkpoints have both"
    if found.n < MIN_CHECKPOINTS:
        return "insufficient", f"{found.n} checkpoints are too few to tell a link from a common trend; 8 at the least"
    if not has_tokens:
        return "insufficient", "without tokens or steps a link cannot be told from a common trend"
    if np.isnan(found.p_detrended):
        return "insufficient", "the curves are too smooth, or too few, to tell a link from two unrelated ways up"
    rest = f"r = {found.r_detrended:.2f}, {written_p(found.p_detrended)}"
    if found.p_detrended <= ALPHA and found.r_detrended * found.pearson > 0:
        return "supported", f"beyond any smooth trend they still move together ({rest})"
    if found.p_permutation <= ALPHA:
        return "trend only", f"both follow a trend; beyond it no link shows ({rest})"
    return "not supported", f"no link shows (beyond a smooth trend {rest})"


def written_p(p: float) -> str:
    """ "p = 0.03", or "p < 0.001" for what is smaller."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _in_words(found: Correlation, why: str) -> str:
    if np.isnan(found.pearson):
        return f"n = {found.n}: {why}."
    text = f"r = {found.pearson:.2f} over n = {found.n} checkpoints"
    if not np.isnan(found.ci[0]):
        text += f" (95% interval {found.ci[0]:.2f} to {found.ci[1]:.2f}, "
        text += f"{'exact' if found.exact else 'Monte Carlo'} permutation {written_p(found.p_permutation)})"
    if not np.isnan(found.p_saturating):
        text += f"; two unrelated saturating curves do as well {found.p_saturating:.0%} of the time"
    return f"{text}; {why}."
