"""Every kernel once, small and with every option, for compute-sanitizer to watch."""

from __future__ import annotations

from typing import Any

import torch

from headscope.kernels import evidence_attention, row_evidence, row_evidence_paged


def main(device: str = "cuda", n: int = 300, dim: int = 80) -> None:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    rows = n // 3
    q = torch.randn(2, 4, rows, dim, device=device).to(dtype)
    cache = torch.randn(2, n + 7, 2, 2, dim, device=device).to(dtype)  # a view of it ends where the cache goes on
    k, v = (cache[:, :n, i].transpose(1, 2) for i in (0, 1))
    at = torch.arange(n - rows, n, device=device)
    spans = torch.tensor([[0, 4], [n // 2, n // 2 + 20], [n - 3, n + 50]], device=device).expand(2, 3, 2)
    every: tuple[dict[str, Any], ...] = (
        {},
        {"window": n // 4, "softcap": 20.0, "sinks": torch.zeros(4, device=device), "key_limits": at - 2},
        {"causal": False, "key_starts": at // 2},
    )
    for options in every:
        row_evidence(q, k, q_positions=at, spans=spans, topk=3, impl="triton", **options)
        evidence_attention(q, k, v, q_positions=at, spans=spans, impl="triton", **options)
    most = -(-n // 16)
    pages = torch.randn(2 * most, 16, 2, dim, device=device).to(dtype)
    table = torch.arange(2 * most, device=device, dtype=torch.int32).view(2, most)
    lens = torch.tensor([n, n // 2], device=device)
    row_evidence_paged(q, pages, block_table=table, seq_lens=lens, spans=spans, impl="triton")
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
