"""How long a call takes, and what this device could do at best: read bandwidth and matrix rate, measured.

On a GPU a call is timed by events on the device, after its last-level cache was overwritten; that also hides the time
that Python takes to launch, as long as it is below that of the overwriting. On a CPU it is timed from Python, with
whatever the caches hold from the call before: small sizes may come out above the floor.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FLUSH_BYTES = 256 * 2**20  # several times the last-level cache of any GPU so far
READ_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Floor:
    """Bytes a second that the device reads, operations a second of a matrix product of two such tensors."""

    read: float
    product: float
    dtype: str

    def us(self, moved: int | None, flops: int | None) -> float | None:
        """The least time for moving so many bytes and for so many operations, whichever is longer."""
        if moved is None and flops is None:
            return None
        return max((moved or 0) / self.read, (flops or 0) / self.product) * 1e6


def median_us(call: Callable[[], object], budget: float, device: torch.device) -> float:
    """Median of single calls over ``budget`` seconds, seven at least, after two to warm up."""
    for _ in range(2):
        call()
    return _median_on_gpu(call, budget, device) if device.type == "cuda" else _median_here(call, budget)


def _median_here(call: Callable[[], object], budget: float) -> float:
    taken: list[float] = []
    end = time.perf_counter() + budget
    while len(taken) < 7 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6


def _median_on_gpu(call: Callable[[], object], budget: float, device: torch.device) -> float:
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    flush.zero_()
    call()
    torch.cuda.synchronize(device)
    count = min(max(int(budget / (time.perf_counter() - start)), 7), 1000)
    pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(count)]  # type: ignore[no-untyped-call]
    for before, after in pairs:
        flush.zero_()
        before.record()
        call()
        after.record()
    torch.cuda.synchronize(device)
    return float(statistics.median(before.elapsed_time(after) for before, after in pairs)) * 1e3


def floor(device: torch.device, dtype: torch.dtype, budget: float = 0.3) -> Floor:
    """Measure the device: the best of several ways to read once, and the product of square matrices of ``dtype``."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(size, size, device=device).to(dtype), torch.randn(size, size, device=device).to(dtype)
    product = 2 * size**3 / median_us(lambda: a @ b, budget, device) * 1e6
    fastest = min(median_us(way, budget, device) for way in _readings(device))
    return Floor(READ_BYTES / fastest * 1e6, product, str(dtype).removeprefix("torch."))


def _readings(device: torch.device) -> tuple[Callable[[], object], ...]:
    """Calls that read READ_BYTES once and write next to nothing."""
    values = torch.ones(READ_BYTES // 4 // 8192, 8192, device=device)
    vector: Tensor = torch.ones(8192, device=device)
    return values.sum, values.amax, lambda: values @ vector
