"""score_heads: probes in, one forward's worth of evidence per prefix, scores out. The whole path on one page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from typing import Any

import numpy as np

from ..errors import ArgumentError
from ..kernels import recording
from ..printable import NAME, printable
from ..probes import Codec, Probe, ProbeSet, check_tokenizer
from .engine import (
    CHUNK,
    MAX_NEW_TOKENS,
    Engine,
    Plan,
    Progress,
    check_probes,
    compare_sharing,
    generated_counts,
    may_be_cut,
    not_finite,
    preflight,
)
from .environment import for_files
from .estimators import Estimator, ProbeScores, chance, choose, score_probe, spans_of
from .model import Adapter, LoadedModel, adapt, load_model
from .results import CHANCE_COLUMNS, NLL_CLASSES, PROBE_COLUMNS, HeadScores

log = logging.getLogger(__name__)


def score_heads(
    model: Any,
    probes: ProbeSet | Iterable[Probe],
    *,
    sharing: str = "auto",
    check_sharing: int = 0,
    generate: bool = False,
    alone: bool | None = None,
    estimators: Iterable[str | Callable[..., Any]] | None = None,
    tokenizer: Any = None,
    chunk: int = CHUNK,
    progress: Progress | None = None,
) -> HeadScores:
    """Score every attention head of a model on a set of probes, teacher-forced, without building an attention map.

    Args:
        model: a transformers causal LM (also inside PEFT, DDP or torch.compile), a TransformerLens `TransformerBridge`,
            what `load_model` returned, or a path or hub id to load so.
        probes: the probes (`headscope.probes.build`), a `ProbeSet` or any iterable of `Probe`.
        sharing: how probes share prefills. "exact": only what is provably equal. "grafted": one prefill of the haystack
            for all needles, depths and lengths, an approximation. "auto": grafted where many probes share a haystack.
            A model that cannot share (length-dependent RoPE, recurrent layers) runs every probe alone.
        alone: run every probe in a forward of its own. None: where the model cannot share, or a prefill in chunks
            changes its logits. A file holds one or the other: append with what `store.runs_alone(file)` says;
            sweeps and `HeadMonitor` do.
        check_sharing: run this many of the probes exactly as well; the difference is in provenance["check_sharing"].
        generate: also let the model answer greedily and give Wu et al.'s gated count as "wu_count_generated"
            (NaN for answers that fail the gate). Needs a tokenizer.
        estimators: names of built-in ones and own functions (probe, evidence) -> [n_layers, n_heads], made an
            `hs.Estimator` to ask for spans of their own or for top keys. Default: the six of the file. "retrieval" is
            always computed, because counts, ranking and file rest on it.
        tokenizer: checked against the probes' tokenizer when given. A `Codec` of it has its vocabulary hashed once for
            all calls.
        chunk: prefill tokens per forward. Out of memory halves it; no probe is dropped. Where every probe runs alone,
            one that is longer runs in chunks too if length-dependent RoPE is all that keeps it alone; else its forward
            cannot be cut: it is tried once more with freed memory, then refused with the length that fits.
        progress: called with (rows done, rows in all, what is running).

    Returns:
        HeadScores with an entry per estimator, NLL and exact match from the same passes.

    Raises:
        ProbeError: a probe is malformed, or made with another tokenizer.
        ModelError: the model cannot be loaded, or computes NaN for every probe. Where it does for some, they are NaN
            (and no exact match), with a warning that names them.
        CaptureError: the model's attention cannot be followed exactly.
        ArgumentTypeError: model or probes is nothing that can be scored; the message names what can.
        ArgumentError: a probe is longer than the model's context, or its tokens are not in the vocabulary.
        DoesNotFitError: a probe that has to run alone does not fit into memory.
    """
    probes = ProbeSet.of(probes)
    tell_not_copyable(probes)
    if check_sharing < 0:
        raise ArgumentError(f"check_sharing must be 0 or how many probes to run exactly as well, got {check_sharing}")
    ready = prepare(model, probes, sharing=sharing, alone=alone, estimators=estimators, tokenizer=tokenizer)
    codec = ready.codec
    if generate and codec is None:
        raise ArgumentError(
            "generate=True needs tokenizer=..., to find line ends and to compare words with the needle's"
        )
    if ready.alone_because and generate:
        raise ArgumentError(f"generate=True is not possible with {ready.model.name}: {ready.alone_because}")
    longest = max(probe.length for probe in probes)
    if generate:
        longest = max(longest, *(probe.prompt_len + MAX_NEW_TOKENS for probe in probes))
    checked, more = None, {}
    with ready.model.routed(longest), recording() as kernels:
        engine, everyone = ready.engine(chunk, progress), range(len(probes))
        found = engine.run_alone(everyone) if ready.alone_because else engine.run(ready.planned)
        scored = {i: score_probe(probes[i], evidence, ready.estimators) for i, evidence in found}
        tell_not_finite(ready.model, probes, engine.not_finite)
        if check_sharing and not ready.alone_because:
            checked = compare_sharing(engine, ready.planned, scored, check_sharing)
        if generate and codec is not None:
            more["wu_count_generated"] = generated_counts(engine, codec)
    return ready.results(scored, more, kernels=kernels, check_sharing=checked)


@dataclass(frozen=True)
class Ready:
    """Probes and a model that fit together, and how the ones go through the other.

    loaded: None for a model that was given as an object. alone_because: why every probe has to run alone, else None.
    """

    probes: ProbeSet
    planned: Plan
    estimators: dict[str, Estimator]
    loaded: LoadedModel | None
    model: Adapter
    codec: Codec | None
    sharing: str
    alone_because: str | None
    attention: str

    def engine(self, chunk: int, progress: Progress | None, probes: Sequence[Probe] | None = None) -> Engine:
        """For use inside `model.routed`. probes: the same ones, where something was added to them.

        Raises ArgumentError for a chunk of no tokens.
        """
        if chunk < 1:
            raise ArgumentError(f"chunk must be at least 1 token, got {chunk}")
        spans, topk = spans_of(self.estimators), max(each.topk for each in self.estimators.values())
        engine = Engine(self.model, probes or self.probes, chunk=chunk, progress=progress, spans=spans, topk=topk)
        if self.alone_because and max(probe.length for probe in self.probes) > chunk:
            engine.cut_alone = may_be_cut(self.model, self.probes[0])
        return engine

    def results(
        self, scored: Mapping[int, ProbeScores], more: Mapping[str, np.ndarray] | None = None, **provenance: Any
    ) -> HeadScores:
        """Of the probes that are scored, in their order. more: estimator -> [n_probes, n_layers, n_heads]."""
        order = sorted(scored)
        in_order = [scored[i] for i in order]
        per_probe = {name: np.stack([of.heads[name] for of in in_order]) for name in self.estimators} | {**(more or {})}
        _, n_layers, n_heads = per_probe["retrieval"].shape
        loaded, codec, alone = self.loaded, self.codec, self.alone_because is not None
        return HeadScores(
            model_id=loaded.model_id if loaded else self.model.name,
            n_layers=n_layers,
            n_heads=n_heads,
            n_kv_heads=self.model.n_kv_heads,
            per_probe=per_probe,
            exact_match=np.array([of.exact_match for of in in_order]),
            probes=_columns([self.probes[i] for i in order], self.planned.grafted[order] & (not alone)),
            probe_set_name=self.probes.name,
            probe_set_hash=self.probes.hash,
            provenance={
                **for_files(),
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "tokenizer_fp": codec.fingerprint if codec else None,
                "probes_tokenizer_fp": sorted({probe.tokenizer_fp for probe in self.probes}),
                "sharing": "alone" if alone else self.sharing,
                "alone_because": self.alone_because,
                "check_sharing": None,
                "estimators": list(per_probe),
                "device": str(self.model.device),
                "dtype": str(self.model.dtype).removeprefix("torch."),
                "attn_implementation": self.attention,
                "revision": loaded.revision if loaded else None,
                "weights_sha256": loaded.fingerprint if loaded else None,
                **provenance,
            },
            **{name: np.array([of.nll[name] for of in in_order], np.float32) for name in NLL_CLASSES},
        )


def prepare(
    model: Any,
    probes: ProbeSet,
    *,
    sharing: str,
    alone: bool | None,
    estimators: Iterable[str | Callable[..., Any]] | None,
    tokenizer: Any,
) -> Ready:
    """Whatever can be refused before the first long forward is refused here. Arguments and errors: `score_heads`."""
    chosen = choose(estimators)
    planned = check_probes(probes, sharing, spans_of(chosen))
    loaded = load_model(model, tokenizer=tokenizer) if isinstance(model, (str, PathLike)) else model
    if isinstance(loaded, LoadedModel):
        model, tokenizer = loaded.model, tokenizer or loaded.tokenizer
    else:
        loaded = None
    codec = tokenizer if isinstance(tokenizer, Codec) or tokenizer is None else Codec(tokenizer)
    if codec is not None:
        check_tokenizer(probes, codec)
    adapted = adapt(model)
    check_fit(adapted, probes, codec)
    reason = preflight(adapted, probes[0], alone)
    return Ready(probes, planned, chosen, loaded, adapted, codec, sharing, reason, adapted.attention())


def tell_not_finite(model: Adapter, probes: ProbeSet, found: Mapping[str, str]) -> None:
    """One probe that overflows does not cost the scores of the others; a model that computes none is refused.

    found: probe id -> what of it is not finite.
    """
    if not found:
        return
    bad = [probe for probe in probes if probe.id in found]
    if len(bad) == len(probes):
        raise not_finite(model, found[bad[0].id])
    named = ", ".join(probe.id for probe in bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
    log.warning(
        "%s: %d of %d probes have no scores (NaN): %s, of %d tokens or more; at %s, %s: it overflows in %s",
        *(model.name, len(bad), len(probes), printable(named, 400), min(probe.length for probe in bad)),
        *(printable(bad[0].id, NAME), found[bad[0].id], model.dtype),
    )


def tell_not_copyable(probes: ProbeSet) -> None:
    """Built-in probes whose answer is computed say so themselves; in somebody's own the needle may be at fault."""
    none = [probe.id for probe in probes if not probe.copyable and probe.family == "custom"]
    if none:
        log.warning(
            "%d of %d probes have no head scores (NaN), only NLL and exact match: no token of the answer occurs in "
            "the needle. If they should, check the needle's place: %s",
            *(len(none), len(probes), printable(", ".join(none[:5]) + (", ..." if len(none) > 5 else ""), 400)),
        )


def check_fit(model: Adapter, probes: ProbeSet, codec: Codec | None) -> None:
    longest = max(probes, key=lambda probe: probe.length)
    if model.context is not None and longest.length > model.context:
        raise ArgumentError(
            f"probe {longest.id!r} has {longest.length} tokens and {model.name} is made for {model.context} "
            "(max_position_embeddings and RoPE scaling in its config); build shorter probes, or raise the model's "
            "limit if its RoPE allows more"
        )
    vocabulary = model.n_embeddings
    holder = max(probes, key=lambda probe: int(probe.input_ids.max()))
    largest = int(holder.input_ids.max())
    if largest < vocabulary:
        return
    held = f"probe {holder.id!r} holds token id {largest}"
    if codec is None:
        raise ArgumentError(
            f"{held} and the embedding of {model.name} has {vocabulary} rows; build the probes with this model's "
            "tokenizer"
        )
    raise ArgumentError(
        f"{held} ({codec.entries.get(largest)!r}) and the embedding of {model.name} has only {vocabulary} rows: its "
        f"tokenizer ({codec.size} tokens) is larger than the model; if tokens were added to it later, give the "
        "tokenizer from before (--tokenizer BASE, or tokenizer=... in Python) or probes without them (no --chat); "
        "otherwise the two do not belong together"
    )


def _columns(probes: Sequence[Probe], grafted: np.ndarray) -> dict[str, np.ndarray]:
    columns = {name: np.array([getattr(probe, name) for probe in probes]) for name in PROBE_COLUMNS}
    by_chance = np.array([chance(probe) for probe in probes])
    return {**columns, **dict(zip(CHANCE_COLUMNS, by_chance.T, strict=True)), "grafted": grafted.astype(np.int64)}
