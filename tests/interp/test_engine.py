"""Scores equal materialised eager attention on every architecture, however probes share their prefills."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

import oracle
from builders import random_grid, random_probe
from headscope.interp.copying import copy_profile
from headscope.interp.engine import suffixes
from headscope.interp.engine.engine import DoesNotFitError, Engine
from headscope.interp.engine.plan import plan
from headscope.interp.engine.preflight import preflight
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.model.adapt import adapt
from headscope.interp.model.adapter import Adapter
from headscope.interp.model.attention import CaptureError
from headscope.interp.monitor import HeadMonitor
from headscope.interp.scoring import score_heads
from headscope.interp.store import StoreError, runs_alone
from headscope.interp.store import results_file as store
from headscope.probes import Probe, ProbeSet
from tiny_models import BYPASSING, FAMILIES, LENGTH_DEPENDENT, LINEAR, WINDOWED, build

T = TypeVar("T")
GRID = random_grid()
preflight_module = sys.modules["headscope.interp.engine.preflight"]  # the package has a function of that name
# fp32 rounding through four peaky layers; the oracle differs from itself in fp64 by about as much
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def run(model: torch.nn.Module, probes: ProbeSet, sharing: str, chunk: int = 48) -> dict[int, ProbeEvidence]:
    adapted = adapt(model)
    with adapted.routed(max(probe.length for probe in probes)):
        return dict(Engine(adapted, probes, chunk=chunk).run(plan(probes, sharing)))


def assert_same_keys(ours: np.ndarray, truth: oracle.Truth) -> None:
    """Equal keys, or keys whose logits tie to rounding."""
    seen = truth.argmax >= 0
    np.testing.assert_array_equal(ours[~seen], -1)
    different = seen & (ours != truth.argmax)
    if different.any():
        assert np.abs(truth.margin(np.maximum(ours, 0))[different]).max() < 1e-4


def assert_same_evidence(a: ProbeEvidence, b: ProbeEvidence) -> None:
    """Equal but for rounding, which is another on every processor: of keys that tie to it either may win."""
    np.testing.assert_allclose(a.p_max, b.p_max, **CLOSE)
    assert (a.argmax_key != b.argmax_key).mean() < 0.01
    np.testing.assert_array_equal(a.visible, b.visible)
    np.testing.assert_allclose(a.logprob, b.logprob, rtol=0, atol=1e-4)
    for name, mass in a.mass.items():
        np.testing.assert_allclose(mass, b.mass[name], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, *LENGTH_DEPENDENT, *LINEAR])
def test_scores_and_evidence_equal_eager_attention(family: str) -> None:
    model, found = build(family), {}

    def kept(probe: Probe, evidence: ProbeEvidence) -> np.ndarray:
        found[probe.id] = evidence
        return evidence.p_max.mean(axis=-1)

    scores = score_heads(model, GRID, sharing="exact", chunk=48, estimators=[*oracle.ESTIMATORS, kept])
    for i, probe in enumerate(GRID):
        truth = oracle.run(model, probe)
        assert_same_keys(found[probe.id].argmax_key, truth)
        p_max = np.where(truth.argmax < 0, np.nan, truth.p_max)
        np.testing.assert_allclose(found[probe.id].p_max, p_max, **CLOSE)
        for name, expected in truth.scores.items():
            np.testing.assert_allclose(scores.per_probe[name][i], expected, err_msg=f"{name} of {probe.id}", **CLOSE)
        np.testing.assert_allclose(scores.nll[i], truth.nll.mean(), rtol=0, atol=1e-4)
        assert bool(scores.exact_match[i]) == truth.exact_match


@pytest.mark.parametrize("family", ["gemma3_text", "gemma2", "gpt_oss", "llama4_text"])
def test_exact_sharing_equals_separate_forwards(family: str) -> None:
    model = adapt(build(family))
    with model.routed(max(probe.length for probe in GRID)):
        engine = Engine(model, GRID, chunk=48)
        shared = dict(engine.run(plan(GRID, "exact")))
        alone = dict(engine.run_alone(range(len(GRID))))
    for i in range(len(GRID)):
        assert_same_evidence(shared[i], alone[i])


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss", "gemma2", "llama4_text"])
def test_grafting_at_the_end_is_exact(family: str) -> None:
    """With the needle right before the question no prefix token lies behind it, so nothing is approximated."""
    model = build(family)
    probes = ProbeSet([random_probe(length, 1.0, seed=length) for length in (60, 90, 121)])
    exact, grafted = run(model, probes, "exact"), run(model, probes, "grafted")
    for i in range(len(probes)):
        assert_same_evidence(grafted[i], exact[i])


def test_grafted_needles_do_not_see_each_other() -> None:
    """A grafted probe's evidence does not depend on which other probes share its prefix."""
    model = build("llama")
    together = run(model, GRID, "grafted")
    for i in (1, 6, 10):
        by_itself = run(model, GRID[i : i + 1], "grafted")[0]
        # the prefix is shorter when the probe is alone, never different where the probe looks
        assert_same_evidence(by_itself, together[i])


@pytest.mark.parametrize("family", WINDOWED)
def test_a_needle_outside_the_window_is_unobservable(family: str) -> None:
    scores = score_heads(build(family), GRID)
    far = [i for i, probe in enumerate(GRID) if probe.length == 200 and probe.depth_nominal < 0.5]
    hidden = np.isnan(scores.per_probe["retrieval"][far]).all(axis=(0, 2))
    assert hidden.any()
    np.testing.assert_array_equal(np.isnan(scores.per_probe["needle_mass"][far]).all(axis=(0, 2)), hidden)


def test_a_needle_that_straddles_the_window_is_scored() -> None:
    """Half of the needle is visible to the first answer row: the score counts, and equals eager attention."""
    model = build("mistral")
    straddling = []
    for depth in np.linspace(0.5, 0.9, 9):
        probe = random_probe(100, float(depth), needle=9, seed=5)
        first = probe.answer_rows[0] - 31
        ((start, end),) = probe.needle_spans
        if start < first < end:
            straddling.append(replace(probe, id=f"{probe.id}-{depth}"))
    assert straddling
    scores = score_heads(model, ProbeSet(straddling))
    for i, probe in enumerate(straddling):
        np.testing.assert_allclose(
            scores.per_probe["needle_mass"][i], oracle.run(model, probe).scores["needle_mass"], **CLOSE
        )


@pytest.mark.parametrize("family", BYPASSING)
def test_a_model_that_bypasses_the_interface_is_refused(family: str) -> None:
    with pytest.raises(CaptureError, match="attention interface"):
        score_heads(build(family), GRID)


def test_a_model_that_computes_with_its_mask_is_refused() -> None:
    with pytest.raises(CaptureError, match="not with headscope's mask and cache .AttributeError: .Visibility"):
        score_heads(build("doge"), GRID)


def test_a_model_with_more_layers_than_its_config_says_is_refused() -> None:
    """Of a decoder that belongs to an encoder num_hidden_layers is the encoder's."""
    with pytest.raises(CaptureError, match="counts layers up to 3, but num_hidden_layers is 2"):
        score_heads(build("bart"), GRID)


def test_attention_that_is_never_asked_for_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may accept the implementation and still compute attention by itself."""
    from transformers.models.llama import modeling_llama

    def by_itself(module, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **_):
        return module.o_proj(module.q_proj(hidden_states)), None

    model = build("llama")
    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", by_itself)
    with pytest.raises(CaptureError, match="no layer asked for attention"):
        score_heads(model, GRID)


def test_attention_that_is_not_reproduced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something behind the interface that only the model's eager code does must stop the run."""
    from transformers.models.llama import modeling_llama

    eager = modeling_llama.eager_attention_forward

    def with_a_twist(module, query, key, value, *args, **kwargs):
        out, weights = eager(module, query, key, value, *args, **kwargs)
        return out * 1.5, weights

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", with_a_twist)
    with pytest.raises(CaptureError, match="does not reproduce"):
        score_heads(build("llama"), GRID)


def test_reduced_float32_products_are_no_other_attention() -> None:
    """Training scripts allow them; on a GPU it is tf32, on a CPU with the instructions bfloat16."""
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert preflight(adapt(build("llama")), random_probe(60, 0.5)) is None
    finally:
        torch.set_float32_matmul_precision(usual)


def prefill_in_chunks_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama import modeling_llama

    attention = modeling_llama.LlamaAttention.forward

    def forgetful(module, hidden_states, *args, past_key_values=None, **kwargs):
        if past_key_values is not None and past_key_values.get_seq_length():
            hidden_states = hidden_states * 1.5
        return attention(module, hidden_states, *args, past_key_values=past_key_values, **kwargs)

    monkeypatch.setattr(modeling_llama.LlamaAttention, "forward", forgetful)


def test_a_chunked_prefill_that_is_wrong_makes_every_probe_run_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some models' own chunked prefill differs from one forward; their probes must not share one."""
    prefill_in_chunks_wrongly(monkeypatch)
    scores = score_heads(build("llama"), GRID)
    assert scores.provenance["sharing"] == "alone"
    assert "chunks" in scores.provenance["alone_because"] and "runs alone" in caplog.text


def test_what_the_first_measurement_decided_holds_for_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A prefill in chunks that comes to lie beyond the tolerance splits no file in two methods."""
    model, grid = build("llama"), ProbeSet(list(GRID)[:4])
    shared, alone = tmp_path / "shared.h5", tmp_path / "alone.h5"
    first = score_heads(model, grid, alone=runs_alone(shared))
    first.save(shared, checkpoint=1)
    score_heads(model, grid, alone=True).save(alone, checkpoint=1)
    assert (runs_alone(shared), runs_alone(alone)) == (False, True)
    assert score_heads(model, grid, alone=runs_alone(alone)).provenance["sharing"] == "alone"

    in_chunks = preflight_module._in_prefix_and_suffix
    monkeypatch.setattr(preflight_module, "_in_prefix_and_suffix", lambda *a: (in_chunks(*a)[0] * 1.1, 4))
    flipped = score_heads(model, grid)
    assert flipped.provenance["sharing"] == "alone"
    with pytest.raises(StoreError, match=r"every probe ran alone.*runs_alone"):
        flipped.save(shared, checkpoint=2)
    kept = score_heads(model, grid, alone=runs_alone(shared))
    kept.save(shared, checkpoint=2)
    np.testing.assert_array_equal(kept.per_probe["retrieval"], first.per_probe["retrieval"])
    assert "share prefills still" in caplog.text

    monitor = HeadMonitor(grid, shared)
    assert monitor.measure(3, model).provenance["sharing"] == "auto"
    assert store.checkpoints(shared) == [1, 2, 3]


@pytest.mark.parametrize("family", LENGTH_DEPENDENT)
def test_order_does_not_matter_for_a_rope_that_remembers(family: str) -> None:
    model = build(family)
    forward = score_heads(model, GRID)
    backward = score_heads(model, ProbeSet(list(GRID)[::-1]))
    assert forward.provenance["sharing"] == "alone"
    assert "RoPE" in forward.provenance["alone_because"]
    # Bit for bit: every probe is a forward of its own, of the same shape in both runs.
    np.testing.assert_array_equal(forward.nll, backward.nll[::-1])


def test_chunk_size_does_not_matter() -> None:
    model = build("qwen3")
    one, many = run(model, GRID, "exact", chunk=4096), run(model, GRID, "exact", chunk=7)
    for i in range(len(GRID)):
        assert_same_evidence(one[i], many[i])


class OutOfMemory:
    """Fails like a full device for forwards of more than `rows` tokens."""

    def __init__(self, forward, rows: int):
        self.forward, self.rows, self.failures = forward, rows, 0

    def __call__(self, ids, *args):
        if ids.numel() > self.rows:
            self.failures += 1
            raise torch.OutOfMemoryError("out of memory")
        return self.forward(ids, *args)


def test_out_of_memory_means_smaller_chunks_and_no_lost_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    expected = run(model, GRID, "exact")
    adapted = adapt(model)
    full = OutOfMemory(adapted.forward, 100)
    monkeypatch.setattr(adapted, "forward", full)
    with adapted.routed(200):
        found = dict(Engine(adapted, GRID, chunk=200, suffix_rows=200).run(plan(GRID, "exact")))
    assert full.failures > 0
    assert sorted(found) == list(range(len(GRID)))
    for i in range(len(GRID)):
        assert_same_evidence(found[i], expected[i])


def test_out_of_memory_for_good_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = adapt(build("llama"))
    monkeypatch.setattr(adapted, "forward", OutOfMemory(adapted.forward, 1))
    with adapted.routed(200), pytest.raises(torch.OutOfMemoryError):
        dict(Engine(adapted, GRID, chunk=200, suffix_rows=200).run(plan(GRID, "exact")))


def test_probes_that_run_alone_are_tried_again_with_freed_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = adapt(build("llama_dynamic"))
    forward, failures = adapted.forward, []

    def full_once_each(ids, *args):
        if ids.numel() > 1 and ids.numel() not in failures:
            failures.append(ids.numel())
            raise torch.OutOfMemoryError("out of memory")
        return forward(ids, *args)

    with adapted.routed(200):
        expected = dict(Engine(adapted, GRID).run_alone(range(len(GRID))))
        monkeypatch.setattr(adapted, "forward", full_once_each)
        found = dict(Engine(adapted, GRID).run_alone(range(len(GRID))))
    assert failures == [200, 121, 60], "the longest first"
    assert sorted(found) == list(range(len(GRID)))
    for i in range(len(GRID)):
        np.testing.assert_array_equal(found[i].argmax_key, expected[i].argmax_key)
        np.testing.assert_array_equal(found[i].logprob, expected[i].logprob)


@pytest.mark.parametrize(("rows", "what"), [(130, "121 tokens do fit"), (50, "nothing shorter that was tried fits")])
def test_a_probe_that_runs_alone_and_does_not_fit_says_what_does(
    monkeypatch: pytest.MonkeyPatch, rows: int, what: str
) -> None:
    adapted = adapt(build("llama_dynamic"))
    full = OutOfMemory(adapted.forward, rows)
    monkeypatch.setattr(adapted, "forward", full)
    with adapted.routed(200), pytest.raises(DoesNotFitError, match=f"has 200 tokens and does not fit.*{what}"):
        dict(Engine(adapted, GRID).run_alone(range(len(GRID))))
    assert full.failures <= 6, "no probe of the same length is tried, and none twice that fits"


def test_an_adapter_is_all_that_scoring_asks_of_a_model() -> None:
    """A model of another kind: no `model` behind it, and nothing but what the protocol names."""

    def passed_on(name: str) -> property:
        return property(lambda self: getattr(self._inner, name))

    members = {name: passed_on(name) for name in vars(Adapter) if not name.startswith("_")}
    narrow = type("Narrow", (), {"__slots__": ("_inner",), **members})()
    model = build("mistral")
    narrow._inner = adapt(model)
    assert isinstance(narrow, Adapter)
    found, expected = (score_heads(each, GRID, check_sharing=2) for each in (narrow, model))
    np.testing.assert_array_equal(found.per_probe["retrieval"], expected.per_probe["retrieval"])
    ids = np.arange(3, 100)
    np.testing.assert_array_equal(copy_profile(narrow, ids).copies, copy_profile(model, ids).copies)


def rows_run(model: torch.nn.Module, work: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T, list[int]]:
    """What `work(model, ...)` gives, and how many rows each forward in it had."""
    rows: list[int] = []
    handle = model.get_input_embeddings().register_forward_pre_hook(lambda _, args: rows.append(args[0].numel()))
    try:
        return work(model, *args, **kwargs), rows
    finally:
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss", "deepseek_v3"])
def test_a_needle_at_one_place_is_run_once_for_all_lengths(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needles of 7 and 8 tokens at 20, in three lengths each; what they have in common is run once, the rest too."""
    model = build(family)
    probes = []
    for length in (61, 90, 121):
        for seed, needle in ((3, 7), (4, 8), (3, 8)):
            depth = 20 / (length - needle - 1 - 9 - 5)
            probe = random_probe(length, depth, needle=needle, seed=seed)
            assert probe.graft == (20, 21 + needle)
            probes.append(replace(probe, id=f"{length}-{seed}-{needle}"))
    grid = ProbeSet(probes)
    shared, rows = rows_run(model, run, grid, "grafted")
    with monkeypatch.context() as without:
        without.setattr(suffixes, "_shared_rows", lambda *_: None)
        separate, all_rows = rows_run(model, run, grid, "grafted")
    own = 9 * (9 + 5 - 1)  # question and answer of each probe
    # the first two needles have nothing in common, the third begins as the first, which is random, does
    assert (rows[-1], all_rows[-1]) == (own + 8 + 9 + 1, 9 * (9 + 9 + 5 - 1))
    for i in range(len(grid)):
        assert_same_evidence(shared[i], separate[i])


def test_answers_are_every_probe_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two probes of the same tokens whose needles are said to be elsewhere."""
    first = random_probe(90, 0.5, seed=1)
    ((start, end),) = first.needle_spans
    second = replace(
        Probe.from_ids(
            first.input_ids, prompt_len=first.prompt_len, needles=[(start + 1, end)], id="second",
            question_start=first.question_start,
        ),
        graft=first.graft,
    )  # fmt: skip
    model, both = build("llama"), ProbeSet([first, second])
    for sharing in ("exact", "grafted"):
        together = run(model, both, sharing)
        for i in range(2):
            assert_same_evidence(together[i], run(model, both[i : i + 1], sharing)[0])
    mass = [together[i].mass["needle"] for i in range(2)]
    assert (mass[1] <= mass[0] + 1e-6).all() and (mass[1] < mass[0] - 1e-4).any()


def test_a_prefill_ends_with_the_last_keys_unless_somebody_waits() -> None:
    """Behind the last layer's attention nothing of a haystack is read; a hook behind a module is let run."""
    model, calls = build("llama"), []
    last = model.model.layers[-1].mlp
    before = last.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape[1]))
    found = run(model, GRID, "grafted", chunk=64)
    stopped = calls.copy()
    calls.clear()
    waiting = model.model.norm.register_forward_hook(lambda *_: None)
    whole = run(model, GRID, "grafted", chunk=64)
    before.remove(), waiting.remove()
    assert len(stopped) == 1, "suffixes only"
    assert calls[:2] == [64, 64] and calls[-1] == stopped[0], "the haystack too"
    for i in range(len(GRID)):  # bit for bit: the same calls, and some that nobody reads
        np.testing.assert_array_equal(found[i].p_max, whole[i].p_max)
        np.testing.assert_array_equal(found[i].logprob, whole[i].logprob)
    ids = torch.arange(3, 60)[None]
    assert torch.equal(model(ids).logits, build("llama")(ids).logits), "a stopped forward leaves nothing behind"


def test_visibility_is_asked_for_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from headscope.interp.model import attention

    asked, classify = [], attention.classify
    monkeypatch.setattr(attention, "classify", lambda *args: asked.append(args) or classify(*args))
    model = build("gemma3_text")
    for lengths, window in (((60, 121), 32), ((60, 121), 16)):
        for layer in model.model.layers:
            layer.self_attn.sliding_window = window
        model.config.sliding_window = window
        asked.clear()
        run(model, random_grid(lengths=lengths), "exact", chunk=16)
        assert len(asked) == 2, "full and sliding"


@pytest.mark.parametrize("family", LENGTH_DEPENDENT)
def test_a_long_probe_that_runs_alone_is_cut_where_its_rope_can_be_told_the_length(family: str) -> None:
    model = build(family)
    whole, (*_, most) = rows_run(model, score_heads, GRID)
    cut, rows = rows_run(model, score_heads, GRID, chunk=48)
    assert most == 60 and max(rows) == 48 and cut.provenance["sharing"] == "alone"
    np.testing.assert_allclose(cut.nll, whole.nll, atol=1e-4)
    np.testing.assert_allclose(cut.per_probe["needle_mass"], whole.per_probe["needle_mass"], **CLOSE)
    ids = np.resize(GRID[8].input_ids, 150)
    profiles = [copy_profile(build(family), ids, chunk=chunk) for chunk in (48, 4096)]
    assert np.abs(profiles[0].sink_rows - profiles[1].sink_rows).sum() <= 2  # ties to rounding
    assert "forward" not in vars(model.model.rotary_emb)


def test_a_probe_that_cannot_be_cut_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recurrent layers; and a model whose own prefill in chunks is wrong, whatever its RoPE."""
    prefill_in_chunks_wrongly(monkeypatch)
    for family in ("llama_dynamic", "jamba"):
        model = build(family)
        assert max(rows_run(model, score_heads, GRID[-1:], chunk=48)[1]) == 200


def test_nan_weights_are_an_error_not_a_score() -> None:
    model = build("llama")
    with torch.no_grad():
        model.model.layers[2].self_attn.q_proj.weight[3, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        score_heads(model, GRID)


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int, str]] = []
    score_heads(build("llama"), GRID, progress=lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1]
    assert [step[0] for step in seen] == sorted(step[0] for step in seen)


def test_a_model_whose_logits_are_all_zero_is_no_division_by_zero(caplog: pytest.LogCaptureFixture) -> None:
    model = build("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    probes = ProbeSet([random_probe(seed=seed) for seed in range(2)])
    assert score_heads(model, probes).provenance["alone_because"] is None
    assert caplog.messages == []


@pytest.mark.filterwarnings("ignore")  # of torch.ao, which has successors but no smaller one
def test_quantised_layers_are_scored() -> None:
    model = build("llama")
    probes = ProbeSet([random_probe(seed=seed) for seed in range(2)])
    plain = score_heads(model, probes)
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    found = score_heads(quantised, probes)
    assert found.provenance["dtype"] == "float32"
    np.testing.assert_allclose(found.nll, plain.nll, rtol=0.1)


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(CaptureError, match="meta device"):
        score_heads(build("llama").to("meta"), ProbeSet([random_probe()]))
