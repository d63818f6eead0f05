"""What does the reference's evidence of R rows cost beside the bare float32 matrix product of the same rows?

    python -m benchmarks.rows

CPU. The product is one `torch.matmul` of the folded rows with all keys, [Hkv, G * R, D] @ [Hkv, D, N], which writes
every score to memory; `row_evidence` keeps a block of them. Alternating, for a second and at least so many repeats,
best of each. That scratch does not grow with the keys is a test, tests/kernels/test_memory.py, which counts bytes.
"""

from __future__ import annotations

import argparse
from time import perf_counter
from typing import Any

import torch

from headscope.kernels import row_evidence

from .machine import machine, one_line, write_results
from .smollm2 import say

# rows, query heads, key-value heads, head dim, keys
CASES = ((1600, 9, 3, 64, 4096), (1600, 9, 3, 64, 16384), (640, 32, 8, 128, 4096), (40, 9, 3, 64, 4096))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=7)
    options = arguments.parse_args()
    found = machine()
    say(one_line(found))
    say(f"{'rows':>6} {'heads':>7} {'dim':>4} {'keys':>6} {'product ms':>11} {'evidence ms':>12} {'ratio':>6}")
    rows: list[dict[str, Any]] = []
    generator = torch.Generator().manual_seed(0)
    for r, hq, hkv, dim, n in CASES:
        q = torch.randn(1, hq, r, dim, generator=generator)
        k = torch.randn(1, hkv, n, dim, generator=generator)
        folded, at = q.view(hkv, hq // hkv * r, dim), torch.full((r,), n)
        product, evidence = [], []
        while len(product) < options.repeats or sum(evidence) < 1:
            began = perf_counter()
            torch.matmul(folded, k[0].mT)
            middle = perf_counter()
            row_evidence(q, k, q_positions=at)
            product.append(middle - began)
            evidence.append(perf_counter() - middle)
        a, b = min(product) * 1e3, min(evidence) * 1e3
        rows.append({"rows": r, "hq": hq, "hkv": hkv, "dim": dim, "keys": n, "product_ms": a, "evidence_ms": b})
        say(f"{r:6} {f'{hq}/{hkv}':>7} {dim:4} {n:6} {a:11.1f} {b:12.1f} {b / a:6.2f}")
    say(write_results("rows", {"rows": rows}, found).name)


if __name__ == "__main__":
    main()
