"""The engine on a GPU, with our kernels, gives what it gives on a CPU in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from builders import VOCAB, random_grid
from headscope import copy_profile
from headscope.interp.engine.engine import Engine
from headscope.interp.engine.plan import plan
from headscope.interp.evidence import ProbeEvidence
from headscope.interp.model.adapt import adapt
from headscope.interp.scoring import score_heads
from headscope.probes import ProbeSet
from on_device import DEVICE, TOY, needs_gpu, toy_tiles  # noqa: F401
from tiny_models import build

pytestmark = [pytest.mark.gpu, needs_gpu, pytest.mark.usefixtures("toy_tiles")]

GRID = random_grid(lengths=(60, 100), depths=(0.0, 0.7)) if TOY else random_grid()
# A toy looks for mistakes in these tests; interpreter_cases.py has the engine with other families.
FAMILIES = ("gemma3_text",) if TOY else ("llama", "gemma3_text", "gemma2", "gpt_oss", "llama4_text")


def run(model: torch.nn.Module, probes: ProbeSet, sharing: str) -> dict[int, ProbeEvidence]:
    adapted = adapt(model)
    with adapted.routed(max(probe.length for probe in probes)):
        return dict(Engine(adapted, probes, chunk=48, topk=5).run(plan(probes, sharing)))


@pytest.mark.parametrize("sharing", ["exact", "grafted"])
@pytest.mark.parametrize("family", FAMILIES)
def test_evidence_equals_that_of_the_cpu(family: str, sharing: str) -> None:
    model = build(family)
    here = run(model, GRID, sharing)
    there = run(model.to(DEVICE), GRID, sharing)
    keys = np.concatenate([(here[i].argmax_key == there[i].argmax_key).ravel() for i in here])
    assert keys.mean() > 0.995  # what is left ties to rounding through four layers
    for i in here:
        np.testing.assert_array_equal(here[i].visible, there[i].visible)
        for name in ("p_max", "logprob", "topk_p"):
            np.testing.assert_allclose(getattr(there[i], name), getattr(here[i], name), rtol=5e-3, atol=2e-3)
        for name, mass in here[i].mass.items():
            np.testing.assert_allclose(there[i].mass[name], mass, rtol=5e-3, atol=2e-3)


def test_scores_and_what_computed_them() -> None:
    here = score_heads(build("llama"), GRID)
    there = score_heads(build("llama").to(DEVICE), GRID)
    assert np.nanmax(np.abs(here.retrieval - there.retrieval)) < 0.05
    np.testing.assert_allclose(there.nll, here.nll, atol=5e-3)
    if not TOY:
        assert there.provenance["kernels"]["row_evidence"] == "triton"
        assert there.provenance["kernels"]["evidence_attention"] == "triton"


@pytest.mark.parametrize("family", ["llama"] if TOY else ["llama", "gemma3_text"])
def test_bfloat16_runs_on_the_fast_backends(family: str) -> None:
    """Tiny random models amplify rounding; that the numbers are those of the model is a matter of their mean."""
    here = score_heads(build(family), GRID)
    there = score_heads(build(family).to(DEVICE, torch.bfloat16), GRID)
    assert abs(float(there.nll.mean() - here.nll.mean())) < 0.1
    assert np.isfinite(there.per_probe["sink_mass"]).all()
    if not TOY:
        assert "reference" not in there.provenance["kernels"]["attend"]


def test_copy_profiles() -> None:
    text = np.random.default_rng(0).integers(3, min(VOCAB, 43), 400)
    here, there = copy_profile(build("gemma3_text"), text), copy_profile(build("gemma3_text").to(DEVICE), text)
    assert np.abs(here.copies - there.copies).sum() <= 0.01 * here.copies.sum()
