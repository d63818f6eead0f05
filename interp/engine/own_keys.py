"""Passes of answers beside a prefix: prompts whose keys are kept, then one row a sequence, which sees all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...kernels import evidence_attention, implementation, merge_attention_states
from ..model import PrefixCache, Scoring, Visibility
from .passes import limits
from .plan import Suffix
from .suffixes import RowsBeside, SuffixRows, flat, lay_out_rows, of_suffixes, once


class PromptPass(RowsBeside[SuffixRows]):
    """Suffixes that end with the prompt's last token. Their keys and values stay, [B, Hkv, m, D] of every layer.

    Args:
        suffixes: each with one answer row, its last.
        cache: the prefix's keys and values.
        device: where the model takes its input.
    """

    def __init__(self, suffixes: Sequence[Suffix], cache: PrefixCache, device: torch.device):
        super().__init__(suffixes, lay_out_rows(suffixes), cache, device)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        at = self.layout_on(q.device)
        rows = flat(q)
        q, k, v = (of_suffixes(x, at) for x in (q, k, v))
        self.keys[layer], self.values[layer] = k, v
        out, lse = (once(flat(x), at) for x in self.see_itself(at, q, k, v, sees, how))
        return beside_prefix(self, at, layer, rows, out, lse, sees, how)


class WholePrompts:
    """Prompts of several prefixes, each with all that it sees of its own: they need no prefix any more."""

    def __init__(self) -> None:
        self.suffixes: list[Suffix] = []
        self._parts: list[tuple[dict[int, Tensor], dict[int, Tensor]]] = []
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}

    def add(self, prompt: PromptPass) -> None:
        """The prompts of a pass that has run; its prefix is still in its cache."""
        cache = prompt.cache
        for b, suffix in enumerate(prompt.suffixes):
            seen, m = suffix.context_len, len(suffix.ids)
            rotary = np.concatenate([np.arange(seen, dtype=np.int32), suffix.rotary])
            self.suffixes.append(replace(suffix, rotary=rotary, limits=np.zeros_like(suffix.limits)))
            keys, values = (
                {layer: torch.cat([of[layer][0, :, :seen], x[b, :, :m]], dim=1) for layer, x in own.items()}
                for of, own in ((cache.keys, prompt.keys), (cache.values, prompt.values))
            )
            self._parts.append((keys, values))

    def done(self) -> None:
        """No more come: their keys and values are put into one tensor of every layer."""
        for i, held in enumerate((self.keys, self.values)):
            for layer in list(self._parts[0][i]):
                rows = [part[i].pop(layer).transpose(0, 1) for part in self._parts]
                held[layer] = pad_sequence(rows, batch_first=True).transpose(1, 2)


class OwnKeys:
    """Keys and values of the sequences that are being written, in buffers [slots, Hkv, width, D] of every layer.

    A sequence has a slot: first its suffix, then what it has written. Sequences lie in the first slots.

    Args:
        prompt: what their suffixes have left.
        slots, width: how many sequences at once, and how many keys each.
    """

    def __init__(self, prompt: PromptPass | WholePrompts, slots: int, width: int):
        self.prompt = prompt
        self.keys, self.values = (
            {layer: x.new_zeros(slots, x.shape[1], width, x.shape[3]) for layer, x in of.items()}
            for of in (prompt.keys, prompt.values)
        )
        self.positions = np.zeros((slots, width), np.int64)
        self.held = np.zeros(slots, np.int64)
        self._filled: list[tuple[dict[int, Tensor], dict[int, Tensor]]] = [
            (self.keys, prompt.keys),
            (self.values, prompt.values),
        ]

    def start(self, first: int, of: Sequence[int]) -> None:
        """Sequences that go on from these suffixes of the prompt, in the slots from `first` on."""
        end = first + len(of)
        for buffers, prompts in self._filled:
            for layer, buffer in buffers.items():
                kept = prompts[layer]
                index = torch.tensor(of, device=kept.device)
                buffer[first:end].zero_()  # what an earlier sequence left there is hidden, but might be NaN
                buffer[first:end, :, : kept.shape[2]] = kept[index]
        for slot, b in enumerate(of, first):
            rotary = self.prompt.suffixes[b].rotary
            self.held[slot] = m = len(rotary)
            self.positions[slot, :m] = rotary
            self.positions[slot, m:] = rotary[-1] + 1 + np.arange(self.positions.shape[1] - m)

    def keep(self, slots: Sequence[int]) -> list[int]:
        """Only these sequences go on, in the first slots; of `slots`, in which order they lie there."""
        n, order = len(slots), list(range(len(slots)))
        staying = [slot for slot in slots if slot < n]
        holes, moved = sorted(set(range(n)) - set(staying)), [slot for slot in slots if slot >= n]
        if moved:
            for buffers, _ in self._filled:
                for buffer in buffers.values():
                    to, source = (torch.tensor(x, device=buffer.device) for x in (holes, moved))
                    buffer[to] = buffer[source]
            self.positions[holes], self.held[holes] = self.positions[moved], self.held[moved]
            lies = dict(zip(holes, moved, strict=True))
            order = [slots.index(lies.get(slot, slot)) for slot in range(n)]
        return order


class StepPass(RowsBeside[SuffixRows]):
    """One row of every sequence that is being written: it sees its prefix, its own suffix, and what it has written.

    Args:
        steps: the rows, as suffixes of one token.
        own: the sequences' keys, in the first slots in the same order; the row's own is put behind them.
        cache: the prefix's keys and values.
        device: where the model takes its input.
    """

    def __init__(self, steps: Sequence[Suffix], own: OwnKeys, cache: PrefixCache, device: torch.device):
        super().__init__(steps, lay_out_rows(steps), cache, device)
        self.own, n = own, len(steps)
        self._slots = torch.arange(n)
        self._held = torch.from_numpy(own.held[:n].copy())
        self._n_keys = int(own.held[:n].max()) + 1
        self._key_positions = torch.from_numpy(np.ascontiguousarray(own.positions[:n, : self._n_keys]))
        self._where: dict[torch.device, tuple[Tensor, ...]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        at = self.layout_on(q.device)
        if q.device not in self._where:
            self._where[q.device] = tuple(x.to(q.device) for x in (self._slots, self._held, self._key_positions))
        slots, held, key_positions = self._where[q.device]
        keys, values = self.own.keys[layer], self.own.values[layer]
        keys[slots, :, held], values[slots, :, held] = k[:, :, 0], v[:, :, 0]
        n = len(slots)
        mine = keys[:n, :, : self._n_keys], values[:n, :, : self._n_keys]
        if implementation(q, values) == "reference":
            out, lse = see_few_keys(q, *mine, at.positions, key_positions, sees, how)
        else:
            rules = {"k_positions": key_positions, "sinks": how.sinks, **limits(at.positions, sees, how)}
            out, found = evidence_attention(q, *mine, q_positions=at.positions, **rules)
            lse = found.lse
        return beside_prefix(self, at, layer, flat(q), flat(out), flat(lse), sees, how)

    def written(self) -> None:
        """The forward is done: its keys count."""
        self.own.held[: len(self._slots)] += 1


def see_few_keys(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, key_positions: Tensor, sees: Visibility, how: Scoring
) -> tuple[Tensor, Tensor]:
    """Attention of one row a sequence, q [B, Hq, 1, D], to few keys, k [B, Hkv, m, D] at positions [B, m]: out, lse.

    What `evidence_attention` gives, without its walk over blocks of keys, which would be most of a step.
    """
    b, n_heads, _, d = q.shape
    dtype = torch.promote_types(q.dtype, torch.float32)
    rows = q.view(b, k.shape[1], -1, d).to(dtype)
    logits = (rows @ k.to(dtype).mT) * how.scale  # [B, Hkv, Hq / Hkv, m]
    if how.softcap is not None:
        logits = how.softcap * torch.tanh(logits / how.softcap)
    ahead = positions.view(b, 1) - key_positions
    visible = ahead >= 0
    if sees.window is not None:
        visible &= ahead < sees.window
    if sees.chunk is not None:
        visible &= key_positions >= sees.first_visible(positions).view(b, 1)
    logits = logits.masked_fill(~visible[:, None, None], -torch.inf)
    lse = logits.logsumexp(-1, keepdim=True)
    if how.sinks is not None:
        lse = torch.logaddexp(lse, how.sinks.to(dtype).view(1, k.shape[1], -1, 1))
    out = torch.exp(logits - lse) @ v.to(dtype)
    return out.view(b, n_heads, 1, v.shape[-1]).to(q.dtype), lse.view(b, n_heads, 1)


def beside_prefix(
    this: RowsBeside[SuffixRows],
    at: SuffixRows,
    layer: int,
    rows: Tensor,
    out: Tensor,
    lse: Tensor,
    sees: Visibility,
    how: Scoring,
) -> Tensor:
    """Attention of rows [1, Hq, R, D], of which `out` and `lse` are that to their own keys, also to the prefix."""
    if this.groups:
        out, _ = merge_attention_states(out, lse, *this.see_prefix(at, layer, rows, sees, how))
    n, width = at.ids.shape
    return out.view(-1, n, width, out.shape[-1]).transpose(0, 1)
