"""One probe's answers by itself, in the model's own cache: what nothing has to be known of a model's state for."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels import evidence_attention
from ...probes import Probe
from ..model import Adapter, GoesOn, Scoring, Visibility, running
from .engine import Engine
from .passes import causal, limits
from .writing import Asked, Decoded, choose


class OwnCachePass:
    """Rows from position `start` on, of a sequence whose keys the model's own cache keeps, perhaps only the last."""

    def __init__(self, start: int):
        self.start = start

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, sees: Visibility, how: Scoring) -> Tensor:
        if sees.chunk is None:
            return causal(q, k, v, sees, how)
        end = self.start + q.shape[2]
        rows, keys = (torch.arange(end - x.shape[2], end, device=q.device) for x in (q, k))
        return evidence_attention(
            q, k, v, q_positions=rows, k_positions=keys, sinks=how.sinks, **limits(rows, sees, how)
        )[0]


def answer_alone(engine: Engine, probe: Probe, asked: Asked) -> list[Decoded]:
    """The probe's answers, one after the other: what the model's own `generate` would write."""
    model, n = engine.model, probe.prompt_len
    what = f"the prompt of probe {probe.id!r}"
    ends = model.keys_last if isinstance(model, GoesOn) else None
    first, state = _start(engine, probe.input_ids[:n], what)
    engine.tick(n, "prompts")
    answers = asked.answers(probe)
    for answer in answers:
        if answer.number:
            engine.forget_lengths()
        kept = state if answer is answers[-1] else deepcopy(state)
        over = answer.take(*choose(first, [answer])[0])
        while not over:
            written = len(answer.ids)
            if n + written - 1 == ends:
                logits, kept = _start(engine, np.concatenate([probe.input_ids[:n], answer.ids]), what)
            else:
                token = torch.tensor([[answer.ids[-1]]], device=model.device)
                logits, kept = _go_on(model, token, n + written - 1, kept)
            over = answer.take(*choose(logits, [answer])[0])
        engine.tick(asked.limit(probe), "answers")
    return [answer.done() for answer in answers]


def _start(engine: Engine, tokens: np.ndarray, what: str) -> tuple[Tensor, Any]:
    """Run a sequence from its beginning: in one forward, or in chunks where `engine.in_pieces` says that it may be."""
    model, n = engine.model, len(tokens)
    ids = torch.from_numpy(tokens.astype(np.int64))[None].to(model.device)
    if (pieces := engine.in_pieces(n)) is None:
        return engine.in_one(what, n, lambda: _go_on(model, ids, 0, None), {})
    with pieces:
        state: Any = None
        for start in range(0, n, engine.chunk):
            logits, state = _go_on(model, ids[:, start : start + engine.chunk], start, state)
    return logits, state


def _go_on(model: Adapter, ids: Tensor, start: int, state: Any) -> tuple[Tensor, Any]:
    """Logits [1, vocabulary] behind these tokens [1, m], which follow those that `state` stands for; and the new state.

    An adapter that has no cache of its own runs the whole sequence again for every token.
    """
    if not isinstance(model, GoesOn):
        ids, start = ids if state is None else torch.cat([state, ids], dim=1), 0
    rows = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
    with running(OwnCachePass(start)):
        if isinstance(model, GoesOn):
            return model.go_on(ids, rows, state)
        return model.forward(ids, rows, None, torch.tensor([ids.shape[1] - 1], device=ids.device)), ids
