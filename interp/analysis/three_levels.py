"""Heads, NLL and behaviour of one run, on one axis: what each level is, and whether all of them have levelled off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import ArgumentError
from ..results import RETRIEVAL_THRESHOLD
from ..tasks import Answers
from .saturation import FLOOR, NLL_MARGIN, SCORE_MARGIN, Plateau, plateau_of
from .trajectory import Trajectory

HEAD_MARGIN = 0.05  # score per doubling, of the mean of the retrieval heads
_LEVEL = 0.95  # of the intervals of NLL and heads: one of two may end the search, so each errs half as often


@dataclass(frozen=True, eq=False)
class Levels:
    """values: level -> float64 [C, items]; needles: level -> [items]. "behaviour": scores of answers, or exact matches
    where not every checkpoint has answers; "NLL": of novel tokens, or of the answer where there are none; "heads": mean
    score of `chosen`, the heads above chance at any checkpoint, as positions (layer, head)."""

    values: dict[str, np.ndarray]
    needles: dict[str, np.ndarray]
    chosen: tuple[tuple[int, int], ...]
    behaviour_name: str
    nll_name: str


def levels_of(
    trajectory: Trajectory, answers: Mapping[int, Answers] | None = None, *, threshold: float = RETRIEVAL_THRESHOLD
) -> Levels:
    """The three levels of a run, item by item, for `lead_lag`, `stopping_advice` and `three_levels`.

    answers: position of a checkpoint -> answers to the same items (`store.all_answers`). A level without any value, or
    heads of which none is above chance, is left out.
    """
    maps = trajectory.maps
    chosen = np.argwhere((maps > trajectory.levels(threshold)).any(axis=0))
    nll = "nll" if np.isnan(trajectory.nll["nll_novel"]).all() else "nll_novel"
    behaviour, items, name = _behaviour(trajectory, answers)
    values = {"behaviour": behaviour, "NLL": trajectory.nll[nll].astype(np.float64)}
    needles = {"behaviour": items, "NLL": trajectory.needles}
    if len(chosen):
        values["heads"], needles["heads"] = heads_by_probe(trajectory, chosen), trajectory.needles
    values = {level: each for level, each in values.items() if not np.isnan(each).all()}
    places = tuple((int(layer), int(head)) for layer, head in chosen)
    return Levels(values, {level: needles[level] for level in values}, places, name, nll)


def heads_by_probe(trajectory: Trajectory, heads: np.ndarray) -> np.ndarray:
    """float64 [C, P]: mean over heads [n, 2] that could see the needle; NaN where none could."""
    layer, head = np.asarray(heads).T
    scores = trajectory.scores[:, :, layer, head].astype(np.float64)
    seen = ~np.isnan(scores)
    total = np.where(seen, scores, 0).sum(axis=2)
    return np.where(seen.any(axis=2), total / np.maximum(seen.sum(axis=2), 1), np.nan)


def _behaviour(trajectory: Trajectory, answers: Mapping[int, Answers] | None) -> tuple[np.ndarray, np.ndarray, str]:
    """Values [C, items], needles [items], and what they are."""
    if answers and set(answers) >= set(range(trajectory.n_checkpoints)):
        rows = [answers[c] for c in range(trajectory.n_checkpoints)]
        if any(not np.array_equal(each.probes["id"], rows[0].probes["id"]) for each in rows):
            raise ArgumentError("answers of the checkpoints are to different items; give answers to the same ones")
        return np.stack([each.score for each in rows]).astype(np.float64), rows[0].probes["needle_id"], "answers"
    return trajectory.exact_match.astype(np.float64), trajectory.probes["needle_id"], "exact match"


@dataclass(frozen=True, eq=False)
class ThreeLevels:
    """verdict: "deceptive" (behaviour is level while the NLL still falls, or the heads still rise), "not deceptive"
    (behaviour still moves, or nothing below it does) or "insufficient". moving: which of "NLL" and "heads" move beyond
    their margin. behaviour, nll, heads: the evidence; heads is None where no head is above chance."""

    verdict: str
    moving: tuple[str, ...]
    behaviour: Plateau
    nll: Plateau
    heads: Plateau | None
    mean_behaviour: float
    words: str


def three_levels(
    trajectory: Trajectory,
    answers: Mapping[int, Answers] | None = None,
    *,
    score_margin: float = SCORE_MARGIN,
    nll_margin: float = NLL_MARGIN,
    head_margin: float = HEAD_MARGIN,
    window: int | None = None,
) -> ThreeLevels:
    """Deceptive saturation with three levels as evidence: is behaviour level while what it rests on still improves?

    Behaviour is level by an equivalence test at 5 %, as in `deceptive_saturation`. NLL and heads have to move by more
    than their margin, each at 2.5 %, so that two chances to find something do not find it twice as often where there is
    nothing. The heads are those above chance in their mean over the whole window, a choice that no slope can profit
    from. All levels are judged on the same checkpoints, the last stage's.

    Raises ArgumentError for a margin that is not positive, a window below 3, or answers to different items.
    """
    offset = trajectory.n_checkpoints - trajectory.last_stage().n_checkpoints
    stage = trajectory.last_stage()
    told = {c - offset: each for c, each in (answers or {}).items() if c >= offset}
    found = levels_of(stage, told)
    progress = stage.progress
    finest = 1.0 if found.behaviour_name == "exact match" else 0.0
    score = plateau_of(
        found.values.get("behaviour", np.full((len(progress), 1), np.nan)),
        np.unique(found.needles.get("behaviour", np.zeros(1)), return_inverse=True)[1].ravel(),
        progress,
        found.behaviour_name,
        score_margin,
        False,
        finest=finest,
        window=window,
    )
    inside = (progress >= score.window[0]) & (progress <= score.window[1])
    judged = np.flatnonzero(inside)
    loss = plateau_of(
        stage.nll[found.nll_name][judged],
        stage.needles,
        progress[judged],
        found.nll_name,
        nll_margin,
        True,
        window=window or max(3, len(judged)),
        level=_LEVEL,
    )
    heads = _heads(stage, judged, progress, head_margin, window)
    behaviour = found.values.get("behaviour")
    level = float(np.nanmean(behaviour[judged])) if behaviour is not None and len(judged) else float("nan")
    moving = []
    if loss.interval[1] < -nll_margin:
        moving.append("NLL")
    if heads is not None and heads.interval[0] > head_margin:
        moving.append("heads")
    still = loss.interval[0] > -nll_margin and (heads is None or heads.interval[1] < head_margin)
    if np.isnan(score.interval[0]) or np.isnan(loss.interval[0]):
        verdict, why = "insufficient", "this cannot be judged"
    elif score.verdict == "still moving":
        verdict, why = "not deceptive", "behaviour itself still moves"
    elif level < FLOOR:
        verdict, why = "insufficient", f"behaviour has not taken off ({level:.0%}), so it cannot seem saturated"
    elif score.verdict == "plateau" and moving:
        what = {"NLL": "the NLL still falls", "heads": "the heads still rise"}
        verdict = "deceptive"
        why = f"behaviour is level at {level:.0%} while {' and '.join(what[each] for each in moving)}"
    elif score.verdict == "plateau" and still:
        verdict, why = (
            "not deceptive",
            f"behaviour is level at {level:.0%}, and nothing below it moves beyond its margin",
        )
    else:
        verdict, why = "insufficient", "too noisy to tell"
    parts = [score.words, loss.words, *([heads.words] if heads is not None else [])]
    return ThreeLevels(verdict, tuple(moving), score, loss, heads, level, f"{why}. {' '.join(parts)}")


def _heads(
    stage: Trajectory, judged: np.ndarray, progress: np.ndarray, margin: float, window: int | None
) -> Plateau | None:
    if not len(judged):
        return None
    scores = stage.scores[judged]
    seen = ~np.isnan(scores)
    mean = np.where(seen, scores, 0).sum(axis=(0, 1), dtype=np.float64) / np.maximum(seen.sum(axis=(0, 1)), 1)
    level = stage.levels()[judged].max(axis=0)
    chosen = np.argwhere(mean > level)
    if not len(chosen):
        return None
    values = heads_by_probe(stage, chosen)[judged]
    most = window or max(3, len(judged))
    return plateau_of(values, stage.needles, progress[judged], "heads", margin, False, window=most, level=_LEVEL)
