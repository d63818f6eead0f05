"""Changed heads against eager attention that is changed by hand, on every kind of attention, however probes are run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from builders import random_grid
from headscope.errors import ArgumentError
from headscope.interp.causal import AblationError, Changing, NeedleOnly, Repeated, Zero, run_sets
from headscope.interp.causal.recording import check_twins, donors, mean_outputs, outputs_elsewhere
from headscope.interp.causal.rows import parts_of
from headscope.interp.engine import Engine, plan
from headscope.interp.model import adapt
from headscope.probes import Probe, ProbeSet
from tiny_models import build

GRID = random_grid()
PROBES = ProbeSet([GRID[3], GRID[6]], "two")
SETS: list[list[tuple[int, int]]] = [[], [(1, 3), (3, 0), (3, 5)], [(2, h) for h in range(8)]]
PARTS = (("answer",), ("question", "answer"), ("context", "question", "answer"))
CLOSE = {"rtol": 1e-3, "atol": 2e-4}  # fp32 rounding through four peaky layers
Edit = Callable[[int, torch.Tensor], torch.Tensor]


@contextmanager
def edited(model: Any, output: Edit, mask: Edit | None = None) -> Iterator[None]:
    """Eager attention whose output [T, H, D], and first its mask [H, T, T], go through functions of (layer, it)."""
    module = sys.modules[type(model).__module__]
    own = module.eager_attention_forward

    def changed(of: Any, q: Any, k: Any, v: Any, attention_mask: Any, *args: Any, **kwargs: Any) -> Any:
        if mask is not None:
            full = attention_mask[:, :, :, : k.shape[2]].expand(-1, q.shape[1], -1, -1)
            attention_mask = mask(of.layer_idx, full[0].clone())[None]
        out, maps = own(of, q, k, v, attention_mask, *args, **kwargs)
        return output(of.layer_idx, out[0].clone())[None], maps

    before = model.config._attn_implementation
    module.eager_attention_forward = changed
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            yield
    finally:
        module.eager_attention_forward = own
        model.set_attn_implementation(before)


def logprob(model: Any, probe: Probe) -> np.ndarray:
    logits = model(torch.from_numpy(probe.input_ids.astype(np.int64))[None], use_cache=False).logits[0]
    rows = logits.log_softmax(-1)[probe.answer_rows]
    return rows[torch.arange(probe.n_answer), torch.from_numpy(probe.answer_ids.astype(np.int64))].numpy()


def rows_in(probe: Probe, parts: tuple[str, ...]) -> list[int]:
    answer, question = probe.prompt_len - 1, min(probe.question_start, probe.prompt_len - 1)
    ranges = {"context": (0, question), "question": (question, answer), "answer": (answer, probe.length - 1)}
    return [row for part in parts for row in range(*ranges[part])]


def replaced(heads: list[tuple[int, int]], rows: list[int], value: Any = 0.0) -> Edit:
    def output(layer: int, out: torch.Tensor) -> torch.Tensor:
        for _, head in (each for each in heads if each[0] == layer):
            out[rows, head] = value if np.isscalar(value) else value[layer][:, head]
        return out

    return output


def hidden(probe: Probe, heads: list[tuple[int, int]], rows: list[int]) -> Edit:
    def mask(layer: int, full: torch.Tensor) -> torch.Tensor:
        for _, head in (each for each in heads if each[0] == layer):
            for start, end in probe.needle_spans:
                full[head, rows, start:end] = torch.finfo(full.dtype).min
        return full

    return mask


def runs(model: Any, sharing: str | None, **how: Any) -> dict[tuple[int, int], np.ndarray]:
    adapted = adapt(model)
    with adapted.routed(max(probe.length for probe in PROBES)):
        planned = None if sharing is None else plan(PROBES, sharing)
        found, unmoved = run_sets(Engine(adapted, PROBES, chunk=48), planned, PROBES, SETS, **how)
    if isinstance(how["change"], Zero):
        assert unmoved == [[] for _ in SETS]
    return {key: answered.logprob for key, answered in found.items()}


@pytest.mark.parametrize(
    ("family", "sharing"),
    [("gemma3_text", "exact"), ("gpt_oss", "exact"), ("llama4_text", "exact"), ("deepseek_v3", "exact")]
    + [("llama_dynamic", None)],
)
def test_changes_equal_eager_attention_that_is_changed_by_hand(family: str, sharing: str | None) -> None:
    model = build(family)
    for parts in (PARTS[1], PARTS[2]):
        zero = runs(model, sharing, change=Zero(), parts=parts)
        blind = runs(model, sharing, change=NeedleOnly(PROBES), parts=parts) if "context" not in parts else {}
        for found in filter(None, (zero, blind)):
            assert max(np.abs(found[v, 0] - found[0, 0]).max() for v in range(len(SETS))) > 0.02
        for v, i in [key for key in zero if SETS[key[0]] or key == (0, 0)]:
            probe, rows = PROBES[i], rows_in(PROBES[i], parts)
            if family == "llama_dynamic":  # whose RoPE remembers the longest sequence
                model(torch.zeros(1, 1, dtype=torch.long))
            with edited(model, replaced(SETS[v], rows)):
                np.testing.assert_allclose(zero[v, i], logprob(model, probe), **CLOSE)
            if blind:
                with edited(model, lambda _, out: out, hidden(probe, SETS[v], rows)):
                    np.testing.assert_allclose(blind[v, i], logprob(model, probe), **CLOSE)


def outputs(model: Any, probe: Probe) -> dict[int, torch.Tensor]:
    """Layer -> [T, H, D], what eager attention puts out."""
    kept: dict[int, torch.Tensor] = {}

    def keep(layer: int, out: torch.Tensor) -> torch.Tensor:
        kept[layer] = out.clone()
        return out

    with edited(model, keep):
        logprob(model, probe)
    return kept


@pytest.mark.parametrize("sharing", ["exact", None])
def test_means_and_outputs_of_other_runs(sharing: str | None) -> None:
    model, layers = build("gpt_oss"), range(4)
    adapted, eager = adapt(model), [outputs(model, probe) for probe in PROBES]
    planned = None if sharing is None else plan(PROBES, sharing)
    donor, parts = donors(PROBES), PARTS[2]
    assert donor.tolist() == [1, 0]
    with adapted.routed(max(probe.length for probe in PROBES)):
        engine = Engine(adapted, PROBES, chunk=48)
        mean = mean_outputs(engine, planned, PROBES, layers, parts)
        other = outputs_elsewhere(engine, planned, PROBES, donor, PROBES, layers)
    rows = [rows_in(probe, ("answer",)) for probe in PROBES]
    for layer in range(3):  # nothing reads what the last layer puts out behind the context
        for number, part in enumerate(parts):
            seen = torch.cat([eager[i][layer][rows_in(probe, (part,))] for i, probe in enumerate(PROBES)])
            if part != "context" or sharing is None:  # of what probes share, a row counts once
                np.testing.assert_allclose(mean.means[layer][number], seen.mean(dim=0), **CLOSE)
    resampled = runs(model, sharing, change=other, parts=("answer",))
    meant = runs(model, sharing, change=mean, parts=("answer",))
    for v, i in resampled:
        theirs = {layer: eager[1 - i][layer][rows[1 - i]].transpose(0, 1) for layer in layers}
        theirs = {layer: x.transpose(0, 1) for layer, x in theirs.items()}
        average = {layer: mean.means[layer][2][None].float() for layer in layers}
        for found, value in ((resampled, theirs), (meant, average)):
            with edited(model, replaced(SETS[v], rows[i], value)):
                np.testing.assert_allclose(found[v, i], logprob(model, PROBES[i]), **CLOSE)


def test_grafted_probes_are_changed_as_the_graft_runs_them() -> None:
    """A needle right before the question has nothing behind it that could not have seen it: the graft is exact."""
    probes = ProbeSet([probe for probe in GRID if probe.depth == 1.0], "late")
    adapted = adapt(build("gemma2"))
    with adapted.routed(200):
        engine = Engine(adapted, probes)
        for change in (Zero(), NeedleOnly(probes)):
            exact, grafted = (
                run_sets(engine, plan(probes, sharing), probes, SETS, change, ("question", "answer"))[0]
                for sharing in ("exact", "grafted")
            )
            for key in exact:
                np.testing.assert_allclose(grafted[key].logprob, exact[key].logprob, **CLOSE)


def test_what_does_not_move_is_told_and_what_must_not_is_an_error() -> None:
    adapted = adapt(build("mistral"))
    probe = ProbeSet([GRID[8]], "far")  # its needle lies beyond every window
    with adapted.routed(200):
        engine = Engine(adapted, probe)
        _, unmoved = run_sets(engine, plan(probe), probe, [[(0, 1)], []], NeedleOnly(probe), ("answer",))
        assert unmoved == [[(0, 1)], []]
        with pytest.raises(ArgumentError, match="there is no head 8 in layer 1, which has 8 heads"):
            run_sets(engine, plan(probe), probe, [[(1, 8)]], Zero(), ("answer",))
    changing = Changing(Repeated(probe, 1), [[(0, 1)]], Zero(), ("answer",))
    before = torch.ones(1, 2, 3, 4)
    after, chosen = before.clone(), torch.zeros(1, 2, 3, dtype=torch.bool)
    after[0, 0, 0, 0] = 2.0
    changing._look(0, before, after, chosen, torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(AblationError, match="left alone was changed"):
        changing.unmoved()


@pytest.mark.parametrize(
    ("asked", "parts"), [("answer", ("answer",)), ("answer, question", ("question", "answer")), ("all", PARTS[2])]
)
def test_parts_by_name(asked: str, parts: tuple[str, ...]) -> None:
    assert parts_of(asked) == parts_of(parts) == parts


def test_odd_parts_and_twins_are_refused() -> None:
    for odd in ("", "prompt", ["answer", "prefix"]):
        with pytest.raises(ArgumentError, match="rows must be 'all' or some of context, question, answer"):
            parts_of(odd)
    with pytest.raises(ArgumentError, match="must have the same tokens"):
        check_twins(PROBES, list(PROBES)[::-1])
    with pytest.raises(ArgumentError, match="has the answer of its probe"):
        check_twins(PROBES, PROBES)
    with pytest.raises(ArgumentError, match="of one"):
        donors([PROBES[0]])
