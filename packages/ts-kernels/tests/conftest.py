"""Poisoned memory, the instruction sets to test, and one comparison for all."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.utils.deterministic
from hypothesis import HealthCheck, settings
from torch import Tensor
from ts_kernels import checking, platform
from ts_kernels import settings as kernel_settings
from ts_kernels.selection import OPERATIONS

settings.register_profile(
    "kernels",
    deadline=None,
    max_examples=20,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("kernels")


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Memory from ``torch.empty`` is NaN, so an element that a kernel does not write shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def debug(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """TS_KERNELS_DEBUG=1."""
    monkeypatch.setattr(kernel_settings, "_current", [kernel_settings.Settings(debug=True)])
    for operation in OPERATIONS.values():
        operation.forget()
    yield
    for operation in OPERATIONS.values():
        operation.forget()


def _levels() -> list[str]:
    return list(platform.configure_native()) if platform.native_error() is None else []


@pytest.fixture(params=_levels() or ["missing"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this machine runs, chosen while the test runs."""
    if request.param == "missing":
        pytest.skip(f"native kernels are not built: {platform.native_error()}")
    from ts_kernels import _native

    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


@pytest.fixture(params=["reference", *_levels()])
def each_kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """The reference, then the native kernel at each instruction set that this machine runs: what ``impl`` takes."""
    if request.param == "reference":
        yield "reference"
        return
    from ts_kernels import _native

    before = _native.isa()
    _native.set_isa(request.param)
    yield "native"
    _native.set_isa(before)


@pytest.fixture
def native() -> None:
    """Skip where the native kernels are not built."""
    if platform.native_error() is not None:
        pytest.skip(f"native kernels are not built: {platform.native_error()}")


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """``assert_close(have, want, *dtypes)``: equal within the loosest of these formats, by the largest magnitude."""

    def assert_agrees(have: Tensor, want: Tensor, *dtypes: torch.dtype) -> None:
        limit = max(checking.TOLERANCE.get(dtype, 0.0) for dtype in (have.dtype, *dtypes))
        error = checking.difference(have, want)
        assert error <= limit, f"differs by {error:.2e} of the largest magnitude, allowed {limit:.2e}"

    return assert_agrees
