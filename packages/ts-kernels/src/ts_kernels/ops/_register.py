"""Registration of the implementations that operations have: reference, native (C++, CPU) and Triton."""

import functools
import importlib
import inspect
import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .. import contract
from ..platform import E4M3_FEATURE, NATIVE_FEATURE, TRITON_FEATURE, interpreting, native_error
from ..registry import REGISTRY, Band, Capability, Kernel, KernelSpec, Trait
from ..selection import Operation

DENSE = frozenset({"dense"})


def reference(
    operation: Operation,
    function: Kernel,
    dtypes: Mapping[str, frozenset[torch.dtype]],
    formats: frozenset[str] = DENSE,
) -> None:
    """Register the plain torch definition, which runs on every device; ``dtypes`` are those of the contract.

    Like the others it computes no gradients, and writes to tensors that require some.
    """
    without_gradients: Kernel = torch.no_grad()(function)
    spec = KernelSpec(
        operation=operation.name,
        name="reference",
        band=Band.REFERENCE,
        load=lambda: without_gradients,
        dtypes=dtypes,
        formats=formats,
    )
    REGISTRY.register(spec)


def native(
    operation: Operation,
    path: str,
    dtypes: Mapping[str, frozenset[torch.dtype]],
    *,
    formats: frozenset[str] = DENSE,
    traits: tuple[Trait, ...] = (),
    prepare: str | None = None,
    in_runs: bool = False,
    direct: str | None = None,
) -> None:
    """Register the C++ CPU implementation at ``path`` ("family.module:function"), imported on first use.

    ``direct`` is its shortcut, likewise; see ``KernelSpec`` for ``in_runs``.
    """
    spec = KernelSpec(
        operation=operation.name,
        name="native",
        band=Band.NATIVE,
        load=functools.partial(_reading, operation.name, path),
        capability=Capability(device="cpu", features=frozenset({NATIVE_FEATURE})),
        dtypes=dtypes,
        formats=formats,
        traits=traits,
        prepare=None if prepare is None else functools.partial(_call, prepare),
        in_runs=in_runs,
        direct=None if direct is None else functools.partial(_resolve, direct),
    )
    REGISTRY.register(spec)


def triton(
    operation: Operation,
    path: str,
    dtypes: Mapping[str, frozenset[torch.dtype]],
    *,
    formats: frozenset[str] = DENSE,
    traits: tuple[Trait, ...] = (),
    prepare: str | None = None,
    e4m3_as_bytes: bool = False,
) -> None:
    """Register the Triton implementation at ``path`` ("family.triton:function"), imported on first use.

    It serves on any GPU that Triton compiles for, and on a CPU under TRITON_INTERPRET=1 where an override names it.
    Arguments in float8_e4m3fn need a GPU for which Triton has that type, unless the kernel takes ``e4m3_as_bytes``.
    """
    spec = KernelSpec(
        operation=operation.name,
        name="triton",
        band=Band.INTERPRETED if interpreting() else Band.PORTABLE,
        load=functools.partial(_reading, operation.name, path),
        capability=Capability(features=frozenset({TRITON_FEATURE})),
        dtypes=dtypes,
        dtype_features={} if e4m3_as_bytes else {torch.float8_e4m3fn: E4M3_FEATURE},
        formats=formats,
        traits=traits,
        prepare=None if prepare is None else functools.partial(_call, prepare),
    )
    REGISTRY.register(spec)


def _reading(operation: str, path: str) -> Kernel:
    """The kernel at ``path``, which takes addresses: no tensor comes to it whose numbers are at none."""
    kernel = _resolve(path)
    names = tuple(inspect.signature(kernel).parameters)
    surely: Callable[..., bool] = _unsure
    if native_error() is None:
        from .. import _native

        surely = _native.readable

    @functools.wraps(kernel)
    def call(*arguments: object, **named: object) -> object:
        if not surely(*arguments, *named.values()):
            for name, value in itertools.chain(zip(names, arguments, strict=False), named.items()):
                if isinstance(value, Tensor):
                    contract.readable(operation, name, value)
        return kernel(*arguments, **named)

    return call


def _unsure(*arguments: object) -> bool:
    return False


def _resolve(path: str) -> Kernel:
    module, _, name = path.partition(":")
    function: Kernel = getattr(importlib.import_module(f"ts_kernels.ops.{module}"), name)
    return function


def _call(path: str, *arguments: object) -> object:
    return _resolve(path)(*arguments)
