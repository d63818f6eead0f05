"""Where a part runs, and how it measures: on a GPU with events, medians and a cold L2, or as a toy on the CPU."""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
FLUSH = 256 << 20  # bytes; more than the second-level cache of any GPU
EXP_PER_CLOCK = 16  # ex2 per multiprocessor and clock (CUDA C++ Programming Guide, throughput table)


@dataclass(frozen=True)
class Stage:
    """`toy` shrinks every size, so that all code runs on a CPU in seconds; its figures mean nothing."""

    toy: bool
    dims: tuple[int, ...] = (128,)
    """head sizes to tune for"""

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.toy else "cuda")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.toy else torch.bfloat16  # Triton's interpreter is wrong about bfloat16

    def size(self, real: int, toy: int) -> int:
        return toy if self.toy else real

    def randn(self, *shape: int, seed: int = 0) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=self.dtype, device=self.device)

    def wait(self) -> None:
        if not self.toy:
            torch.cuda.synchronize()

    def ms(self, run: Callable[[], Any], *, repeats: int = 20, cold: bool = False, seconds: float = 3.0) -> float:
        """Median milliseconds of a call on the device; `cold` empties the L2 cache before each. At most `seconds`."""
        if self.toy:
            return self.wall(run)[0] * 1e3
        run()  # compiles
        once, _ = self.wall(run)
        repeats = max(1 if once > seconds / 4 else 3, min(repeats, int(seconds / max(once, 1e-6))))
        times = []
        for _ in range(repeats):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            if cold:
                self._flush.zero_()  # also keeps the device busy while the call is being launched
            start.record()
            run()
            end.record()
            times.append((start, end))
        self.wait()
        return statistics.median(start.elapsed_time(end) for start, end in times)

    def graph_ms(self, run: Callable[[], Any], **options: Any) -> float:
        """As `ms`, of a CUDA graph of the call: what the device needs, without the time the host takes to launch."""
        if self.toy:
            return self.ms(run, **options)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        found = self.ms(graph.replay, **options)
        del graph
        return found

    def wall(self, run: Callable[[], T]) -> tuple[float, T]:
        """Seconds of one call, until the device is done, and what it returned."""
        self.wait()
        began = perf_counter()
        result = run()
        self.wait()
        return perf_counter() - began, result

    @contextmanager
    def memory(self) -> Iterator[list[int]]:
        """Yields a list to which the peak of allocated bytes inside the block is appended, above what was there."""
        found: list[int] = []
        if self.toy:
            yield found
            found.append(0)
            return
        gc.collect()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        torch.cuda.synchronize()
        found.append(torch.cuda.max_memory_allocated() - before)

    def free(self) -> None:
        """Hand back what is no longer held: a part's cases must not starve one another."""
        if not self.toy:
            gc.collect()
            torch.cuda.empty_cache()

    @cached_property
    def bandwidth(self) -> float:
        """Bytes per second of a copy on the device, read and written."""
        a = torch.empty(self.size(2 << 30, 1 << 20), dtype=torch.uint8, device=self.device)
        b = torch.empty_like(a)
        return 2 * a.numel() / (self.ms(lambda: b.copy_(a)) / 1e3)

    @cached_property
    def flops(self) -> float:
        """Operations per second of a large matrix product in the stage's dtype."""
        n = self.size(8192, 128)
        a, b = self.randn(n, n), self.randn(n, n, seed=1)
        return 2 * n**3 / (self.ms(lambda: a @ b) / 1e3)

    @cached_property
    def exps(self) -> float:
        """Exponentials per second at the device's top clock."""
        if self.toy:
            return 1e9
        properties = torch.cuda.get_device_properties(self.device)
        return properties.multi_processor_count * EXP_PER_CLOCK * getattr(properties, "clock_rate", 1_755_000) * 1e3

    @property
    def shared_memory(self) -> int:
        """Bytes that a block may have."""
        found: int = torch.cuda.get_device_properties(self.device).shared_memory_per_block_optin
        return found

    @cached_property
    def _flush(self) -> Tensor:
        return torch.empty(FLUSH, dtype=torch.uint8, device=self.device)


def interpret() -> None:
    """Before the first launch of a toy: Triton's interpreter needs the repairs that the interpreter tests use."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "kernels" / "gpu"))
    import_module("interpreter_shim")
    from headscope.kernels.gpu import configs

    configs.INTERPRETED = configs.Tile(64, 64, 4, 1)  # few steps: they take the time here


def out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()
