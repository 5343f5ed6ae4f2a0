"""``ts-kernels check --graphs``: whether kernels can be captured in a CUDA graph and replayed with other inputs.

A step of decode is replayed from a graph, so whatever a kernel reads from the host at the call (a length, a maximum) is
frozen there. Each case is captured, its inputs are changed in place, and the replay is compared with the reference.
"""

from collections.abc import Callable, Iterator
from dataclasses import is_dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from . import cases, checking, plugins
from .checking import Outcome
from .errors import NoKernelError
from .registry import REGISTRY

Outputs = tuple[Tensor, ...]
Call = Callable[[], Outputs]
LENGTHS, ROWS = "lengths", ("ids", "output", "mask", "tables")


class Recording(Protocol):
    """A captured call."""

    def replay(self) -> Outputs:
        """Run it again; the tensors of the first run, with new values."""


class CudaRecording:
    """A CUDA graph. The calls before the capture compile and fill caches, on a stream of their own as torch asks."""

    def __init__(self, call: Call) -> None:
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = call()

    def launch(self) -> None:
        """Launch the graph."""
        self._graph.replay()

    def replay(self) -> Outputs:
        """Launch the graph and wait for it."""
        self.launch()
        torch.cuda.synchronize()
        return self._outputs


def run(
    device: torch.device, impl: str = "triton", only: str = "", record: Callable[[Call], Recording] = CudaRecording
) -> Iterator[Outcome]:
    """Capture every case that ``impl`` serves, in bf16."""
    plugins.load_all()
    sizes = replace(cases.MINIATURE, rows=3, prompt=21, context=53)
    with torch.inference_mode():
        for case in cases.all_cases(sizes, torch.bfloat16, device=device):
            if case.operation.startswith(only) and impl in {s.name for s in REGISTRY.kernels(case.operation)}:
                yield from _check(case, impl, record)


def _check(case: cases.Case, impl: str, record: Callable[[Call], Recording]) -> Iterator[Outcome]:
    dtype = torch.bfloat16
    try:
        recording = record(lambda: case.run(impl))
        before = case.run("reference")
        change(case.run)
        have, wanted = recording.replay(), case.run("reference")
        error, passed = checking.compare(case, have, wanted, dtype)
        if checking.compare(case, before, wanted, dtype)[1]:
            raise AssertionError("the change of the inputs does not show in the result")
        yield Outcome(case.operation, impl, "graph", dtype, error, passed, variant=case.variant)
    except NoKernelError:
        return
    except Exception as error:
        failure = f"{type(error).__name__}: {error}".splitlines()[0]
        yield Outcome(case.operation, impl, "graph", dtype, float("inf"), False, failure, case.variant)


def change(run: Callable[..., Any]) -> None:
    """Change the tensors that a case's ``run`` holds: floats are flipped and scaled unevenly, lengths halved; rows of
    page tables, of expert ids, of sampled tokens and of masks trade places."""
    for name, value in held(run):
        if value.is_floating_point():
            slope = torch.linspace(-1.5, -0.5, value.shape[-1], device=value.device)
            value.copy_((value.float() * slope).to(value.dtype))
        elif name == LENGTHS:
            value.copy_((value + 1) // 2)
        elif name in ROWS:
            value.copy_(value.roll(1, 0))


def held(run: Callable[..., Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a case's ``run`` holds, by name; those of a batch too, but not of weights."""
    cells = zip(run.__code__.co_freevars, run.__closure__ or (), strict=True)
    for name, value in ((name, cell.cell_contents) for name, cell in cells):
        batch = is_dataclass(value) and type(value).__module__.startswith(cases.__name__)
        for part, found in vars(value).items() if batch else [(name, value)]:
            if isinstance(found, Tensor):
                yield part, found
