"""What a device does: how long calls take on it, what they hold, and its own rates.

On a CPU times are of the process, all threads together, and a call is measured by itself. On a CUDA
device calls return before they are done: each is enclosed in two events of the device's own clock,
and all work is waited for before events are read. The first calls are not counted, since kernels
are loaded and tuned in them.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import harness
import torch

__all__ = ["Device", "Duration"]


@dataclass(frozen=True)
class Duration:
    """Milliseconds of one call: median, and the 10 % and 90 % quantiles over the repeats."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Device:
    """A CPU or a CUDA device, by torch's name for it."""

    name: str

    @property
    def is_cuda(self) -> bool:
        """Whether calls on it return before they are done."""
        return torch.device(self.name).type == "cuda"

    @property
    def model(self) -> str:
        """What its maker calls it."""
        if self.is_cuda:
            return torch.cuda.get_device_name(self.name)
        return str(harness.machine()["cpu"])

    def time(
        self, functions: Sequence[Callable[[], object]], repeats: int, warmup: int = 3
    ) -> list[Duration]:
        """Time functions in turns, so that what disturbs the device disturbs all of them alike."""
        if not self.is_cuda:
            timings = harness.measure_together(functions, repeats, warmup)
            return [Duration(t.cpu_ms, t.cpu_ms_q10, t.cpu_ms_q90) for t in timings]
        for function in list(functions) * warmup:
            function()
        events = []
        torch.cuda.synchronize(self.name)
        for _ in range(repeats):
            for function in functions:
                pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                pair[0].record()
                function()
                pair[1].record()
                events.append(pair)
        torch.cuda.synchronize(self.name)
        spans = torch.tensor([start.elapsed_time(end) for start, end in events])
        levels = torch.tensor([0.1, 0.5, 0.9])
        found = spans.reshape(repeats, len(functions)).quantile(levels, dim=0).T.tolist()
        return [Duration(median, low, high) for low, median, high in found]

    def peak_mib(self, function: Callable[[], object]) -> float:
        """Return by how much a call raises what tensors hold on the device at its peak."""
        if not self.is_cuda:
            return harness.peak_growth_mib(function)
        gc.collect()
        torch.cuda.synchronize(self.name)
        torch.cuda.reset_peak_memory_stats(self.name)
        before = torch.cuda.memory_allocated(self.name)
        function()
        torch.cuda.synchronize(self.name)
        return (torch.cuda.max_memory_allocated(self.name) - before) / 2**20

    def copy_gib_per_s(self, numbers: int, repeats: int = 20) -> float:
        """Return the rate at which float32 numbers are copied, bytes read and written together."""
        source = torch.ones(numbers, device=self.name)
        target = torch.empty_like(source)
        (duration,) = self.time([lambda: target.copy_(source)], repeats)
        return 2 * source.nbytes / 2**30 / (duration.median / 1e3)

    def matmul_gflops(
        self, size: int, repeats: int = 10, dtype: torch.dtype = torch.float32
    ) -> float:
        """Return the rate of products of square matrices, in 10^9 operations per second."""
        one, other = (torch.randn(size, size, device=self.name).to(dtype) for _ in range(2))
        (duration,) = self.time([lambda: one @ other], repeats)
        return 2 * size**3 / (duration.median * 1e6)
