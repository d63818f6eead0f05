"""A model fine-tuned on the answers of probes, and put back as it was: bit by bit, or an error says so."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import ArgumentError, HeadscopeError
from ...probes import Probe
from ..engine import Progress
from ..model import preserve_training_state, unwrapped
from ..packages import need
from .recipe import Recipe

CLIP = 1.0  # norm of a step's gradients at most
CHECKED = 64  # tokens whose logits are compared before and after


class FinetuneError(HeadscopeError, RuntimeError):
    """A fine-tune that broke off, or a model that is not what it was once its adapter was taken off."""


@dataclass(frozen=True)
class Trained:
    """loss: float32 [steps], mean nats a token of the answers, before each update. tokens: through the model;
    answer_tokens: those the loss is of. seconds: of training. peak_memory: bytes that the device (on the CPU the
    process) had taken at most."""

    loss: np.ndarray
    tokens: int
    answer_tokens: int
    seconds: float
    peak_memory: float


@contextmanager
def finetuned(
    model: Any, recipe: Recipe, seed: int, probes: Sequence[Probe], end: int | None, progress: Progress | None = None
) -> Iterator[Trained]:
    """Inside, the model is fine-tuned; afterwards it is what it was, with the same logits bit by bit.

    It is trained in eval mode (without dropout), a sequence at a time, in the order of the probes: the same recipe,
    seed, machine and number of threads give the same weights. Random states, modes and `requires_grad` are put back.

    Args:
        model: a transformers causal LM in memory.
        probes: steps x sequences of them, each learnt from its answer on. end: token behind an answer, learnt too.

    Raises:
        ArgumentError: a model that cannot be trained like this. MissingPackageError: peft is not installed.
        FinetuneError: the loss is not finite; or the logits afterwards are not those before.
    """
    model = trainable(model)
    ids = torch.from_numpy(probes[0].input_ids[:CHECKED].astype(np.int64))[None].to(model.device)
    with preserve_training_state(model):
        model.eval()
        before = model(input_ids=ids, use_cache=False).logits
        wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        torch.manual_seed(seed)
        put_back = (_adapter if recipe.method == "lora" else _all_weights)(model, recipe)
        try:
            with torch.enable_grad():
                trained = _train(model, recipe, probes, end, progress)
            yield trained
        finally:
            put_back()
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)
                parameter.grad = None
        if not torch.equal(before, model(input_ids=ids, use_cache=False).logits):
            raise FinetuneError(
                "the model's logits are not what they were before it was fine-tuned; load it anew, and report this"
            )


def trainable(model: Any) -> Any:
    """The transformers model inside, where it can be fine-tuned. Raises ArgumentError where it cannot."""
    from transformers import PreTrainedModel

    if hasattr(model, "peft_config"):
        raise ArgumentError("the model has an adapter already; merge it first: model.merge_and_unload()")
    model = unwrapped(model)
    if not isinstance(model, PreTrainedModel):
        raise ArgumentError(f"a {type(model).__name__} cannot be fine-tuned here; give a transformers causal LM")
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ArgumentError("some weights of the model are offloaded; load all of it onto one device")
    return model


def _adapter(model: Any, recipe: Recipe) -> Callable[[], None]:
    """Put a fresh LoRA into all linear layers but the output. Returns what takes it off again."""
    peft = need("peft", "method 'lora' of a recipe", install="headscope[sft]")
    held = dict(vars(model))
    settings = peft.LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, at what peft calls
        wrapped = peft.get_peft_model(model, settings)

    def take_off() -> None:
        wrapped.unload()
        for name in vars(model).keys() - held.keys():
            delattr(model, name)

    return take_off


def _all_weights(model: Any, recipe: Recipe) -> Callable[[], None]:
    """All weights learn. Returns what puts a copy of them back."""
    if odd := [name for name, parameter in model.named_parameters() if not parameter.is_floating_point()]:
        raise ArgumentError(f"{odd[0]} is quantised, and method 'full' trains all weights; use method 'lora'")
    held = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    for parameter, _ in held:
        parameter.requires_grad_(True)

    def put_back() -> None:
        for parameter, values in held:
            parameter.data.copy_(values)

    return put_back


def _train(model: Any, recipe: Recipe, probes: Sequence[Probe], end: int | None, progress: Progress | None) -> Trained:
    start, device = time.monotonic(), model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=recipe.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(recipe, step))
    loss, tokens, answer_tokens = np.full(recipe.steps, np.nan, np.float32), 0, 0
    for step in range(recipe.steps):
        optimizer.zero_grad(set_to_none=True)
        parts = []
        for probe in probes[step * recipe.sequences : (step + 1) * recipe.sequences]:
            ids = [*probe.input_ids.tolist(), *([] if end is None else [end])]
            part = answer_loss(model, torch.tensor([ids], device=device), probe.prompt_len)
            (part / recipe.sequences).backward()
            parts.append(part.item())
            tokens, answer_tokens = tokens + len(ids) - 1, answer_tokens + len(ids) - probe.prompt_len
        loss[step] = np.mean(parts)
        norm = nn.utils.clip_grad_norm_(learning, CLIP)
        if not math.isfinite(loss[step]) or not math.isfinite(norm):
            raise FinetuneError(
                f"step {step} of {recipe.steps}: the loss is {loss[step]:g} and its gradient {norm:g}; give a recipe "
                f"with a lower lr than {recipe.lr:g}, or a model in float32"
            )
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, recipe.steps, f"fine-tuning, loss {loss[step]:.2f}")
    return Trained(loss, tokens, answer_tokens, time.monotonic() - start, _peak_memory(device))


def answer_loss(model: Any, ids: Tensor, prompt_len: int) -> Tensor:
    """Mean nats a token of `ids[0, prompt_len:]` after what is before it; ids int64 [1, length]. float32 scalar."""
    n = ids.shape[1] - prompt_len
    rows = {"logits_to_keep": n} if "logits_to_keep" in signature(model.forward).parameters else {}
    logits = model(input_ids=ids[:, :-1], use_cache=False, **rows).logits[0, -n:]
    return functional.cross_entropy(logits.float(), ids[0, prompt_len:])


def rate(recipe: Recipe, step: int) -> float:
    """The share of the highest learning rate at a step, from 0: up to 1 during the warm-up, then down to 0."""
    if step < recipe.warmup:
        return (step + 1) / (recipe.warmup + 1)
    if recipe.schedule == "constant":
        return 1.0
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def _peak_memory(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return math.nan
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
