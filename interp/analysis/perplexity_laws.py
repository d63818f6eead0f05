"""How a loss falls while a model is trained: A log N + B, or towards a floor; and what twice the tokens would bring.

The curve of C checkpoints errs in two ways: documents differ, in how much they cost and in how fast that falls, and
checkpoints scatter about any law for all documents together, which no number of documents averages away. Both variances
are estimated apart, and added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from .bootstrap import MIN_NEEDLES, Interval, needle_weights
from .losses import Losses

MIN_CHECKPOINTS = 3  # for a line and its error
MIN_SATURATING = 7  # below it no law of three parameters is tried
DRAWS = 1999
_SHAPES = 48  # exponents, or times, that are tried


@dataclass(frozen=True)
class Law:
    """One law, fitted by least squares to the means of n checkpoints.

    name: "log" (a log N + b), "power" (c + a N^-s) or "exponential" (c + a exp(-N / s)); N is the progress.
    level: b or c; slope: a; shape: s, NaN for "log".
    aicc: the smaller the better (Hurvich and Tsai 1989, Biometrika 76(2)); NaN with fewer than 5 checkpoints.
    residual: standard deviation of what is left, nats. gain: what twice the progress brings, nats per token.
    """

    name: str
    level: float
    slope: float
    shape: float
    aicc: float
    residual: float
    gain: float

    def at(self, progress: np.ndarray) -> np.ndarray:
        """float64, as many: the loss at these points of progress, each above 0."""
        return np.asarray(self.level + self.slope * _rising(self.name, np.asarray(progress, np.float64), self.shape))


@dataclass(frozen=True, eq=False)
class Laws:
    """laws: those tried, the best first by AICc. n: checkpoints used; those at progress 0, or without, are not.

    a, b: of A log N + B, natural log of the progress, whether it is the best law or not.
    gain: nats per token that twice the last progress would bring, by the best law; its interval is over documents and
        over the scatter of checkpoints, and in every resample the law is chosen anew. It takes for granted that one of
        these laws goes on.
    Intervals are NaN with fewer than 12 documents or 4 checkpoints (that of the gain with fewer than 7, which cannot
    tell a floor), and all is NaN with fewer than 3.
    """

    laws: tuple[Law, ...]
    a: Interval
    b: Interval
    gain: Interval
    n: int
    words: str

    @property
    def best(self) -> Law | None:
        return self.laws[0] if self.laws else None


def fit_laws(losses: Losses, *, level: float = 0.95, draws: int = DRAWS, seed: int = 0) -> Laws:
    """The laws of one curve (`losses`, `read_losses`), how well each does, and what is to be had from more training.

    Raises ArgumentError when level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ArgumentError(f"level must lie between 0 and 1, got {level}")
    progress = losses.progress
    used = np.isfinite(progress) & (progress > 0)
    n, g = int(used.sum()), len(losses.counts)
    nothing = Interval(np.nan, np.nan, np.nan, level, g, g)
    if n < MIN_CHECKPOINTS or np.ptp(progress[used]) == 0:
        words = f"{losses.name}: {n} checkpoints with progress; {MIN_CHECKPOINTS} are needed at the least"
        return Laws((), nothing, nothing, nothing, n, words)
    x, curve = progress[used], losses.mean[used]
    apart = (losses.sums[used] - curve[:, None] * losses.counts) * (g / losses.counts.sum())
    noise = _Noise(apart)
    fits = [_fit(name, x, curve[None]) for name in _names(n)]
    laws = sorted((fit.law(0, x) for fit in fits), key=lambda law: law.aicc if n >= 5 else 0.0)
    line = _solve("log", x, np.nan)
    a, b = (_linear(weight, curve, noise, line, level) for weight in (line[1], line[0]))
    gain = _gain(laws, losses, used, x, curve, noise, level, draws, seed)
    return Laws(tuple(laws), a, b, gain, n, _in_words(losses, laws[0], a, gain, n))


def _names(n: int) -> list[str]:
    return ["log", "power", "exponential"] if n >= MIN_SATURATING else ["log"]


def _rising(name: str, progress: np.ndarray, shape: float) -> np.ndarray:
    forms: dict[str, Callable[[], np.ndarray]] = {
        "log": lambda: np.log(progress),
        "power": lambda: progress**-shape,
        "exponential": lambda: np.exp(-progress / shape),
    }
    return forms[name]()


def _shapes(name: str, x: np.ndarray) -> np.ndarray:
    """Exponents from hardly any to a steep floor; times from a twentieth of the run to three runs, nearly a line."""
    if name == "log":
        return np.array([np.nan])
    return np.geomspace(0.02, 3, _SHAPES) if name == "power" else np.geomspace(0.05, 3, _SHAPES) * x[-1]


def _solve(name: str, x: np.ndarray, shape: float) -> np.ndarray:
    """float64 [2, n]: level and slope of a curve [n] are this times it."""
    return np.linalg.pinv(np.stack([np.ones(len(x)), _rising(name, x / x[-1] ** (name == "power"), shape)], axis=1))


@dataclass(frozen=True, eq=False)
class _Fit:
    """One law fitted to many curves: level, slope and shape [M]; rss [M]. A power law's progress is in units of the
    last one.
    """

    name: str
    level: np.ndarray
    slope: np.ndarray
    shape: np.ndarray
    rss: np.ndarray
    n: int

    @property
    def aicc(self) -> np.ndarray:
        k = 3 if self.name == "log" else 4  # with the variance
        if self.n - k - 1 <= 0:
            return np.full(len(self.rss), np.nan)
        spread = np.log(np.maximum(self.rss, 1e-300) / self.n)
        return np.asarray(self.n * spread + 2 * k + 2 * k * (k + 1) / (self.n - k - 1))

    def gain(self, last: float) -> np.ndarray:
        """[M], what twice the last progress brings."""
        if self.name == "log":
            return -self.slope * np.log(2)
        ends = np.array([[1.0], [2.0]]) * (1.0 if self.name == "power" else last)
        now, then = ends**-self.shape if self.name == "power" else np.exp(-ends / self.shape)
        return np.asarray(self.slope * (now - then))

    def law(self, m: int, x: np.ndarray) -> Law:
        free = self.n - (2 if self.name == "log" else 3)
        slope = float(self.slope[m]) * (x[-1] ** float(self.shape[m]) if self.name == "power" else 1.0)
        return Law(
            name=self.name,
            level=float(self.level[m]),
            slope=slope,
            shape=float(self.shape[m]),
            aicc=float(self.aicc[m]),
            residual=float(np.sqrt(self.rss[m] / free)) if free > 0 else float("nan"),
            gain=float(self.gain(float(x[-1]))[m]),
        )


def _fit(name: str, x: np.ndarray, curves: np.ndarray) -> _Fit:
    """Least squares of curves [M, n]: every shape of a grid, then the lowest point of the parabola about the best."""
    shapes = _shapes(name, x)
    unit = x / x[-1] if name == "power" else x
    rss = np.empty((len(shapes), len(curves)))
    for i, shape in enumerate(shapes):
        design = np.stack([np.ones(len(x)), _rising(name, unit, shape)], axis=1)
        left = curves - curves @ (design @ np.linalg.pinv(design)).T
        rss[i] = (left**2).sum(axis=1)
    best = np.argmin(rss, axis=0)
    shape = shapes[best]
    if len(shapes) > 1:
        each, inner = np.arange(len(curves)), np.clip(best, 1, len(shapes) - 2)
        before, at, after = (rss[inner + step, each] for step in (-1, 0, 1))
        bend = before - 2 * at + after
        step = np.where(bend > 0, (before - after) / np.where(bend > 0, 2 * bend, 1.0), 0.0)
        ratio = shapes[1] / shapes[0]
        shape = np.where(best == inner, shapes[inner] * ratio ** np.clip(step, -1, 1), shape)
    rising = _rising(name, unit[None], shape[:, None])
    middle = rising.mean(axis=1, keepdims=True)
    about = rising - middle
    slope = (about * curves).sum(axis=1) / (about**2).sum(axis=1)
    level = curves.mean(axis=1) - slope * middle[:, 0]
    left = curves - level[:, None] - slope[:, None] * rising
    return _Fit(name, level, slope, shape, (left**2).sum(axis=1), n=len(x))


class _Noise:
    """What documents do to a curve of n checkpoints: apart [n, G], how far each lies from it, mean 0."""

    def __init__(self, apart: np.ndarray):
        self.g = apart.shape[1]
        self.covariance = apart @ apart.T / (self.g * max(self.g - 1, 1))

    def scatter(self, left: np.ndarray, hat: np.ndarray, parameters: int) -> tuple[float, float]:
        """Variance of a checkpoint's own scatter, and that of the residuals `left` of a fit with the matrix `hat`."""
        free = len(left) - parameters
        residual = float((left**2).sum() / free)
        of_documents = float(np.trace((np.eye(len(left)) - hat) @ self.covariance) / free)
        return max(0.0, residual - of_documents), residual

    def of(self, weight: np.ndarray, own: float, residual: float, free: int) -> tuple[float, float]:
        """Variance of weight @ curve, and its degrees of freedom (Satterthwaite 1946, Biometrics Bulletin 2(6)).

        Those are of the residuals' variance as it was found, not of what is left when that of documents is taken off.
        """
        square, documents = float(weight @ weight), float(weight @ self.covariance @ weight)
        variance = documents + own * square
        spread = documents**2 / (self.g - 1) + (residual * square) ** 2 / free
        return variance, max(1.0, variance**2 / spread) if spread > 0 else float(self.g - 1)


def _linear(weight: np.ndarray, curve: np.ndarray, noise: _Noise, line: np.ndarray, level: float) -> Interval:
    """Interval of weight @ curve, of a curve about a line. line: [2, n], its solution."""
    from scipy import stats

    n = len(curve)
    estimate = float(weight @ curve)
    if n < MIN_CHECKPOINTS + 1 or noise.g < MIN_NEEDLES:
        return Interval(estimate, np.nan, np.nan, level, n, noise.g)
    design = np.linalg.pinv(line)
    hat = design @ line
    own, residual = noise.scatter(curve - hat @ curve, hat, 2)
    variance, df = noise.of(weight, own, residual, n - 2)
    half = float(stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance))
    return Interval(estimate, estimate - half, estimate + half, level, n, noise.g)


def _gain(
    laws: list[Law],
    losses: Losses,
    used: np.ndarray,
    x: np.ndarray,
    curve: np.ndarray,
    noise: _Noise,
    level: float,
    draws: int,
    seed: int,
) -> Interval:
    """Interval of what twice the progress brings: the laws are fitted to, and chosen by, every resample."""
    from scipy import stats

    n, best = len(x), laws[0]
    if n < MIN_SATURATING or noise.g < MIN_NEEDLES:
        return Interval(best.gain, np.nan, np.nan, level, n, noise.g)
    parameters = 2 if best.name == "log" else 3
    solve = _solve(best.name, x, best.shape)
    hat = np.linalg.pinv(solve) @ solve
    left = curve - best.at(x)
    own, residual = noise.scatter(left, hat, parameters)
    weights = needle_weights(noise.g, draws, seed)
    drawn = (weights @ losses.sums[used].T) / (weights @ losses.counts)[:, None]
    jitter = np.sqrt(own) * np.random.default_rng([seed, 1]).normal(size=drawn.shape)
    fits = [_fit(law.name, x, drawn - left + jitter) for law in laws]
    choice = np.argmin(np.stack([fit.aicc for fit in fits]), axis=0)
    gains = np.stack([fit.gain(float(x[-1])) for fit in fits])[choice, np.arange(draws)]
    # Resamples vary as much as the variances that were found: what these lack in certainty is in Student's t.
    _, df = noise.of(solve[1], own, residual, n - parameters)
    tail = float(stats.norm.cdf(stats.t.ppf((1 - level) / 2, df)))
    low, high = np.quantile(gains, [tail, 1 - tail])
    return Interval(best.gain, float(min(low, best.gain)), float(max(high, best.gain)), level, n, noise.g)


def _in_words(losses: Losses, best: Law, a: Interval, gain: Interval, n: int) -> str:
    def between(found: Interval) -> str:
        known = np.isfinite(found.low)
        return f" ({found.level:.0%} interval {found.low:+.3g} to {found.high:+.3g})" if known else " (no interval)"

    return (
        f"{losses.name}: {a.estimate:+.3g} nats per e-fold of progress{between(a)}; best of {_listed(n)} by AICc: "
        f"{best.name}; twice the progress would bring {gain.estimate:+.3g} nats{between(gain)}; {n} checkpoints, "
        f"{len(losses.counts)} texts."
    )


def _listed(n: int) -> str:
    return ", ".join(_names(n))
