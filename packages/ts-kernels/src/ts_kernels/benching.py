"""Timing of every operation: against what the device could do at best, and against plain torch.

For ``ts-kernels bench`` and tools/bench/kernels.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import torch

from . import cases, plugins
from .clocks import Floor, floor, median_us
from .errors import NoKernelError
from .registry import REGISTRY, Band
from .selection import OPERATIONS

__all__ = ["Bench", "Floor", "Timing", "floor", "operations", "run"]

Clock = Callable[[Callable[[], object], float, torch.device], float]


@dataclass(frozen=True)
class Timing:
    """Median microseconds of a kernel through the public function, and of plain torch (None where it has no such).

    ``bytes`` and ``flops`` are what the call must at least move and compute, ``floor_us`` the time which that takes at
    the measured rates.
    """

    operation: str
    kernel: str
    sizes: str
    rows: int
    dtype: str
    kernel_us: float
    torch_us: float | None
    bytes: int | None
    flops: int | None
    floor_us: float | None
    variant: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster than torch."""
        return None if self.torch_us is None else self.torch_us / self.kernel_us

    @property
    def percent(self) -> float | None:
        """How much of the best possible speed this is."""
        return None if self.floor_us is None else 100 * self.floor_us / self.kernel_us

    def as_json(self) -> dict[str, object]:
        """Fields, the ratio and the percentage."""
        return {**asdict(self), "ratio": self.ratio, "percent_of_floor": self.percent}

    def __str__(self) -> str:
        floor = "" if self.percent is None else f"{self.percent:5.0f}% of the floor"
        against = "" if self.ratio is None else f"{self.torch_us:12.1f} us torch {self.ratio:7.2f}x"
        label = cases.label(self.operation, self.variant)
        return f"{label:32} {self.kernel:10} {self.kernel_us:12.1f} us {floor:18}{against}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What to time: cases whose operation starts with ``only``, by the chosen kernel, or by those named ``impls``."""

    sizes: str
    rows: int
    device: torch.device
    dtype: torch.dtype
    floor: Floor
    only: str = ""
    impls: tuple[str, ...] = ()
    budget: float = 0.15
    clock: Clock = median_us


def run(bench: Bench) -> Iterator[Timing]:
    """Time case by case."""
    plugins.load_all()
    sizes = replace(SIZES[bench.sizes], rows=bench.rows)
    with torch.inference_mode():
        for case in cases.all_cases(sizes, bench.dtype, device=bench.device):
            if case.operation.startswith(bench.only):
                yield from _time(case, bench)


SIZES = {"miniature": cases.MINIATURE, "large": cases.LARGE}


def _time(case: cases.Case, bench: Bench) -> Iterator[Timing]:
    kernels = [name for name in bench.impls if _serves(case, name)] if bench.impls else [chosen(case)]
    plain = bench.clock(case.torch, bench.budget, bench.device) if case.torch is not None and kernels else None
    for kernel in kernels:
        impl = kernel if bench.impls else None
        taken = bench.clock(lambda impl=impl: case.run(impl), bench.budget, bench.device)  # type: ignore[misc]
        least = bench.floor.us(case.bytes, case.flops)
        dtype = str(bench.dtype).removeprefix("torch.")
        said = (case.bytes, case.flops, least, case.variant)
        yield Timing(case.operation, kernel, bench.sizes, bench.rows, dtype, taken, plain, *said)


def chosen(case: cases.Case) -> str:
    """The name of the kernel that serves this call: the first, by rank, that can."""
    ranked = [spec for spec in REGISTRY.kernels(case.operation) if spec.band >= Band.REFERENCE]
    return next(spec.name for spec in ranked if _serves(case, spec.name))


def _serves(case: cases.Case, kernel: str) -> bool:
    if kernel not in {spec.name for spec in REGISTRY.kernels(case.operation)}:
        return False
    try:
        case.run(kernel)
    except NoKernelError:
        return False
    return True


def operations() -> list[str]:
    """Names of all operations."""
    return sorted(OPERATIONS)
