"""Models inside other things: what is scored is the transformers model as it computes there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import headscope as hs
from builders import random_grid
from headscope.interp.model.weights import ModelError
from headscope.interp.scoring import score_heads
from tiny_models import build

GRID = random_grid(lengths=(100, 150), depths=(0.0, 0.5))


def with_lora() -> Any:
    """All its numbers at random: a fresh adapter changes nothing."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        build("llama"), peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM")
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def same(a: hs.HeadScores, b: hs.HeadScores) -> None:
    np.testing.assert_allclose(a.nll, b.nll, rtol=1e-4, atol=1e-5)
    for name, values in a.per_probe.items():
        np.testing.assert_allclose(values, b.per_probe[name], rtol=1e-3, atol=1e-4)


def test_adapters_are_active() -> None:
    plain, found = score_heads(build("llama"), GRID), score_heads(with_lora(), GRID)
    same(found, score_heads(with_lora().merge_and_unload(), GRID))
    assert np.abs(found.nll - plain.nll).max() > 0.01
    with (model := with_lora()).disable_adapter():
        same(score_heads(model, GRID), plain)


@pytest.mark.parametrize("everything", [True, False])
def test_offloaded_weights_are_fetched(everything: bool, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build("llama")
    if everything:
        accelerate.disk_offload(model, tmp_path, execution_device=torch.device("cpu"))
    else:
        places = dict.fromkeys(["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"], "cpu")
        places |= {f"model.layers.{layer}": "disk" if layer % 2 else "cpu" for layer in range(4)}
        accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    same(score_heads(model, GRID), score_heads(build("llama"), GRID))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda model: nn.DataParallel(torch.compile(model))])
def test_wrappers_change_nothing(wrap: Any) -> None:
    same(score_heads(wrap(build("llama")), GRID), score_heads(build("llama"), GRID))


@pytest.mark.filterwarnings("ignore")  # of torch's compiler about its own
def test_what_is_compiled_in_place_is_neither_used_nor_compiled_anew() -> None:
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    model = build("llama")
    for layer in model.model.layers:
        layer.compile(backend=backend)
    ids = torch.arange(3, 60)[None]
    before = model(input_ids=ids).logits
    graphs = len(compiled)
    assert graphs > 0
    same(score_heads(model, GRID), score_heads(build("llama"), GRID))
    assert torch.equal(model(input_ids=ids).logits, before)
    assert len(compiled) == graphs


def test_a_lora_training_run_is_monitored(tmp_path: Path) -> None:
    model = with_lora()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    found = hs.HeadMonitor(GRID, tmp_path / "run.h5").measure(0, model)
    assert found is not None
    same(found, score_heads(with_lora(), GRID))
    assert model.training and all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_tokens_that_an_adapter_adds_are_refused() -> None:
    peft = pytest.importorskip("peft")
    prompts = peft.PromptTuningConfig(task_type=peft.TaskType.CAUSAL_LM, num_virtual_tokens=4)
    with pytest.raises(TypeError, match="a PROMPT_TUNING adapter, which puts virtual tokens before the input"):
        score_heads(peft.get_peft_model(build("llama"), prompts), GRID)


def in_a_pipeline() -> Any:
    from transformers import pipeline

    from tiny_run import tiny_tokenizer

    return pipeline("text-generation", model=build("llama"), tokenizer=tiny_tokenizer())


def in_a_trainer() -> Any:
    from transformers import Trainer, TrainingArguments

    return Trainer(build("llama"), TrainingArguments(report_to=[], use_cpu=True))


class Lightning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = build("llama")


NO_MODELS = [
    (in_a_pipeline, "TextGenerationPipeline, which holds the model: give its attribute .model"),
    (in_a_trainer, "Trainer, which holds the model: give its attribute .model"),
    (Lightning, "Lightning, which holds the model: give its attribute .model"),
    (lambda: build("llama").state_dict(), r"a state_dict, weights without a model \(load them into one"),
    (lambda: type(build("llama")), "the class LlamaForCausalLM, not a model of that class"),
    (lambda: build("llama").config, "LlamaConfig"),
    (lambda: (build("llama"), None), "tuple"),
]


@pytest.mark.parametrize(("make", "words"), NO_MODELS)
def test_what_is_no_model_is_refused_in_one_line(
    make: Any, words: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("made"))  # a Trainer makes a folder where it is made
    given = make()
    for attempt in (
        lambda: score_heads(given, GRID),
        lambda: hs.copy_profile(given, list(range(40))),
        lambda: hs.HeadMonitor(GRID, tmp_path / "run.h5", model=given),
    ):
        with pytest.raises(TypeError, match=words) as refused:
            attempt()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 300
    if not isinstance(given, nn.Module):
        with pytest.raises(ModelError, match=words):
            hs.load_model(given)
    assert list(tmp_path.iterdir()) == []


def test_a_pipelines_model_is_scored() -> None:
    same(score_heads(in_a_pipeline().model, GRID), score_heads(build("llama"), GRID))


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_a_model_that_answers_in_tuples_is_scored(family: str, tmp_path: Path) -> None:
    model = build(family)
    model.config.return_dict = False
    same(score_heads(model, GRID), score_heads(build(family), GRID))
    ids = torch.arange(3, 60)
    assert hs.copy_profile(model, ids).copies.tolist() == hs.copy_profile(build(family), ids).copies.tolist()
    assert model.config.return_dict is False
    model.save_pretrained(tmp_path)
    from tiny_run import tiny_tokenizer

    same(score_heads(hs.load_model(tmp_path, tokenizer=tiny_tokenizer()), GRID), score_heads(build(family), GRID))


def test_nnsights_language_model_is_scored(tmp_path: Path) -> None:
    nnsight = pytest.importorskip("nnsight")
    from tiny_run import tiny_tokenizer

    model = nnsight.LanguageModel(build("llama"), tokenizer=tiny_tokenizer())
    plain = score_heads(build("llama"), GRID)
    same(score_heads(model, GRID), plain)
    same(score_heads(hs.load_model(model), GRID), plain)
    found = hs.HeadMonitor(GRID, tmp_path / "run.h5", model=model).measure(0)
    assert found is not None
    same(found, plain)
    model._edits = ["an edit"]
    with pytest.raises(TypeError, match="nnsight edits, which only its own traces apply"):
        score_heads(model, GRID)
