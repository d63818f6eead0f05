"""ablate: heads are changed, and what becomes of a model's answers is measured. The whole path on one page."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import ArgumentError, ArgumentTypeError
from ...printable import printable
from ...probes import Codec, Probe, ProbeSet, twin
from ..ablation import COLUMNS, MEASURES, MODES, UNITS, Ablation, HeadSet
from ..engine import CHUNK, Asked, Engine, Plan, PrefixPass, Progress, longest_answered, plan
from ..environment import for_files
from ..evaluating import with_task
from ..model import Pass, Scoring, Visibility, altering, running
from ..results import HeadScores
from ..scoring import Ready, prepare
from ..tasks import judge
from .changing import AblationError, Change, Zero
from .needle_only import NeedleOnly
from .recording import check_twins, donors, mean_outputs, outputs_elsewhere
from .rows import parts_of
from .running import Answered, exact_beside_prefix, run_sets, write_answers
from .sets import Unit, Units, needles_that_choose, sets_of, units_of

log = logging.getLogger(__name__)

TOP = (1, 2, 5, 10, 20)
PLACES = {"resample": ("answer",), "from_needle": ("answer",), "needle_only": ("question", "answer")}
"""Modes that are defined in some rows only. Other probes have other questions and contexts, and hiding a needle from
the context's rows would take a prefix of its own for every probe."""


def ablate(
    model: Any,
    probes: ProbeSet | Iterable[Probe],
    heads: HeadScores | Iterable[tuple[int, int]],
    *,
    mode: str = "zero",
    rows: str | Sequence[str] = "answer",
    top: Sequence[int] | None = None,
    controls: int = 20,
    each: int | None = None,
    kv_groups: bool = False,
    answers: bool = False,
    twins: Iterable[Probe] | None = None,
    sharing: str = "auto",
    alone: bool | None = None,
    seed: int = 0,
    tokenizer: Any = None,
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> Ablation:
    """Change heads where their output goes into the output projection, and see whether the model still retrieves.

    The k leading heads are changed together, for every k of `top`; beside them as many random heads in the same layers,
    and as many with about the same attention on the needle; and the leading ones one by one. Every run looks whether
    each head that was to change did, and, bit by bit, whether any other did.

    Args:
        model, sharing, alone, tokenizer, chunk, progress: as in `score_heads`.
        probes: what is measured.
        heads: scores of the model, whose leading heads are taken: chosen on half of the needles, measured on the probes
            of other needles, so that no head is there because it was lucky on them. Or a list of (layer, head), the
            most important first, which is measured on all probes: chosen elsewhere, one hopes.
        mode: what the output becomes.
            "zero": nothing.
            "mean": the head's mean output over all rows of the same part of all measured probes.
            "resample": its output on the same answer row of a probe of another needle (`recording.donors`).
            "needle_only": its output without the needle's keys, -inf before the softmax.
            "from_needle": its output on the probe's twin, which has another value in needle and answer; what the model
                then thinks of that value is `measured["twin_logprob"]`.
        rows: in which rows: some of "context", "question", "answer" (those that predict its tokens), or "all". Without
            the context all sets run beside prefixes that are shared, which is exact; with it every set needs a prefill
            of its own. "resample" and "from_needle" are for answer rows, "needle_only" for question and answer.
        top: how many heads at a time; by default 1, 2, 5, 10, 20, as far as half of the heads reach.
        controls: random sets for every k and kind.
        each: how many of the leading ones are changed one by one; by default the largest of `top`.
        kv_groups: choose, count and change all query heads that read one key-value head together, which is what methods
            that compress a KV cache can act on. A group's score is the largest of its heads'.
        answers: also let the model write its own answers, to `measured["answer_score"]`. Needs a tokenizer, and a mode
            that is defined for rows that nobody has foreseen: "zero", "mean" or "needle_only".
        twins: for "from_needle", in the order of the probes; by default `headscope.probes.twin(..., "counterfactual")`.
        seed: of the choice of needles, and of controls.

    Returns:
        Ablation. `headscope.analysis.dose_response` has effects with intervals.

    Raises:
        What `score_heads` raises. ArgumentError: arguments that do not go together. AblationError: a head whose output
        the change left as it was, or a head changed that was to be left alone.
    """
    every = ProbeSet.of(probes)
    parts = check_asked(mode, rows, answers=answers, controls=controls, top=top, each=each)
    if twins is not None and mode != "from_needle":
        raise ArgumentError(f"twins are for mode='from_needle', got mode={mode!r}")
    measured, choosing = _halves(every, heads, seed)
    given = None
    if twins is not None:
        there = [*twins]
        if len(there) != len(every):
            raise ArgumentError(f"twins must be as many as the probes, in their order: {len(there)} for {len(every)}")
        given = dict(zip((probe.id for probe in every), there, strict=True))
    ready = prepare(model, measured, sharing=sharing, alone=alone, estimators=None, tokenizer=tokenizer)
    others = _twins(measured, ready.codec, given) if mode == "from_needle" else None
    if answers and ready.codec is None:
        raise ArgumentError("answers=True needs tokenizer=..., to read what the model writes")
    asked = [with_task(probe, ready.codec) for probe in measured] if answers and ready.codec else []
    longest = max(probe.length for probe in measured)
    if ready.codec and answers:
        longest = max(longest, longest_answered(ready.model.context, asked, ready.codec))
    with ready.model.routed(longest):
        units, ranked = _units(ready, heads, choosing, kv_groups)
        sizes = _sizes(top, units, ranked, heads)
        sets = sets_of(units, ranked, sizes, max(sizes) if each is None else each, controls, seed)
        engine = ready.engine(chunk, progress)
        planned = None if ready.alone_because else ready.planned
        layers = {layer for one in sets for layer, _ in one.heads}
        change = _change(mode, engine, planned, measured, layers, parts, others)
        targets = None if others is None else [other.answer_ids for other in others]
        changed = [one.heads for one in sets]
        found, unmoved = run_sets(engine, planned, measured, changed, change, parts, targets)
        _tell_unmoved(sets, unmoved, mode, parts)
        scores = np.full((len(sets), len(measured)), np.nan, np.float32)
        if answers and ready.codec is not None:
            written = [v for v, one in enumerate(sets) if one.kind != "one"]
            how = Asked(ready.codec, ready.model.ends, ready.model.context)
            exact = None if planned is None else plan(asked, "exact")
            for v, i, text in write_answers(engine, exact, asked, [changed[v] for v in written], change, parts, how):
                scores[written[v], i] = judge(asked[i].task, text).score  # type: ignore[arg-type]
    return Ablation(
        model_id=ready.loaded.model_id if ready.loaded else ready.model.name,
        mode=mode,
        rows=parts,
        unit=UNITS[kv_groups],
        sets=tuple(sets),
        measured=_measures(found, measured, len(sets), others is not None) | {"answer_score": scores},
        probes={name: np.array([getattr(probe, name) for probe in measured]) for name in COLUMNS},
        probe_set_name=every.name,
        probe_set_hash=every.hash,
        provenance={
            **for_files(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seed": seed,
            "controls": controls,
            "chosen_on": sorted(choosing),
            "sharing": "alone" if ready.alone_because else sharing,
            "alone_because": ready.alone_because,
            "prefix_shared_by_sets": planned is not None and exact_beside_prefix(parts),
            "device": str(ready.model.device),
            "dtype": str(ready.model.dtype).removeprefix("torch."),
            "weights_sha256": ready.loaded.fingerprint if ready.loaded else None,
        },
    )


def check_asked(
    mode: str,
    rows: str | Sequence[str],
    *,
    answers: bool = False,
    controls: int = 0,
    top: Sequence[int] | None = None,
    each: int | None = None,
) -> tuple[str, ...]:
    """The parts that rows are; ArgumentError, before any model is loaded, for arguments that do not go together."""
    if mode not in MODES:
        raise ArgumentError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    parts, allowed = parts_of(rows), PLACES.get(mode)
    if allowed and {*parts} - {*allowed}:
        raise ArgumentError(
            f"mode={mode!r} is defined in the rows of {' and '.join(allowed)}, not in those of "
            f"{' and '.join(part for part in parts if part not in allowed)}; give rows={','.join(allowed)!r}, or "
            "mode='zero' or 'mean'"
        )
    if answers and mode in ("resample", "from_needle"):
        raise ArgumentError(f"answers=True: mode={mode!r} has no output for rows of an answer that the model writes")
    if controls < 0 or (each is not None and each < 0):
        raise ArgumentError(f"controls and each must be 0 or more, got {controls} and {each}")
    if top is not None and min(top, default=0) < 1:
        raise ArgumentError(f"top must hold numbers from 1 on, got {top}")
    return parts


def _halves(probes: ProbeSet, heads: Any, seed: int) -> tuple[ProbeSet, set[str]]:
    """The probes that are measured, and the needles that choose the heads: none of theirs."""
    if not isinstance(heads, HeadScores):
        return probes, set()
    here, there = {probe.needle_id for probe in probes}, {*heads.probes["needle_id"].tolist()}
    of = {name: heads.probes[name].tolist() for name in ("family", "needle_id")}
    choosing = needles_that_choose(of["family"], of["needle_id"], seed) if here & there else there
    left = [probe for probe in probes if probe.needle_id not in choosing]
    if not left:
        raise ArgumentError(
            "every probe is of a needle that the heads were chosen on; give probes of other needles, or more of them"
        )
    return ProbeSet(tuple(left), probes.name), choosing


def _twins(probes: ProbeSet, codec: Codec | None, given: dict[str, Probe] | None) -> list[Probe]:
    if given is None and codec is None:
        raise ArgumentError("mode='from_needle' needs tokenizer=..., to write the twins of the probes, or twins=...")
    found = [given[probe.id] if given is not None else twin(probe, codec, "counterfactual") for probe in probes]
    check_twins(list(probes), found)
    return found


def _units(ready: Ready, heads: Any, choosing: set[str], groups: bool) -> tuple[Units, list[Unit]]:
    """What can be changed, and the units in the order in which they lead."""
    n_heads = _heads_of_layers(ready)
    scores = heads if isinstance(heads, HeadScores) else None
    if scores is None:
        units = units_of(n_heads, ready.model.n_kv_heads, groups, None, np.empty(0, bool))
        return units, _listed(heads, n_heads, units)
    if (scores.n_layers, scores.n_heads) != (ready.model.n_layers, max(n_heads.values())):
        raise ArgumentError(
            f"the scores are of {scores.n_layers} layers x {scores.n_heads} heads and {ready.model.name} has "
            f"{ready.model.n_layers} x {max(n_heads.values())}; give the model that was scored"
        )
    chosen = np.isin(scores.probes["needle_id"], [*choosing])
    units = units_of(n_heads, ready.model.n_kv_heads, groups, scores, chosen)
    return units, units.ranked()


def _listed(heads: Any, n_heads: dict[int, int], units: Units) -> list[Unit]:
    try:
        places = [(int(layer), int(head)) for layer, head in heads]
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(
            f"heads is a {type(heads).__name__}; give HeadScores, as hs.read_scores reads them, or (layer, head) pairs"
        ) from error
    for layer, head in places:
        if not 0 <= head < n_heads.get(layer, 0):
            raise ArgumentError(f"heads: there is no L{layer}H{head}; layer {layer} has {n_heads.get(layer, 0)} heads")
    if not places:
        raise ArgumentError("heads is empty; give (layer, head) pairs, the most important first")
    return list(dict.fromkeys((layer, head // units.size) for layer, head in places))


def _heads_of_layers(ready: Ready) -> dict[int, int]:
    """Layer -> its query heads, of the layers that have attention: from a forward of a few tokens."""
    found: dict[int, int] = {}

    def note(
        this: Pass, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring, out: Tensor
    ) -> Tensor:
        found[layer] = q.shape[1]
        return out

    ids = torch.from_numpy(ready.probes[0].input_ids[:8].astype(np.int64))[None].to(ready.model.device)
    positions = torch.arange(ids.shape[1], device=ids.device)[None]
    with running(PrefixPass()), altering(note):
        ready.model.forward(ids, positions, None, positions[0, -1:])
    return found


def _sizes(top: Sequence[int] | None, units: Units, ranked: Sequence[Unit], heads: Any) -> list[int]:
    """How many are changed together; by default no more than leave as many for a control."""
    if not ranked:
        raise ArgumentError("no head has a score on the needles that choose: there is nothing to ablate")
    if top is None:
        fits = [k for k in TOP if k <= min(len(ranked), int(units.exists.sum()) // 2)]
        return fits or [1] if isinstance(heads, HeadScores) else sorted({*fits, len(ranked)})
    if max(top) > len(ranked):
        raise ArgumentError(f"top asks for {max(top)} and there are {len(ranked)} heads or groups with a score")
    return sorted({*top})


def _change(
    mode: str,
    engine: Engine,
    planned: Plan | None,
    probes: ProbeSet,
    layers: set[int],
    parts: Sequence[str],
    twins: list[Probe] | None,
) -> Change:
    """What a mode makes of heads' outputs, after the runs that it takes to know."""
    if mode == "mean":
        return mean_outputs(engine, planned, probes, layers, parts)
    if mode == "resample":
        return outputs_elsewhere(engine, planned, probes, donors(probes), probes, layers)
    if mode == "from_needle":
        assert twins is not None
        of_twins = None if planned is None else plan(twins, "exact")
        return outputs_elsewhere(engine, of_twins, twins, np.arange(len(twins)), probes, layers)
    return NeedleOnly(probes) if mode == "needle_only" else Zero()


def _tell_unmoved(sets: Sequence[HeadSet], unmoved: Sequence[Sequence[Unit]], mode: str, parts: Sequence[str]) -> None:
    """A leading head that nothing was done to would look as if it did not matter."""
    leading = {head for one, none in zip(sets, unmoved, strict=True) if one.kind in ("top", "one") for head in none}
    others = {head for none in unmoved for head in none} - leading
    told = [", ".join(f"L{layer}H{head}" for layer, head in sorted(heads)[:8]) for heads in (leading, others)]
    where = f"mode {mode!r} in the rows of {', '.join(parts)}"
    if leading:
        raise AblationError(
            f"the output of {told[0]} is what it was before after {where}: these heads put out nothing else there, or "
            "cannot see the needle, or nothing reads them; leave them out, or change other rows"
        )
    if others:
        log.warning("%d heads of the controls put out after %s what they did before: %s", len(others), where, told[1])


def _measures(
    found: dict[tuple[int, int], Answered], probes: ProbeSet, n_sets: int, with_twins: bool
) -> dict[str, np.ndarray]:
    measured = {name: np.full((n_sets, len(probes)), np.nan, np.float32) for name in MEASURES}
    for i, probe in enumerate(probes):
        novel = np.array(probe.token_class) == "novel"
        for v in range(n_sets):
            said = found[v, i]
            if not np.isfinite(said.logprob).all():
                continue
            measured["nll"][v, i] = -said.logprob.mean()
            measured["logprob"][v, i] = said.logprob.sum()
            measured["exact_match"][v, i] = said.correct.all()
            if novel.any():
                measured["nll_novel"][v, i] = -said.logprob[novel].mean()
            if with_twins:
                measured["twin_logprob"][v, i] = said.target.sum()
    lost = np.isnan(measured["nll"])
    if lost.any():
        v, i = (int(x) for x in np.argwhere(lost)[0])
        what = printable(probes[i].id, 80)
        log.warning("%d of %d runs have no numbers (NaN): first probe %s, set %d", lost.sum(), lost.size, what, v)
    return measured
