"""Masks are recognised by what they do, and a model is put back exactly as it was."""

from __future__ import annotations

import pytest
import torch
from transformers import masking_utils

from builders import random_grid
from headscope.interp.model.adapt import adapt
from headscope.interp.model.attention import CaptureError, Visibility, classify
from headscope.interp.scoring import score_heads
from tiny_models import build

GRID = random_grid()
N = 200


@pytest.mark.parametrize("window", [1, 2, 31, 128, N - 1])
def test_sliding_windows_are_recognised(window: int) -> None:
    mask = masking_utils.sliding_window_causal_mask_function(window)
    assert classify(mask, N, "cpu") == Visibility(window=window)


@pytest.mark.parametrize("window", [N, 10 * N])
def test_a_window_longer_than_the_run_is_full_attention(window: int) -> None:
    assert classify(masking_utils.sliding_window_causal_mask_function(window), N, "cpu") == Visibility()


@pytest.mark.parametrize("chunk", [2, 7, 32, 64, 150])
def test_chunks_are_recognised(chunk: int) -> None:
    mask = masking_utils.chunked_causal_mask_function(chunk, torch.zeros(1, dtype=torch.long))
    assert classify(mask, N, "cpu") == Visibility(chunk=chunk)


def test_full_attention_is_recognised() -> None:
    assert classify(masking_utils.causal_mask_function, N, "cpu") == Visibility()
    assert classify(masking_utils.causal_mask_function, 1, "cpu") == Visibility()


@pytest.mark.parametrize(
    "mask",
    [
        masking_utils.bidirectional_mask_function,
        masking_utils.or_masks(masking_utils.causal_mask_function, lambda b, h, q, k: k < 50),
        masking_utils.and_masks(masking_utils.causal_mask_function, lambda b, h, q, k: k % 2 == 0),
        lambda b, h, q, k: (k <= q) & (k >= q // 3),
    ],
    ids=["bidirectional", "prefix", "strided", "fraction"],
)
def test_other_masks_are_refused(mask) -> None:
    with pytest.raises(CaptureError, match="mask"):
        classify(mask, N, "cpu")


def test_masks_that_look_at_tokens_are_refused_before_they_are_asked_too_far() -> None:
    """On a GPU an index beyond the tokens would end the process."""
    blocks = torch.full((1, N // 2), -1)
    for mask in (
        masking_utils.blockwise_overlay(blocks),
        masking_utils.or_masks(masking_utils.causal_mask_function, masking_utils.blockwise_overlay(blocks)),
    ):
        with pytest.raises(CaptureError, match="depends on what each token is"):
            classify(mask, N, "cpu")
    enough = masking_utils.or_masks(
        masking_utils.causal_mask_function, masking_utils.blockwise_overlay(blocks.repeat(1, 2))
    )
    assert classify(enough, N, "cpu") == Visibility()


def test_first_visible_positions() -> None:
    at = torch.tensor([0, 5, 40])
    assert Visibility().first_visible(at).tolist() == [0, 0, 0]
    assert Visibility(window=6).first_visible(at).tolist() == [0, 0, 35]
    assert Visibility(chunk=8).first_visible(at).tolist() == [0, 0, 40]


def state(model: torch.nn.Module) -> dict[str, object]:
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return {
        "attention": [c._attn_implementation for c in configs.values()],
        "config": [c.to_dict() for c in configs.values()],
        "training": {name: m.training for name, m in model.named_modules()},
        "grads": {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
        "hooks": {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()},
        "rng": torch.get_rng_state().tolist(),
        "grad_enabled": torch.is_grad_enabled(),
        "instance attributes": {name: sorted(m.__dict__) for name, m in model.named_modules()},
    }


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_scored_model_is_put_back_exactly(attention: str) -> None:
    model = build("llama").train()
    model.set_attn_implementation(attention)
    model.model.layers[1].eval()
    model.model.layers[0].register_forward_hook(lambda *_: None)
    before = state(model)
    score_heads(model, GRID)
    assert state(model) == before


def test_a_model_is_put_back_after_an_exception() -> None:
    model = build("llama").train()
    before = state(model)

    def explode(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_heads(model, GRID, progress=explode)
    assert state(model) == before


def test_training_goes_on_after_scoring() -> None:
    """Losses with scoring in between equal losses without it."""

    def train(score: bool) -> list[float]:
        torch.manual_seed(0)
        model = build("llama").train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        losses = []
        for step in range(4):
            ids = torch.randint(3, 199, (2, 30), generator=torch.Generator().manual_seed(step))
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if score:
                score_heads(model, GRID[:3])
        return losses

    assert train(score=True) == train(score=False)


def test_hooks_of_the_user_fire() -> None:
    """An intervention set by the user is part of what is measured."""
    model = build("llama")
    plain = score_heads(model, GRID).nll
    handle = model.model.layers[0].register_forward_hook(lambda m, args, out: out * 0)
    changed = score_heads(model, GRID).nll
    handle.remove()
    assert not torch.allclose(torch.tensor(plain), torch.tensor(changed))


def test_a_model_that_is_no_causal_language_model_is_refused() -> None:
    with pytest.raises(TypeError, match="transformers causal LM"):
        adapt(torch.nn.Linear(2, 2))
    with pytest.raises(CaptureError, match="output embeddings"):
        adapt(build("llama").model)


def test_no_mask_of_size_n_by_n_is_built() -> None:
    """A mask or a map would have two dimensions of the sequence's length; blocks are a third of it at most."""
    from torch.utils._python_dispatch import TorchDispatchMode

    n, chunk = 1500, 256
    largest: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor) and tensor.dim() >= 2:
                    largest.append(min(tensor.shape[-2:]))
            return out

    for family in ("llama", "gemma3_text", "gpt_oss", "gemma2"):
        probes = random_grid(lengths=(n,), depths=(0.5,))
        with Watch():
            score_heads(build(family), probes, chunk=chunk)
    assert max(largest) <= n // 2
