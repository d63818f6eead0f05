"""Every bad argument gets an error that names it, says what was given and what to pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from headscope.kernels import api, evidence_attention, implementation, row_evidence

B, HQ, HKV, R, N, D = 2, 4, 2, 3, 7, 8


def good(**changes: Any) -> dict[str, Any]:
    return {
        "q": torch.zeros(B, HQ, R, D),
        "k": torch.zeros(B, HKV, N, D),
        "q_positions": torch.arange(R),
        **changes,
    }


BAD: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "q is list", {"q": [1.0]}),
    (TypeError, "q is torch.int64", {"q": torch.zeros(B, HQ, R, D, dtype=torch.long)}),
    (ValueError, r"q has shape \(2, 3, 8\); pass \[B, Hq, R, D\]", {"q": torch.zeros(2, 3, 8)}),
    (TypeError, "k is NoneType", {"k": None}),
    (ValueError, r"k has shape \(7, 8\)", {"k": torch.zeros(N, D)}),
    (ValueError, "with q's B = 2 and D = 8", {"k": torch.zeros(1, HKV, N, D)}),
    (ValueError, "with q's B = 2 and D = 8", {"k": torch.zeros(B, HKV, N, D + 1)}),
    (ValueError, "q has 4 heads and k has 3", {"k": torch.zeros(B, 3, N, D)}),
    (ValueError, "q has 4 heads and k has 0", {"k": torch.zeros(B, 0, N, D)}),
    (TypeError, "k is torch.bfloat16 on cpu, q is torch.float32 on cpu", {"k": torch.zeros(B, HKV, N, D).bfloat16()}),
    (TypeError, "k is torch.float32 on meta", {"k": torch.zeros(B, HKV, N, D, device="meta")}),
    (TypeError, "q_positions is list", {"q_positions": [0, 1, 2]}),
    (TypeError, "q_positions is torch.float32", {"q_positions": torch.zeros(R)}),
    (ValueError, r"q_positions has shape \(4,\); pass \[R\] = \[3\] or", {"q_positions": torch.arange(R + 1)}),
    (ValueError, r"q_positions has shape \(3, 3\)", {"q_positions": torch.zeros(R, R, dtype=torch.long)}),
    (TypeError, "spans is list", {"spans": [(0, 4)]}),
    (TypeError, "spans is torch.float32", {"spans": torch.zeros(B, 1, 2)}),
    (ValueError, r"spans has shape \(1, 2\); pass \[start, end\) pairs", {"spans": torch.zeros(1, 2).long()}),
    (ValueError, r"spans has shape \(2, 1, 3\)", {"spans": torch.zeros(B, 1, 3).long()}),
    (ValueError, r"spans has shape \(1, 1, 2\)", {"spans": torch.zeros(1, 1, 2).long()}),
    (ValueError, r"spans has shape \(2, 7, 1, 2\)", {"spans": torch.zeros(B, N, 1, 2).long()}),
    (ValueError, "scale=0", {"scale": 0}),
    (ValueError, "scale=-0.5", {"scale": -0.5}),
    (ValueError, "scale=nan", {"scale": float("nan")}),
    (ValueError, "scale=inf", {"scale": float("inf")}),
    (TypeError, "scale is str", {"scale": "0.1"}),
    (TypeError, "window=2.0", {"window": 2.0}),
    (TypeError, "window=True", {"window": True}),
    (ValueError, "window=0; pass at least 1", {"window": 0}),
    (ValueError, "softcap=0", {"softcap": 0.0}),
    (TypeError, "softcap is Tensor", {"softcap": torch.tensor(30.0)}),
    (TypeError, "sinks is list", {"sinks": [0.0] * HQ}),
    (TypeError, "sinks is torch.int64", {"sinks": torch.zeros(HQ).long()}),
    (ValueError, r"sinks has shape \(2,\); pass one logit per query head, \[4\]", {"sinks": torch.zeros(HKV)}),
    (ValueError, r"sinks has shape \(2, 4\); pass \[Hq\]", {"sinks": torch.zeros(B, HQ)}),
    (TypeError, "key_limits is int", {"key_limits": 5}),
    (ValueError, r"key_limits has shape \(7,\)", {"key_limits": torch.arange(N)}),
    (TypeError, "key_starts is torch.bool", {"key_starts": torch.zeros(R, dtype=torch.bool)}),
    (ValueError, r"key_starts has shape \(1,\)", {"key_starts": torch.arange(1)}),
    (ValueError, r"k_positions has shape \(3,\); pass \[N\] = \[7\]", {"k_positions": torch.arange(R)}),
    (ValueError, "k_positions must increase strictly", {"k_positions": torch.tensor([0, 1, 2, 2, 3, 4, 5])}),
    (
        ValueError,
        "k_positions must increase strictly",
        {"k_positions": torch.stack((torch.arange(N), -torch.arange(N)))},
    ),
    (TypeError, "topk=1.5", {"topk": 1.5}),
    (ValueError, "topk=-1; pass at least 0", {"topk": -1}),
    (TypeError, "causal is 1; pass True or False", {"causal": 1}),
    (ValueError, 'impl="triton": q is on cpu; move q, k and v to a GPU; or use "auto"', {"impl": "triton"}),
    (ValueError, "impl='flash' is unknown", {"impl": "flash"}),
]


@pytest.mark.parametrize(("error", "message", "change"), BAD, ids=[f"{m[:30]}-{i}" for i, (_, m, _) in enumerate(BAD)])
def test_bad_arguments_are_named(error: type[Exception], message: str, change: dict[str, Any]) -> None:
    row_evidence(**good())
    with pytest.raises(error, match=message):
        row_evidence(**good(**change))
    with pytest.raises(error, match=message):
        evidence_attention(v=torch.zeros(B, HKV, N, D), **good(**change))


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (TypeError, "v is NoneType", {"v": None}),
        (ValueError, r"v has shape \(2, 2, 6, 8\) and k \(2, 2, 7, 8\)", {"v": torch.zeros(B, HKV, N - 1, D)}),
        (TypeError, "v is torch.float64 on cpu", {"v": torch.zeros(B, HKV, N, D).double()}),
        (ValueError, "q_offset=3 and q_positions were both given", {"q_offset": 3}),
        (TypeError, "q_offset=0.5", {"q_offset": 0.5, "q_positions": None}),
        (TypeError, "q is NoneType", {"q": None, "q_positions": None}),
        (ValueError, "evidence_attention has no backward", {"q": torch.zeros(B, HQ, R, D, requires_grad=True)}),
    ],
)
def test_bad_arguments_of_the_fused_operation(error: type[Exception], message: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        evidence_attention(**good(**{"v": torch.zeros(B, HKV, N, D), **change}))


def test_what_is_accepted() -> None:
    import numpy as np

    for change in (
        {"q_positions": torch.zeros(B, R, dtype=torch.int32)},
        {"key_limits": torch.zeros(B, R, dtype=torch.int64), "scale": 1, "window": np.int64(3)},
        {"scale": np.float32(0.5), "topk": 100, "impl": "reference", "window": 2**70},
        {"spans": torch.zeros(B, 0, 2, dtype=torch.int32)},
        {"sinks": torch.zeros(HQ, dtype=torch.bfloat16, requires_grad=True)},
    ):
        assert row_evidence(**good(**change)).lse.shape == (B, HQ, R)
    with torch.no_grad():
        evidence_attention(v=torch.zeros(B, HKV, N, D), **good(q=torch.zeros(B, HQ, R, D, requires_grad=True)))


def test_amd_gpus_are_taken_and_called_unmeasured(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.2")
    monkeypatch.setattr(api, "_has_triton", lambda: True)
    with FakeTensorMode():
        q = torch.empty(1, 2, 3, 8, device="cuda", dtype=torch.bfloat16)
    assert implementation(q) == implementation(q, impl="triton") == "triton"
    api.warn_once.cache_clear()
    for _ in range(2):
        api._by_kernels(lambda: 0, "auto")
    assert len(caplog.records) == 1 and "have not been measured on any AMD GPU" in caplog.text


def test_key_positions_are_asked_once_and_again_when_they_changed() -> None:
    positions = torch.arange(B * N).view(B, N)
    row_evidence(**good(k_positions=positions))
    row_evidence(**good(k_positions=positions))
    positions[0, 3] = 0
    with pytest.raises(ValueError, match="k_positions must increase strictly"):
        row_evidence(**good(k_positions=positions))


def test_positions_without_a_batch_axis_are_asked_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    positions, asked, diff = torch.arange(2 * N), [], torch.Tensor.diff
    monkeypatch.setattr(torch.Tensor, "diff", lambda x, **options: (asked.append(x.shape), diff(x, **options))[1])
    for _ in range(2):
        row_evidence(**good(k_positions=positions[:N]))
    row_evidence(**good(k_positions=positions[N:]))
    assert asked == [(1, N)] * 2, "another part of the same memory is asked for itself"
    positions[N + 3] = 0
    with pytest.raises(ValueError, match="k_positions must increase strictly"):
        row_evidence(**good(k_positions=positions[N:]))


def test_autocast_does_not_touch_the_sums() -> None:
    """It is for the model's layers: a monitor inside a training step would measure rounded scores otherwise."""
    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, n, 64, generator=gen) for heads, n in ((8, 20), (2, 300), (2, 300)))
    options: dict[str, Any] = {"q_positions": torch.arange(280, 300), "spans": torch.tensor([[[3, 90]]]), "topk": 2}
    out, ev = evidence_attention(q, k, v, **options)
    with torch.autocast("cpu", torch.bfloat16):
        again, cast = evidence_attention(q, k, v, **options)
    assert torch.equal(again, out)
    for name in ("lse", "argmax_key", "max_logit", "span_mass", "topk_key", "topk_logit"):
        assert torch.equal(getattr(cast, name), getattr(ev, name)), name
