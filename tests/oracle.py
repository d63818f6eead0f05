"""The independent check: materialised attention maps from transformers' own eager code, scores in plain loops.

Nothing here uses headscope except the `Probe` dataclass, and everything favours being obvious over being quick.
Memory: one layer's [heads, T, T] with its temporaries at a time; the answer rows of all layers are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headscope.probes import Probe

ESTIMATORS = ("retrieval", "wu_count", "aligned_copy", "needle_mass", "source_mass", "sink_mass")


@dataclass(frozen=True, eq=False)
class Truth:
    """What eager attention did on a probe's R answer rows; L layers, H query heads, T tokens, V vocabulary.

    Layers that have no attention map (linear attention, state spaces) hold 0 in probs, -1 in argmax, NaN in scores.
    """

    probs: np.ndarray  # float32 or float64 [L, H, R, T], 0 where a row does not see a key
    argmax: np.ndarray  # int64 [L, H, R], lowest position on ties
    p_max: np.ndarray  # like probs [L, H, R]
    logits: np.ndarray  # [R, V], of the rows that predict the answer tokens
    nll: np.ndarray  # float64 [R], nats per answer token
    exact_match: bool  # every answer token is the argmax of its row (lowest id on ties)
    scores: dict[str, np.ndarray]  # estimator -> float64 [L, H], by the definitions of design section 6

    def margin(self, keys: np.ndarray) -> np.ndarray:
        """How far below the winner the given keys [L, H, R] score, in logits (nats): 0 is the winner itself."""
        chosen = np.take_along_axis(self.probs, keys[..., None], axis=-1)[..., 0]
        with np.errstate(divide="ignore"):
            return np.log(self.p_max) - np.log(chosen)


def run(model: Any, probe: Probe, dtype: torch.dtype | None = None) -> Truth:
    """One eager forward of the whole probe; `dtype` (say torch.float64) runs it on a converted copy of the model.

    Even then transformers computes softmax and rotary angles in float32.
    """
    if dtype is not None and dtype != model.dtype:
        model = copy.deepcopy(model).to(dtype)
    rows = probe.answer_rows
    ids = torch.tensor(probe.input_ids.astype(np.int64), device=model.device)[None]
    _forget_lengths(model)
    with torch.no_grad(), _eager(model), _maps_of_rows(model, rows) as maps:
        logits_out = model(ids, use_cache=False, logits_to_keep=len(rows) + 1).logits
    logits = logits_out[0, -len(rows) - 1 : -1].to(_wide(model)).cpu().numpy()
    n_layers = max(model.config.get_text_config(decoder=True).num_hidden_layers, *(layer + 1 for layer in maps))
    n_heads = max(one.shape[0] for one in maps.values())
    probs = np.zeros((n_layers, n_heads, len(rows), probe.length), logits.dtype)
    for layer, one in maps.items():
        probs[layer] = one
    has_map = np.array([layer in maps for layer in range(n_layers)])
    argmax = np.where(has_map[:, None, None], probs.argmax(axis=-1), -1)
    log_z = np.logaddexp.reduce(logits.astype(np.float64), axis=-1)
    answer = probe.answer_ids.astype(np.int64)
    return Truth(
        probs=probs,
        argmax=argmax,
        p_max=probs.max(axis=-1),
        logits=logits,
        nll=log_z - logits[np.arange(len(rows)), answer],
        exact_match=bool((logits.argmax(axis=-1) == answer).all()),
        scores=score_maps(probs, probe),
    )


def score_maps(probs: np.ndarray, probe: Probe) -> dict[str, np.ndarray]:
    """Scores of attention rows probs [L, H, R, T], one per answer token. float64 [L, H] each.

    NaN: the layer has no map, or no answer row sees any needle position (a window hides it; sink_mass does not care),
    or the estimator has nothing to look at (no copyable needle position, no answer token with a source).
    """
    n_layers, n_heads, n_rows, _ = probs.shape
    ids = probe.input_ids.tolist()
    answer = probe.answer_ids.tolist()
    length_of_needle_at = {}
    for start, end in probe.needle_spans:
        for position in range(start, end):
            length_of_needle_at[position] = end - start
    needle = sorted(length_of_needle_at)
    copyable = [position for position in needle if ids[position] in answer]
    sources = [sorted({int(s) for s in row if s >= 0}) for row in probe.sources]
    with_source = [t for t in range(n_rows) if sources[t]]

    scores = {name: np.full((n_layers, n_heads), np.nan) for name in ESTIMATORS}
    for layer in range(n_layers):
        if not probs[layer].any():
            continue
        visible = probs[layer][:, :, needle].any()
        for head in range(n_heads):
            rows = probs[layer, head].astype(np.float64)
            scores["sink_mass"][layer, head] = np.mean([rows[t, 0:4].sum() for t in range(n_rows)])
            if not visible:
                continue
            hit_positions, count, aligned = set(), 0.0, 0
            for t in range(n_rows):
                j = int(np.argmax(rows[t]))
                if j in length_of_needle_at and ids[j] == answer[t]:
                    hit_positions.add(j)
                    count += 1 / length_of_needle_at[j]
                if j in sources[t]:
                    aligned += 1
            if copyable:
                scores["retrieval"][layer, head] = len(hit_positions) / len(copyable)
            scores["wu_count"][layer, head] = count
            scores["needle_mass"][layer, head] = np.mean([rows[t, needle].sum() for t in range(n_rows)])
            if with_source:
                scores["aligned_copy"][layer, head] = aligned / len(with_source)
                scores["source_mass"][layer, head] = np.mean([rows[t, sources[t]].sum() for t in with_source])
    return scores


def _wide(model: Any) -> torch.dtype:
    """numpy knows no bfloat16: keep float64, widen the rest to float32."""
    return torch.float64 if model.dtype == torch.float64 else torch.float32


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Eager attention and eval mode for the length of a `with`."""
    implementation, training = model.config._attn_implementation, model.training
    try:
        model.set_attn_implementation("eager")
        if training:
            model.eval()
        yield
    finally:
        model.set_attn_implementation(implementation)
        if training:
            model.train()


@contextmanager
def _maps_of_rows(model: Any, rows: np.ndarray) -> Iterator[dict[int, np.ndarray]]:
    """layer -> [H, R, T]: the rows of every map that eager attention returns; the map itself is let go at once.

    The same tensors as `output_attentions=True` gives (test_oracle.py), which would keep all of them whole.
    """
    maps: dict[int, np.ndarray] = {}

    def keep_rows(module: Any, _: Any, output: Any) -> Any:
        if not isinstance(output, tuple):
            return output
        length = output[0].shape[1]
        for place, item in enumerate(output):
            if torch.is_tensor(item) and item.ndim == 4 and item.shape[-2:] == (length, length):
                kept = item[0, :, torch.as_tensor(rows, device=item.device)]
                maps[module.layer_idx] = kept.to(_wide(model)).cpu().numpy()
                return (*output[:place], None, *output[place + 1 :])
        return output

    hooks = [
        module.register_forward_hook(keep_rows)
        for module in model.modules()
        if getattr(module, "layer_idx", None) is not None and type(module).__name__.endswith(("Attention", "MLA"))
    ]
    if not hooks:
        raise ValueError(f"{type(model).__name__}: found no attention modules with a layer_idx")
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _forget_lengths(model: Any) -> None:
    """Dynamic RoPE remembers the longest sequence it has seen; a short one makes transformers forget it."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "dynamic":
        model(torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
