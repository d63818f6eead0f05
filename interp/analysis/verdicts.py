"""The questions that the lead of a run asks, answered in plain words with their numbers, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..levels import lines
from ..results import RETRIEVAL_THRESHOLD
from ..tasks import Answers
from .bootstrap import MIN_NEEDLES, Interval
from .downstream import Downstream, correlate_downstream
from .evolution import Panel, head_count_change, panel
from .heads import HeadChanges, changes
from .saturation import MIN_WINDOW, DeceptiveSaturation, deceptive_saturation
from .statistics import ALPHA, MIN_CHECKPOINTS
from .three_levels import three_levels
from .trajectory import Trajectory

_NAMED = 8  # heads written out in words; `numbers` has them all


@dataclass(frozen=True)
class Verdict:
    """answer: a few words; "insufficient" where the data cannot say. words: one to four sentences, with every number
    the answer rests on. numbers: the same for programs, plain floats, ints, strings and lists."""

    question: str
    answer: str
    words: str
    numbers: dict[str, Any] = field(default_factory=dict)


def judge(
    trajectory: Trajectory,
    downstream: Downstream | None = None,
    *,
    threshold: float = RETRIEVAL_THRESHOLD,
    found: Panel | None = None,
    answers: Mapping[int, Answers] | None = None,
) -> list[Verdict]:
    """Are heads growing, which ones, is the run still improving, how sure can we be; with scores from `read_downstream`
    also whether they go together. found: the panel, where it was made already with this threshold. answers: position of
    a checkpoint -> its answers; with them, whether heads, NLL and behaviour have all levelled off."""
    found = panel(trajectory, threshold=threshold) if found is None else found
    moved = changes(trajectory, sum_above=threshold) if trajectory.n_checkpoints > 1 else None
    blank = np.isnan(trajectory.nll["nll_novel"]).all()
    saturation = deceptive_saturation(trajectory.last_stage(), "nll" if blank else "nll_novel")
    verdicts = [
        _growing(trajectory, found, moved),
        _which(trajectory, moved, found),
        _improving(trajectory, saturation),
        *([_levels(trajectory, answers)] if answers else []),
        _sure(trajectory, saturation),
    ]
    return [*verdicts, _downstream(trajectory, downstream, found)] if downstream else verdicts


def _growing(trajectory: Trajectory, found: Panel, moved: HeadChanges | None) -> Verdict:
    question = "Are retrieval heads growing?"
    counts = found.n_heads.estimate
    above = trajectory.level_words(found.levels, found.threshold)
    ends = " to ".join(str(int(n)) for n in dict.fromkeys((found.n_plain[0], found.n_plain[-1])))
    plain = f" By the paper's plain count, above {found.threshold:g}: {ends}." if trajectory.chance_known else ""
    if moved is None:
        words = f"There is one checkpoint, with {_heads(int(counts[0]))} above {above}; growth needs two.{plain}"
        counted = {"first": int(counts[0]), "first_plain": int(found.n_plain[0]), "checkpoints": 1}
        return Verdict(question, "insufficient", words, counted)
    change = head_count_change(trajectory, threshold=found.threshold)
    up = int((moved.changed & (moved.difference > 0)).sum())
    down = int((moved.changed & (moved.difference < 0)).sum())
    first, last = int(counts[0]), int(counts[-1])
    numbers: dict[str, Any] = {
        "first": first,
        "last": last,
        "first_plain": int(found.n_plain[0]),
        "last_plain": int(found.n_plain[-1]),
        "levels": lines(found.levels),
        "change": int(change.estimate),
        "interval": [float(change.low), float(change.high)],
        "needles": change.n_clusters,
        "heads_up": up,
        "heads_down": down,
        "initial_mean_first": float(found.initial_mean.estimate[0]),
        "initial_mean_last": float(found.initial_mean.estimate[-1]),
    }
    begin, end = trajectory.name(0), trajectory.name(-1)
    words = f"From {begin} to {end} the heads above {above} went from {first} to {last}"
    stage_ends = [(trajectory.name(last), int(counts[last])) for _, _, last in trajectory.stage_spans]
    if len(stage_ends) > 1:
        numbers["stage_ends"] = [f"{name}: {_heads(count)}" for name, count in stage_ends]
        words += f", over {len(stage_ends)} stages; at the end of each, " + ", ".join(
            f"{n} at {name}" for name, n in stage_ends
        )
    if np.isnan(change.low):
        words += f". With {_needles(change.n_clusters)} there is no interval for that; {MIN_NEEDLES} are needed.{plain}"
        return Verdict(question, "insufficient", words, numbers)
    words += ";" if len(stage_ends) > 1 else ","
    words += f" a change of {change.estimate:+d} ({_interval(change, '+.0f')}, {_needles(change.n_clusters)}).{plain}"
    if found.initial_heads:
        share, at_end = found.initial_mean.estimate, _interval(found.initial_mean, ".2f", -1)
        words += f" The mean score of the {_heads(len(found.initial_heads))} of the first checkpoint"
        words += f" went from {share[0]:.2f} to {share[-1]:.2f} ({at_end} at the end)."
    words += f" Of {_heads(moved.tested)} that could be tested, {up} rose and {down} fell."
    if change.low > 0:
        return Verdict(question, "yes", words, numbers)
    if change.high < 0:
        return Verdict(question, "no, they become fewer", words, numbers)
    if up > down:
        return Verdict(question, "some heads are, their number not clearly", words, numbers)
    words += " That does not show that nothing changes, only that nothing certain can be seen."
    return Verdict(question, "not clearly", words, numbers)


def _which(trajectory: Trajectory, moved: HeadChanges | None, found: Panel) -> Verdict:
    question = "Which ones?"
    if moved is None:
        return Verdict(question, "insufficient", "There is one checkpoint; a change needs two.", {"checkpoints": 1})
    maps, levels = trajectory.maps, found.levels
    alive = maps > levels
    places = np.argwhere(moved.changed)
    size = moved.difference[moved.changed]
    order = np.argsort(-np.abs(size), kind="stable")
    listed: list[dict[str, Any]] = [
        {
            "head": f"L{layer}H{head}",
            "layer": int(layer),
            "index": int(head),
            "first": float(maps[0, layer, head]),
            "last": float(maps[-1, layer, head]),
            "difference": float(moved.difference[layer, head]),
            "q": float(moved.q[layer, head]),
            "alive": [bool(alive[0, layer, head]), bool(alive[-1, layer, head])],
        }
        for layer, head in places[order].tolist()
    ]
    rose = [item for item in listed if item["difference"] > 0]
    fell = [item for item in listed if item["difference"] < 0]
    numbers: dict[str, Any] = {
        "rose": rose,
        "fell": fell,
        "born": [item["head"] for item in rose if item["alive"] == [False, True]],
        "died": [item["head"] for item in fell if item["alive"] == [True, False]],
        "false_discovery_rate": moved.level,
        "tested": moved.tested,
        "needles": moved.n_clusters,
        "smallest_p": moved.smallest_p,
    }
    rate = f"at most {moved.level:.0%} of such a list is wrong on average ({_needles(moved.n_clusters)})"
    if not listed:
        if moved.fewest == 0:
            words = f"With {_needles(moved.n_clusters)}, whose least possible p is {moved.smallest_p:.2g}, no change"
            return Verdict(question, "insufficient", f"{words} of a head can be told from chance.", numbers)
        words = f"No head changed beyond chance: {rate}."
        if moved.fewest > 1:
            words += f" So few needles only show changes of {moved.fewest} heads or more at once."
        return Verdict(question, "none that can be named", words, numbers)
    parts = [f"{title}: {_list(items)}." for title, items in (("Up", rose), ("Down", fell)) if items]
    for title, names in (("above", numbers["born"]), ("below", numbers["died"])):
        if names:
            level = "chance" if trajectory.chance_known else f"{found.threshold:g}"
            parts.append(f"New {title} {level}: {', '.join(names[:_NAMED])}{_more(len(names))}.")
    answer = ", ".join(f"{len(items)} {verb}" for items, verb in ((rose, "up"), (fell, "down")) if items)
    return Verdict(question, answer, " ".join([*parts, f"Paired on the same probes; {rate}."]), numbers)


def _improving(trajectory: Trajectory, saturation: DeceptiveSaturation) -> Verdict:
    """Judged on the last stage: one line over a border, where steps, data and lengths change, would say nothing."""
    verdict = _improving_now(saturation)
    *before, (name, first, last) = trajectory.stage_spans
    if not before:
        return verdict
    words = f"Judged within the last stage, {name} ({last - first + 1} checkpoints): no slope goes over its border. "
    words += verdict.words
    return replace(verdict, words=words, numbers=verdict.numbers | {"stage": name})


def _improving_now(saturation: DeceptiveSaturation) -> Verdict:
    question = "Is the run still improving, or only seeming saturated?"
    score, loss = saturation.score, saturation.nll
    numbers: dict[str, Any] = {
        "score_slope": score.slope,
        "score_interval": list(score.interval),
        "score_margin": score.margin,
        "score_verdict": score.verdict,
        "mean_score": saturation.mean_score,
        "nll_log_slope": loss.slope,
        "nll_log_interval": list(loss.interval),
        "nll_margin": loss.margin,
        "nll_verdict": loss.verdict,
        "deceptive_saturation": saturation.verdict,
        "checkpoints": score.n,
        "needles": score.n_clusters,
    }
    known = not np.isnan(loss.interval[0]) and not np.isnan(score.interval[0])
    evidence = f"{score.words} {loss.words}".replace("exact_match", "Exact match").replace(loss.measure, "NLL", 1)
    if saturation.verdict == "deceptive":
        words = "The score has levelled off, but the same answers still become more certain: it only seems saturated."
        return Verdict(question, "only seeming saturated", f"{words} {evidence}", numbers)
    falls, rises = known and loss.interval[1] < -loss.margin, known and loss.interval[0] > loss.margin
    up = score.verdict == "still moving" and score.slope > 0
    down = score.verdict == "still moving" and score.slope < 0
    if (falls or up) and not (rises or down):
        return Verdict(question, "still improving", evidence, numbers)
    if (rises or down) and not (falls or up):
        return Verdict(question, "getting worse", evidence, numbers)
    if score.verdict == loss.verdict == "plateau":
        if saturation.verdict == "insufficient":
            return Verdict(question, "level, but the score never took off", evidence, numbers)
        words = "Both are level within the margins on the checkpoints judged."
        return Verdict(question, "saturated on these probes", f"{words} {evidence}", numbers)
    if (falls or up) and (rises or down):
        return Verdict(question, "mixed", f"Score and NLL go in opposite directions. {evidence}", numbers)
    return Verdict(question, "insufficient", f"This cannot be told. {evidence}", numbers)


def _levels(trajectory: Trajectory, answers: Mapping[int, Answers]) -> Verdict:
    found = three_levels(trajectory, answers)
    levels = {"behaviour": found.behaviour, "nll": found.nll} | ({"heads": found.heads} if found.heads else {})
    numbers: dict[str, Any] = {"moving": list(found.moving), "mean_behaviour": found.mean_behaviour}
    for name, each in levels.items():
        numbers |= {f"{name}_slope": each.slope, f"{name}_interval": list(each.interval), f"{name}_margin": each.margin}
    words = found.words[0].upper() + found.words[1:]
    return Verdict("Do behaviour, NLL and heads say the same?", found.verdict, words, numbers)


def _sure(trajectory: Trajectory, saturation: DeceptiveSaturation) -> Verdict:
    question = "How sure can we be?"
    c, p = trajectory.scores.shape[:2]
    needles, judged = len(np.unique(trajectory.needles)), saturation.score.n
    lacks = []
    if needles < MIN_NEEDLES:
        lacks.append(f"intervals need {MIN_NEEDLES} needles and there are {needles}")
    stages = trajectory.stage_spans
    if judged < MIN_WINDOW:
        within = f" in the last stage, {stages[-1][0]}," if len(stages) > 1 else ""
        lacks.append(f"a plateau needs {MIN_WINDOW} checkpoints{within} with progress above 0 and there are {judged}")
    if c < MIN_CHECKPOINTS:
        lacks.append(f"correlations need {MIN_CHECKPOINTS} checkpoints and there are {c}")
    of = f" of {len(stages)} stages" if len(stages) > 1 else ""
    words = f"{c} checkpoint{'s' if c > 1 else ''}{of}, {p} probes of {_needles(needles)}."
    words += f" Not to be had: {'; '.join(lacks)}." if lacks else " Every test here can be done."
    words += " Intervals say what other needles would give on this run, not what another run would."
    answer = "every test can be done" if not lacks else "partly" if needles >= MIN_NEEDLES and c > 1 else "insufficient"
    return Verdict(question, answer, words, {"checkpoints": c, "probes": p, "needles": needles, "lacking": lacks})


def _downstream(trajectory: Trajectory, downstream: Downstream, found: Panel) -> Verdict:
    question = "Do the heads go with the downstream scores?"
    compared = correlate_downstream(trajectory, downstream, found)
    numbers: dict[str, Any] = {
        f"{item.quantity} / {item.score}": {
            "n": item.correlation.n,
            "r": item.correlation.pearson,
            "p_permutation": item.correlation.p_permutation,
            "p_holm": item.p_holm,
            "p_detrended_holm": item.p_detrended_holm,
            "p_saturating": item.correlation.p_saturating,
            "r_detrended": item.correlation.r_detrended,
            "p_detrended": item.correlation.p_detrended,
            "verdict": item.correlation.verdict,
            "words": item.correlation.words,
        }
        for item in compared
    }
    stages = len(trajectory.stage_spans)
    parts = [f"The checkpoints of {stages} stages are taken together."] if stages > 1 else []
    for score in downstream:
        items = [item for item in compared if item.score == score]
        rs = [f"{item.quantity} {item.correlation.pearson:.2f}" for item in items if item.correlation.pearson**2 <= 1]
        parts.append(f"{score} (n = {items[0].correlation.n}): {'r with ' + ', '.join(rs) if rs else 'no r'}.")
    least = [item.correlation.p_saturating for item in compared if not np.isnan(item.correlation.p_saturating)]
    if least:
        parts.append(f"Two unrelated saturating curves do as well {min(least):.0%} to {max(least):.0%} of the time.")
    held = [
        f"{item.quantity} and {item.score} (r = {item.correlation.r_detrended:.2f})"
        for item in compared
        if item.correlation.verdict == "supported" and item.p_detrended_holm <= ALPHA
    ]
    if held:
        parts.append(f"Together beyond any smooth trend, after Holm over {len(compared)}: {', '.join(held)}.")
        return Verdict(question, f"{len(held)} of {len(compared)} beyond a common trend", " ".join(parts), numbers)
    judged = [item for item in compared if item.correlation.verdict != "insufficient"]
    if not judged:
        parts.append("Too few or too smooth to tell a link from a common trend.")
        return Verdict(question, "insufficient", " ".join(parts), numbers)
    parts.append(f"Beyond a common trend none of {len(judged)} that could be judged holds, after Holm.")
    return Verdict(question, "no link beyond a common trend", " ".join(parts), numbers)


def _heads(count: int) -> str:
    return f"{count} head{'' if count == 1 else 's'}"


def _needles(count: int) -> str:
    return f"{count} needle{'' if count == 1 else 's'}"


def _interval(interval: Interval, form: str, at: int | None = None) -> str:
    low, high = (interval.low, interval.high) if at is None else (interval.low[at], interval.high[at])
    if np.isnan(low) or np.isnan(high):
        return "no interval"
    return f"{interval.level:.0%} interval {low:{form}} to {high:{form}}"


def _list(items: list[dict[str, Any]]) -> str:
    named = [f"{item['head']} ({item['first']:.2f} to {item['last']:.2f})" for item in items[:_NAMED]]
    return ", ".join(named) + _more(len(items))


def _more(count: int) -> str:
    return f" and {count - _NAMED} more" if count > _NAMED else ""
