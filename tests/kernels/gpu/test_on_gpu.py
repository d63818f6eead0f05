"""The Triton kernels on a GPU against the whole attention map in float64, within what the dtype allows.

`HEADSCOPE_GPU_TESTS=toy TRITON_INTERPRET=1` runs the same tests small on a CPU.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import ragged
from headscope.kernels import RowEvidence, evidence_attention, key_mass, merge, row_evidence
from naive_attention import naive_map, naive_span_mass, naive_topk
from on_device import DEVICE, TOY, needs_gpu, real_only, size, toy_tiles  # noqa: F401

pytestmark = [pytest.mark.gpu, needs_gpu, pytest.mark.usefixtures("toy_tiles")]

# A product of two bfloat16 or float16 numbers is exact in float32; what is left is the order of adding D of them, where
# tensor cores drop bits of the smaller ones: a few units of float32, of the sum of magnitudes. float32 inputs go as
# three tf32 products, which lose 2^-21 or so of each.
UNITS = {torch.bfloat16: 8, torch.float16: 8, torch.float32: 32}
EPS = torch.finfo(torch.float32).eps
EXPONENT = 1e-5  # nats: exp2 and the sum of its results


def normal(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def qkv(
    dtype: torch.dtype, *, batch: int = 2, kv: int = 2, group: int = 4, rows: int = 70, n: int = 1000, dim: int = 128
) -> tuple[Tensor, Tensor, Tensor]:
    rows, n, dim = size(rows, min(rows, 5)), size(n, 90), size(dim, min(dim, 24))
    kv, group = size(kv, 1), size(group, min(group, 3))
    return (
        normal(batch, kv * group, rows, dim, seed=0, dtype=dtype),
        normal(batch, kv, n, dim, seed=1, dtype=dtype),
        normal(batch, kv, n, dim, seed=2, dtype=dtype),
    )


def exact(x: Tensor) -> Tensor:
    """Rounded to ten bits (eight in bfloat16): sums of products are exact in any order, and so is the highest key."""
    return x.mul(128).round().div(128)


def budget(q: Tensor, k: Tensor, scale: float | None) -> float:
    """Largest error of a logit, in nats."""
    raw = float(q.float().norm(dim=-1).max() * k.float().norm(dim=-1).max())
    return UNITS[q.dtype] * EPS * raw * (q.shape[-1] ** -0.5 if scale is None else scale) + EXPONENT


def check(q: Tensor, k: Tensor, v: Tensor, *, spans: Tensor | None = None, topk: int = 0, **options: Any) -> None:
    """Both kernels on DEVICE against the map, made on the CPU."""

    def there(x: Any) -> Any:
        return x.to(DEVICE) if isinstance(x, Tensor) else x

    raw, logits, p, lse, position = naive_map(q, k, **options)
    delta = budget(q, k, options.get("scale"))
    moved = {name: there(value) for name, value in options.items()}
    ev = row_evidence(there(q), there(k), spans=there(spans), topk=topk, impl="triton", **moved)
    out, fused = evidence_attention(there(q), there(k), there(v), spans=there(spans), impl="triton", **moved)
    for got in (ev, fused):
        compare(got, raw, logits, p, lse, position, spans, delta)
    if topk:
        key, value = naive_topk(raw, logits, position, topk)
        assert ev.topk_key is not None and ev.topk_logit is not None
        close(ev.topk_logit, value, delta)
        assert torch.equal(ev.topk_key[..., 0], ev.argmax_key)
        assert ((ev.topk_key.cpu() == key) | near_tie(value, delta)).all()
    values = v.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    unit = torch.finfo(q.dtype).eps  # weights and output are rounded to it
    close(out, p @ values, (unit + 4 * delta) * (p @ values.abs()) + unit * (p @ values).abs() + 1e-6)


def compare(
    got: RowEvidence,
    raw: Tensor,
    logits: Tensor,
    p: Tensor,
    lse: Tensor,
    position: Tensor,
    spans: Tensor | None,
    delta: float,
) -> None:
    close(got.lse, lse, delta)
    top = logits.amax(-1)
    close(got.max_logit, top, delta)
    close(got.p_max, p.amax(-1), 4 * delta * p.amax(-1) + EXPONENT)
    if spans is not None:
        mass = naive_span_mass(p, position, spans)
        close(got.span_mass, mass, 4 * delta * mass + EXPONENT)
    # The key is the best one, or one that is as good as the best to within the error of two scores.
    key = got.argmax_key.cpu()
    none = top == -torch.inf
    assert (key[none] == -1).all() and (key[~none] >= 0).all() or bool((position < 0).any())
    index = torch.searchsorted(position[:, None, None].expand(*key.shape, -1).contiguous(), key[..., None]).clamp_max(
        raw.shape[-1] - 1
    )
    chosen = logits.gather(-1, index)[..., 0]
    assert (chosen[~none] >= top[~none] - 2 * delta).all()


def near_tie(value: Tensor, delta: float) -> Tensor:
    """Places whose neighbours' logits are too near for their order to be certain."""
    gap = (value.diff(dim=-1).abs() <= 4 * delta) | value[..., 1:].isneginf()
    false = torch.zeros_like(gap[..., :1])
    last = torch.ones_like(false)  # the one behind the last place is not known
    return torch.cat((gap, last), -1) | torch.cat((false, gap), -1)


def close(got: Tensor, wanted: Tensor, tolerance: float | Tensor) -> None:
    got, wanted = got.cpu().double(), wanted.double()
    error = (got - wanted).abs()
    ok = (error <= tolerance) | (got == wanted)
    assert ok.all(), f"off by {error[~ok].max().item():.3g} at {(~ok).nonzero()[0].tolist()}"


def at_the_end(q: Tensor, k: Tensor) -> Tensor:
    return torch.arange(k.shape[2] - q.shape[2], k.shape[2])


SPANS = torch.tensor([[[0, 4], [40, 62], [5, 5], [-3, 2000]]]).expand(2, 4, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_dtype(dtype: torch.dtype) -> None:
    q, k, v = qkv(dtype)
    check(q, k, v, q_positions=at_the_end(q, k), spans=SPANS, topk=5)


@pytest.mark.parametrize("dim", [64, 80, 96, 192, 256])
def test_every_head_dimension(dim: int) -> None:
    q, k, v = qkv(torch.bfloat16, dim=dim)
    check(q, k, v, q_positions=at_the_end(q, k), spans=SPANS)


@pytest.mark.parametrize("group", [1, 3, 8])
def test_query_heads_share_key_heads(group: int) -> None:
    q, k, v = qkv(torch.bfloat16, group=group, rows=33)
    check(q, k, v, q_positions=at_the_end(q, k), spans=SPANS)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.bfloat16) for name in ("window", "softcap", "sinks", "limits", "holes", "all")),
        *((name, torch.float32) for name in ("window", "all")),
    ],
)
def test_every_option(name: str, dtype: torch.dtype) -> None:
    q, k, v = qkv(dtype)
    rows, n = q.shape[2], k.shape[2]
    at = at_the_end(q, k)
    one = {
        "window": {"window": n // 3},
        "softcap": {"softcap": 5.0},
        "sinks": {"sinks": torch.linspace(-3, 3, q.shape[1])},
        "limits": {"key_limits": at // 2 + torch.arange(rows) % 3 * 7, "key_starts": at // 5, "causal": False},
        "holes": {"k_positions": torch.arange(n) * 2 - 4, "q_positions": at * 2},
    }
    if name == "all":
        options: dict[str, Any] = {**one["window"], **one["softcap"], **one["sinks"], **one["limits"], "causal": True}
    else:
        options = one[name]
    check(q, k, v, **{"q_positions": at, "spans": SPANS, "topk": 3, **options})


def test_rows_that_see_nothing() -> None:
    q, k, v = qkv(torch.bfloat16, rows=5)
    check(q, k, v, q_positions=torch.tensor([-1, 0, k.shape[2] - 1, -7, 3]), spans=SPANS)


@pytest.mark.parametrize("way", ["clear", "few_rows", "prefetch"])
def test_ways_that_are_not_in_use_yet(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from headscope.kernels.gpu import configs
    from headscope.kernels.gpu import evidence_attention as module

    if way == "clear" and not TOY and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs TMA")
    wide = {"clear": configs.Tile(128, 128, 4, 2), "few_rows": configs.Tile(64, 64, 4, 2), "prefetch": True}[way]
    ways = configs.Ways(**{way: configs.INTERPRETED if TOY and way != "prefetch" else wide})
    monkeypatch.setattr(module, "attention_ways", lambda q, v: ways)
    if TOY:  # too short for the rule
        monkeypatch.setattr(module, "splits_of", lambda q, k, tile: 3)
    q, k, v = qkv(torch.bfloat16, rows=200 if way == "clear" else 9)
    check(q, k, v, q_positions=at_the_end(q, k), sinks=torch.linspace(-3, 3, q.shape[1]))


@pytest.mark.parametrize("rows", [1, 16, 17, 200])
def test_numbers_of_rows(rows: int) -> None:
    q, k, v = qkv(torch.bfloat16, rows=rows)
    check(q, k, v, q_positions=at_the_end(q, k))


def test_ties_go_to_the_lowest_position() -> None:
    # Equal keys score the same only where no sum is rounded: what is added up in which order differs by column in
    # the interpreter, where a processor's library decides.
    k = exact(normal(1, 2, 1, 64, seed=0, dtype=torch.bfloat16)).expand(1, 2, size(3000, 100), 64).to(DEVICE)
    q = exact(normal(1, 8, 3, 64, seed=1, dtype=torch.bfloat16)).to(DEVICE)
    n = k.shape[2]
    for options, wanted in (({}, 0), ({"window": 70}, n - 70)):
        at = torch.full((3,), n - 1, device=DEVICE)
        ev = row_evidence(q, k, q_positions=at, topk=4, impl="triton", **options)
        _, fused = evidence_attention(q, k, k, q_positions=at, impl="triton", **options)
        assert (ev.argmax_key == wanted).all() and (fused.argmax_key == wanted).all()
        assert ev.topk_key is not None and (ev.topk_key == wanted + torch.arange(4, device=DEVICE)).all()


def test_the_same_call_gives_the_same_bits() -> None:
    """Of a toy too: the very same products, of one thread, in one process."""
    q, k, v = (x.to(DEVICE) for x in qkv(torch.bfloat16))
    at, spans = at_the_end(q, k).to(DEVICE), SPANS.to(DEVICE)
    a, b = (row_evidence(q, k, q_positions=at, spans=spans, topk=3, impl="triton") for _ in range(2))
    (out_a, c), (out_b, d) = (evidence_attention(q, k, v, q_positions=at, spans=spans, impl="triton") for _ in range(2))
    assert torch.equal(out_a, out_b)
    for one, other in ((a, b), (c, d)):
        for name in ("lse", "argmax_key", "max_logit", "span_mass"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_splits_and_batch_neighbours_change_rounding_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    from headscope.kernels.gpu import row_evidence as module

    q, k, v = (exact(x).to(DEVICE) for x in qkv(torch.bfloat16, n=5000))
    at = at_the_end(q, k).to(DEVICE)
    whole = row_evidence(q, k, q_positions=at, impl="triton")
    alone = [row_evidence(q[i : i + 1], k[i : i + 1], q_positions=at, impl="triton") for i in range(2)]
    found = [RowEvidence(*(torch.cat([getattr(x, name) for x in alone]) for name in vars(whole) if "topk" not in name))]
    for splits in (1, 2, 7, 16):
        monkeypatch.setattr(module, "splits_for", lambda *_, splits=splits: splits)
        found.append(row_evidence(q, k, q_positions=at, impl="triton"))
    for other in found:
        assert torch.equal(other.argmax_key, whole.argmax_key) and torch.equal(other.max_logit, whole.max_logit)
        close(other.lse, whole.lse.cpu(), EXPONENT)
    out, fused = evidence_attention(q, k, v, q_positions=at, impl="triton")
    for i in range(2):  # its tiles do not depend on the batch
        part, ev = evidence_attention(q[i : i + 1], k[i : i + 1], v[i : i + 1], q_positions=at, impl="triton")
        assert torch.equal(ev.argmax_key[0], fused.argmax_key[i])
        close(part[0], out[i].cpu(), EXPONENT if TOY else 0.0)  # of a toy, elsewhere in memory is another computation
        close(ev.lse[0], fused.lse[i].cpu(), EXPONENT if TOY else 0.0)


def test_a_million_keys_beyond_32_bit_offsets() -> None:
    """A cache [N, heads, 2, D] whose last keys lie behind 2^31 elements, and a key planted there for every row."""
    n, kv, dim, group, rows = size(1 << 20, 200), size(16, 2), size(128, 8), 2, 3
    cache = torch.randn(n, kv, 2, dim, device=DEVICE, dtype=torch.float32 if TOY else torch.bfloat16)
    assert TOY or cache.numel() > 2**31
    k, v = (cache[None, :, :, i].transpose(1, 2) for i in (0, 1))
    q = normal(1, kv * group, rows, dim, seed=1, dtype=cache.dtype).to(DEVICE)
    at, planted = torch.full((rows,), n - 1, device=DEVICE), n - 3
    for h in range(kv):
        k[0, h, planted] = 2 * q[0, h * group, 0]
    ev = row_evidence(
        q, k, q_positions=at, spans=torch.tensor([[[planted, planted + 1]]], device=DEVICE), impl="triton"
    )
    out, fused = evidence_attention(q, k, v, q_positions=at, impl="triton")
    for h in (0, kv - 1):
        raw = q[0, h * group, :].float() @ k[0, h].float().T
        scores = raw * dim**-0.5
        for got in (ev, fused):
            close(
                got.lse[0, h * group],
                scores.double().logsumexp(-1).cpu(),
                budget(q[:, : group * kv], k[:, :1, :9], None) + 1e-3,
            )
            assert got.argmax_key[0, h * group, 0] == planted
        p = scores.softmax(-1)
        close(out[0, h * group], (p @ v[0, h].float()).cpu(), 0.02)
        close(ev.span_mass[0, h * group, :, 0], p[:, planted].cpu(), 1e-3)


def test_eight_thousand_rows() -> None:
    rows = size(8192, 70)
    q, k, v = (
        normal(1, h, rows, size(128, 8), seed=s, dtype=torch.bfloat16 if not TOY else torch.float32)
        for s, h in enumerate((4, 1, 1))
    )
    at = torch.arange(rows)
    some = torch.randperm(rows, generator=torch.Generator().manual_seed(0))[:40]
    raw, logits, p, lse, position = naive_map(q[:, :, some], k, q_positions=some)
    ev = row_evidence(q.to(DEVICE), k.to(DEVICE), q_positions=at.to(DEVICE), impl="triton")
    _, fused = evidence_attention(q.to(DEVICE), k.to(DEVICE), v.to(DEVICE), impl="triton")
    for found in (ev, fused):
        part = RowEvidence(
            found.lse[:, :, some],
            found.argmax_key[:, :, some],
            found.max_logit[:, :, some],
            found.span_mass[:, :, some],
        )
        compare(part, raw, logits, p, lse, position, None, budget(q, k, None))


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("where", ["q", "k"])
def test_nan_is_reported_by_the_rows_that_see_it_and_only_by_them(where: str, softcap: float | None) -> None:
    dtype = torch.float32 if TOY else torch.bfloat16
    n = size(600, 60)
    q, k, v = (exact(normal(1, 2, r, size(64, 8), seed=i, dtype=dtype)) for i, r in enumerate((6, n, n)))
    rows = torch.tensor([4, 9, 10, 11, n - 1, -1], device=DEVICE)
    (q if where == "q" else k)[0, 1, 2 if where == "q" else 10, 3] = torch.nan
    broken = torch.zeros(1, 2, 6, dtype=torch.bool)
    broken[0, 1, [2] if where == "q" else [2, 3, 4]] = True
    q, k, v = (x.to(DEVICE) for x in (q, k, v))
    options: dict[str, Any] = {"q_positions": rows, "softcap": softcap}
    spans = torch.tensor([[[0, 3], [9, 12], [5, 5]]], device=DEVICE)
    clean = row_evidence(q.nan_to_num(), k.nan_to_num(), impl="reference", **options)
    out, fused = evidence_attention(q, k, v, spans=spans, impl="triton", **options)
    assert torch.equal(out.isnan().all(-1).cpu(), broken) and torch.equal(out.isnan().any(-1).cpu(), broken)
    for ev in (fused, row_evidence(q, k, spans=spans, topk=2, impl="triton", **options)):
        assert torch.equal(ev.lse.isnan().cpu(), broken) and torch.equal(ev.max_logit.isnan().cpu(), broken)
        assert (ev.argmax_key.cpu()[broken] == -1).all()
        assert torch.equal(ev.argmax_key.cpu()[~broken], clean.argmax_key.cpu()[~broken])
        assert ev.span_mass.cpu()[broken].isnan().all() and not ev.span_mass.cpu()[~broken].isnan().any()


def test_an_infinite_score_is_reported_too() -> None:
    q, k = (torch.ones(1, 1, n, 16, device=DEVICE, dtype=torch.float32 if TOY else torch.bfloat16) for n in (2, 9))
    k[0, 0, 5, 0] = torch.inf
    at = torch.tensor([4, 8], device=DEVICE)
    _, fused = evidence_attention(q, k, torch.ones_like(k), q_positions=at, impl="triton")
    for ev in (fused, row_evidence(q, k, q_positions=at, impl="triton")):
        assert ev.lse.isnan().flatten().tolist() == [False, True]
        assert ev.argmax_key.flatten().tolist() == [0, -1]


def test_views_of_a_cache_are_read_where_they_lie() -> None:
    """What lies behind a view is never read, and strides may be anything."""
    dtype = torch.float32 if TOY else torch.bfloat16
    n, dim = size(700, 70), size(128, 8)
    cache = normal(2, n + 50, 3, 2, dim, seed=0, dtype=dtype)
    cache[:, n:] = torch.nan
    k, v = (cache[:, :n, :, i].transpose(1, 2) for i in (0, 1))
    q = normal(2, 40, 6, dim, seed=1, dtype=dtype)[:, : size(40, 4)].transpose(1, 2)
    check(q, k, v, q_positions=at_the_end(q, k), spans=SPANS)
    at = at_the_end(q, k).to(DEVICE)
    longer, there = (x.to(DEVICE) for x in (cache, q))
    _, ev = evidence_attention(
        there, longer[:, :, :, 0].transpose(1, 2), longer[:, :, :, 1].transpose(1, 2), q_positions=at, impl="triton"
    )
    assert not ev.lse.isnan().any()


def test_prefix_and_tail_merge_to_the_whole() -> None:
    q, k, _ = (exact(x).to(DEVICE) for x in qkv(torch.float32 if TOY else torch.bfloat16))
    n = k.shape[2]
    at, cut = at_the_end(q, k).to(DEVICE), n // 2 + 3
    whole = row_evidence(q, k, q_positions=at, impl="triton")
    places = torch.arange(cut, n, device=DEVICE)
    parts = (
        row_evidence(q, k[:, :, :cut], q_positions=at, impl="triton"),
        row_evidence(q, k[:, :, cut:], q_positions=at, k_positions=places, impl="triton"),
    )
    joined = merge(*parts)
    assert torch.equal(joined.argmax_key, whole.argmax_key)
    close(joined.lse, whole.lse.cpu(), EXPONENT)


def test_scores_of_minus_infinity_are_keys_that_are_not_seen() -> None:
    q, k, v = (exact(x).to(DEVICE) for x in qkv(torch.bfloat16, batch=1))
    q[..., 0] = 1
    n, hidden = k.shape[2], k.shape[2] // 2
    options: dict[str, Any] = {"q_positions": at_the_end(q, k).to(DEVICE), "impl": "triton"}
    places = torch.arange(hidden, n, device=DEVICE)
    wanted_out, wanted = evidence_attention(q, k[:, :, hidden:], v[:, :, hidden:], k_positions=places, **options)
    k[:, :, :hidden, 0] = -torch.inf
    out, fused = evidence_attention(q, k, v, **options)
    close(out, wanted_out.cpu(), 8 * torch.finfo(q.dtype).eps)
    for ev in (fused, row_evidence(q, k, **options)):
        close(ev.lse, wanted.lse.cpu(), EXPONENT)
        assert torch.equal(ev.argmax_key, wanted.argmax_key)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_mass_of_keys(dtype: torch.dtype) -> None:
    q, k, _ = qkv(dtype)
    options = {"q_positions": at_the_end(q, k), "window": size(300, 20), "softcap": 20.0}
    *_, p, lse, _ = naive_map(q, k, **options)
    at = options["q_positions"].to(DEVICE)
    mass = key_mass(q.to(DEVICE), k.to(DEVICE), lse.float().to(DEVICE), impl="triton", **options | {"q_positions": at})
    wanted = p.sum(2)
    close(mass, wanted, 2 * budget(q, k, None) * wanted + 1e-6)


@pytest.mark.parametrize("page", [0, 16])
def test_packed_batches_and_pages(page: int) -> None:
    rows, keys = [3, 1, 40, 0], [0, 40, 83, 7] if TOY else [0, 4000, 8300, 7]
    batch = ragged.Batch(page, rows, keys, heads=4, kv_heads=2, dim=size(128, 8))
    batch.to(DEVICE, torch.float32 if TOY else torch.bfloat16)
    spans = torch.tensor([[[0, 4]], [[5, 39]], [[-3, 60]], [[0, 1]]])
    ev, wanted = (batch.packed(impl, page, spans=spans.to(DEVICE)) for impl in ("triton", "reference"))
    delta = max(budget(q, k, None) for q, k in zip(batch.q, batch.k, strict=True) if q.numel() and k.numel())
    for name in ("lse", "max_logit", "span_mass"):
        close(getattr(ev, name), getattr(wanted, name).cpu(), 4 * delta)
    assert (ev.argmax_key == wanted.argmax_key).float().mean() > 0.99


@real_only
def test_a_cuda_graph_replays_a_call() -> None:
    q, k, _ = (x.to(DEVICE) for x in qkv(torch.bfloat16))
    at, spans = at_the_end(q, k).to(DEVICE), SPANS.to(DEVICE)
    row_evidence(q, k, q_positions=at, spans=spans, impl="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ev = row_evidence(q, k, q_positions=at, spans=spans, impl="triton")
    q.copy_(q.flip(2))
    graph.replay()
    wanted = row_evidence(q, k, q_positions=at, spans=spans, impl="triton")
    assert torch.equal(ev.argmax_key, wanted.argmax_key) and torch.equal(ev.lse, wanted.lse)


@real_only
def test_auto_means_triton_here() -> None:
    from headscope.kernels.dispatch_log import recording

    q, k, v = (x.to(DEVICE) for x in qkv(torch.bfloat16))
    with recording() as used:
        row_evidence(q, k, q_positions=at_the_end(q, k), topk=16)
        evidence_attention(q, k, v, q_positions=at_the_end(q, k))
    assert used == {"row_evidence": "triton", "evidence_attention": "triton"}
