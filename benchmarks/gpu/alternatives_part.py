"""What one would use without headscope: time, and memory above the inputs; out of memory is a result too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from headscope.kernels import row_evidence

from .inputs import heads, qkv
from .record import OUT_OF_MEMORY, Record
from .stage import Stage, out_of_memory

GIB = 1 << 30


def run(stage: Stage, record: Record) -> None:
    for rows in (32, 128) if not stage.toy else (32,):
        for n in (32 << 10, 128 << 10, 256 << 10) if not stage.toy else (64,):
            _rows_only(stage, record, stage.size(rows, 3), n)
            stage.free()
    for n in (4 << 10, 8 << 10, 16 << 10, 32 << 10) if not stage.toy else (32,):
        _measure(stage, record, f"Hugging Face eager output_attentions, one layer, {n >> 10}K", _eager_layer(stage, n))
        stage.free()
    _flex(stage, record)


def _rows_only(stage: Stage, record: Record, rows: int, n: int) -> None:
    q, k, _ = qkv(stage, rows, n)
    at = torch.full((rows,), n, device=q.device)
    name = f"{rows} rows x {n >> 10}K"
    ours = _measure(stage, record, f"row_evidence, {name}", lambda: row_evidence(q, k, q_positions=at, impl="triton"))
    eager = _measure(stage, record, f"eager product of the rows (QRHead), {name}", lambda: _eager_rows(q, k))
    if ours and eager:
        record.add(f"eager / row_evidence, {name}", eager / ours, "x")


def _eager_rows(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the rows with repeated keys, softmax in float32, and what is read off it."""
    scores = q @ k.repeat_interleave(q.shape[1] // k.shape[1], dim=1).mT * q.shape[-1] ** -0.5
    p = scores.softmax(dim=-1, dtype=torch.float32)
    top, at = p.max(dim=-1)
    return top, at, scores.float().logsumexp(dim=-1)


def _eager_layer(stage: Stage, n: int) -> Callable[[], Any]:
    """One layer of an 8B-shaped model with attention maps, as transformers hands them out."""
    from transformers import LlamaConfig, LlamaForCausalLM

    hq, hkv, dim = heads(stage)
    hidden = hq * dim
    config = LlamaConfig(
        vocab_size=128, hidden_size=hidden, intermediate_size=hidden, num_hidden_layers=1, num_attention_heads=hq,
        num_key_value_heads=hkv, max_position_embeddings=n, attn_implementation="eager",
    )  # fmt: skip
    with stage.device:
        model = LlamaForCausalLM(config).to(stage.dtype).eval()
        ids = torch.arange(n)[None] % 128

    @torch.no_grad()
    def call() -> Any:
        return model(ids, use_cache=False, logits_to_keep=1, output_attentions=True).attentions[0].argmax(-1)

    return call


def _flex(stage: Stage, record: Record) -> None:
    """FlexAttention's log-sum-exp and highest score; it has no index of the key."""
    try:
        from torch.nn.attention.flex_attention import AuxRequest, flex_attention
    except ImportError as error:
        record.add("FlexAttention LSE", problem=f"not in this torch ({error})"[:80])
        return
    flex: Any = flex_attention
    compiled: Any = flex if stage.toy else torch.compile(flex, dynamic=False)
    aux = AuxRequest(lse=True)
    for n in (32 << 10, 256 << 10) if not stage.toy else (64,):
        q, k, v = qkv(stage, stage.size(32, 3), n)

        def call(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Any:
            return compiled(q, k, v, enable_gqa=True, return_aux=aux)

        _measure(stage, record, f"FlexAttention with LSE, {q.shape[2]} rows x {n >> 10}K", call)
        stage.free()


@torch.no_grad()
def _measure(stage: Stage, record: Record, what: str, call: Callable[[], Any]) -> float | None:
    """Record milliseconds and peak memory; None when it cannot be done."""
    try:
        ms = stage.ms(call, repeats=5, seconds=1.0)
        with stage.memory() as peak:
            call()
    except Exception as error:  # another's code, asked for more than it can do: that is the row
        problem = OUT_OF_MEMORY if out_of_memory(error) else f"failed: {type(error).__name__}"
        detail = {"error": str(error)[:400]}
        record.add(what, problem=problem, detail=detail)
        return None
    record.add(what, ms, "ms", detail={"peak_bytes": peak[0]})
    record.add(f"{what}, memory", peak[0] / GIB, "GiB")
    return ms
