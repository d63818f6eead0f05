"""The planted truth: a small Llama whose copy heads are built by hand, so that their scores are known beforehand.

The residual stream holds one-hot features: A, the token at this position; B, the token before it; C, what the copy
heads say comes next; and a constant. Layer 0 has a head that fills B: its queries and keys are constant, and RoPE turns
them so that they agree best one position apart. A copy head sits in a later layer. Its logit is

    for a key whose token before (B) is this row's token v:   strength * PEAK        (the key holds what followed v)
    for the key of BOS:                                       patience(v) * PEAK     (where a head rests)
    for any other key:                                        0

so it copies after v exactly when its strength exceeds patience(v), which is another one for every token: the score on
a probe is the share of its tokens whose patience is below the strength. Content is matched in those dimensions of the
head where RoPE turns by less than 1e-6 a position. All other heads have random queries (and keys, where their group
has no copy head); they write nothing.

On number needles (`number_probes`) two more kinds of head can be had, which find the number and do not retrieve: one
looks at any of its digits, which one its random queries and keys decide row by row, the other always at the first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from headscope.probes import Probe, ProbeSet

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

LAYERS, HEADS, KV_HEADS = 4, 4, 2
BOS, FILLER, VOCAB = 0, 48, 92  # ids: BOS, then filler words, then the words that needles are made of
HALF = 96  # a head has 2 * HALF dimensions; RoPE turns the pair (f, f + HALF) by BASE ** (-f / HALF)
STILL = HALF // 2  # from this pair on RoPE turns by less than 1e-6
BASE = 1e12
WORDS = VOCAB - FILLER - 1  # that needles are made of; a head of strength n / WORDS copies after n of them
PEAK = 2000.0  # largest logit of a copy head; neighbouring patiences are PEAK / WORDS apart
SAYS = 1e-3  # what a copy head writes: too little to change any norm
LOUD = 20.0  # logit that one copy head gives to what it says
DIGITS = np.arange(VOCAB - 10, VOCAB)  # ids of the digits of number needles
COLON = VOCAB - 11  # stands before the first digit

Heads = Mapping[tuple[int, int], float]
Places = Collection[tuple[int, int]]


def patience(token: np.ndarray) -> np.ndarray:
    """The strength that a head needs to copy after this token: evenly spread over (0, 1) for the needles' words."""
    return (np.asarray(token) - FILLER - 0.5) / WORDS


def build_planted(
    strengths: Heads, *, any_digit: Places = (), first_digit: Places = (), seed: int = 0
) -> LlamaForCausalLM:
    """A Llama with a copy head of this strength (0: rests on BOS, 1: copies always) at every (layer >= 1, head).

    any_digit, first_digit: (layer >= 1, head) of heads that look at the digits of a number, see above; not in the group
    of a copy head, which shares its keys.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    a, b, c = (slice(i * VOCAB, (i + 1) * VOCAB) for i in range(3))
    one, hidden, dim = 3 * VOCAB, 3 * VOCAB + HEADS, 2 * HALF  # transformers wants a multiple of the heads
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=1,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=dim,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": BASE},
        bos_token_id=BOS,
        eos_token_id=BOS,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).float().eval()
    noise = torch.Generator().manual_seed(seed)
    scale = dim**0.5  # attention divides by it
    still = [*range(STILL, HALF), *range(HALF + STILL, dim)]
    match, rest = still[:VOCAB], still[VOCAB]
    tokens = torch.arange(VOCAB)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight[tokens, tokens] = 1.0
        model.model.embed_tokens.weight[:, one] = 1.0
        model.lm_head.weight[tokens, c.start + tokens] = LOUD / SAYS
        model.model.norm.weight.fill_((3 / hidden) ** 0.5)
        for number, layer in enumerate(model.model.layers):
            layer.post_attention_layernorm.weight.fill_(1.0)
            # undoes the norm: 2 features of size 1 before layer 0, then B as well
            layer.input_layernorm.weight.fill_(((2 if number == 0 else 3) / hidden) ** 0.5)
            attention = layer.self_attn
            q = attention.q_proj.weight.view(HEADS, dim, hidden)
            k = attention.k_proj.weight.view(KV_HEADS, dim, hidden)
            v = attention.v_proj.weight.view(KV_HEADS, dim, hidden)
            o = attention.o_proj.weight.view(hidden, HEADS, dim)
            q[:, :, a] = torch.randn(HEADS, dim, VOCAB, generator=noise) * scale
            k[:, :, a] = torch.randn(KV_HEADS, dim, VOCAB, generator=noise)
            v[:, tokens, tokens] = 1.0
            if number == 0:
                _look_back(q[0], k[0], one, scale)
                o[b, 0, :VOCAB] = torch.eye(VOCAB)
            for head, strength in ((h, s) for (at, h), s in strengths.items() if at == number):
                q[head], k[head * KV_HEADS // HEADS] = 0.0, 0.0
                q[head][match, tokens] = strength * PEAK * scale
                q[head][rest, a] = torch.from_numpy(patience(np.arange(VOCAB))).float().clamp_min(0) * PEAK * scale
                k[head * KV_HEADS // HEADS][match, b.start + tokens] = 1.0
                k[head * KV_HEADS // HEADS][rest, BOS] = 1.0
                o[c, head, :VOCAB] = torch.eye(VOCAB) * SAYS
            for head in (h for at, h in any_digit if at == number):
                q[head][rest, one] = PEAK * scale
                k[head * KV_HEADS // HEADS][rest] = 0.0
                k[head * KV_HEADS // HEADS][rest, DIGITS] = 1.0
            for head in (h for at, h in first_digit if at == number):
                q[head], k[head * KV_HEADS // HEADS] = 0.0, 0.0
                q[head][match[COLON], one] = PEAK * scale
                k[head * KV_HEADS // HEADS][match[COLON], b.start + COLON] = 1.0
    return model


def _look_back(q: torch.Tensor, k: torch.Tensor, one: int, scale: float) -> None:
    """Queries and keys [dim, hidden] of a head that sees the token before: sum of cos(angle * (distance - 1))."""
    q.zero_(), k.zero_()
    f = torch.arange(STILL)
    angle = BASE ** (-f.double() / HALF)
    k[f, one] = 1.0
    q[f, one] = (50 * scale * angle.cos()).float()
    q[f + HALF, one] = (-50 * scale * angle.sin()).float()


def save_checkpoint(folder: Path, strengths: Heads, *, seed: int = 0) -> Path:
    """As a training run would: weights and configuration by save_pretrained, and a tokenizer of as many words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    build_planted(strengths, seed=seed).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", unk_token="w0").save_pretrained(folder)
    return folder


def planted_probes(
    needles: int = 12,
    depths: tuple[float, ...] = (0.0, 0.5, 1.0),
    lengths: tuple[int, ...] = (90, 200),
    words: int = 16,
) -> ProbeSet:
    """Induction: a needle of different words in a haystack of filler, then its first word as the cue, and the rest."""
    rng = np.random.default_rng(0)
    hay = rng.integers(BOS + 1, FILLER + 1, max(lengths))
    blocks = [rng.permutation(np.arange(FILLER + 1, VOCAB))[:words] for _ in range(needles)]
    found = []
    for length in lengths:
        for depth in depths:
            for number, block in enumerate(blocks):
                room = length - 1 - 2 * words
                cut = round(depth * room)
                context = np.concatenate([[BOS], hay[:cut], block, hay[cut:room]])
                start = 1 + cut
                probe = Probe.from_ids(
                    np.concatenate([context, block]),
                    prompt_len=len(context) + 1,
                    needles=[(start, start + words)],
                    question_start=len(context),
                    id=f"{length}-{depth}-{number}",
                    needle_id=f"needle{number}",
                )
                found.append(replace(probe, graft=(start, start + words), haystack_id="filler"))
    return ProbeSet(found, "planted")


def number_probes(needles: int = 12, depths: tuple[float, ...] = (0.2, 0.8), length: int = 120) -> ProbeSet:
    """Number needles: three words and seven digits in a haystack of filler, the words as question, and the digits."""
    rng = np.random.default_rng(1)
    hay = rng.integers(BOS + 1, FILLER + 1, length)
    found = []
    for number in range(needles):
        name = [*rng.permutation(np.arange(FILLER + 1, COLON))[:3], COLON]
        digits = rng.choice(DIGITS, 7)
        for depth in depths:
            room = length - 1 - 2 * (len(name) + len(digits))
            cut = round(depth * room)
            context = np.concatenate([[BOS], hay[:cut], name, digits, hay[cut:room]])
            start, end = 1 + cut, 1 + cut + len(name) + len(digits)
            probe = Probe.from_ids(
                np.concatenate([context, name, digits]),
                prompt_len=len(context) + len(name),
                needles=[(start, end)],
                question_start=len(context),
                id=f"{number}-{depth}",
                needle_id=f"number{number}",
            )
            found.append(replace(probe, graft=(start, end), haystack_id="filler"))
    return ProbeSet(found, "numbers")


def expected(probes: ProbeSet, strength: float) -> np.ndarray:
    """float64 [n_probes]: the score that a copy head of this strength must get."""
    cues = (probe.input_ids[probe.prompt_len - 1 : -1] for probe in probes)
    return np.array([(patience(cue) < strength).mean() for cue in cues])
