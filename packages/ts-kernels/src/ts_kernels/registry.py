"""Operations and the kernels that implement them.

A kernel declares what it can serve; ``selection`` decides. Names: an operation is ``family.function``; a kernel's name
is unique within its operation ("reference", "native", a plugin's own).
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch

from .errors import RegistrationError, UnknownOperationError, nearest
from .platform import DeviceInfo, why_missing

Kernel = Callable[..., Any]
OWN = "ts_kernels"


class Band(IntEnum):
    """Priority bands; the higher one wins, within a band the name that sorts first. Numbers between leave room.

    Two serve only where an override asks for them: INTERPRETED are Triton kernels under TRITON_INTERPRET=1, UNPROVEN
    those that have not been run on the hardware that they are for.
    """

    INTERPRETED = -10
    UNPROVEN = -5
    REFERENCE = 0
    PORTABLE = 10
    NATIVE = 20
    TUNED = 30
    VENDOR = 40


@dataclass(frozen=True)
class Verdict:
    """One need of a kernel held against a query: what it is, and why it is not met, or None."""

    need: str
    objection: str | None


@dataclass(frozen=True, kw_only=True)
class Capability:
    """Hardware that a kernel needs: a device type and a vendor ("any" for all), a range of architectures, features.

    The numbers of architectures are the vendor's own (see ``DeviceInfo``), so a range comes with a vendor.
    """

    device: str = "any"
    vendor: str = "any"
    min_arch: int = 0
    max_arch: int | None = None
    features: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.vendor == "any" and (self.min_arch or self.max_arch is not None):
            raise RegistrationError("a range of architectures needs a vendor: another one's numbers mean other things")

    def __str__(self) -> str:
        """Short, for a table: "cuda nvidia 80..", "cpu native"."""
        ends = f"{self.min_arch or ''}..{self.max_arch or ''}"
        parts = (self.device, self.vendor.removeprefix("any"), ends.strip(".") and ends, *sorted(self.features))
        return " ".join(filter(None, parts))

    def verdicts(self, device: DeviceInfo) -> list[Verdict]:
        """Every need, met or not."""
        found = []
        if self.device != "any":
            wrong = f"needs device {self.device}, tensors are on {device.type}"
            found.append(Verdict(f"device {self.device}", wrong if self.device != device.type else None))
        if self.vendor != "any":
            wrong = f"needs a device by {self.vendor}, this one is by {device.vendor or 'none'}"
            found.append(Verdict(f"a device by {self.vendor}", wrong if self.vendor != device.vendor else None))
        if self.min_arch:
            need = f"architecture {self.min_arch} or newer"
            wrong = f"needs {need}, device has {device.arch}"
            found.append(Verdict(need, wrong if device.arch < self.min_arch else None))
        if self.max_arch is not None:
            need = f"architecture {self.max_arch} or older"
            wrong = f"needs {need}, device has {device.arch}"
            found.append(Verdict(need, wrong if device.arch > self.max_arch else None))
        for feature in sorted(self.features):
            found.append(_feature(feature, device))
        return found

    def serves(self, device: DeviceInfo) -> bool:
        """Whether every need is met."""
        return all(verdict.objection is None for verdict in self.verdicts(device))


def _feature(feature: str, device: DeviceInfo, purpose: str = "") -> Verdict:
    """The need of a feature, for what purpose where it is not the whole kernel's."""
    need, why = f"the feature {feature}{purpose}", why_missing(feature, device)
    wrong = f"needs {need}, which is missing" + (f": {why}" if why else "")
    return Verdict(need, wrong if feature not in device.features else None)


def band_name(band: int) -> str:
    """The name of a band, or the number of one between."""
    return Band(band).name.lower() if band in set(Band) else str(int(band))


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
    argument that is not named may have any); ``dtype_features`` the features that some of them need besides;
    ``formats`` the weight formats; ``traits`` the sizes. ``prepare`` packs a weight for this kernel, None where it
    reads plain tensors; ``in_runs``: a run of rows at a time too, as the native kernels' form is
    (``gemm.cpu.run_of``). ``direct`` loads a shortcut that takes the public function's arguments, checks them itself
    and gives ``NotImplemented`` where it cannot serve them; see ``Operation.direct``.
    """

    operation: str
    name: str
    band: Band
    load: Callable[[], Kernel]
    capability: Capability = field(default_factory=Capability)
    dtypes: Mapping[str, frozenset[torch.dtype]] = field(default_factory=dict)
    dtype_features: Mapping[torch.dtype, str] = field(default_factory=dict)
    formats: frozenset[str] = frozenset({"dense"})
    traits: tuple[Trait, ...] = ()
    prepare: Kernel | None = None
    in_runs: bool = False
    direct: Callable[[], Kernel] | None = None
    origin: str = OWN

    def verdicts(self, query: Query) -> list[Verdict]:
        """Every need of this kernel, met by ``query`` or not."""
        found = self.capability.verdicts(query.device)
        for argument, allowed in self.dtypes.items():
            given = query.dtypes.get(argument)
            wrong = given is not None and given not in allowed
            need = f"{argument} as {_names(allowed)}"
            found.append(
                Verdict(
                    need, f"{argument} must be {_names(allowed)}, is {_names({given})}" if given and wrong else None
                )
            )
            if given is not None and not wrong and given in self.dtype_features:
                found.append(
                    _feature(self.dtype_features[given], query.device, f" for {argument} as {_names({given})}")
                )
        forms = f"weights as {_forms(self.formats, query.format)}"
        wrong = query.format not in self.formats
        found.append(Verdict(forms, f"takes {forms}, given {query.format}" if wrong else None))
        return found + [_held(trait, query.dims) for trait in self.traits]

    def objections(self, query: Query) -> list[str]:
        """Every reason why this kernel cannot serve ``query``; empty where it can."""
        return [verdict.objection for verdict in self.verdicts(query) if verdict.objection]


def multiple(name: str, of: str) -> Trait:
    """One size is a multiple of another."""
    return Trait(f"{name} a multiple of {of}", lambda dims: dims[name] % dims[of] == 0)


def at_most(name: str, most: int | str) -> Trait:
    """A size is at most a number, or another size."""
    return Trait(f"{name} at most {most}", lambda dims: dims[name] <= (dims[most] if isinstance(most, str) else most))


def even(name: str) -> Trait:
    """A size is even."""
    return Trait(f"{name} even", lambda dims: dims[name] % 2 == 0)


def _held(trait: Trait, dims: Mapping[str, int]) -> Verdict:
    try:
        if trait.holds(dims):
            return Verdict(trait.text, None)
    except Exception as error:  # a plugin's trait that asks for a size that the operation does not have, say
        return Verdict(trait.text, f"needs {trait.text}, which could not be told: {type(error).__name__}: {error}")
    sizes = ", ".join(f"{name}={size}" for name, size in dims.items())
    return Verdict(trait.text, f"needs {trait.text}, given {sizes}")


def _forms(formats: frozenset[str], given: str) -> str:
    """All of them, or where they are many those of the kind that was given, and how many there are besides."""
    names = sorted(formats)
    if len(names) > 6:
        kind = given.partition(":")[0]
        near = [name for name in names if name.partition(":")[0] == kind and "shared" not in name] or names[:3]
        return f"{' or '.join(near)} or one of {len(names) - len(near)} other forms"
    return " or ".join(names)


def _names(dtypes: frozenset[torch.dtype] | set[torch.dtype]) -> str:
    return " or ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


@dataclass(frozen=True)
class OperationInfo:
    """An operation's declaration: the arguments whose dtype and the sizes that selection looks at.

    Sizes are 1 or more but for those named ``empty``, and hold to ``limits``: what calls check on their tensors, said
    for those who ask about a call without making it.
    """

    name: str
    dtypes: tuple[str, ...]
    dims: tuple[str, ...]
    summary: str
    empty: tuple[str, ...] = ()
    limits: tuple[Trait, ...] = ()

    def refusals(self, dims: Mapping[str, int]) -> list[str]:
        """What the operation's contract has against a call of these sizes."""
        zeros = [f"{name} must be at least 1" for name in self.dims if dims[name] == 0 and name not in self.empty]
        verdicts = [] if zeros else [_held(limit, dims) for limit in self.limits]
        return zeros + [verdict.objection for verdict in verdicts if verdict.objection]


def _check_types(spec: KernelSpec) -> None:
    """Of the fields that every selection reads: a wrong one would take the operation down, not the kernel alone."""
    wrong = {
        "band": not isinstance(spec.band, int),
        "capability": not isinstance(spec.capability, Capability),
        "formats": not isinstance(spec.formats, frozenset),
        "traits": not (isinstance(spec.traits, tuple) and all(isinstance(one, Trait) for one in spec.traits)),
        "load": not callable(spec.load),
    }
    for name in (name for name, found in wrong.items() if found):
        given = getattr(spec, name)
        raise RegistrationError(f"{spec.operation}/{spec.name}: {name} is of another type: {given!r}")


class Registry:
    """Operations and kernels by name. ``listeners`` hear of a change, so that cached choices are dropped.

    Threads may register and ask at once.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
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
        unknown = set(spec.dtypes) - set(info.dtypes)
        if unknown:
            names = f"{', '.join(sorted(unknown))}; the operation knows {', '.join(info.dtypes)}"
            raise RegistrationError(f"{spec.operation}/{spec.name}: dtypes name {names}")
        _check_types(spec)
        with self._lock:
            kernels = self._kernels[spec.operation]
            if spec.name in kernels:
                taken = f"{spec.operation} has a kernel {spec.name!r} already, from {kernels[spec.name].origin}"
                raise RegistrationError(f"{taken}; rename the one from {spec.origin}")
            kernels[spec.name] = spec
        for listener in self.listeners:
            listener(spec.operation)

    def remove(self, operation: str, name: str) -> None:
        """Take a kernel out again (a test's, or a plugin's that proved broken)."""
        with self._lock:
            del self._kernels[operation][name]
        for listener in self.listeners:
            listener(operation)

    def discard(self, operation: str, name: str) -> None:
        """Take a kernel out if it is still there: two threads may find the same one broken."""
        with self._lock:
            if name in self._kernels[operation]:
                self.remove(operation, name)

    def operation(self, name: str) -> OperationInfo:
        """The declaration of ``name``; raises ``UnknownOperationError`` that names the nearest."""
        if name not in self.operations:
            near = nearest(name, self.operations)
            raise UnknownOperationError(f"no operation {name!r}; the nearest are {near} (`ts-kernels list` has all)")
        return self.operations[name]

    def kernels(self, operation: str) -> list[KernelSpec]:
        """Kernels of ``operation``, the best band first."""
        self.operation(operation)
        with self._lock:
            kernels = list(self._kernels[operation].values())
        return sorted(kernels, key=lambda spec: (-spec.band, spec.name))


REGISTRY = Registry()
