"""Checks of graph capture, with recordings that need no GPU: one that runs the call again, one that does not."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from ts_kernels import cases, graphs, norm
from ts_kernels.graphs import Call, Outputs
from ts_kernels.registry import REGISTRY, Band, KernelSpec

CPU = torch.device("cpu")


class Faithful:
    """What a graph does: the same work on the values of now."""

    def __init__(self, call: Call) -> None:
        self.call = call
        call()

    def replay(self) -> Outputs:
        return self.call()


class Frozen(Faithful):
    """What must be caught: the values of the capture."""

    def __init__(self, call: Call) -> None:
        self.kept = call()

    def replay(self) -> Outputs:
        return self.kept


def test_a_faithful_replay_passes_and_a_frozen_one_fails() -> None:
    passed = {o.operation: o for o in graphs.run(CPU, "reference", record=Faithful)}
    assert set(passed) >= {"norm.rms_norm", "gemm.linear", "mla.decode", "mla.prefill", "moe.experts"}
    assert all(o.passed for o in passed.values()), [o for o in passed.values() if not o.passed]
    frozen = list(graphs.run(CPU, "reference", record=Frozen))
    assert len({o.operation for o in frozen}) == len(passed)
    assert not [o for o in frozen if o.passed]


@pytest.fixture
def host_reader() -> Iterator[None]:
    """A kernel that looks at a value of its input on the host, once: what a capture freezes."""
    seen: list[float] = []

    def kernel(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if not seen:
            seen.append(float(x[0, 0]))
        sign = 1.0 if (seen[0] > 0) == (float(x[0, 0]) > 0) else -1.0
        return sign * norm.rms_norm(x, weight, eps, impl="reference")

    spec = KernelSpec(operation="norm.rms_norm", name="host", band=Band.REFERENCE, load=lambda: kernel, origin="test")
    REGISTRY.register(spec)
    yield
    REGISTRY.remove("norm.rms_norm", "host")


def test_a_kernel_that_remembers_is_caught(host_reader: None) -> None:
    (outcome,) = graphs.run(CPU, "host", "norm.rms_norm", record=Faithful)
    assert not outcome.passed
    assert outcome.error > 1.0


def test_a_capture_that_fails_is_told() -> None:
    def broken(call: Call) -> Faithful:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    (outcome,) = graphs.run(CPU, "reference", "norm.rms_norm", record=broken)
    assert outcome.failure == "RuntimeError: operation not permitted when stream is capturing"


@pytest.mark.parametrize("operation", ["mla.decode", "attention.decode"])
def test_lengths_tables_and_activations_change(operation: str) -> None:
    sizes = replace(cases.MINIATURE, rows=3, context=53)
    case = next(c for c in cases.all_cases(sizes) if c.operation == operation)
    held = dict(graphs.held(case.run))
    q, tables = held["q"].clone(), held["tables"].clone()
    graphs.change(case.run)
    assert held["lengths"].tolist() == [27, 27, 27]
    assert not held["q"].eq(q).any()
    assert torch.equal(held["tables"], tables[[2, 0, 1]])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_triton_case_on_the_gpu() -> None:
    outcomes = list(graphs.run(torch.device("cuda")))
    assert outcomes
    assert not [o for o in outcomes if not o.passed]
