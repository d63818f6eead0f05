"""What a model's heads write to: each layer's output projection and the unembedding, found by running the model.

No names of modules are known here. A few tokens are run with made-up attention outputs; the module that is given one of
them, as it is, projects it. A model that changes it before (a gate) does not show what its heads write.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .attention import CaptureError, Scoring, Visibility, running


class Runs(Protocol):
    """What is asked of an adapter here."""

    @property
    def name(self) -> str: ...

    @property
    def n_layers(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def forward(self, ids: Tensor, positions: Tensor, cache: None, rows: Tensor) -> Tensor: ...


class OutputWeights:
    """Output projections and unembedding of a routed model. Inside `routed`.

    Args:
        adapter: runs the model.
        model: whose modules are searched.
        unembedding: the module that gives the logits.

    Raises:
        CaptureError: a layer's attention output does not go into one linear map as it is, or the unembedding has no
            weight that can be read; the message says which.
    """

    def __init__(self, adapter: Runs, model: nn.Module, unembedding: nn.Module):
        self.adapter, self.unembedding = adapter, unembedding
        self._known: dict[tuple[Callable[..., np.ndarray], bytes], np.ndarray] = {}
        marked = _Marked()
        with _hooked(model.modules(), marked.given):
            one = torch.zeros(1, dtype=torch.long, device=adapter.device)  # with logits, or it would end too early
            self._run(marked, one.new_zeros(1, 2), one)
        missing = sorted(marked.heads.keys() - marked.found.keys())
        if missing:
            raise CaptureError(
                f"{adapter.name} changes what heads of layer {missing[0]} put out before it projects it (a gate?)"
            )
        self.heads, self.sizes, self.modules = marked.heads, marked.sizes, marked.found
        layers = next(_layers_around(model, self.modules), None)
        if layers is None:
            raise CaptureError(f"the layers of {adapter.name} are in no list of modules")
        self.layers = layers
        weight = getattr(unembedding, "weight", None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.ndim != 2 or weight.is_meta:
            raise CaptureError(f"the unembedding of {adapter.name} is quantised or not in memory")

    def towards(self, layer: int, tokens: Tensor, size: int) -> Tensor:
        """[H, A, size]: W_O^T u of tokens [A], for heads whose output has `size` components; float32 or wider."""
        read = self._logits_of(layer, tokens)
        return read.view(len(tokens), -1, size).transpose(0, 1)

    def circuits(self, tokens: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """`of` every layer's circuits, stacked [n_layers, ...]; what was asked before is remembered.

        Circuits are float64 [H, T, T], what a head that looks at token a (last axis) adds to the logit of token b, NaN
        in a layer without attention. Every token is run alone at position 0, and each layer is given its embedding.
        """
        key = of, tokens.tobytes()
        if key not in self._known:
            self._known[key] = np.stack([of(each) for each in self._circuits(tokens)])
        return self._known[key]

    def _circuits(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self.adapter.device)[:, None]
        found = _Circuits(self, ids[:, 0])
        with _fed(self.layers):
            self._run(found, ids, ids.new_empty(0))
        none = np.full((max(self.heads.values()), len(tokens), len(tokens)), np.nan)
        for layer in range(self.adapter.n_layers):
            of_layer = none.copy()
            if layer in found.found:
                of_layer[: self.heads[layer]] = found.found[layer].double().cpu().numpy()
            yield of_layer

    def _run(self, this: Any, ids: Tensor, rows: Tensor) -> None:
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        with running(this):
            self.adapter.forward(ids, positions, None, rows)

    def _logits_of(self, layer: int, tokens: Tensor) -> Tensor:
        """[A, H * Dv]: how much each component of the heads' output adds to the logit of each token."""
        projection = self._projection(layer)
        weight: Any = self.unembedding.weight
        wide = torch.promote_types(projection.dtype, torch.float32)
        read: Tensor = weight[tokens.to(weight.device)].to(projection.device, wide)
        if read.shape[1] != len(projection):
            raise CaptureError(f"the unembedding of {self.adapter.name} does not read the residual stream itself")
        return (read @ projection.to(wide)).to(tokens.device)

    def _projection(self, layer: int) -> Tensor:
        """[d_model, H * Dv]"""
        module = self.modules[layer]
        while isinstance(inner := getattr(module, "original_component", None), nn.Module):  # a bridge's, with hooks
            module = inner
        weight: Any = getattr(module, "weight", None)
        if type(module) is nn.Linear and not weight.is_meta:
            return weight.detach()
        if type(module).__name__ == "Conv1D":  # of transformers: GPT-2's
            return weight.detach().T
        # LoRA, quantised, offloaded: by what it does
        unit = torch.eye(self.heads[layer] * self.sizes[layer], dtype=self.adapter.dtype, device=self.adapter.device)
        projected: Tensor = (module(unit) - module(torch.zeros_like(unit[:1]))).T
        return projected


class _Marked:
    """A pass that puts out something unlike all else, and sees which module is given it."""

    def __init__(self) -> None:
        self.heads: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.found: dict[int, nn.Module] = {}
        self._mark: tuple[int, Tensor] | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        shape = (*q.shape[:3], v.shape[-1])
        out = torch.arange(math.prod(shape), device=q.device).sin().to(q.dtype).view(shape)  # torch's seed stays
        self.heads[layer], self.sizes[layer] = q.shape[1], v.shape[-1]
        self._mark = layer, out.transpose(1, 2).flatten(2)
        return out

    def given(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._mark is None or not args or not isinstance(x := args[0], Tensor):
            return
        layer, mark = self._mark
        like = x.numel() == mark.numel() and x.shape[-1] == mark.shape[-1] and x.dtype == mark.dtype
        if like and torch.equal(x.reshape(mark.shape), mark):
            self.found[layer], self._mark = module, None


class _Circuits:
    """A pass that keeps what the values of single tokens do to their logits."""

    def __init__(self, weights: OutputWeights, tokens: Tensor):
        self.weights, self.tokens = weights, tokens
        self.found: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        """v [T, Hkv, 1, Dv]"""
        heads = q.shape[1]
        towards = self.weights.towards(layer, self.tokens, v.shape[-1])
        values = v[:, :, 0].repeat_interleave(heads // v.shape[1], dim=1).to(towards.dtype)
        self.found[layer] = torch.einsum("hbd,ahd->hba", towards, values)
        return v.new_zeros(*q.shape[:3], v.shape[-1])


def _layers_around(model: nn.Module, modules: dict[int, nn.Module]) -> Iterator[nn.ModuleList]:
    """Lists of decoder layers, the outermost first: the n-th holds the projection of layer n."""
    for each in model.modules():
        if isinstance(each, nn.ModuleList) and all(
            n < len(each) and any(m is wanted for m in each[n].modules()) for n, wanted in modules.items()
        ):
            yield each


@contextmanager
def _fed(layers: nn.ModuleList) -> Iterator[None]:
    """Inside, every layer is given what the first one is: embeddings."""
    embeddings: list[Any] = []

    def feed(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeddings.append(args[0] if args else kwargs["hidden_states"])
        if args:
            return (embeddings[0], *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": embeddings[0]}

    with ExitStack() as handles:
        for layer in layers:
            handles.callback(layer.register_forward_pre_hook(feed, with_kwargs=True).remove)
        yield


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[[nn.Module, tuple[Any, ...]], None]) -> Iterator[None]:
    with ExitStack() as handles:
        for module in modules:
            handles.callback(module.register_forward_pre_hook(hook).remove)
        yield
