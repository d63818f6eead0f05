"""The loss of a long sequence without its [tokens, vocabulary] logits, and what it costs to learn from it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

CHUNK = 4096  # rows of logits at a time: 0.8 GB in float32 for a vocabulary of 49,152


def token_losses(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Next-token losses in nats, float32 [tokens - 1], of one sequence `ids` int64 [tokens].

    Logits are made CHUNK rows at a time, and made again when gradients need them.
    """
    hidden = model.model(ids[None, :-1], use_cache=False).last_hidden_state[0]
    parts = zip(hidden.split(CHUNK), ids[1:].split(CHUNK), strict=True)
    return torch.cat([checkpoint(_head_loss, model, part, wanted, use_reentrant=False) for part, wanted in parts])


def _head_loss(model: PreTrainedModel, hidden: Tensor, wanted: Tensor) -> Tensor:
    return cross_entropy(model.lm_head(hidden).float(), wanted, reduction="none")


def flops_per_token(model: PreTrainedModel, length: int) -> float:
    """Floating-point operations of forward and backward, a token, in sequences of `length` tokens.

    Six for every weight, and for causal attention, where half of the keys are seen, 3.5 times two products of 2 x
    width x length / 2 in every layer (backward by FlashAttention is 2.5 forwards: Dao 2023, arXiv:2307.08691).
    """
    config = model.config
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    weights += config.hidden_size * config.vocab_size  # the head; looking up an embedding costs nothing
    if not config.tie_word_embeddings:
        weights -= model.lm_head.weight.numel()
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 2 * length * config.num_attention_heads * head_dim * config.num_hidden_layers
    return 6.0 * weights + 3.5 * attention
