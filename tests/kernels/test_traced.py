"""Code that calls the operations can be compiled, exported and run on fake tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from headscope.kernels import RowEvidence, evidence_attention, key_mass, row_evidence

AT = torch.arange(7, 10)
# every optional argument at once, and none of them
EVERY: dict[str, Any] = {
    "spans": torch.tensor([[[0, 3], [2, 9]]]),
    "scale": 0.3,
    "window": 6,
    "softcap": 5.0,
    "sinks": torch.tensor([0.0, 1.0]),
    "key_limits": torch.tensor([8, 9, 7]),
    "key_starts": torch.tensor([[0, 1, 2]]),
    "k_positions": torch.arange(10) * 2 - 5,
    "topk": 2,
    "impl": "reference",
}
OPTIONS = pytest.mark.parametrize("options", [{}, EVERY], ids=["plain", "every option"])


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, heads, n, 4, generator=gen) for heads, n in ((2, 3), (1, 10), (1, 10)))  # type: ignore[return-value]


def without(options: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in options.items() if name not in ("spans", "sinks", "topk")}


def everything(
    q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]
) -> tuple[Tensor, RowEvidence, RowEvidence, Tensor]:
    out, fused = evidence_attention(2 * q, k, v, q_positions=AT, **options)
    alone = row_evidence(2 * q, k, q_positions=AT, **options)
    return out + 1, fused, alone, key_mass(2 * q, k, alone.lse, q_positions=AT, **without(options))


def tensors(found: Any) -> list[Tensor]:
    return [
        x
        for part in found
        for x in (vars(part).values() if isinstance(part, RowEvidence) else [part])
        if isinstance(x, Tensor)
    ]


def test_compiled_in_one_graph() -> None:
    wanted = tensors(everything(*qkv(), EVERY))
    got = tensors(torch.compile(everything, backend="aot_eager", fullgraph=True)(*qkv(), EVERY))
    for x, y in zip(got, wanted, strict=True):
        torch.testing.assert_close(x, y)


class Model(nn.Module):
    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        ev = row_evidence(q, k, q_positions=torch.arange(7, 10), topk=2, spans=torch.tensor([[[0, 3]]]))
        return ev.argmax_key, ev.span_mass, ev.topk_key


def test_exported_for_any_number_of_keys() -> None:
    q, k, _ = qkv()
    many = torch.export.Dim("n", min=2, max=1 << 20)
    program = torch.export.export(Model(), (q, k), dynamic_shapes=({}, {2: many}))
    longer = torch.randn(1, 1, 33, 4, generator=torch.Generator().manual_seed(1))
    for got, wanted in zip(program.module()(q, longer), Model()(q, longer), strict=True):
        assert torch.equal(got, wanted)


@OPTIONS
def test_fake_tensors_have_the_real_ones_shapes_and_dtypes(options: dict[str, Any]) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [x.to(dtype) for x in qkv()]
        wanted = tensors(everything(*inputs, options))  # type: ignore[arg-type]
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            got = tensors(everything(*map(mode.from_tensor, inputs), options))  # type: ignore[arg-type]
        assert [(x.shape, x.dtype, x.stride()) for x in got] == [(x.shape, x.dtype, x.stride()) for x in wanted]


@pytest.mark.parametrize("name", ["evidence_attention", "key_mass"])
def test_registered_as_torch_asks_for(name: str) -> None:
    q, k, v = qkv()
    rules: tuple[Any, ...] = (AT[None], 0.3, True, 6, 5.0, torch.zeros(2), None, AT[None] - 5, None, EVERY["spans"], 2)
    if name == "key_mass":
        rules = (*rules[:5], None, *rules[6:9], None, 0)
    given = (q, k, v if name == "evidence_attention" else q.new_zeros(1, 2, 3))
    torch.library.opcheck(getattr(torch.ops.headscope, name).default, (*given, *rules, "reference"))


def test_errors_are_the_same() -> None:
    q, k, _ = qkv()

    def ask(q: Tensor, k: Tensor, places: Tensor) -> Tensor:
        return row_evidence(q, k, q_positions=AT, k_positions=places).lse

    compiled = torch.compile(ask, backend="eager", fullgraph=True)
    with pytest.raises(ValueError, match="k_positions must increase strictly along the keys"):
        compiled(q, k, torch.zeros(10, dtype=torch.int64))
    with FakeTensorMode() as mode, pytest.raises(ValueError, match=r"k_positions has shape \(9,\)"):
        ask(mode.from_tensor(q), mode.from_tensor(k), torch.arange(9))
