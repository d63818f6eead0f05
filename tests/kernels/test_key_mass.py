"""The attention that every key gets, against the whole map in float64.

test_without_gpu.py runs this file once more with TRITON_INTERPRET=1, for the Triton kernel.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from headscope.kernels import KernelError, evidence_attention, first_use, key_mass, merge, reference, row_evidence
from naive_attention import naive_map

IMPL = "reference"
if os.environ.get("TRITON_INTERPRET") == "1":
    import interpreter_shim  # noqa: F401

    IMPL = "triton"


@pytest.fixture(autouse=True)
def _several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("SCORES", 400), ("KEYS", 16), ("CHUNK", 8)):
        monkeypatch.setattr(reference, name, size)


def qk(kv_heads: int, group: int, rows: int, n: int, dim: int = 8, batch: int = 1) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(n)
    shapes = ((batch, kv_heads * group, rows, dim), (batch, kv_heads, n, dim))
    return tuple(torch.randn(shape, generator=gen) for shape in shapes)  # type: ignore[return-value]


def compare(q: Tensor, k: Tensor, sinks: Tensor | None = None, **options: Any) -> Tensor:
    """With the log-sum-exp of row_evidence; the budget is that of its scores, for every row that a key is seen by."""
    *_, p, _, _ = naive_map(q, k, sinks=sinks, **options)
    lse = row_evidence(q, k, sinks=sinks, **options).lse
    mass = key_mass(q, k, lse, impl=IMPL, **options)
    wide = torch.promote_types(q.dtype, torch.float32)
    assert mass.shape == (*q.shape[:2], k.shape[2]) and mass.dtype == wide
    eps = torch.finfo(wide).eps
    size = float(q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max())
    scores = 8 * size * options.get("scale", q.shape[-1] ** -0.5)  # units that a score and a log-sum-exp may be off by
    torch.testing.assert_close(mass.double(), p.sum(2), rtol=eps * (16 + scores), atol=16 * eps)
    return mass


@pytest.mark.parametrize(("n", "group"), [(1, 3), (17, 1), (40, 3)])
def test_query_heads_share_key_heads(n: int, group: int) -> None:
    compare(*qk(2, group, 5, n), q_positions=torch.tensor([n - 1, 0, -1, n // 2, n + 9]))


def test_many_rows_in_any_order() -> None:
    q, k = qk(1, 2, 37, 40)
    compare(q, k, q_positions=torch.randperm(37, generator=torch.Generator().manual_seed(0)))


GIVEN: dict[str, dict[str, Any]] = {
    "window": {"window": 7},
    "soft-cap": {"softcap": 2.0, "scale": 0.7},
    "sinks": {"sinks": torch.tensor([0.0, 9.0])},
    "not causal": {"causal": False},
    "limits": {
        "key_limits": torch.tensor([[40, 12, 3], [7, 0, 29]]),
        "key_starts": torch.tensor([[2, 12, 1], [-3, 0, 5]]),
    },
    "positions": {"k_positions": 2 * torch.arange(45) - 7, "window": 30},
}
GIVEN["all of them"] = {name: value for options in GIVEN.values() for name, value in options.items()}


@pytest.mark.parametrize("options", GIVEN.values(), ids=GIVEN.keys())
def test_every_rule(options: dict[str, Any]) -> None:
    q, k = qk(1, 2, 3, 45, batch=2)
    compare(q, k, q_positions=torch.tensor([44, 20, 30]), **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype: torch.dtype) -> None:
    if dtype == torch.float64 and IMPL == "triton":
        pytest.skip("the kernels take no float64")
    q, k = (x.to(dtype) for x in qk(1, 2, 5, 40, dim=80))
    compare(q, k.mT.contiguous().mT, q_positions=torch.arange(35, 40))


def test_it_is_what_softmax_gives() -> None:
    q, k = qk(1, 2, 6, 50)
    at = torch.arange(44, 50)
    scores = (q @ k.mT * 8**-0.5).masked_fill(torch.arange(50) > at[:, None], -torch.inf)
    _, ev = evidence_attention(q, k, k, q_positions=at)
    mass = key_mass(q, k, ev.lse, q_positions=at, impl=IMPL)
    torch.testing.assert_close(mass, scores.softmax(-1).sum(2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(mass.sum(-1), torch.full((1, 2), 6.0), rtol=1e-5, atol=0)


def test_keys_in_parts() -> None:
    """Each part with the log-sum-exp of all: as for keys on several GPUs."""
    q, k = qk(1, 2, 6, 50)
    at = torch.arange(44, 50)
    whole = compare(q, k, q_positions=at)
    parts = [(k[:, :, own], {"q_positions": at, "k_positions": own}) for own in torch.arange(50).split(20)]
    a, b, c = (row_evidence(q, keys, **options) for keys, options in parts)
    lse = merge(merge(a, b), c).lse
    mass = torch.cat([key_mass(q, keys, lse, impl=IMPL, **options) for keys, options in parts], -1)
    torch.testing.assert_close(mass, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_broken_and_blind_rows(softcap: float | None) -> None:
    q, k = qk(1, 1, 3, 40)
    q[..., 0] = 1
    k[:, :, :20, 0] = -torch.inf
    options = {"q_positions": torch.tensor([30, 10, -1]), "softcap": softcap}
    mass = key_mass(q, k, row_evidence(q, k, **options).lse, impl=IMPL, **options)
    assert (mass[..., :20] == 0).all() and (mass[..., 31:] == 0).all(), "the second row sees scores of -inf alone"
    assert mass.sum() == pytest.approx(1, abs=1e-5)
    q[:, :, 1] = torch.nan
    mass = key_mass(q, k, row_evidence(q, k, **options).lse, impl=IMPL, **options)
    assert mass[..., :11].isnan().all() and not mass[..., 11:].isnan().any(), "keys that the broken row sees"


@pytest.mark.skipif(IMPL != "triton", reason="the reference is what is compared with")
def test_a_kernel_that_is_wrong_here_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from headscope.kernels.gpu import launch

    first_use.forget()
    right = launch.run_key_mass
    monkeypatch.setattr(launch, "run_key_mass", lambda *inputs: right(*inputs).roll(1, 1))
    q, k = qk(1, 2, 3, 33)
    lse = row_evidence(q, k, q_positions=torch.arange(30, 33)).lse
    with pytest.raises(KernelError, match=r"disagree with the definition.*mass of keys"):
        key_mass(q, k, lse, q_positions=torch.arange(30, 33), impl="triton")
    first_use.forget()


def test_nothing_to_sum() -> None:
    q, k = qk(2, 2, 3, 9)
    at = torch.arange(3)
    assert key_mass(q, k[:, :, :0], torch.zeros(1, 4, 3), q_positions=at, impl=IMPL).shape == (1, 4, 0)
    none = key_mass(q[:, :, :0], k, torch.zeros(1, 4, 0), q_positions=at[:0], impl=IMPL)
    assert none.shape == (1, 4, 9) and (none == 0).all()


def test_bad_arguments() -> None:
    q, k = qk(2, 2, 3, 9)
    with pytest.raises(ValueError, match=r"lse has shape \(1, 4, 2\) on cpu; pass one number per row and head of q"):
        key_mass(q, k, torch.zeros(1, 4, 2), q_positions=torch.arange(3))
    with pytest.raises(TypeError, match="lse is NoneType"):
        key_mass(q, k, None, q_positions=torch.arange(3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window=0; pass at least 1"):
        key_mass(q, k, torch.zeros(1, 4, 3), q_positions=torch.arange(3), window=0)
