"""Both Triton kernels, and every way into them, on random small calls by Triton's interpreter: are any wrong?

    python -m benchmarks.random_cases [--n 1000] [--first 0] [--kernel rows fused packed paged clear few_rows prefetch]

A case is made from its number alone: shapes, dtype, tile, splits, what the loop remembers, scale, rules, spans, topk,
and sequences that are packed or whose keys lie in pages. Inputs are whole multiples of 1/64, whose sums of products are
exact in float32, often with ties; some keys score -inf. All is compared with the reference in float64 on the same
numbers. Allowed are 32 roundings of float32 of a value of size max(1, |x|), with a soft-cap as many of the cap's size,
and for outputs two roundings of their dtype. The highest keys must be the same.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from typing import Any

if __name__ == "__main__":
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton

import torch
from torch import Tensor

from .machine import machine, one_line, write_results
from .smollm2 import say

PER_ROW = ("q_positions", "key_limits", "key_starts")
WAYS = ("clear", "few_rows", "prefetch")  # of evidence_attention, beside the one that is in use
KINDS = ("rows", "fused", "packed", "paged", *WAYS)
ROUNDINGS = 32 * torch.finfo(torch.float32).eps
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILES = ((16, 16), (16, 32), (32, 16), (64, 16), (16, 64))


class Draw:
    """Numbers from a seed."""

    def __init__(self, seed: int) -> None:
        self.gen = torch.Generator().manual_seed(seed)

    def int(self, low: int, high: int) -> int:
        """low <= x < high."""
        return int(torch.randint(low, high, (), generator=self.gen))

    def ints(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self.gen)

    def one(self, choices: Any) -> Any:
        return choices[self.int(0, len(choices))]

    def often(self, of: int = 2) -> bool:
        """Once in `of`."""
        return self.int(0, of) == 0


def wrong(number: int, kinds: tuple[str, ...] = KINDS) -> list[str]:
    """What is wrong with case `number`; the interpreter is on."""
    from headscope.kernels.gpu import configs
    from headscope.kernels.gpu import evidence_attention as attention
    from headscope.kernels.gpu import row_evidence as module

    draw = Draw(number)
    kind = draw.one(kinds)
    before = configs.INTERPRETED, module.splits_for, module.LONG_WALK
    before_ways = attention.attention_ways, attention.splits_of
    splits = draw.one((1, 1, 2, 3, 5))
    try:
        configs.INTERPRETED = configs.Tile(*draw.one(TILES), 4, 1)
        module.splits_for = lambda *_: splits  # type: ignore[assignment]
        module.LONG_WALK = draw.one((1, 1 << 16))
        if kind in WAYS:
            ways = configs.Ways(**{kind: kind == "prefetch" or configs.INTERPRETED})
            attention.attention_ways = lambda q, v: ways  # type: ignore[assignment]
            attention.splits_of = lambda q, k, tile: splits + 1  # type: ignore[assignment]
        return list((_sequences if kind in ("packed", "paged") else _dense)(draw, kind))
    finally:
        configs.INTERPRETED, module.splits_for, module.LONG_WALK = before
        attention.attention_ways, attention.splits_of = before_ways


def _numbers(draw: Draw, *shape: int, ties: bool, dtype: torch.dtype) -> Tensor:
    """At most 7 bits, so that products are exact and sums nearly always are."""
    x = draw.ints(-2, 3, *shape).float() if ties else draw.ints(-127, 128, *shape).float() / 64
    return x.to(dtype)


def _rules(draw: Draw, heads: int, rows: tuple[int, ...], n: int) -> dict[str, Any]:
    """Options of any call; rows is the shape of what is given per row."""
    every: dict[str, Any] = {
        "scale": draw.one((0.1, 0.7, 3.0)),
        "window": draw.int(1, n + 10),
        "softcap": draw.one((0.5, 5.0, 50.0)),
        "sinks": draw.ints(-20, 20, heads).float() / 4,
        "key_limits": draw.ints(-3, n + 10, *rows),
        "key_starts": draw.ints(-3, n, *rows),
        "causal": False,
    }
    options = {name: value for name, value in every.items() if draw.often(3)}
    if draw.often():
        options["topk"] = draw.one((1, 2, 3, 7, 16))
    return options


def _spans(draw: Draw, *shape: int, n: int) -> Tensor:
    start = draw.ints(-5, n + 5, *shape, draw.int(1, 4))
    return torch.stack((start, start + draw.ints(-2, 25, *start.shape)), -1)


def _dense(draw: Draw, kind: str) -> Iterator[str]:
    from headscope.kernels import evidence_attention, row_evidence

    batch, kv, group, rows, n, dim = (draw.int(1, most) for most in (3, 3, 5, 14, 100, 24))
    dim = dim // 8 * 8 + 8 if kind == "clear" else dim  # what TMA reads
    ties, dtype = draw.often(3), draw.one(DTYPES)
    q = _numbers(draw, batch, rows, kv * group, dim, ties=ties, dtype=dtype).transpose(1, 2)
    cache = _numbers(draw, batch, n + 5, kv, 2, dim, ties=ties, dtype=dtype)
    cache[:, n:] = torch.nan
    k, v = (cache[:, :n, :, i].transpose(1, 2) for i in (0, 1))
    if draw.often(6):
        k[:, :, : draw.int(0, n + 1), 0] = -torch.inf
        q[..., 0] = 1
    per_row = (batch, rows) if draw.often() else (rows,)
    options = _rules(draw, kv * group, per_row, n)
    options["q_positions"] = draw.ints(-3, n + 10, *per_row)
    if draw.often(3):
        options["k_positions"] = draw.ints(1, 4, *((batch, n) if draw.often() else (n,))).cumsum(-1) - 3
    if draw.often():
        options["spans"] = _spans(draw, batch, *((rows,) if draw.often() else ()), n=n)
    wide = [x.double() for x in (q, k, v)]
    if kind == "rows":
        wanted = row_evidence(*wide[:2], impl="reference", **options)
        yield from _differences(row_evidence(q, k, impl="triton", **options), wanted, options)
        return
    out, found = evidence_attention(q, k, v, impl="triton", **options)
    wanted_out, wanted = evidence_attention(*wide, impl="reference", **options)
    yield from _differences(found, wanted, options)
    magnitude, _ = evidence_attention(*wide[:2], wide[2].abs(), impl="reference", **options)
    # Weights are rounded to v's dtype, and so is the output; the interpreter cuts bfloat16 off.
    unit = torch.finfo(dtype).eps
    limit = unit * (magnitude + wanted_out.abs()) + _tolerance(options) * (1 + wide[2].nan_to_num().abs().max())
    yield from _off("output", out, wanted_out, limit)


def _sequences(draw: Draw, kind: str) -> Iterator[str]:
    from headscope.kernels import row_evidence, row_evidence_paged, row_evidence_varlen

    batch, kv, group, dim = (draw.int(1, most) for most in (4, 3, 5, 24))
    same = draw.int(1, 10)
    rows = [same if kind == "paged" else draw.int(0, 10) for _ in range(batch)]
    keys = [draw.int(0, 70) for _ in range(batch)]
    ties, dtype, total = draw.often(3), draw.one(DTYPES), sum(rows)
    q = _numbers(draw, total, kv * group, dim, ties=ties, dtype=dtype)
    k = _numbers(draw, sum(keys), kv, dim, ties=ties, dtype=dtype)
    options = _rules(draw, kv * group, (total,), max(keys))
    if draw.often():
        options["q_positions"] = draw.ints(-3, 100, total)
    spans = _spans(draw, batch, n=max(keys)) if draw.often() else None
    cu_q, cu_k = (torch.tensor([0, *x]).cumsum(0).int() for x in (rows, keys))
    page = draw.one((1, 3, 16, 32)) if kind == "paged" or draw.often() else 0
    table, lens, pages = (*_in_pages(draw, k, keys, page),) if page else (None, None, None)
    given = {**options, "impl": "triton", **({} if spans is None else {"spans": spans})}
    if kind == "packed":
        at = {"block_table": table, "seq_lens": lens} if page else {"cu_seqlens_k": cu_k}
        found = row_evidence_varlen(q, k if pages is None else pages, cu_seqlens_q=cu_q, **at, **given)
    else:
        assert pages is not None and table is not None and lens is not None
        for name in PER_ROW:
            if name in given:
                given[name] = given[name].view(batch, same)
        stacked = q.view(batch, same, kv * group, dim).transpose(1, 2)
        found = row_evidence_paged(stacked, pages, block_table=table, seq_lens=lens, **given)
    for i in range(batch):
        these = slice(int(cu_q[i]), int(cu_q[i + 1]))
        own = {name: x[these] if name in PER_ROW else x for name, x in options.items()}
        own.setdefault("q_positions", torch.arange(keys[i] - rows[i], keys[i]))
        if spans is not None:
            own["spans"] = spans[i : i + 1]
        one_q, one_k = q[these].double().transpose(0, 1)[None], k[cu_k[i] : cu_k[i + 1]].double().transpose(0, 1)[None]
        wanted = row_evidence(one_q, one_k, impl="reference", **own)
        fields = {name: x for name, x in vars(found).items() if x is not None}
        part = {name: x[:, :, these] if kind == "packed" else x[i : i + 1] for name, x in fields.items()}
        yield from _differences(type(found)(**part), wanted, options)


def _in_pages(draw: Draw, k: Tensor, keys: list[int], page: int) -> tuple[Tensor, Tensor, Tensor]:
    """Table, lengths and cache; NaN where no key is, and entries that point nowhere behind a sequence's end."""
    counts = [-(-n // page) for n in keys]
    order = torch.randperm(sum(counts) + 2, generator=draw.gen)
    cache = torch.full((len(order), page, *k.shape[1:]), torch.nan, dtype=k.dtype)
    table = torch.full((len(keys), max(counts) + 1), -(10**6), dtype=torch.int32)
    used = begin = 0
    for i, (n, count) in enumerate(zip(keys, counts, strict=True)):
        table[i, :count] = order[used : used + count]
        for j in range(count):
            part = k[begin + j * page : begin + min(n, (j + 1) * page)]
            cache[order[used + j], : len(part)] = part
        used, begin = used + count, begin + n
    return table, torch.tensor(keys, dtype=torch.int32), cache


def _tolerance(options: dict[str, Any]) -> float:
    return ROUNDINGS * (1 + float(options.get("softcap", 0)))


def _differences(found: Any, wanted: Any, options: dict[str, Any]) -> Iterator[str]:
    limit = _tolerance(options)
    for name in ("lse", "max_logit", "span_mass", "topk_logit"):
        got, right = getattr(found, name), getattr(wanted, name)
        if right is not None:
            yield from _off(name, got, right, limit * (1 if name == "span_mass" else right.abs().clamp_min(1)))
    for name in ("argmax_key", "topk_key"):
        got, right = getattr(found, name), getattr(wanted, name)
        if right is not None and not torch.equal(got, right):
            at = (got != right).nonzero()[0].tolist()
            yield f"{name} {int(got[tuple(at)])} instead of {int(right[tuple(at)])} at {at}"


def _off(name: str, got: Tensor, wanted: Tensor, limit: float | Tensor) -> Iterator[str]:
    got, wanted = got.double(), wanted.double()
    fine = ((got - wanted).abs() <= limit) | (got == wanted) | (got.isnan() & wanted.isnan())
    if not fine.all():
        at = (~fine).nonzero()[0].tolist()
        yield f"{name} {float(got[tuple(at)]):.9g} instead of {float(wanted[tuple(at)]):.9g} at {at}"


def prepare() -> None:
    """Before the first launch: the interpreter, with its repairs; memory that nobody wrote is NaN."""
    from .gpu.stage import interpret

    interpret()
    empty, like = torch.empty, torch.empty_like

    def poisoned(x: Tensor) -> Tensor:
        return x.fill_(torch.nan if x.is_floating_point() else 77)

    torch.empty = lambda *args, **kwargs: poisoned(empty(*args, **kwargs))  # type: ignore[assignment]
    torch.empty_like = lambda *args, **kwargs: poisoned(like(*args, **kwargs))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--n", type=int, default=1000, help="how many cases")
    arguments.add_argument("--first", type=int, default=0, help="number of the first")
    arguments.add_argument("--kernel", nargs="+", choices=KINDS, default=list(KINDS))
    options = arguments.parse_args()
    prepare()
    found_machine = machine()
    say(one_line(found_machine))
    began, failed = time.monotonic(), []
    for number in range(options.first, options.first + options.n):
        try:
            said = wrong(number, tuple(options.kernel))
        except Exception as error:
            said = [f"{type(error).__name__}: {error}"]
        if said:
            failed.append({"case": number, "problems": said})
            say(f"case {number}: {'; '.join(said)}")
    seconds = time.monotonic() - began
    say(f"{options.n} cases, {len(failed)} wrong, {seconds:.0f} s")
    rows = {"cases": options.n, "first": options.first, "kinds": options.kernel, "wrong": failed, "seconds": seconds}
    say(f"written to {write_results('random-cases', rows, found_machine)}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
