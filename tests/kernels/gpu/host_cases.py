"""What the host does for a GPU, on a machine without one: launches are taken down instead of carried out.

Run by test_without_gpu.py in a process of its own. Everything up to the launch is real, so what would be compiled anew,
and where a GPU would be waited for, shows.
"""

from __future__ import annotations

import traceback
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from builders import random_grid
from headscope.interp.engine import passes
from headscope.interp.engine import suffixes as suffixes
from headscope.interp.engine.engine import Engine
from headscope.interp.engine.plan import plan
from headscope.interp.model.adapt import adapt
from headscope.kernels import api
from headscope.kernels import sdpa as plain
from headscope.kernels.gpu import configs, self_check
from headscope.kernels.gpu import evidence_attention as attention
from headscope.kernels.gpu import row_evidence as rows_module
from headscope.kernels.gpu.launch import near, run_kernels, run_key_mass
from headscope.kernels.rules import Rules
from tiny_models import build

RESULTS = {"first", "last", "out", "lse", "at", "max_logit", "part_m", "part_l", "part_at", "more", "more_at", "mass"}


class Hopper:
    """As much of a driver as choosing a compiled kernel asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0


@pytest.fixture
def variants(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[Any]]:
    """Kernel -> what each of its compiled variants is specialised on."""
    driver.set_active(Hopper())  # type: ignore[no-untyped-call]
    monkeypatch.setattr(configs, "_look_up", lambda table, q, dim: configs.table_tile(table, 90, torch.bfloat16, dim))
    monkeypatch.setattr(rows_module, "processors", lambda device: 132)
    for module in (api, passes, suffixes):
        monkeypatch.setattr(module, "implementation", lambda q, v=None, *, topk=0, impl="auto": "triton")
    monkeypatch.setattr(self_check, "checked_evidence", run_kernels)  # there are no results to compare
    found: dict[str, set[Any]] = defaultdict(set)

    def run(self: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **options: Any) -> None:
        assert grid[0] < 2**31 and max(grid[1:], default=0) < 2**16, grid
        assert options["enable_fp_fusion"] is True, f"{self.fn.__name__}: left to the version of Triton"
        binder = self.device_caches[0][-1]
        bound, specialised, _ = binder(*args, debug=False, **options)
        found[self.fn.__name__].add(str([*zip(bound, specialised, strict=False), options]))
        for name, value in bound.items():
            if name in RESULTS and isinstance(value, torch.Tensor):
                value.zero_()

    monkeypatch.setattr(JITFunction, "run", run)
    return found


def ask(n: int, *, rows: int = 32, batch: int = 1, kv: int = 8, spans: int = 3, topk: int = 0, v: bool = False) -> None:
    """A call on the first n keys of a long cache, on tensors without contents."""
    with torch.device("meta"):
        q = torch.empty(batch, 4 * kv, rows, 128, dtype=torch.bfloat16)
        cache = torch.empty(batch, kv, max(n, 1 << 18), 128, dtype=torch.bfloat16)[:, :, :n]
        asked = torch.empty(batch, rows, spans, 2, dtype=torch.int64)
        at = torch.empty(1, rows, dtype=torch.int64)
    rules = Rules(q_positions=at, scale=0.1, key_limits=at, spans=asked, topk=topk)
    run_kernels(q, cache, cache if v else None, rules)
    if not v:
        run_key_mass(q, cache, q.new_empty(q.shape[:3], dtype=torch.float32), replace(rules, spans=None, topk=0))


def test_no_prefix_length_compiles_anything_anew(variants: dict[str, set[Any]]) -> None:
    for n in (1, 16, 77, 4096, 4097, 65536, 131071, 1 << 18):
        for spans in (1, 2, 7, 8, 9, 16):
            ask(n, spans=spans)
            ask(n, spans=spans, v=True)
    assert {name: len(found) for name, found in variants.items()} == {
        "visible_keys_kernel": 1,
        "row_evidence_kernel": 1,
        "merge_splits_kernel": 1,
        "span_mass_kernel": 1,
        "evidence_attention_kernel": 1,
        "key_mass_kernel": 1,
    }


def test_other_ways_of_attention_compile_nothing_anew_either(
    variants: dict[str, set[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, few = configs.Tile(128, 128, 4, 2), configs.Tile(64, 64, 4, 2)
    for n in (1, 77, 4096, 4097, 131071):
        monkeypatch.setattr(attention, "splits_of", lambda q, k, tile, n=n: 2 + n % 61)
        for ways in (configs.Ways(few_rows=few), configs.Ways(clear=wide, prefetch=True)):
            monkeypatch.setattr(attention, "attention_ways", lambda q, v, ways=ways: ways)
            ask(n, v=True)
    asked = ("split_attention", "merge_splits", "join_splits", "clear_blocks", "evidence_attention")
    assert [len(variants[f"{name}_kernel"]) for name in asked] == [1] * 5


def test_grids_are_legal_at_the_largest_sizes(variants: dict[str, set[Any]]) -> None:
    for options in (
        {"n": 1 << 20, "rows": 8192, "kv": 16},
        {"n": 1 << 20, "rows": 1, "topk": 16},
        {"n": 60, "rows": 60, "batch": 600, "kv": 16},
        {"n": 1 << 20, "rows": 1 << 20, "kv": 1},
    ):
        ask(**options)  # type: ignore[arg-type]
        ask(**options, v=True)  # type: ignore[arg-type]
    assert variants


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss"])
def test_a_run_compiles_a_few_variants_and_waits_in_no_layer(
    family: str, variants: dict[str, set[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many chunks and batches. What waits is the same number of times in a forward, however many layers it has."""
    waits: Counter[str] = Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.name().split("::")[1].split(".")[0] in ("_local_scalar_dense", "equal", "nonzero", "_unique2"):
                names = [frame.name for frame in traceback.extract_stack() if "/interp/" in frame.filename]
                if "needle_visible" not in names:  # numbers on the host
                    waits[names[-1] if names else "elsewhere"] += 1
            return func(*args, **(kwargs or {}))

    def on_a_gpu(q: Any, k: Any, v: Any, scale: float, causal: bool) -> Any:
        """torch's kernel without the look at its result that only the CPU's needs."""
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)

    monkeypatch.setattr(plain, "_kernel", lambda q, k, v: on_a_gpu)
    monkeypatch.setitem(plain.NAMES, on_a_gpu, "sdpa:flash")
    probes = random_grid(lengths=(400, 901), depths=(0.0, 0.8))
    model, forwards = adapt(build(family)), 0
    forward = model.forward

    def counted(*args: Any) -> Any:
        nonlocal forwards
        forwards += 1
        return forward(*args)

    monkeypatch.setattr(model, "forward", counted)
    with model.routed(901), torch.no_grad(), Watch():
        for sharing in ("grafted", "exact"):
            assert len(list(Engine(model, probes, chunk=48, suffix_rows=96).run(plan(probes, sharing)))) == len(probes)
    # heads of 8 numbers: strides that are multiples of 16 and such that are not, beside the layers' rules
    assert max(map(len, variants.values())) <= 12, {name: len(found) for name, found in variants.items()}
    kinds = 1 if family == "llama" else 2
    assert forwards > 30 and set(waits) <= {"first_seen", "_own_evidence", "see_itself"}, waits
    assert waits["first_seen"] <= 2 * forwards * kinds, "what a mask means is asked once a forward and kind of layer"
    assert waits["_own_evidence"] + waits["see_itself"] <= forwards, "positions are looked at once a batch"


def test_only_a_key_that_is_spread_over_more_than_32_bits_is_copied() -> None:
    usual = torch.empty(1, 8, 1 << 18, 128, dtype=torch.bfloat16, device="meta")[:, :, :77]
    assert near(usual) is usual
    assert near(usual.mT).stride() == usual.mT.stride()
    spread = torch.empty_strided((1, 1, 9, 128), (1, 1, 1, 1 << 25), dtype=torch.bfloat16, device="meta")
    assert near(spread).stride(-1) == 1
