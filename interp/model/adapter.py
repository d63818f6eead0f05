"""The adapter: all that headscope asks of a model. For another kind of model write one; `adapt` takes it as it is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from .output_weights import OutputWeights
from .prefix_cache import PrefixCache


@runtime_checkable
class Adapter(Protocol):
    """A causal language model, run row by row with exact positions.

    Nothing outside `interp/model` knows more of a model than this. `HuggingFaceModel` is the one to read.
    """

    @property
    def name(self) -> str:
        """What the model is called in messages and in provenance."""

    @property
    def n_layers(self) -> int: ...

    @property
    def n_kv_heads(self) -> int: ...

    @property
    def n_embeddings(self) -> int:
        """Rows of the input embedding: token ids must be smaller."""

    @property
    def n_logits(self) -> int:
        """Logits of one row, for the size of a batch."""

    @property
    def context(self) -> int | None:
        """Longest sequence that the model is made for, in tokens, or None when that is not known."""

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""

    @property
    def ends(self) -> set[int]:
        """Token ids that end a generated text."""

    def attention(self) -> str:
        """The attention implementation that the model is set to, for provenance."""

    def alone_because(self) -> str | None:
        """Why probes of this model cannot share a prefill, in words, or None when they can."""

    def as_defined(self) -> AbstractContextManager[None]:
        """Inside, the model computes as its authors define it, with materialised attention: what ours is held against.

        Also in eval mode, as `routed` is.
        """

    def routed(self, length: int) -> AbstractContextManager[None]:
        """Inside, every layer asks the running pass (`attention.running`) for its attention.

        Args:
            length: of the longest sequence that is run.

        Raises CaptureError when the model does not let its attention be reached.
        """

    def forward(self, ids: Tensor, positions: Tensor, cache: PrefixCache | None, rows: Tensor) -> Tensor:
        """Run tokens and return the logits of some rows.

        Args:
            ids, positions: int64 [B, m].
            cache: where keys go, or None to keep none.
            rows: int64 [A], indices into the flattened [B * m] rows. A is 0 where only the keys are wanted.

        Returns:
            Logits [A, vocabulary]; no other row's logits are computed.
        """

    def reset_dynamic_rope(self) -> None:
        """Make the model forget how long the sequences before were, where it remembers that."""


@runtime_checkable
class InPieces(Protocol):
    """What an adapter may have besides: long probes of models that run each alone are then run in chunks."""

    def in_pieces(self, length: int) -> AbstractContextManager[None] | None:
        """Inside, parts of a sequence of `length` tokens, run one after the other with their keys kept, are what they
        are in one forward of it all. None where this model's sequences cannot be cut.
        """


@runtime_checkable
class ShowsOutput(Protocol):
    """What an adapter may have besides: estimators of what heads write to the logits have numbers then."""

    def output_weights(self) -> OutputWeights:
        """Output projections and unembedding, called inside `routed`. Raises CaptureError where they cannot be had."""


@runtime_checkable
class GoesOn(Protocol):
    """What an adapter may have besides: answers of models whose probes run alone then cost a row for every token."""

    @property
    def keys_last(self) -> int | None:
        """A sequence that grows beyond so many tokens is run again as a whole, for its keys are others; None: never."""

    def go_on(self, ids: Tensor, positions: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run tokens of one sequence in the model's own cache, behind those that `state` stands for.

        Args:
            ids, positions: int64 [1, m].
            state: what the call before returned, which may be written to; None at the start of a sequence.

        Returns:
            Logits [1, vocabulary] of the last row, and the new state. It can be deep-copied.
        """
