"""``ts-kernels tune``: measures launch settings on the GPU at hand and keeps the best ones.

An operation's representative call is run once to hear which settings its kernels ask for. Then each is searched one
setting at a time from the default (all values of one name, the best kept, around again until nothing improves), which
needs some tens of measurements where all combinations would be thousands. Settings that fail to compile, or that give
other numbers than the reference, lose.
"""

import importlib.metadata
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from . import cases, checking, tuned
from .errors import TuningError

Timer = Callable[[Callable[[], object]], float]
ROUNDS = 3


@dataclass
class Search:
    """The search for one request; ``measured`` keeps what was tried, so that nothing is measured twice."""

    request: tuned.Request
    measure: Callable[[tuned.Config], float]
    measured: dict[tuple[tuple[str, Any], ...], float] = field(default_factory=dict)

    def run(self) -> tuple[tuned.Config, float]:
        """The best settings and their time; infinite where nothing worked."""
        best = dict(self.request.default)
        time = self.time(best)
        for _ in range(ROUNDS):
            before = time
            for name, values in space(self.request).items():
                for value in values:
                    tried = {**best, name: value}
                    taken = self.time(tried)
                    if taken < time:
                        best, time = tried, taken
            if time == before:
                break
        return best, time

    def time(self, config: tuned.Config) -> float:
        """Microseconds of ``config``, measured once."""
        key = tuple(sorted(config.items()))
        if key not in self.measured:
            self.measured[key] = self.measure(config)
        return self.measured[key]


def space(request: tuned.Request) -> Mapping[str, Sequence[Any]]:
    """The values to try for each setting: those the kernel gives, else those around its default."""
    return {name: request.space.get(name) or _around(name, value) for name, value in request.default.items()}


def _around(name: str, value: Any) -> Sequence[Any]:
    if name == "num_warps":
        return (1, 2, 4, 8, 16)
    if name == "num_stages":
        return (1, 2, 3, 4, 5)
    if isinstance(value, bool):
        return (False, True)
    if isinstance(value, int) and value >= 8 and value & (value - 1) == 0:
        return (value // 2, value, value * 2)
    return (value,)


def tune(
    operation: str, sizes: cases.Sizes, dtype: torch.dtype, device: torch.device, impl: str, timer: Timer
) -> Iterator[tuned.Entry]:
    """Search every setting that ``operation`` asks for at these sizes.

    Raises ``TuningError`` where it asks for none, or where its default does not work.
    """
    found = False
    for case in cases.all_cases(sizes, dtype, device=device):
        if case.operation == operation:
            wanted = case.run("reference")
            for request in _requests(case, impl):
                found = True
                yield _best(case, request, impl, wanted, dtype, timer)
    if not found:
        raise TuningError(f"{operation}/{impl} asks for no tuned settings at these sizes")


def _requests(case: cases.Case, impl: str) -> list[tuned.Request]:
    heard: dict[tuple[str, tuned.ShapeClass], tuned.Request] = {}

    def hear(request: tuned.Request) -> tuned.Config:
        heard.setdefault((request.kernel, request.dims), request)
        return request.default

    try:
        with tuned.observe(hear):
            case.run(impl)
    except Exception:
        if not heard:
            raise  # else a default that does not run here is what tuning is for
    return list(heard.values())


def _best(
    case: cases.Case,
    request: tuned.Request,
    impl: str,
    wanted: tuple[torch.Tensor, ...],
    dtype: torch.dtype,
    timer: Timer,
) -> tuned.Entry:
    def measure(config: tuned.Config) -> float:
        def answer(other: tuned.Request) -> tuned.Config:
            return config if (other.kernel, other.dims) == (request.kernel, request.dims) else other.default

        with tuned.observe(answer):
            try:
                have = case.run(impl)
            except Exception:  # whatever the compiler or the launch says, these settings do not work
                return math.inf
            error = max(checking.difference(h, w) for h, w in zip(have, wanted, strict=True))
            return timer(lambda: case.run(impl)) if error <= checking.tolerance(dtype, wanted) else math.inf

    search = Search(request, measure)
    config, time = search.run()
    default = search.time(request.default)
    if time == math.inf:
        raise TuningError(f"{request.kernel}: neither the default {dict(request.default)} nor any other setting works")
    return tuned.Entry(request.kernel, dict(request.dims), config, time, default, triton_version())


def triton_version() -> str:
    """Triton's version, "none" where it is not installed."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"
