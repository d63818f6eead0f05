"""What changing heads did to a model's answers, beside what changing random others did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from ..ablation import LOWER_IS_WORSE, MEASURES, Ablation
from ..results import observed_mean
from .bootstrap import Interval, clustered_interval

CONTROLS = ("layer_matched", "mass_matched")


@dataclass(frozen=True, eq=False)
class Dose:
    """The k leading heads (or groups) changed together. Effects are differences from the model as it is.

    k, heads: how many, and which, as text. measure: of what.
    level: mean of the measure, with its interval over needles. effect: mean change, with its interval.
    controls: kind -> float64 [C], mean change of each random set. control_mean: kind -> their mean, with its interval
        over needles.
    p: kind -> the share of controls, the leading set itself among them, whose change is at least as harmful; at best
        1 / (C + 1). Were the leading set drawn at random like them, it would be uniform.
    ratio: kind -> effect as a multiple of the most harmful control's, NaN where that does no harm.
    """

    k: int
    heads: str
    measure: str
    level: Interval
    effect: Interval
    controls: dict[str, np.ndarray]
    control_mean: dict[str, Interval]
    p: dict[str, float]
    ratio: dict[str, float]


def dose_response(ablation: Ablation, measure: str = "nll_novel") -> list[Dose]:
    """The effect of the leading k heads for every k that was tried, in ascending order.

    Args:
        ablation: of `hs.ablate`.
        measure: one of MEASURES; "nll_novel", what the tokens cost that only the needle has, is retrieval's own.

    Raises:
        ArgumentError: an unknown measure, or one that was not taken.
    """
    change = _taken(ablation, measure)
    needles, worse = ablation.probes["needle_id"], -1.0 if measure in LOWER_IS_WORSE else 1.0
    found = []
    for number in sorted(ablation.of("top"), key=lambda i: ablation.sets[i].k):
        one = ablation.sets[number]
        effect = clustered_interval(change[number], needles, bounds=_bounds(measure, change=True))
        controls, means, p, ratio = {}, {}, {}, {}
        for kind in CONTROLS:
            rows = ablation.of(kind, one.k)
            if not rows:
                continue
            controls[kind] = observed_mean(change[rows], axis=1)[0]
            of_all = observed_mean(change[rows])[0]
            means[kind] = clustered_interval(of_all, needles, bounds=_bounds(measure, change=True))
            harm, of_controls = worse * effect.estimate, worse * controls[kind]
            p[kind] = (1 + int((of_controls >= harm).sum())) / (1 + len(rows))
            ratio[kind] = float(harm / of_controls.max()) if of_controls.max() > 0 else float("nan")
        level = clustered_interval(ablation.measured[measure][number], needles, bounds=_bounds(measure))
        found.append(Dose(one.k, str(one), measure, level, effect, controls, means, p, ratio))
    return found


@dataclass(frozen=True, eq=False)
class HeadEffects:
    """What changing one leading head (or group) alone does; [n], the leading one first.

    heads: as text; score: retrieval score on the probes that chose it, NaN where none did; effect: mean change, with
    its interval over needles.
    """

    heads: tuple[str, ...]
    score: np.ndarray
    effect: Interval


def head_effects(ablation: Ablation, measure: str = "nll_novel") -> HeadEffects:
    """The effect of each of the leading heads by itself. Raises ArgumentError as `dose_response`, or for none."""
    change, rows = _taken(ablation, measure), ablation.of("one")
    if not rows:
        raise ArgumentError("no head was changed by itself; give ablate each=20")
    sets = [ablation.sets[i] for i in rows]
    needles = ablation.probes["needle_id"]
    effect = clustered_interval(change[rows], needles, bounds=_bounds(measure, change=True))
    return HeadEffects(tuple(map(str, sets)), np.array([one.score for one in sets]), effect)


def _taken(ablation: Ablation, measure: str) -> np.ndarray:
    change = ablation.change(measure)
    if np.isnan(change).all():
        taken = [name for name in MEASURES if not np.isnan(ablation.measured[name]).all()]
        raise ArgumentError(f"{measure!r} was not measured in this ablation; it has {', '.join(taken)}")
    return change


def _bounds(measure: str, *, change: bool = False) -> tuple[float, float] | None:
    """What a measure, or a change in it, lies between; None: nothing that an interval could make use of."""
    if measure in ("exact_match", "answer_score"):
        return -1.0 if change else 0.0, 1.0
    if change:
        return None
    return (-np.inf, 0.0) if measure.endswith("logprob") else (0.0, np.inf)
