"""Operations and the kernels that implement them.

A kernel declares what it can serve; ``selection`` decides. Names: an operation is ``family.function``; a kernel's name
is unique within its operation ("reference", "native", a plugin's own).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch

from .errors import RegistrationError, UnknownOperationError
from .platform import DeviceInfo

Kernel = Callable[..., Any]


class Band(IntEnum):
    """Priority bands; the higher one wins, within a band the name that sorts first.

    INTERPRETED is for Triton kernels under TRITON_INTERPRET=1: they serve where an override asks for them.
    """

    INTERPRETED = -10
    REFERENCE = 0
    PORTABLE = 10
    NATIVE = 20
    TUNED = 30
    VENDOR = 40


@dataclass(frozen=True, kw_only=True)
class Capability:
    """Hardware that a kernel needs: a device type and a vendor ("any" for all), a range of architectures, features."""

    device: str = "any"
    vendor: str = "any"
    min_arch: int = 0
    max_arch: int | None = None
    features: frozenset[str] = frozenset()

    def objection(self, device: DeviceInfo) -> str | None:
        """Why ``device`` does not do, or None."""
        if self.device not in ("any", device.type):
            return f"needs device {self.device}, tensors are on {device.type}"
        if self.vendor not in ("any", device.vendor):
            return f"needs a device by {self.vendor}, this one is by {device.vendor or 'none'}"
        if device.arch < self.min_arch:
            return f"needs architecture {self.min_arch} or newer, device has {device.arch}"
        if self.max_arch is not None and device.arch > self.max_arch:
            return f"needs architecture {self.max_arch} or older, device has {device.arch}"
        missing = self.features - device.features
        return f"needs features that are missing: {', '.join(sorted(missing))}" if missing else None


@dataclass(frozen=True)
class Query:
    """A class of calls: device, dtype of each argument that matters, weight format and sizes (never the batch)."""

    operation: str
    device: DeviceInfo
    dtypes: Mapping[str, torch.dtype]
    dims: Mapping[str, int]
    format: str = "dense"


@dataclass(frozen=True)
class Trait:
    """A condition on sizes, and how to say it."""

    text: str
    holds: Callable[[Mapping[str, int]], bool]


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """One implementation of one operation.

    ``load`` imports and returns the function on first use. ``dtypes`` gives the dtypes each argument may have (an
    argument that is not named may have any); ``formats`` the weight formats; ``traits`` the sizes. ``prepare`` packs a
    weight for this kernel, None where it reads plain tensors. ``direct`` loads a shortcut that takes the public
    function's arguments, checks them itself and gives ``NotImplemented`` where it cannot serve them; see
    ``Operation.direct``.
    """

    operation: str
    name: str
    band: Band
    load: Callable[[], Kernel]
    capability: Capability = field(default_factory=Capability)
    dtypes: Mapping[str, frozenset[torch.dtype]] = field(default_factory=dict)
    formats: frozenset[str] = frozenset({"dense"})
    traits: tuple[Trait, ...] = ()
    prepare: Kernel | None = None
    direct: Callable[[], Kernel] | None = None
    origin: str = "ts_kernels"

    def objections(self, query: Query) -> list[str]:
        """Every reason why this kernel cannot serve ``query``; empty where it can."""
        found = [self.capability.objection(query.device)]
        for argument, allowed in self.dtypes.items():
            given = query.dtypes.get(argument)
            if given is not None and given not in allowed:
                found.append(f"{argument} must be {_names(allowed)}, is {_names({given})}")
        if query.format not in self.formats:
            found.append(f"takes weights as {' or '.join(sorted(self.formats))}, given {query.format}")
        for trait in self.traits:
            if not trait.holds(query.dims):
                sizes = ", ".join(f"{name}={size}" for name, size in query.dims.items())
                found.append(f"needs {trait.text}, given {sizes}")
        return [text for text in found if text]


def _names(dtypes: frozenset[torch.dtype] | set[torch.dtype]) -> str:
    return " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


@dataclass(frozen=True)
class OperationInfo:
    """An operation's declaration: the arguments whose dtype and the sizes that selection looks at."""

    name: str
    dtypes: tuple[str, ...]
    dims: tuple[str, ...]
    summary: str


class Registry:
    """Operations and kernels by name. ``listeners`` hear of a change, so that cached choices are dropped."""

    def __init__(self) -> None:
        self.operations: dict[str, OperationInfo] = {}
        self._kernels: dict[str, dict[str, KernelSpec]] = {}
        self.listeners: list[Callable[[str], None]] = []

    def declare(self, info: OperationInfo) -> None:
        """Add an operation; raises ``RegistrationError`` if it exists."""
        if info.name in self.operations:
            raise RegistrationError(f"operation {info.name} is declared already")
        self.operations[info.name] = info
        self._kernels[info.name] = {}

    def register(self, spec: KernelSpec) -> None:
        """Add a kernel; raises ``RegistrationError`` for an unknown argument or a name that is taken."""
        info = self.operation(spec.operation)
        kernels = self._kernels[spec.operation]
        if spec.name in kernels:
            taken = f"{spec.operation} has a kernel {spec.name!r} already, from {kernels[spec.name].origin}"
            raise RegistrationError(f"{taken}; rename the one from {spec.origin}")
        unknown = set(spec.dtypes) - set(info.dtypes)
        if unknown:
            names = f"{', '.join(sorted(unknown))}; the operation knows {', '.join(info.dtypes)}"
            raise RegistrationError(f"{spec.operation}/{spec.name}: dtypes name {names}")
        kernels[spec.name] = spec
        for listener in self.listeners:
            listener(spec.operation)

    def remove(self, operation: str, name: str) -> None:
        """Take a kernel out again (a test's, or a plugin's that proved broken)."""
        del self._kernels[operation][name]
        for listener in self.listeners:
            listener(operation)

    def operation(self, name: str) -> OperationInfo:
        """The declaration of ``name``; raises ``UnknownOperationError`` that lists what exists."""
        if name not in self.operations:
            raise UnknownOperationError(f"no operation {name!r}; there are {', '.join(sorted(self.operations))}")
        return self.operations[name]

    def kernels(self, operation: str) -> list[KernelSpec]:
        """Kernels of ``operation``, the best band first."""
        self.operation(operation)
        return sorted(self._kernels[operation].values(), key=lambda spec: (-spec.band, spec.name))


REGISTRY = Registry()
