"""evidence_attention beside the same kernel without evidence, and beside torch's own backends; causal, all rows."""

from __future__ import annotations

from functools import partial

import torch

from headscope.kernels import evidence_attention as reference
from headscope.kernels.dispatch_log import recording
from headscope.kernels.gpu import configs
from headscope.kernels.gpu.evidence_attention import evidence_attention
from headscope.kernels.gpu.kernel_args import KernelArgs
from headscope.kernels.sdpa import attend, cudnn, flash

from .backends import prefill_ms
from .inputs import like_a_model, problem, qkv
from .record import Record
from .stage import Stage


def run(stage: Stage, record: Record) -> None:
    _cold_prefill(stage, record)
    stage.free()
    lengths = (32,) if stage.toy else tuple(n << 10 for n in (8, 16, 32, 64, 128))
    for n in lengths:
        _causal(stage, record, n)
        stage.free()
    _worst_case(stage, record, lengths[0])
    _against_float64(stage, record, stage.size(4096, 16), stage.size(128 << 10, 96))
    stage.free()
    _chunk(stage, record, stage.size(4096, 16), stage.size(256 << 10, 96))
    _window(stage, record, stage.size(4096, 16), stage.size(64 << 10, 96))


def _cold_prefill(stage: Stage, record: Record) -> None:
    """A layer's prefill in chunks, in a process that has run no attention: with the plans that cuDNN makes."""
    n, rows = stage.size(256 << 10, 96), stage.size(4096, 16)
    q, k, v = qkv(stage, rows, n)

    def prefill() -> None:
        for end in range(rows, n + 1, rows):
            attend(q, k[:, :, :end], v[:, :, :end])

    with recording() as ran:
        cold, _ = stage.wall(prefill)
    warm, _ = stage.wall(prefill)
    name = f"one layer's prefill of {n >> 10}K by {rows}"
    record.add(f"{name}, the first", cold, "s", detail=dict(ran))
    record.add(f"{name}, again", warm, "s")
    record.add(f"{name}, plans and first looks", cold - warm, "s")


def _against_float64(stage: Stage, record: Record, rows: int, n: int) -> None:
    """torch's attention as the engine asks for it, at a length that no other test has."""
    q, k, v = like_a_model(stage, n)
    q = q[:, :, -rows:]
    out, lse = attend(q, k, v)
    some = torch.tensor(sorted({0, 1, rows // 3, rows // 2, rows - 1}), device=q.device)
    at, wide = some + n - rows, [x.double() for x in (q[:, :, some], k, v)]
    wanted, ev = reference(*wide, q_positions=at, impl="reference")
    magnitude, _ = reference(wide[0], wide[1], wide[2].abs(), q_positions=at, impl="reference")
    unit = torch.finfo(q.dtype).eps
    # weights and output are rounded to the dtype, and so are the parts that are merged
    off = (out[:, :, some].double() - wanted).abs() / (4 * unit * magnitude + unit * wanted.abs() + 1e-4)
    name = f"{rows} rows x {n >> 10}K, attend against float64"
    record.add(f"{name}, worst error of the output / limit", float(off.max()), "x", at_most=1)
    record.add(f"{name}, log-sum-exp", float((lse[:, :, some].double() - ev.lse).abs().max()), "nats", at_most=2e-3)


def _causal(stage: Stage, record: Record, n: int) -> None:
    q, k, v = like_a_model(stage, n)
    asked = problem(q, k, torch.arange(n, device=q.device))
    name = f"{n >> 10}K"
    blocks = _winning_blocks(evidence_attention(asked, v)[2], q, v)
    # by turns, so that a change of the clock meets both
    ours, bare = zip(*(_both(stage, asked, v) for _ in range(3)), strict=True)
    with_evidence, without = sorted(ours)[1], sorted(bare)[1]
    flops = 2 * 2 * q.shape[1] * q.shape[3] * n * (n + 1) / 2
    detail = {"ms": with_evidence, "without_ms": without, "winning_blocks_per_tile": blocks}
    record.add(f"{name}, ours", flops / with_evidence / 1e9, "TFLOP/s", detail=detail)
    at_most = 1.05 if n <= 8 << 10 else 1.01 if n >= 32 << 10 else None
    record.add(f"{name}, with / without evidence", with_evidence / without, "x", at_most=at_most, detail=detail)
    found = prefill_ms(stage, q, k, v, repeats=5)
    for backend, ms in found.items():
        record.add(f"{name}, SDPA {backend}", flops / ms / 1e9, "TFLOP/s", detail={"ms": ms})
    if found:
        fastest = min(found, key=lambda backend: found[backend])
        goal = 1.6 if stage.toy or configs.architecture(q.device) >= 90 else 1.15
        record.add(f"{name}, ours / fastest SDPA ({fastest})", with_evidence / found[fastest], "x", at_most=goal)


def _both(stage: Stage, asked: KernelArgs, v: torch.Tensor) -> tuple[float, float]:
    return (
        stage.ms(lambda: evidence_attention(asked, v), repeats=5, seconds=1.0),
        stage.ms(lambda: evidence_attention(asked, v, evidence=False), repeats=5, seconds=1.0),
    )


def _worst_case(stage: Stage, record: Record, n: int) -> None:
    q, k, v = qkv(stage, n, n)
    ours, bare = _both(stage, problem(q, k, torch.arange(n, device=q.device)), v)
    record.add(f"{n >> 10}K, with / without evidence, keys at random", ours / bare, "x")


def _chunk(stage: Stage, record: Record, rows: int, n: int) -> None:
    """A chunk of a prefill at its end: which backend should do the rows before their own square."""
    q, k, v = qkv(stage, rows, n)
    name = f"{rows} rows x {n >> 10}K keys"
    scale = q.shape[-1] ** -0.5
    if not stage.toy:
        for backend, kernel in (("cudnn", cudnn), ("flash", flash)):
            try:
                ms = stage.ms(partial(kernel, q, k, v, scale, False), repeats=5)
            except RuntimeError as error:
                record.add(f"{name}, SDPA {backend}", problem=str(error).splitlines()[0][:80])
            else:
                record.add(f"{name}, SDPA {backend}", ms, "ms")
    record.add(f"{name}, engine's choice", stage.ms(lambda: attend(q, k, v), repeats=5), "ms")
    asked = problem(q, k, torch.arange(n - rows, n, device=q.device))
    record.add(f"{name}, ours", stage.ms(lambda: evidence_attention(asked, v), repeats=5), "ms")


def _window(stage: Stage, record: Record, rows: int, n: int) -> None:
    """Sliding windows: ours in one launch, or put together from the causal squares of torch's backends."""
    from headscope.kernels import evidence_attention as public

    q, k, v = qkv(stage, rows, n)
    for window in (128, 1024, 4096) if not stage.toy else (8,):
        together = stage.ms(partial(attend, q, k, v, window=window), repeats=5)
        ours = stage.ms(partial(public, q, k, v, q_offset=n - rows, window=window, impl="triton"), repeats=5)
        detail = {"ours_ms": ours, "squares_ms": together}
        record.add(f"{rows} rows, window {window}, ours / squares of SDPA", ours / together, "x", detail=detail)


def _winning_blocks(at: torch.Tensor, q: torch.Tensor, v: torch.Tensor) -> float:
    """Mean number of different blocks that hold the best key of some row of a tile."""
    tile = configs.attention_tile(q, v)
    rows = at.shape[2] // tile.rows * tile.rows
    blocks = (at[:, :, :rows] // tile.keys).unflatten(2, (-1, tile.rows)).sort(-1).values
    return float((blocks.diff(dim=-1) != 0).sum(-1).float().mean() + 1)
