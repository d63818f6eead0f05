"""What the report and its figures show of a run of checkpoints, worked out once; no statistics of its own.

evolution = evolve("run.h5")                         # or of a Trajectory
evolution.panel.n_heads, evolution.verdicts, evolution.head_curve((18, 6))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, count, pairwise
from os import PathLike
from typing import Any

import numpy as np

from ...errors import ArgumentError
from ...printable import NAME, printable
from ..ablation import Ablation
from ..analysis import (
    ALPHA,
    NULLS,
    Agreement,
    DepthCurve,
    Downstream,
    DownstreamCorrelation,
    HeadChanges,
    Interval,
    ItemPrediction,
    Life,
    LogFit,
    Panel,
    PaperTables,
    Source,
    Trajectory,
    Verdict,
    agree,
    by_depth,
    changes,
    correlate_downstream,
    depth_labels,
    distance_by_interference,
    effective_lengths,
    grid,
    heads_mean,
    judge,
    life,
    log_fit,
    panel,
    paper_tables,
    predict_from,
    read_downstream,
    read_trajectory,
)
from ..checkpoint_names import model_name
from ..estimators import DEFAULT
from ..finetuned import SftProbe
from ..lengths import EffectiveLength, group_lengths, human_length
from ..levels import FALSE_DISCOVERY_RATE
from ..perplexity import Perplexity
from ..results import RETRIEVAL_THRESHOLD, needle_stderr
from ..store import (
    PROVENANCE_COLUMNS,
    all_ablations,
    all_answers,
    all_perplexities,
    all_sft_probes,
    read_provenance,
    read_scores,
    reading,
    text,
)
from ..tasks import Answers
from .behaviour import LOOKED, Behaviour, looks_of
from .facts import plural
from .levels import ThreeLevelsOfRun

NLL_NAMES = {"nll": "whole answer", "nll_novel": "only in the needle", "nll_echo": "also in the question"}
Head = tuple[int, int]
_UNITS = ((1e12, "trillions", "T"), (1e9, "billions", "B"), (1e6, "millions", "M"))


# Where ticks stand on an axis of ranks.
RANKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True, eq=False)
class FitPoints:
    """tokens, measured, fitted: float64 [n]. labels: the n checkpoints in words."""

    tokens: np.ndarray
    measured: np.ndarray
    fitted: np.ndarray
    labels: list[str]


@dataclass(frozen=True, eq=False)
class Evolution:
    """One trajectory and everything that is said about it.

    provenance: of every checkpoint what its file tells (SCHEMA.md), [C]; empty for a bare Trajectory.
    created: when the file was begun, as written there; "" when unknown.
    answers: index of a checkpoint -> what the model answered there, of those that have answers.
    masses: estimator -> float32 [P, L, H], where every head looks at the last of these.
    ablations: index of a checkpoint -> what changing its heads did, of those that have an ablation.
    ways: how alike estimators rank the heads at the last checkpoint, where more than the usual ones were measured.
    sft, texts: index of a checkpoint -> its SFT probe, and its loss on texts, of those that have one.
    items: what the last of these SFT probes' items tell beforehand, where they are the probes that were scored.
    """

    trajectory: Trajectory
    provenance: Sequence[Mapping[str, Any]] = ()
    created: str = ""
    n_kv_heads: int | None = None
    downstream: Downstream | None = None
    answers: Mapping[int, Answers] = field(default_factory=dict)
    masses: Mapping[str, np.ndarray] = field(default_factory=dict)
    ablations: Mapping[int, Ablation] = field(default_factory=dict)
    ways: Agreement | None = None
    sft: Mapping[int, SftProbe] = field(default_factory=dict)
    texts: Mapping[int, Perplexity] = field(default_factory=dict)
    items: Sequence[ItemPrediction] = ()

    @cached_property
    def maps(self) -> np.ndarray:
        """float32 [C, L, H]: mean score of every head; NaN where it is never observable."""
        return self.trajectory.maps

    @cached_property
    def stderrs(self) -> np.ndarray:
        """float32 [C, L, H]: needle-clustered standard errors of the maps; NaN with fewer than two needles."""
        needles = self.trajectory.probes["needle_id"]
        return np.stack([needle_stderr(scores.astype(np.float64), needles) for scores in self.trajectory.scores])

    @cached_property
    def x(self) -> np.ndarray:
        """float64 [C]: where the checkpoints lie on the axis of all curves, in the unit of `x_title`."""
        return self.trajectory.progress / self._unit[0]

    def on_axis(self, progress: float) -> float:
        """Where training progress (tokens or steps) lies on the axis `x`."""
        return progress / self._unit[0]

    @property
    def x_title(self) -> str:
        _, unit, _ = self._unit
        added = ", stages added up" if self.borders else ""
        return f"{self.trajectory.progress_name}{f' ({unit})' if unit else ''}{added}"

    @cached_property
    def borders(self) -> list[int]:
        """Where one stage of training ends: the positions of the last checkpoints of all stages but the last."""
        return [last for _, _, last in self.trajectory.stage_spans[:-1]]

    def border_names(self, x: np.ndarray) -> list[tuple[float, str, bool]]:
        """What to draw at the borders on an axis x [C]: the place, "stage1 | stage2", and whether left of the line.

        The name is empty where a border before it is so close that the two would lie on each other.
        """
        names = [f"{before[:24]} | {after[:24]}" for (before, *_), (after, *_) in pairwise(self.trajectory.stage_spans)]
        width, found, taken = float(np.ptp(x)) or 1.0, [], -np.inf
        for last, name in zip(self.borders, names, strict=True):
            share = float(x[last] - x[0]) / width
            room = share - taken > 0.08
            found.append((float(x[last]), name if room else "", share > 0.5))
            taken = share if room else taken
        return found

    @cached_property
    def _unit(self) -> tuple[float, str, str]:
        if self.trajectory.progress_name == "optimizer steps":
            return 1.0, "", ""
        largest = float(self.trajectory.progress[-1])
        return next((unit for unit in _UNITS if largest >= unit[0]), (1.0, "", ""))

    @cached_property
    def step_names(self) -> list[str]:
        """A checkpoint in short, [C]: "step 1,500", or "stage2 step 1,500" where there are several stages."""
        trajectory = self.trajectory
        if not self.borders:
            return [f"step {int(step):,}" for step in trajectory.steps]
        own = np.where(trajectory.own_steps < 0, trajectory.steps, trajectory.own_steps)
        return [f"{stage} step {int(step):,}".strip() for stage, step in zip(trajectory.stages, own, strict=True)]

    @cached_property
    def labels(self) -> list[str]:
        """A checkpoint in words, [C]: its short name, and tokens where they are known: "step 1,500, 6.3B tokens"."""
        tokens, steps = self.trajectory.tokens, self.step_names
        return [
            f"{step}, {human_count(n)} tokens" if np.isfinite(n) else step
            for step, n in zip(steps, tokens, strict=True)
        ]

    @cached_property
    def slider_labels(self) -> list[str]:
        """The checkpoint and its number of retrieval heads, [C]."""
        counts = self.alive.sum(axis=(1, 2))
        words = [f"{n} head{'' if n == 1 else 's'} above {self.above}" for n in counts]
        return [f"{label[0].upper()}{label[1:]}: {n}" for label, n in zip(self.labels, words, strict=True)]

    @cached_property
    def levels(self) -> np.ndarray:
        """float32 [C, L, H]: the mean score above which a head counts: 0.1, or what chance explains; see levels.py."""
        return self.panel.levels

    @cached_property
    def alive(self) -> np.ndarray:
        """bool [C, L, H]: which heads are retrieval heads, above the threshold and above chance."""
        return np.greater(self.maps, self.levels)

    @cached_property
    def above(self) -> str:
        """What retrieval heads are above, in words: "chance (level 0.23 with 2 needles)"."""
        return self.trajectory.level_words(self.levels)

    def plain_words(self, checkpoint: int) -> str:
        """The other counts beside ours, in words: the paper's, unless chance is unknown and the two are the same, and
        heads above a null of their own, where that was measured."""
        words = []
        if self.trajectory.chance_known:
            plain = self.panel.n_plain[checkpoint]
            words.append(f"By the paper's plain count, above {RETRIEVAL_THRESHOLD:g}: {plain}.")
        if len(counts := self.trajectory.above_null) and counts[checkpoint] >= 0:
            words.append(f"Above a null of their own at q < {FALSE_DISCOVERY_RATE:g}: {counts[checkpoint]}.")
        return " ".join(words)

    def tick(self, checkpoint: int) -> str:
        """The checkpoint's place on an axis of categories."""
        if self.borders:
            return self.step_names[checkpoint].rpartition(" ")[2]
        progress = self.trajectory.progress[checkpoint]
        return f"{self.x[checkpoint]:.3g}" if self._unit[1] else f"{progress:,.0f}"

    @cached_property
    def panel(self) -> Panel:
        return panel(self.trajectory)

    @cached_property
    def effective(self) -> tuple[Interval, list[EffectiveLength]] | None:
        """Effective length of every checkpoint, [C], and all of each; None where it can be told at none."""
        curve, each = effective_lengths(self.trajectory)
        return (curve, each) if np.isfinite(curve.estimate).any() else None

    def log_fit(self, value: str) -> LogFit:
        return log_fit(self.trajectory, value)

    def mean(self, value: str) -> Interval:
        """An NLL class or "exact_match" over the checkpoints, [C]."""
        return self.panel.niah_score if value == "exact_match" else self.panel.nll[value]

    @cached_property
    def nll_name(self) -> str:
        """The NLL class that says most about copying: that of the tokens found only in the needle, if there are any."""
        return "nll_novel" if np.isfinite(self.trajectory.nll["nll_novel"]).any() else "nll"

    @cached_property
    def nll_curves(self) -> dict[str, Interval]:
        """What is to be had of the NLL by class of answer token: the class in words -> its curve, [C]."""
        shown = {title: self.panel.nll[name] for name, title in NLL_NAMES.items()}
        return {title: curve for title, curve in shown.items() if np.isfinite(curve.estimate).any()}

    @cached_property
    def agreement(self) -> dict[str, np.ndarray]:
        """Name -> values, [C - 1]: of every checkpoint but the first with the one before. Overlap is a share."""
        panel = self.panel
        return {
            f"overlap of the leading {panel.top}": panel.overlap / max(panel.top, 1),
            "Spearman, all heads": panel.spearman,
        }

    def depth_curves(self, value: str) -> list[tuple[str, bool, DepthCurve]]:
        """A measure by needle depth at the first and the last checkpoint: its label, whether it is the last, means."""
        last = len(self.x) - 1
        return [(self.labels[c], c == last, by_depth(self.trajectory, value, c)) for c in dict.fromkeys((0, last))]

    def fit_points(self, value: str) -> FitPoints | None:
        """The checkpoints that a fit over log tokens goes through; None where there are too few."""
        fit = self.log_fit(value)
        used = np.isfinite(fit.fitted)
        if not used.any():
            return None
        labels = [label for label, is_used in zip(self.labels, used, strict=True) if is_used]
        return FitPoints(self.trajectory.tokens[used], self.mean(value).estimate[used], fit.fitted[used], labels)

    def length_depth(self, value: str) -> tuple[np.ndarray, list[str], list[str]]:
        """Means of a measure [C, depth, length], and the labels of depths and lengths."""
        grids = [grid(self.trajectory, value, c) for c in range(len(self.x))]
        lengths, _ = group_lengths(self.trajectory.probes["length"])
        return (
            np.stack([cells.values for cells in grids]),
            depth_labels(self.trajectory.probes["depth_nominal"]),
            lengths,
        )

    def distance_interference(self, value: str) -> tuple[np.ndarray, list[str], list[str]]:
        """Means of a measure [C, interference, distance], and the labels of interferences and distances."""
        grids = [distance_by_interference(self.trajectory, value, c) for c in range(len(self.x))]
        probes = self.trajectory.probes
        before = _token_labels(grids[0].interferences, probes["interference"])
        return (
            np.stack([cells.values for cells in grids]),
            before,
            _token_labels(grids[0].distances, probes["distance"]),
        )

    def fit_words(self, fit: LogFit) -> str:
        a, b = (
            f"{part.estimate:.3g}" + (f" ({part.low:.3g} to {part.high:.3g})" if np.isfinite(part.low) else "")
            for part in (fit.a, fit.b)
        )
        return f"a = {a}, b = {b}; R² = {fit.r_squared:.3f} over {fit.n} checkpoints"

    def crossings(self, head: Head, born: bool) -> np.ndarray:
        """int: the checkpoints at which the head has risen above its level, or fallen below it."""
        at = self.life.births if born else self.life.deaths
        return np.array([c for c, heads in enumerate(at) if head in heads], int)

    def named(self, most: int) -> list[Head]:
        """Heads to draw with their names: those ever above their level, best first; the best three where none is."""
        return self.ever_above()[:most] or self.leading_ever(3)

    def flowing(self, most: int) -> list[Head]:
        """Heads whose ranks are drawn: the leading ones of the last and of the first checkpoint.

        Heads that never pass their level are left out where others do: their ranks are noise.
        """
        heads = list(dict.fromkeys(self.leading(most) + self.leading(most, 0)))
        ever = set(self.ever_above())
        return [head for head in heads if head in ever] or heads

    def pens(self, heads: Sequence[Head], most: int = 8) -> list[int]:
        """The number of each head's colour and mark: that of the curves (`named(most)`), or else one still free."""
        named = self.named(most)
        taken = {head: number for number, head in enumerate(named) if head in heads}
        left = [number for number in range(len(named)) if number not in taken.values()]
        free = chain(range(len(named), most), left, count(most))
        return [taken[head] if head in taken else next(free) for head in heads]

    @cached_property
    def life(self) -> Life:
        return life(self.trajectory)

    @cached_property
    def changes(self) -> HeadChanges | None:
        """The last checkpoint against the first, over possible retrieval heads; None where there is only one."""
        return changes(self.trajectory, sum_above=RETRIEVAL_THRESHOLD) if len(self.x) > 1 else None

    @cached_property
    def correlations(self) -> list[DownstreamCorrelation]:
        """Every quantity of the panel against every downstream score; empty without scores."""
        if self.downstream is None:
            return []
        return correlate_downstream(self.trajectory, self.downstream, self.panel)

    def holds(self, pair: DownstreamCorrelation) -> bool:
        """Whether the two move together beyond any smooth trend, after Holm: as the verdicts count it."""
        return pair.correlation.verdict == "supported" and pair.p_detrended_holm <= ALPHA

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return judge(self.trajectory, self.downstream, found=self.panel, answers=self.answers)

    @cached_property
    def three(self) -> ThreeLevelsOfRun:
        """Behaviour, NLL and heads side by side."""
        return ThreeLevelsOfRun(self.trajectory, self.answers, self.sft, self.texts)

    @cached_property
    def tables(self) -> PaperTables | None:
        """The paper's tables 3 to 7 with the file's own answers as tasks; None without, or with one checkpoint."""
        return paper_tables(self.trajectory, answers=self.answers) if self.answers and len(self.x) > 1 else None

    @cached_property
    def behaviour(self) -> Behaviour | None:
        """What the model answered by itself; None where no checkpoint has answers."""
        if not self.answers:
            return None
        ids = self.answers[max(self.answers)].probes["id"].tolist()
        looks = looks_of(self.masses, self.looking, self.trajectory.probes["id"].tolist(), ids)
        return Behaviour(self.answers, len(self.x), looks)

    @property
    def looking(self) -> list[Head]:
        """The heads whose attention explains answers: up to ten retrieval heads of the last checkpoint with answers, or
        the best three where there is none."""
        at = max(self.answers)
        return [head for head in self.leading(10, at) if self.alive[at][head]] or self.leading(3, at)

    @property
    def ranks(self) -> np.ndarray:
        """float64 [C, L, H]: 1 is the best head; NaN where not observable."""
        return self.life.ranks

    def leading(self, most: int, checkpoint: int = -1) -> list[Head]:
        """The heads with the highest scores at one checkpoint, at most `most`; none with a score of 0."""
        return _best(self.maps[checkpoint], most)

    def leading_ever(self, most: int) -> list[Head]:
        """The heads with the highest score that they reach at any checkpoint, at most `most`."""
        return _best(np.nanmax(np.where(np.isnan(self.maps), -1.0, self.maps), axis=0), most)

    def ever_above(self) -> list[Head]:
        """Every head that is a retrieval head at some checkpoint, best first."""
        return [head for head in self.leading_ever(self.maps[0].size) if self.alive[:, *head].any()]

    def head_curve(self, head: Head) -> Interval:
        """The head's mean score at every checkpoint, [C], with needle-clustered intervals."""
        return heads_mean(self.trajectory, [head])


def evolve(source: str | PathLike[str] | Trajectory, *, downstream: Source | None = None) -> Evolution:
    """Everything the report shows of a results file or a Trajectory; downstream: files of scores (`read_downstream`).

    Raises StoreError when the file cannot be read, DownstreamError when the scores cannot be or do not fit the run.
    """
    scores = None if downstream is None else read_downstream(downstream)
    if isinstance(source, Trajectory):
        return Evolution(source, downstream=scores)
    trajectory, answers = read_trajectory(source), all_answers(source)
    with reading(source) as file:
        group = file["provenance"]
        columns = {name: group[name].asstr()[:] for name in ("model_id", *PROVENANCE_COLUMNS, "json")}
        told = [{name: str(values[c]) for name, values in columns.items()} for c in range(trajectory.n_checkpoints)]
        created = text(file, "created_at") if "created_at" in file.attrs else ""
        kv = int(np.ravel(file.attrs["n_kv_heads"])[0])
        full = [{**entry, "json": read_provenance(entry["json"])} for entry in told]
        held = [name for name in LOOKED if answers and name in text(file, "estimators").split()]
        masses = {name: file[f"probes/{name}"][max(answers)] for name in held}
        more = set(text(file, "estimators").split()) - {*DEFAULT, *NULLS}
    tuned = all_sft_probes(source)
    return Evolution(
        trajectory,
        full,
        created,
        kv,
        scores,
        answers,
        masses,
        all_ablations(source),
        _ways(source) if more else None,
        tuned,
        all_perplexities(source),
        _items(source, int(trajectory.steps[max(tuned)]), tuned[max(tuned)]) if tuned else [],
    )


def _items(source: str | PathLike[str], step: int, tuned: SftProbe) -> list[ItemPrediction]:
    after = dict(zip(tuned.probes["id"].tolist(), tuned.after["score"].T, strict=True))
    try:
        return predict_from(read_scores(source, step), after)
    except ArgumentError:  # other probes were scored than were answered
        return []


def _ways(source: str | PathLike[str]) -> Agreement | None:
    try:
        return agree(source)
    except ArgumentError:  # the last checkpoint was measured with one of them, or few heads could be observed
        return None


def run_facts(evolution: Evolution) -> list[str]:
    """What was measured, in a few words each."""
    trajectory = evolution.trajectory
    _, p, n_layers, n_heads = trajectory.scores.shape
    lengths = trajectory.probes["length"]
    span = human_length(int(lengths.min()))
    if lengths.max() > lengths.min():
        span += f" to {human_length(int(lengths.max()))}"
    kv = f" ({evolution.n_kv_heads} KV)" if evolution.n_kv_heads else ""
    when = evolution.labels
    if len(when) > 1:
        steps, tokens = trajectory.steps, trajectory.tokens
        when = [f"{len(steps)} checkpoints", f"steps {steps[0]:,} to {steps[-1]:,}"]
        if evolution.borders:
            spans, names = trajectory.stage_spans, evolution.step_names
            when[0] += f" of {len(spans)} stages"
            ends = [names[b].rpartition(" ")[2] for _, _, b in spans]
            when[1] = "; ".join(names[a] + f" to {end}" * (b > a) for (_, a, b), end in zip(spans, ends, strict=True))
        if np.isfinite(tokens[[0, -1]]).all():
            when.append(f"{human_count(tokens[0])} to {human_count(tokens[-1])} tokens seen")
    return [
        *when,
        f"probe set {trajectory.about.get('probe_set_name', 'unknown')}",
        f"{plural(p, 'probe')} with {plural(len(np.unique(trajectory.needles)), 'needle')}",
        f"{span} tokens of context",
        f"{n_layers} layers x {n_heads} heads{kv}",
    ]


def run_name(evolution: Evolution) -> str:
    """A hub id as it is, of a local path only its end; the first and the last where checkpoints have their own."""
    told = [str(entry.get("model_id", "")) for entry in evolution.provenance]
    ids = told if any(told) else [str(evolution.trajectory.about.get("model_id", ""))]
    names = [printable(model_name(name), NAME) or "attention heads" for name in (ids[0], ids[-1])]
    return " to ".join(dict.fromkeys(names))


def human_count(count: float) -> str:
    """6300000000 -> "6.3B": three digits and a letter."""
    size, _, letter = next((unit for unit in _UNITS if count >= unit[0]), (1.0, "", ""))
    return f"{count / size:.3g}{letter}" if letter else f"{count:,.0f}"


def _token_labels(groups: np.ndarray, tokens: np.ndarray) -> list[str]:
    """1024 -> "1K"; "1K+" where a group reaches up to the next one."""
    more = "+" if tokens.max() > groups.max() or len(np.unique(tokens)) > 12 else ""
    return [f"{human_length(int(group))}{more}" for group in groups]


def head_name(head: Head) -> str:
    return f"L{head[0]}H{head[1]}"


def _best(scores: np.ndarray, most: int) -> list[Head]:
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0), axis=None, kind="stable")[:most]
    return [divmod(int(i), scores.shape[1]) for i in order if scores.flat[i] > 0]
