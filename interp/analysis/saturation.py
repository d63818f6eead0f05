"""Has a curve levelled off? Said only where it can be shown, and checked against the loss on the same probes.

"No significant slope" is no plateau: it may be a noisy climb. A plateau is claimed by an equivalence test, when the
whole interval of the slope lies within a stated margin (two one-sided tests; Schuirmann 1987, J. Pharmacokinetics and
Biopharmaceutics 15(6)). Slopes are per doubling of training progress: every curve flattens against plain steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from .bootstrap import MIN_NEEDLES, needle_sums
from .cells import measure
from .trajectory import Trajectory

MIN_WINDOW = 6  # checkpoints in a window; with fewer the scatter about a line is hardly known
SCORE_MARGIN = 0.05  # share of probes per doubling: five answers in a hundred
NLL_MARGIN = 0.05  # relative, per doubling: 5 % of the NLL
FLOOR = 0.05  # a score below it has not taken off, and cannot have levelled off
_LEVEL = 0.90  # of the interval of a slope: two one-sided tests at 5 %


@dataclass(frozen=True)
class Plateau:
    """verdict: "plateau" (the interval lies within the margin), "still moving" (it excludes 0 and is not within) or
    "insufficient" (anything else: too few checkpoints or needles, or too much noise for this margin).

    slope: per doubling of progress, in the measure's unit; `relative` means of its logarithm, so -0.1 is 9.5 % down.
    interval: 90 % of the slope; NaN where it cannot be had. margin: what counts as level, same unit.
    n, n_clusters: checkpoints in the window and needles. window: first and last progress.
    """

    measure: str
    verdict: str
    slope: float
    interval: tuple[float, float]
    margin: float
    relative: bool
    n: int
    n_clusters: int
    window: tuple[float, float]
    words: str


def plateau(
    trajectory: Trajectory, value: str = "exact_match", *, margin: float | None = None, window: int | None = None
) -> Plateau:
    """Has a measure levelled off? `value`: an NLL class (judged relatively) or "exact_match".

    margin: per doubling; SCORE_MARGIN or NLL_MARGIN when not given.
    window: how many of the last checkpoints to judge; as many as make the last doubling of progress (at least
        MIN_WINDOW, where there are so many) when not given.

    The error of the slope has two parts: needles differ in their slopes, and checkpoints scatter about the line for all
    needles together, which no number of needles averages away. Their variances are estimated apart, and added.

    Raises ValueError for an unknown measure, a margin that is not positive, or a window below 3.
    """
    score = value == "exact_match"
    values = measure(trajectory, value)
    margin = (SCORE_MARGIN if score else NLL_MARGIN) if margin is None else margin
    finest = 1.0 if score else 0.0
    return plateau_of(
        values, trajectory.needles, trajectory.progress, value, margin, not score, finest=finest, window=window
    )


def plateau_of(
    values: np.ndarray,
    needles: np.ndarray,
    progress: np.ndarray,
    name: str,
    margin: float,
    relative: bool,
    *,
    finest: float = 0.0,
    window: int | None = None,
    level: float = _LEVEL,
) -> Plateau:
    """`plateau` of any values [C, P] with needles [P] and progress [C]. finest: the least step of one item's value;
    level: of the interval."""
    values, margin = np.asarray(values, np.float64), _checked_margin(margin)
    usable = np.asarray((~np.isnan(values)).any(axis=1))
    chosen = _window(progress, usable, window)
    progress, values = progress[chosen], values[chosen]
    held = ~np.isnan(values).any(axis=0)  # the same probes at every checkpoint, or their mix would move the curve
    values, needles = values[:, held], needles[held]
    if not held.any():
        return _answer(name, None, margin, relative, progress, 0, level)
    sums, counts = needle_sums(values, needles)  # [n, G]
    curve, total = values.mean(axis=1), values.shape[1]
    apart = (sums - curve[:, None] * counts) * (sums.shape[1] / total)  # of needles, mean 0
    if relative:
        if (curve <= 0).any():
            return _answer(name, None, margin, True, progress, sums.shape[1], level)
        curve, apart = np.log(curve), apart / curve[:, None]
    slope = _slope(progress, curve, apart, finest / total, level)
    return _answer(name, slope, margin, relative, progress, sums.shape[1], level)


def _checked_margin(margin: float) -> float:
    if not (np.isfinite(margin) and margin > 0):
        raise ArgumentError(f"margin must be a positive number, per doubling of progress, got {margin}")
    return float(margin)


def _window(progress: np.ndarray, usable: np.ndarray, window: int | None) -> np.ndarray:
    """Positions of the checkpoints to judge; a checkpoint at progress 0 has no place on a scale of doublings."""
    if window is not None and window < 3:
        raise ArgumentError(f"window must be at least 3 checkpoints, got {window}")
    places = np.flatnonzero(usable & (progress > 0))
    if not len(places):
        return places
    if window is None:
        window = max(MIN_WINDOW, int((progress[places] >= progress[places[-1]] / 2).sum()))
    return places[-window:]


@dataclass(frozen=True)
class _Slope:
    value: float
    low: float
    high: float


def _slope(progress: np.ndarray, curve: np.ndarray, apart: np.ndarray, finest: float, level: float) -> _Slope | None:
    """Slope per doubling with its interval; None with fewer than 3 checkpoints.

    apart: [n, G], how far each needle lies from the curve. finest: the least step that the curve can make.
    """
    from scipy import stats

    n = len(curve)
    if n < 3:
        return None
    x = np.log2(progress)
    x = x - x.mean()
    weight = x / (x**2).sum()
    slope = float(weight @ (curve - curve.mean()))
    scatter = curve - curve.mean() - slope * x
    line = float((scatter**2).sum() / (n - 2) / (x**2).sum())
    g = apart.shape[1]
    own = weight @ apart  # slopes of needles, about the mean slope
    noise = apart - apart.mean(axis=0) - np.outer(x, own)
    between = float((own**2).sum() / (g * max(g - 1, 1)))
    shared = max(0.0, line - float((noise**2).sum() / ((g - 1) * (n - 2)) / g / (x**2).sum())) if g > 1 else line
    variance = between + shared
    df = max(1.0, min(n - 2, g - 1))  # Satterthwaite's would trust a shared part that is small by luck
    turn = finest * float(np.abs(np.cumsum(weight)).max())  # what one answer does that turns for good, at worst
    z = float(stats.norm.ppf((1 + level) / 2))
    half = float(stats.t.ppf((1 + level) / 2, df) * np.sqrt(variance + (z * turn / 2) ** 2) + z**2 * turn / 2)
    return _Slope(slope, slope - half, slope + half)


def _answer(
    name: str,
    found: _Slope | None,
    margin: float,
    relative: bool,
    progress: np.ndarray,
    n_clusters: int,
    level: float,
) -> Plateau:
    n = len(progress)
    window = (float(progress[0]), float(progress[-1])) if n else (float("nan"), float("nan"))
    value, interval = float("nan"), (float("nan"), float("nan"))
    verdict, why = "insufficient", f"{n} usable checkpoints; {MIN_WINDOW} are needed at the least"
    if found is not None:
        value = found.value
        edge = f"{margin:.0%}" if relative else f"{margin:g}"
        if n_clusters < MIN_NEEDLES:
            why = f"{n_clusters} needles; {MIN_NEEDLES} are needed at the least"
        elif n >= MIN_WINDOW:
            interval = (found.low, found.high)
            written, *ends = (f"{np.expm1(v):+.1%}" if relative else f"{v:+.3g}" for v in (value, *interval))
            why = f"{written} per doubling ({level:.0%} interval {' to '.join(ends)}, margin {edge}, {n} checkpoints, "
            why += f"{n_clusters} needles)"
            if -margin < found.low and found.high < margin:
                verdict = "plateau"
            elif found.low > 0 or found.high < 0:
                verdict = "still moving"
            else:
                why = f"too noisy to tell at this margin: {why}"
    return Plateau(name, verdict, value, interval, margin, relative, n, n_clusters, window, f"{name}: {why}.")


@dataclass(frozen=True)
class DeceptiveSaturation:
    """verdict: "deceptive" (the score is level and the NLL still falls, on the same probes), "not deceptive" or
    "insufficient". score, nll: the evidence. mean_score: over the window, NaN when there is none."""

    verdict: str
    score: Plateau
    nll: Plateau
    mean_score: float
    words: str


def deceptive_saturation(
    trajectory: Trajectory,
    nll: str = "nll_novel",
    *,
    score_margin: float = SCORE_MARGIN,
    nll_margin: float = NLL_MARGIN,
    window: int | None = None,
) -> DeceptiveSaturation:
    """Does the run only seem saturated: exact match has levelled off while the NLL of the same answers still falls?

    Deceptive: the score is a plateau by equivalence, and the 90 % interval of the NLL's relative slope lies below
    -nll_margin. Not deceptive: the score still moves, or the interval of the NLL lies above -nll_margin. Judged on the
    same checkpoints and the same probes, those with both values. A score below FLOOR never took off; nothing is said
    about it then. Raises ValueError as `plateau` does.
    """
    values = measure(trajectory, nll)
    both = ~np.isnan(trajectory.exact_match) & ~np.isnan(values)
    blank = np.where(both, 0.0, np.nan).astype(np.float32)
    same = Trajectory(
        steps=trajectory.steps,
        tokens=trajectory.tokens,
        scores=trajectory.scores[:, :, :1, :1],
        nll={**trajectory.nll, nll: values + blank},
        exact_match=trajectory.exact_match + blank,
        probes=trajectory.probes,
    )
    score = plateau(same, margin=score_margin, window=window)
    loss = plateau(same, nll, margin=nll_margin, window=window)
    judged = (trajectory.progress >= score.window[0]) & (trajectory.progress <= score.window[1])
    judged &= both.any(axis=1)
    kept = both[judged].all(axis=0)
    level = float(trajectory.exact_match[judged][:, kept].mean()) if judged.any() and kept.any() else float("nan")

    low, high = loss.interval
    if np.isnan(low) or np.isnan(score.interval[0]):
        verdict, why = "insufficient", "this cannot be judged"
    elif level < FLOOR:
        verdict, why = (
            "insufficient",
            f"the score has not taken off ({level:.0%}), so it cannot seem saturated",
        )
    elif score.verdict == "plateau" and high < -nll_margin:
        verdict, why = "deceptive", f"the score is level at {level:.0%} while the NLL of the same answers still falls"
    elif score.verdict == "still moving":
        verdict, why = "not deceptive", "the score itself still moves"
    elif low > -nll_margin:
        verdict, why = "not deceptive", "the NLL does not fall any more, beyond the margin"
    else:
        verdict, why = "insufficient", "too noisy to tell"
    return DeceptiveSaturation(verdict, score, loss, level, f"{why}. {score.words} {loss.words}")
