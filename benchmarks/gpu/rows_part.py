"""row_evidence: R rows against N keys, beside what reading the keys, the products and the exponentials need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from headscope.kernels import first_use, row_evidence

from .backends import prefill_ms
from .inputs import heads, qkv
from .record import Record
from .stage import Stage

FEW = 32  # rows of one probe's answer
MIB = 1 << 20


def run(stage: Stage, record: Record) -> None:
    n = stage.size(256 << 10, 128)
    measured = _few_rows(stage, record, n)
    for rows in (stage.size(r, 3 + i) for i, r in enumerate((128, 1024, 8192))):
        for keys in (stage.size(k << 10, 32) for k in ((8, 32, 128, 256, 1024) if not stage.toy else (1,))):
            _against_the_roofline(stage, record, rows, keys)
    _options(stage, record, n)
    _share_of_a_prefill(stage, record, n, measured)


def _few_rows(stage: Stage, record: Record, n: int) -> float:
    hq, hkv, dim = heads(stage)
    q, k, _ = qkv(stage, stage.size(FEW, 3), n)
    call = _call(q, k)
    ms = stage.graph_ms(call, cold=True)
    share = k.nbytes / (ms / 1e3) / stage.bandwidth
    detail = {"ms": ms, "hq": hq, "hkv": hkv, "dim": dim, "keys": n}
    record.add(f"{FEW} rows x {n >> 10}K keys, of the copy bandwidth", share, "", at_least=0.85, detail=detail)
    record.add(f"{FEW} rows x {n >> 10}K keys", ms * 1e3, "us")
    record.add(f"{FEW} rows x {n >> 10}K keys, launched one by one", stage.ms(call, cold=True) * 1e3, "us")
    first_use.forget()
    first, again = (stage.wall(call)[0] for _ in range(2))
    record.add(f"{FEW} rows x {n >> 10}K keys, comparing the first call of a kind", (first - again) * 1e3, "ms")
    small = _call(q, k[:, :, : stage.size(8 << 10, 32)])
    record.add(f"{FEW} rows x 8K keys", stage.graph_ms(small, cold=True) * 1e3, "us")
    calls = stage.size(100, 1)
    host, _ = stage.wall(lambda: [small() for _ in range(calls)])
    record.add(f"{FEW} rows x 8K keys, one call after another", host / calls * 1e6, "us")
    return ms


def _against_the_roofline(stage: Stage, record: Record, rows: int, n: int) -> None:
    hq, hkv, dim = heads(stage)
    q, k, _ = qkv(stage, rows, n)
    call = _call(q, k)
    ms = stage.graph_ms(call, cold=True, seconds=1.0)
    bounds = {
        "bytes": (k.nbytes + q.nbytes) / stage.bandwidth * 1e3,
        "products": 2 * rows * hq * dim * n / stage.flops * 1e3,
        "exponentials": rows * hq * n / stage.exps * 1e3,
    }
    name = f"{rows} rows x {n >> 10}K keys"
    by = max(bounds, key=lambda bound: bounds[bound])
    detail = {"ms": ms, "floor_ms": bounds, "bound_by": by}
    record.add(f"{name} / roofline ({by})", ms / bounds[by], "x", at_most=1.3, detail=detail)
    with stage.memory() as peak:
        found = call()
    kept = sum(x.nbytes for x in (found.lse, found.argmax_key, found.max_logit, found.span_mass))
    record.add(f"{name}, scratch", max(0, peak[0] - kept) / MIB, "MiB", at_most=64)
    del q, k, found, call
    stage.free()


def _options(stage: Stage, record: Record, n: int) -> None:
    """What the rest costs beside the plain call: spans, and the eight highest keys."""
    q, k, _ = qkv(stage, stage.size(FEW, 3), n)
    spans = torch.tensor([[[0, 4], [n // 2, n // 2 + 22], [n - 64, n]]], device=q.device)
    name = f"{FEW} rows x {n >> 10}K keys"
    record.add(f"{name}, three spans", stage.graph_ms(_call(q, k, spans=spans), cold=True) * 1e3, "us")
    record.add(f"{name}, top 8, launched one by one", stage.ms(_call(q, k, topk=8), cold=True) * 1e3, "us")


def _share_of_a_prefill(stage: Stage, record: Record, n: int, rows_ms: float) -> None:
    q, k, v = qkv(stage, n, n)
    found = prefill_ms(stage, q, k, v, repeats=3)
    if not found:
        record.add("share of the layer's prefill", problem="no SDPA backend takes it")
        return
    name = min(found, key=lambda backend: found[backend])
    detail = {"prefill_ms": found}
    share = 100 * rows_ms / found[name]
    record.add(f"{FEW} rows, of the {n >> 10}K prefill ({name})", share, "%", at_most=0.05, detail=detail)


def _call(q: torch.Tensor, k: torch.Tensor, **options: Any) -> Callable[[], Any]:
    at = torch.full((q.shape[2],), k.shape[2], device=q.device)
    return lambda: row_evidence(q, k, q_positions=at, impl="triton", **options)
