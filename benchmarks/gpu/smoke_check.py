"""A case of the smoke part: every kernel on small inputs with some options, against the reference in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from headscope.kernels import (
    RowEvidence,
    evidence_attention,
    key_mass,
    row_evidence,
    row_evidence_paged,
    row_evidence_varlen,
)
from headscope.kernels.gpu.evidence_attention import evidence_attention as bare
from headscope.kernels.sdpa import attend

from .inputs import problem

EPS = torch.finfo(torch.float32).eps
UNITS = {torch.bfloat16: 8, torch.float16: 8, torch.float32: 32}  # of EPS and the sum of magnitudes, as a dot may err
EXPONENT = 1e-5  # nats: exp2 and the sum of its results
PAGE = 16
RAGGED = {"packed", "paged", "packed rows on pages"}


@dataclass(frozen=True)
class Case:
    what: str
    dtype: torch.dtype = torch.bfloat16
    dim: int = 128
    value_dim: int | None = None
    group: int = 4
    rows: int = 70
    n: int = 1000
    topk: int = 0
    options: tuple[str, ...] = ()
    scale: float = field(default=1.0, kw_only=True)
    """of the inputs: large ones make ties and saturated scores"""


def cases(toy: bool) -> list[Case]:
    if toy:
        small: dict[str, Any] = {"dtype": torch.float32, "dim": 16, "group": 2, "rows": 5, "n": 70}
        found = [Case("plain", **small), Case("top 3", **small, topk=3)]
        found.append(Case("every option", **small, options=("window", "softcap", "sinks", "limits", "starts")))
        return [*found, Case("packed", **small, options=("packed",)), Case("paged", **small, options=("paged",))]
    found = [
        Case(f"{str(dtype).removeprefix('torch.')} D{dim}", dtype, dim, topk=5)
        for dtype in (torch.bfloat16, torch.float16, torch.float32)
        for dim in (128, 64, 80, 96, 192, 256)
    ]
    every = ("window", "softcap", "sinks", "limits", "starts")
    found += [Case(name, options=(name,)) for name in (*every, "holes", "strided", "free")]
    found += [Case(f"every option, D{dim}", dim=dim, options=every, topk=3) for dim in (64, 128, 256)]
    found += [Case("every option, float32", torch.float32, 64, options=every, topk=3)]
    found += [Case(f"{group} query heads a key head", group=group) for group in (1, 2, 3, 5, 7, 8, 16)]
    found += [Case(f"{rows} rows", rows=rows, group=1 if rows < 40 else 4) for rows in (1, 16, 33, 200)]
    found += [Case(f"{n} keys", rows=min(n, 40), n=n) for n in (1, 63, 64, 65, 4097)]
    found += [Case(f"top {k}", topk=k, rows=9) for k in (1, 2, 8, 16)]
    found += [Case(name, options=(name,)) for name in sorted(RAGGED)]
    found += [Case("pages and options", rows=9, options=("paged", "window", "softcap", "sinks"), topk=3)]
    found += [Case("values of 64", value_dim=64), Case("large scores", scale=8.0, options=("softcap",))]
    return found


@torch.no_grad()
def check(case: Case, device: torch.device) -> list[str]:
    """What is off, and by how much; nothing where all is well."""
    if RAGGED & set(case.options):
        return _ragged(case, device)
    batch, kv = 2, 2
    generator = torch.Generator().manual_seed(0)

    def normal(heads: int, rows: int, dim: int) -> Tensor:
        return (case.scale * torch.randn(batch, heads, rows, dim, generator=generator)).to(case.dtype)

    q = normal(kv * case.group, case.rows, case.dim)
    k, v = normal(kv, case.n, case.dim), normal(kv, case.n, case.value_dim or case.dim)
    there_k, there_v = k.to(device), v.to(device)
    if "strided" in case.options:  # views of a cache [B, N + 9, heads, 2, D]; what lies behind them is never read
        cache = torch.full((batch, case.n + 9, kv, 2, case.dim), torch.nan, dtype=case.dtype)
        cache[:, : case.n] = torch.stack((k, v), 3).transpose(1, 2)
        cache = cache.to(device)
        there_k, there_v = (cache[:, : case.n, :, i].transpose(1, 2) for i in (0, 1))
    at = torch.arange(case.n - case.rows, case.n)
    spans = torch.tensor([[0, 4], [case.n // 2, case.n // 2 + 22], [5, 5], [-3, 2 * case.n]]).expand(batch, 4, 2)
    every = {
        "window": {"window": case.n // 3},
        "softcap": {"softcap": 5.0},
        "sinks": {"sinks": torch.linspace(-3, 3, kv * case.group)},
        "limits": {"key_limits": at // 2 + torch.arange(case.rows) % 3 * 7},
        "starts": {"key_starts": at // 5},
        "holes": {"k_positions": torch.arange(case.n) * 2 - 4},
        "free": {"causal": False},
    }
    options: dict[str, Any] = {"q_positions": at * 2 if "holes" in case.options else at, "spans": spans}
    for name in case.options:
        options |= every.get(name, {})
    wide = [x.double() for x in (q, k, v)]
    wanted_out, wanted = evidence_attention(*wide, impl="reference", topk=case.topk, **options)
    there = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in options.items()}
    there_q = q.to(device)
    rows = row_evidence(there_q, there_k, topk=case.topk, impl="triton", **there)
    out, fused = evidence_attention(there_q, there_k, there_v, impl="triton", **there)
    delta = _delta(case, wide[0], wide[1])
    found: list[str] = []
    for kernel, got in (("row_evidence", rows), ("evidence_attention", fused)):
        found += _evidence(kernel, got, wanted, wide[0], wide[1], delta, options)
    rules = {name: x for name, x in options.items() if name not in ("spans", "sinks")}  # which lse knows
    there_rules = {name: there[name] for name in rules}
    masses = key_mass(there_q, there_k, wanted.lse.float().to(device), impl="triton", **there_rules)
    wanted_masses = key_mass(wide[0], wide[1], wanted.lse, impl="reference", **rules)
    found += _off("key_mass", masses, wanted_masses, 4 * delta * wanted_masses + EXPONENT)
    if case.topk:
        assert rows.topk_logit is not None and wanted.topk_logit is not None and rows.topk_key is not None
        found += _off("row_evidence: logits of the highest", rows.topk_logit, wanted.topk_logit, delta)
        if not torch.equal(rows.topk_key[..., 0], rows.argmax_key):
            found.append("row_evidence: the first of the highest keys is not the highest key")
    unit = torch.finfo(case.dtype).eps  # weights and output are rounded to it
    magnitude, _ = evidence_attention(wide[0], wide[1], wide[2].abs(), impl="reference", **options)
    limit = (unit + 4 * delta) * magnitude + unit * wanted_out.abs() + 1e-6
    found += _off("evidence_attention: output", out, wanted_out, limit)
    if case.options in ((), ("strided",)):
        asked = problem(there_q, there_k, at.to(device))
        bare_out, bare_lse, *_ = bare(asked, there_v, evidence=False)
        found += _off("without evidence: output", bare_out, wanted_out, limit)
        found += _off("without evidence: log-sum-exp", bare_lse, wanted.lse, delta)
        if case.value_dim is None:
            torch_out, torch_lse = attend(there_q, there_k, there_v)
            # torch's kernels, and merged: parts of the output are rounded too
            found += _off("attend: output", torch_out, wanted_out, 4 * unit * magnitude + limit + 1e-4)
            found += _off("attend: log-sum-exp", torch_lse, wanted.lse, delta + 1e-3)
    return found


def _delta(case: Case, q: Tensor, k: Tensor) -> float:
    """How far a score may be off, in nats."""
    raw = float(q.norm(dim=-1).max() * k.norm(dim=-1).max()) * case.dim**-0.5
    return UNITS[case.dtype] * EPS * raw + EXPONENT


def _ragged(case: Case, device: torch.device) -> list[str]:
    """Three sequences of different lengths, packed or on pages in any order, each against itself alone."""
    generator = torch.Generator().manual_seed(0)
    kv, lengths = 2, (case.n, case.n // 3 + 1, case.n - 1)
    counts = [case.rows] * 3 if "paged" in case.options else [case.rows, 1, case.rows // 2 + 1]
    q, k = (
        [torch.randn(1, heads, m, case.dim, generator=generator).to(case.dtype) for m in of]
        for heads, of in ((kv * case.group, counts), (kv, lengths))
    )
    spans = torch.tensor([[0, 4], [case.n // 6, case.n // 6 + 22], [-3, 2 * case.n]])
    every = {
        "window": {"window": case.n // 4},
        "softcap": {"softcap": 5.0},
        "sinks": {"sinks": torch.linspace(-3, 3, kv * case.group)},
    }
    options = {key: x for name in case.options for key, x in every.get(name, {}).items()}
    there = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in options.items()}
    there |= {"spans": spans.expand(3, 3, 2).to(device), "topk": case.topk, "impl": "triton"}
    if "packed" in case.options:
        keys = torch.cat([x[0].transpose(0, 1) for x in k]).to(device)
        there["cu_seqlens_k"] = _starts(lengths, device)
    else:  # what lies on a page behind a sequence's last key is never read
        needed = [-(-n // PAGE) for n in lengths]
        order = torch.randperm(sum(needed), generator=generator)
        keys = torch.full((len(order), PAGE, kv, case.dim), torch.nan, dtype=case.dtype)
        table = torch.zeros(3, max(needed), dtype=torch.int32)
        for i, (x, pages) in enumerate(zip(k, order.split(needed), strict=True)):
            table[i, : len(pages)] = pages
            padded = torch.full((len(pages) * PAGE, kv, case.dim), torch.nan, dtype=case.dtype)
            padded[: x.shape[2]] = x[0].transpose(0, 1)
            keys[pages] = padded.view(-1, PAGE, kv, case.dim)
        keys = keys.to(device)
        there |= {"block_table": table.to(device), "seq_lens": torch.tensor(lengths, device=device)}
    if "paged" in case.options:
        got = row_evidence_paged(torch.cat(q).to(device), keys, **there)
        alone = [_part(got, lambda x, i=i: x[i : i + 1]) for i in range(3)]
    else:
        packed = torch.cat([x[0].transpose(0, 1) for x in q]).to(device)
        got = row_evidence_varlen(packed, keys, cu_seqlens_q=_starts(counts, device), **there)
        ends = _starts(counts, torch.device("cpu")).tolist()
        alone = [_part(got, lambda x, a=a, b=b: x[:, :, a:b]) for a, b in zip(ends, ends[1:], strict=False)]
    found: list[str] = []
    for i, part in enumerate(alone):
        wide = q[i].double(), k[i].double()
        rules = {**options, "q_positions": torch.arange(lengths[i] - counts[i], lengths[i]), "spans": spans[None]}
        wanted = row_evidence(*wide, topk=case.topk, impl="reference", **rules)
        delta = _delta(case, *wide)
        found += _evidence(f"sequence {i}", part, wanted, *wide, delta, rules)
        if part.topk_logit is not None and wanted.topk_logit is not None:
            found += _off(f"sequence {i}: logits of the highest", part.topk_logit, wanted.topk_logit, delta)
    return found


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32, device=device).cumsum(0, dtype=torch.int32)


def _part(ev: RowEvidence, cut: Callable[[Tensor], Tensor]) -> RowEvidence:
    return replace(ev, **{name: cut(x) for name, x in vars(ev).items() if x is not None})


def _evidence(
    kernel: str, got: RowEvidence, wanted: RowEvidence, q: Tensor, k: Tensor, delta: float, options: dict[str, Any]
) -> list[str]:
    found = _off(f"{kernel}: log-sum-exp", got.lse, wanted.lse, delta)
    found += _off(f"{kernel}: highest logit", got.max_logit, wanted.max_logit, delta)
    found += _off(f"{kernel}: mass of spans", got.span_mass, wanted.span_mass, 4 * delta + EXPONENT)
    # The key is the best one, or as good as the best to within the error of two scores.
    key = got.argmax_key.cpu()
    if not torch.equal(key < 0, wanted.argmax_key < 0):
        return [*found, f"{kernel}: a key where none is seen, or none where one is"]
    places = options.get("k_positions")
    index = key if places is None else torch.searchsorted(places, key)
    group = q.shape[1] // k.shape[1]
    its = k.repeat_interleave(group, dim=1).gather(
        2, index.clamp(0, k.shape[2] - 1)[..., None].expand(*key.shape, k.shape[3])
    )
    logit = (q * its).sum(-1) * q.shape[-1] ** -0.5
    if cap := options.get("softcap"):
        logit = cap * torch.tanh(logit / cap)
    return found + _off(
        f"{kernel}: logit of the key", logit.where(key >= 0, wanted.max_logit), wanted.max_logit, 2 * delta
    )


def _off(what: str, got: Tensor, wanted: Tensor, limit: float | Tensor) -> list[str]:
    got, wanted = got.cpu().double(), wanted.double()
    if got.shape != wanted.shape:
        return [f"{what}: {tuple(got.shape)} instead of {tuple(wanted.shape)}"]
    error = (got - wanted).abs()
    bad = ~((error <= limit) | (got == wanted))
    if not bad.any():
        return []
    where = bad.nonzero()[0].tolist()
    worst = float(error[bad].nan_to_num(torch.inf).max())
    allowed = limit if isinstance(limit, float) else float(limit[bad].max())
    return [
        f"{what}: off by {worst:.3g} (limit {allowed:.3g}) in {int(bad.sum())} of {bad.numel()} places, first {where}"
    ]
