"""evaluate: a model answers by itself; what it said is judged, beside what its heads did. The path on one page."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from os import PathLike
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..kernels import recording
from ..printable import NAME, printable
from ..probes import Codec, Probe, ProbeSet, Task, check_tokenizer
from .engine import CHUNK, Decoded, Engine, Progress, decode, longest_answered, not_finite, plan, score_and_decode
from .environment import for_files
from .estimators import DEFAULT, ProbeScores, score_probe
from .evidence import ProbeEvidence
from .model import LoadedModel, load_model
from .results import HeadScores
from .scoring import Ready, prepare, tell_not_copyable, tell_not_finite
from .store import Beside, StoreError, check_takes, find_beside, read_scores, rescue, runs_alone
from .tasks import SAID, Answers, Drawing, judge
from .unfinished import Unfinished, left_behind

log = logging.getLogger(__name__)


def evaluate(
    model: Any,
    tasks: ProbeSet | Iterable[Probe],
    tokenizer: Any = None,
    *,
    samples: int = 0,
    temperature: float = 1.0,
    seed: int = 0,
    sharing: str = "auto",
    heads: bool = True,
    alone: bool | None = None,
    estimators: Iterable[str | Callable[..., Any]] | None = None,
    output: str | PathLike[str] | None = None,
    checkpoint: int = 0,
    tokens_seen: float | None = None,
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> Answers:
    """Let a model answer probes in its own words, judge every answer by its task's metric, and score its heads.

    Answers begin where the teacher-forced ones do, so "what its heads did" and "what it said" are about the same
    contexts. Contexts that begin alike are prefilled once, and answers are written in batches beside them; nothing of
    that is approximated, whatever `sharing` says.

    Args:
        model, tokenizer, chunk: as in `score_heads`; the tokenizer is needed, and is that of a model that
            `load_model` has loaded.
        tasks: probes with a `task` (`headscope.probes.build("ruler", ...)`). One without is answered in as many tokens
            as its own answer has, up to the end of the line, and judged by "exact".
        samples: answers to draw for every probe, beside the greedy one; pass@3 needs 3.
        temperature, seed: of these.
        sharing: how the teacher-forced answers share prefills, as in `score_heads`.
        heads: also score the heads, and the right answers' NLL and exact match, from a teacher-forced pass beside the
            same prefixes.
        alone: as in `score_heads`; None: as in the output, where that has scores.
        estimators: as in `score_heads`; by default its own, and attention on distractors where there are some: a wrong
            answer may have been copied there.
        output: a results file that the answers are written to: with the heads' scores as a new checkpoint, else into
            one that has its scores. What is done is kept beside it, in the folder `run.h5.answers`, until all of it is
            in the file: after a kill the same call goes on from there, and gives the same to rounding. That needs
            weights that are known by their hash: a path, a hub id, or what `load_model` loaded from one.
        checkpoint, tokens_seen: of the file, as in `HeadScores.save`.
        progress: called with (rows done, rows in all, what is running); from 0 again where answers need a run of their
            own: beside haystacks that hold their needle, or each alone.

    Returns:
        Answers; `scores` has what the heads did.

    Raises:
        What `score_heads` raises. ArgumentError: no tokenizer; samples, temperature or seed out of range.
        StoreError: the output does not take these answers; it is tried before anything is run. Unsaved: it did not take
            them afterwards, and they lie elsewhere.
    """
    probes = ProbeSet.of(tasks)
    how: dict[str, Any] = vars(Drawing(samples, temperature, seed))
    refused = None
    if output is not None:
        try:
            check_takes(output, checkpoint, probes.hash, samples=samples, scores=heads)
        except StoreError as error:
            if not left_behind(output, checkpoint):
                raise
            refused = error  # unless it holds what this very call has saved
    loaded = load_model(model, tokenizer=tokenizer) if isinstance(model, (str, PathLike)) else model
    weights = loaded.fingerprint if isinstance(loaded, LoadedModel) else None
    tokenizer = tokenizer or (loaded.tokenizer if isinstance(loaded, LoadedModel) else None)
    if tokenizer is None:
        raise ArgumentError("evaluate needs tokenizer=..., to read what the model says; none lies beside the model")
    codec = tokenizer if isinstance(tokenizer, Codec) else Codec(tokenizer)
    check_tokenizer(probes, codec)
    asked = [with_task(probe, codec) for probe in probes]
    if heads:
        tell_not_copyable(probes)
    chosen = _estimators(probes) if estimators is None else estimators
    if alone is None and output is not None and heads:
        alone = runs_alone(output)
    ready = prepare(loaded, probes, sharing=sharing, alone=alone, estimators=chosen, tokenizer=codec)
    kept = None
    if output is not None:
        names = [*ready.estimators] if heads else None
        key = {"weights": weights, "dtype": str(ready.model.dtype), "probes": probes.hash, **how}
        key |= {"sharing": sharing, "estimators": names}
        kept = Unfinished(output, checkpoint, key, tokens_seen)
        if refused is not None:
            if (saved := _saved(output, checkpoint, kept, how)) is None:
                raise refused
            kept.clear()
            return saved
    said, scores = _run(ready, asked, codec, how, heads, kept, chunk, progress)
    answers = Answers(
        model_id=loaded.model_id if isinstance(loaded, LoadedModel) else ready.model.name,
        said=_judged([probe.task for probe in asked], said),  # type: ignore[misc]
        nll=scores.nll if scores else np.full(len(probes), np.nan, np.float32),
        exact_match=scores.exact_match if scores else np.zeros(len(probes), bool),
        probes=_columns(asked, codec),
        probe_set_name=probes.name,
        probe_set_hash=probes.hash,
        provenance={
            **for_files(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **how,
            "alone_because": ready.alone_because,
            "weights_sha256": weights,
            "tokenizer_fp": codec.fingerprint,
        },
        scores=scores,
    )
    if output is not None:
        _save(answers, output, checkpoint, tokens_seen)
    if kept:
        kept.clear()
    return answers


def _estimators(probes: ProbeSet) -> list[str]:
    """The usual ones, and attention on distractors where there are some: a wrong answer may have been copied there."""
    decoys = any(span.role == "distractor" for probe in probes for span in probe.spans)
    return [*DEFAULT, "distractor_mass"] if decoys else [*DEFAULT]


def with_task(probe: Probe, codec: Codec) -> Probe:
    """A probe that says how it is judged. Without a task: by its own answer, in as many tokens as that has."""
    if probe.task is not None:
        return probe
    gold = (probe.answer_text or codec.decode(probe.answer_ids)).strip() or codec.decode(probe.answer_ids) or " "
    stop = () if "\n" in gold else ("\n",)
    return replace(probe, task=Task("exact", (gold,), probe.n_answer, stop, length=probe.length))


def _saved(output: str | PathLike[str], checkpoint: int, kept: Unfinished, how: dict[str, Any]) -> Answers | None:
    """What the same call wrote, which was killed before it cleared away."""
    found = find_beside(output, checkpoint).answers if kept.matches else None
    if found is None or found.probe_set_hash != kept.key["probes"]:
        return None
    made = {name: found.provenance.get(name) for name in ("weights_sha256", *how)}
    if made != {"weights_sha256": kept.key["weights"], **how}:
        return None
    return replace(found, scores=read_scores(output, checkpoint)) if kept.key["estimators"] else found


def _run(
    ready: Ready,
    asked: Sequence[Probe],
    codec: Codec,
    how: dict[str, Any],
    heads: bool,
    kept: Unfinished | None,
    chunk: int,
    progress: Progress | None,
) -> tuple[list[list[Decoded]], HeadScores | None]:
    """[n_probes] of greedy answer and samples, and what the heads did: what was kept of both, and now the rest."""
    place = {probe.id: i for i, probe in enumerate(asked)}
    said = {place[id]: answers for id, answers in (kept.answers() if kept else {}).items()}
    scored = {place[id]: found for id, found in (kept.scores() if kept and heads else {}).items()}
    left = [i for i in range(len(asked)) if i not in said or (heads and i not in scored)]
    with ready.model.routed(longest_answered(ready.model.context, asked, codec)), recording() as kernels:
        engine = ready.engine(chunk, progress, asked)
        for i, found in _found(engine, ready, left, heads, {"codec": codec, **how}):
            if isinstance(found, ProbeEvidence):
                scored[i] = score_probe(asked[i], found, ready.estimators)
            else:
                said[i] = found
            done = [j for j in said if j in scored or not heads]
            if kept and kept.is_due(len(done), len(asked)):
                scores = ready.results({j: scored[j] for j in done}) if heads else None
                kept.keep({asked[j].id: said[j] for j in done}, scores)
    _tell_not_finite(ready, engine.not_finite, said, scored)
    return [said[i] for i in range(len(asked))], ready.results(scored, kernels=kernels) if heads else None


def _found(
    engine: Engine, ready: Ready, left: Sequence[int], heads: bool, how: dict[str, Any]
) -> Iterator[tuple[int, ProbeEvidence | list[Decoded]]]:
    """What the heads did and what is said, of the probes that are left, each as it is there."""
    if ready.alone_because:
        return chain(engine.run_alone(left) if heads else (), decode(engine, left, **how))
    if heads:
        return score_and_decode(engine, ready.planned.only(left), **how)
    return decode(engine, plan(engine.probes, "exact").only(left), **how)


def _tell_not_finite(
    ready: Ready, found: Mapping[str, str], said: Mapping[int, Sequence[Decoded]], scored: Mapping[int, ProbeScores]
) -> None:
    probes, model = ready.probes, ready.model
    no_scores = {probes[i].id for i, of in scored.items() if np.isnan(of.nll["nll"])}
    tell_not_finite(model, probes, {id: why for id, why in found.items() if id in no_scores})
    broken = [probes[i].id for i, of in said.items() if not all(np.isfinite(answer.logprob) for answer in of)]
    if told := [id for id in broken if id in found]:
        if len(told) == len(probes):
            raise not_finite(model, found[told[0]])
        how = (model.name, len(told), len(probes), printable(told[0], NAME), found[told[0]])
        log.warning("%s: %d of %d probes have no whole answer, and no score (NaN): %s: %s", *how)


def _judged(tasks: Sequence[Task], said: Sequence[Sequence[Decoded]]) -> dict[str, np.ndarray]:
    """What `Answers.said` has: name -> [n_probes, 1 + n_samples]."""
    found: dict[str, list[list[Any]]] = {name: [] for name in SAID}
    for task, answers in zip(tasks, said, strict=True):
        judged = [judge(task, answer.text) for answer in answers]
        whole = [np.isfinite(answer.logprob) for answer in answers]  # else the model computed NaN, and broke off
        found["text"].append([answer.text for answer in answers])
        found["end"].append([answer.end for answer in answers])
        found["logprob"].append([answer.logprob for answer in answers])
        found["n_tokens"].append([len(answer.ids) for answer in answers])
        found["rival"].append([each.rival for each in judged])
        for name in ("score", "precision", "above_chance"):
            found[name].append([getattr(each, name) if ok else np.nan for each, ok in zip(judged, whole, strict=True)])
    return {name: np.array(values, SAID[name]) for name, values in found.items()}


def _columns(asked: Sequence[Probe], codec: Codec) -> dict[str, np.ndarray]:
    rows = []
    for probe in asked:
        task = probe.task
        assert task is not None
        question = codec.decode(probe.input_ids[probe.question_start : probe.prompt_len]).strip()
        rows.append(
            {
                **{name: getattr(probe, name) for name in ("id", "family", "needle_id", "n_answer", "depth")},
                **{"task": probe.variant, "metric": task.metric, "question": question},
                **{"golds": json.dumps(task.golds, ensure_ascii=False), "length": task.length or probe.length},
                "rivals": json.dumps(task.rivals, ensure_ascii=False),
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _save(answers: Answers, output: str | PathLike[str], checkpoint: int, tokens_seen: float | None) -> None:
    try:
        answers.save(output, checkpoint=checkpoint, tokens_seen=tokens_seen)
    except (Exception, KeyboardInterrupt) as error:
        if answers.scores is None:
            raise
        raise rescue(answers.scores, output, checkpoint, tokens_seen, error, more=Beside(answers=answers)) from error
