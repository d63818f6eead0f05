"""Token sequences through a model, and what each of their tokens cost it; logits of a part of the rows at any time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...probes import Probe
from ..engine import PREFLIGHT_LENGTH, Engine, PrefixPass, Progress, may_be_cut, preflight, unit_of
from ..model import Adapter, PrefixCache, running
from .texts import Texts

LOGITS = 1 << 27  # of one forward: 512 MiB in float32, or 256 MiB as a half-precision model gives them
LOGITS_ON_CPU = 1 << 24  # where short chunks are as fast
IN_FLOAT32 = 1 << 22  # logits that are in float32 at a time: 16 MiB


@contextmanager
def begin(model: Adapter, texts: Texts, chunk: int, progress: Progress | None) -> Iterator[TokenEngine]:
    """An engine inside the model's routing, after the preflight. Errors: see `preflight`."""
    start = texts.ids(texts.documents[0], texts.windows(texts.documents[0])[0])
    where = {"prompt_len": PREFLIGHT_LENGTH - 4, "needles": [(5, 9)], "id": "text"}
    probe = Probe.from_ids(np.resize(start, PREFLIGHT_LENGTH), **where)  # type: ignore[arg-type]
    alone, attention = preflight(model, probe), model.attention()
    most = (LOGITS_ON_CPU if model.device.type == "cpu" else LOGITS) // model.n_logits
    with model.routed(texts.lengths[-1]):
        engine = TokenEngine(model, (), chunk=min(chunk, unit_of(most)), progress=progress)
        engine.alone_because, engine.attention = alone, attention
        engine.cache = PrefixCache(texts.lengths[-1])
        engine.cut_alone = alone is not None and may_be_cut(model, probe)
        yield engine


@dataclass
class TokenEngine(Engine):
    """Runs sequences, without probes. Use inside `begin`."""

    alone_because: str | None = None
    attention: str = ""
    cache: PrefixCache | None = None

    def nll(self, ids: np.ndarray) -> np.ndarray:
        """float32 [n - 1]: the negative log-likelihood of every token of ids [n] but the first, in nats."""
        n = len(ids)
        pieces = self.in_pieces(n) if self.alone_because else nullcontext()
        if pieces is not None:
            with pieces:
                return self._in_chunks(ids)
        # One forward cannot be cut; its rows can, where their logits are too many: then it is run once more for each.
        parts = [(start, min(start + self.chunk, n - 1)) for start in range(0, n - 1, self.chunk)]
        found = [self.in_one("a text", n, partial(self._rows, ids, 0, n, None, *part), {}) for part in parts]
        self.tick(n, "texts")
        return np.concatenate(found)

    def last_logprobs(self, ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """float32 [B]: the log-likelihood of a token behind each of the sequences ids [B, m], run side by side."""
        self.forget_lengths()
        with running(PrefixPass()):
            tokens = self._tensor(ids)
            positions = torch.arange(ids.shape[1], device=tokens.device).expand_as(tokens)
            last = torch.arange(1, len(ids) + 1, device=tokens.device) * ids.shape[1] - 1
            logits = self.model.forward(tokens, positions, None, last)
        return -_nll(logits, self._tensor(targets)).cpu().numpy()

    def _in_chunks(self, ids: np.ndarray) -> np.ndarray:
        assert self.cache is not None
        cache, n, found = self.cache, len(ids), []
        cache.length = 0
        while cache.length < n - 1:
            start, end = cache.length, self._chunk_end(cache.length, n - 1)
            rows = self.retry(partial(self._rows, ids, start, end, cache, 0, end - start))
            if rows is None:
                continue  # the chunk is smaller now, and writing it again is harmless
            found.append(rows)
            cache.length = end
            self.tick(end - start, "texts")
        self.tick(1, "texts")  # the last token predicts nothing
        return np.concatenate(found)

    def _rows(
        self, ids: np.ndarray, start: int, end: int, cache: PrefixCache | None, first: int, last: int
    ) -> np.ndarray:
        """Run tokens [start, end), and return the loss of those behind the rows [first, last) of these."""
        with running(PrefixPass(cache, None, None, unit_of(self.chunk))):
            tokens = self._tensor(ids[start:end])[None]
            positions = torch.arange(start, end, device=tokens.device)[None]
            rows = torch.arange(first, last, device=tokens.device)
            logits = self.model.forward(tokens, positions, cache, rows)
        return _nll(logits, self._tensor(ids[start + first + 1 : start + last + 1])).cpu().numpy()


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    """float32 [A] from logits [A, V] and token ids [A], a few rows at a time."""
    targets, found = targets.to(logits.device), []
    at_once = max(1, IN_FLOAT32 // logits.shape[1])
    for part, wanted in zip(logits.split(at_once), targets.split(at_once), strict=True):
        wide = part.to(torch.promote_types(part.dtype, torch.float32))
        found.append(wide.logsumexp(dim=-1) - wide.gather(-1, wanted[:, None])[:, 0])
    return torch.cat(found).float()
