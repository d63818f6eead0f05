"""Tiny random models, one per way a model can compute attention: quick to run, peaky enough to tell heads apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VOCAB = 199
WINDOW = 32
"""Sliding window (or chunk) of the families that have one: a row sees its own key and the 31 before it."""

FAMILIES = (
    *("llama", "qwen3", "mistral", "gemma3_text", "gemma2", "gpt_oss"),
    *("gpt_neox", "hunyuan_v1_moe", "qwen3_moe", "llama4_text", "gpt2", "deepseek_v3", "qwen2_moe"),
)
"""Attention goes through transformers' attention interface, and positions do not depend on the total length."""

WINDOWED = ("mistral", "gemma3_text", "gemma2", "gpt_oss", "llama4_text")
"""Those of FAMILIES where some or all layers see a sliding window (llama4_text: a chunk) of WINDOW keys."""

LENGTH_DEPENDENT = ("llama_dynamic", "llama_longrope", "phi3_longrope")
"""RoPE changes with the total length (beyond 64 tokens here), so a prefix's keys may not be shared between lengths.
llama_dynamic also remembers the longest sequence it has seen, until a call below 64 tokens resets it."""

LINEAR = ("qwen3_next", "jamba")
"""Most layers keep a recurrent state instead of keys; one of the four is full attention (layer 3; jamba: layer 2)."""

BYPASSING = ("mpt", "bloom")
"""Attention is computed without asking the interface."""

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_OLD_SHAPE: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_SLIDING_THEN_FULL = ["sliding_attention", "full_attention"] * 2
# 64 tokens of "original" context, so that short test sequences already cross the border.
_LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 64,
    "factor": 64.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 1.5, 2.0, 4.0],
}

# name -> (model_type, fields beside the common shape, whether the common shape's names fit)
_CONFIGS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "llama": ("llama", {}, True),
    "qwen3": ("qwen3", {}, True),
    "mistral": ("mistral", {"sliding_window": WINDOW}, True),
    "gemma3_text": (
        "gemma3_text",
        {
            "num_hidden_layers": 6,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
            "query_pre_attn_scalar": 8,
        },
        True,
    ),
    "gemma2": (
        "gemma2",
        {
            "sliding_window": WINDOW,
            "layer_types": _SLIDING_THEN_FULL,
            "query_pre_attn_scalar": 8,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 30.0,
        },
        True,
    ),
    "gpt_oss": (
        "gpt_oss",
        {
            "sliding_window": WINDOW,
            "layer_types": _SLIDING_THEN_FULL,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        True,
    ),
    "gpt_neox": ("gpt_neox", {}, True),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", {"num_experts": 4, "moe_topk": 2}, True),
    "qwen3_moe": ("qwen3_moe", _MOE, True),
    "llama4_text": (
        "llama4_text",
        {
            "attention_chunk_size": WINDOW,
            "layer_types": ["chunked_attention", "chunked_attention", "chunked_attention", "full_attention"],
            "no_rope_layers": [1, 1, 1, 0],
            "floor_scale": 16,  # queries are scaled up every so many tokens, so much: 8192 and 0.1 in the models
            "attn_scale": 10.0,
            "intermediate_size_mlp": 96,
            "num_local_experts": 4,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
        },
        True,
    ),
    "deepseek_v3": (  # latent attention: latents in the cache, a key for every head, values of another size
        "deepseek_v3",
        {
            "num_key_value_heads": 8,
            "q_lora_rank": 32,
            "kv_lora_rank": 24,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 8,
            "v_head_dim": 12,
            "first_k_dense_replace": 2,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 32,
        },
        True,
    ),
    # makes a mask of a window of 0, under which nothing is seen, and no layer uses it
    "qwen2_moe": ("qwen2_moe", {**_MOE, "shared_expert_intermediate_size": 32}, True),
    "gpt2": ("gpt2", {"n_embd": 64, "n_layer": 4, "n_head": 8, "n_positions": 512}, False),
    "llama_dynamic": (
        "llama",
        {
            "max_position_embeddings": 64,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
        True,
    ),
    "llama_longrope": ("llama", {"rope_parameters": _LONGROPE}, True),
    "phi3_longrope": (
        "phi3",
        {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 64, "sliding_window": None},
        True,
    ),
    "qwen3_next": (
        "qwen3_next",
        {
            **_MOE,
            "shared_expert_intermediate_size": 32,
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
        True,
    ),
    "jamba": (
        "jamba",
        {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "attn_layer_period": 4,
            "attn_layer_offset": 2,
            "mamba_d_state": 8,
            "mamba_expand": 1,
            "mamba_dt_rank": 8,
            "use_mamba_kernels": False,
        },
        True,
    ),
    "mpt": ("mpt", {"d_model": 64, "n_heads": 8, "n_layers": 4, "expansion_ratio": 2, "max_seq_len": 512}, False),
    "doge": ("doge", {}, True),
    "bart": ("bart", {"d_model": 64, "encoder_layers": 2, "decoder_layers": 4, "decoder_attention_heads": 8}, False),
    "bloom": ("bloom", {"hidden_size": 64, "n_layer": 4, "n_head": 8}, False),
}

ALL = tuple(_CONFIGS)

_QUERY_KEY = ("q_proj", "k_proj", "qkv", "query_key_value", "c_attn")
_QUERY_KEY_NORM = ("q_norm", "k_norm", "query_layernorm", "key_layernorm")


def build(name: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A seeded random causal LM of the named family: float32, CPU, eval, 4 layers x 8 heads (2 KV heads), head_dim 8.

    Weight matrices are multiplied by 6, and what makes queries and keys once more by 2, so that attention is peaky and
    its argmax is no coin toss. `changes` override config fields, e.g. `build("llama", num_hidden_layers=2)`.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model_type, fields, common = _CONFIGS[name]
    config = AutoConfig.for_model(model_type, **{**(_SHAPE if common else _OLD_SHAPE), **fields, **changes})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        for full_name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(6.0)
            elif full_name.endswith("sinks"):
                parameter.normal_(3.0, 2.0)  # of the order of a row's log-sum-exp, so that they matter
            elif not parameter.any():
                # Biases and zero-centred norms start at 0, where a forgotten one would go unnoticed.
                parameter.normal_(0.0, 0.3)
            if any(part in full_name for part in _QUERY_KEY + _QUERY_KEY_NORM):
                # A zero-centred norm multiplies by 1 + weight.
                parameter.add_(1.0) if "gemma" in name and "norm" in full_name else parameter.mul_(2.0)
    return model
