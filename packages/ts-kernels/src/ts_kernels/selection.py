"""Choice of a kernel: filter by capability, rank by band, cache by shape class, explain.

The choice for a class of calls (device, dtypes, format, sizes; never the batch) is made once and kept, so a later
call pays one dictionary lookup; the oldest are dropped beyond a limit. Threads may call at once. Overrides come from
the call (``impl=``), from ``override(...)``, or from TS_KERNELS_IMPL, in that order of precedence; an override that
cannot serve the call is an error, never ignored.
"""

import threading
import warnings
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch

from . import platform, plugins, settings
from .errors import ContractError, NoKernelError, PluginError, SelectionError, SettingsError, UnknownKernelError
from .explanation import Candidate, Explanation
from .registry import OWN, REGISTRY, Kernel, KernelSpec, OperationInfo, Query, Trait

# Choices kept by one operation. A model asks for some tens; a caller whose sizes never repeat fills this and no more.
KEPT = 4096

T = TypeVar("T")

_lock = threading.RLock()
_override_stack: list[Mapping[str, str]] = []
_checked: list[Mapping[str, str]] = []


def explain(query: Query, impl: str | None = None) -> Explanation:
    """Run selection for ``query`` and report every candidate.

    Raises ``UnknownOperationError`` or ``UnknownKernelError`` for names that do not exist.
    """
    plugins.load_all()
    _check_settings()
    override = impl or _active_override(query.operation)
    kernels = REGISTRY.kernels(query.operation)
    if override is not None and override not in {spec.name for spec in kernels}:
        if impl is None and not _named_for(query.operation):
            override = None  # "every operation" means every one that has such a kernel
        else:
            names = ", ".join(spec.name for spec in kernels)
            raise UnknownKernelError(f"{query.operation} has no kernel {override!r}; it has {names}")
    candidates = tuple(Candidate(spec, tuple(spec.verdicts(query))) for spec in kernels)
    able = [c.spec for c in candidates if not c.objections and override in (None, c.spec.name)]
    return Explanation(query, able[0] if able else None, override, candidates)


def select(query: Query, impl: str | None = None) -> KernelSpec:
    """The best kernel for ``query``. Raises ``NoKernelError`` with every candidate's reason."""
    explanation = explain(query, impl)
    if explanation.winner is None:
        wanted = f" (override {explanation.override!r})" if explanation.override else ""
        raise NoKernelError(f"no kernel can serve this call{wanted}\n{explanation}")
    return explanation.winner


@contextmanager
def override(impl: str | None = None, /, **by_operation: str) -> Iterator[None]:
    """Within the block, use kernel ``impl`` for every operation that has it, or name one per operation.

    Operations as keywords write ``__`` for the dot: ``override(mla__decode="reference")``. It holds for the whole
    process, not for one thread: it is meant for tests and for bisecting a wrong result. Raises
    ``UnknownOperationError`` or ``UnknownKernelError`` for a name that nothing has.
    """
    chosen = {name.replace("__", "."): kernel for name, kernel in by_operation.items()}
    if impl is not None:
        chosen[settings.EVERY] = impl
    plugins.load_all()
    _check_names(chosen)
    with _lock:
        _override_stack.append(chosen)
        _forget_all()
    try:
        yield
    finally:
        with _lock:
            _override_stack.remove(chosen)
            _forget_all()


def _check_names(overrides: Mapping[str, str]) -> None:
    """Each operation exists and has that kernel; a kernel for every operation is one that some operation has."""
    for operation, kernel in overrides.items():
        everywhere = operation == settings.EVERY
        operations = list(REGISTRY.operations) if everywhere else [operation]
        known = sorted({spec.name for name in operations for spec in REGISTRY.kernels(name)})
        if kernel not in known:
            whose = "no operation has" if everywhere else f"{operation} has no"
            raise UnknownKernelError(f"{whose} kernel {kernel!r}; there are {', '.join(known)}")


def _check_settings() -> None:
    """TS_KERNELS_IMPL names what exists. Not checked when it is read: plugins are loaded later."""
    overrides = settings.current().overrides
    if overrides not in _checked:
        try:
            _check_names(overrides)
        except SelectionError as error:
            raise SettingsError(f"TS_KERNELS_IMPL: {error}") from None
        _checked[:] = [overrides]


def _active_override(operation: str) -> str | None:
    for layer in (*reversed(tuple(_override_stack)), settings.current().overrides):
        found = layer.get(operation) or layer.get(settings.EVERY)
        if found:
            return found
    return None


def _named_for(operation: str) -> bool:
    return any(operation in layer for layer in (*_override_stack, settings.current().overrides))


def declined(*arguments: object) -> object:
    """The shortcut of an operation that has none (yet)."""
    return NotImplemented


class Operation:
    """The dispatcher of one public function: declares the operation and remembers its choices."""

    def __init__(
        self,
        name: str,
        *,
        dtypes: tuple[str, ...],
        dims: tuple[str, ...] = (),
        summary: str,
        empty: tuple[str, ...] = (),
        limits: tuple[Trait, ...] = (),
    ) -> None:
        self.info = OperationInfo(name, dtypes, dims, summary, empty, limits)
        self.name = name
        self._chosen: dict[Hashable, Kernel] = {}
        self._specs: dict[Hashable, KernelSpec] = {}
        self._generation = 0  # of the registry and the overrides: a choice made under an older one is not kept
        # The best kernel's shortcut: one native call that checks the tensors, allocates and computes, tried before
        # anything else. Through Python the same costs some 15 us, which at 75 operations is a millisecond a token.
        self.direct: Kernel = declined
        REGISTRY.declare(self.info)
        OPERATIONS[name] = self

    def kernel(
        self,
        device: torch.device,
        dtypes: tuple[torch.dtype, ...],
        dims: tuple[int, ...] = (),
        format: str = "dense",
        impl: str | None = None,
    ) -> Kernel:
        """The function to call for this class of calls; sizes in the order of the declaration."""
        key = (device, dtypes, dims, format, impl)
        chosen = self._chosen.get(key)
        if chosen is not None:
            return chosen
        plugins.load_all()
        generation = self._generation
        while True:
            spec = self.choose(device, dtypes, dims, format, impl)
            function = self._load(spec, asked=impl is not None)
            if function is not None:
                break
            generation = self._generation
        self._keep(self._chosen, key, function, generation)
        if impl is None:
            self._adopt(spec, device, generation)
        return function

    def _load(self, spec: KernelSpec, *, asked: bool) -> Kernel | None:
        """The kernel's function; None where a plugin's could not be imported, which is then out of the registry."""
        try:
            return spec.load()
        except Exception as error:
            if spec.origin == OWN:
                raise
            said = f"kernel {spec.name!r} of {self.name}, from plugin {spec.origin!r}, did not load: "
            said += f"{type(error).__name__}: {error}"
            if asked or _active_override(self.name):
                raise PluginError(said) from error
            warnings.warn(f"{said}; another one serves", plugins.PluginWarning, stacklevel=3)
            REGISTRY.discard(self.name, spec.name)
            return None

    def _keep(self, choices: dict[Hashable, T], key: Hashable, choice: T, generation: int) -> None:
        with _lock:
            if generation != self._generation:
                return  # the registry or an override has changed meanwhile
            while len(choices) >= KEPT:
                del choices[next(iter(choices))]
            choices[key] = choice

    def choose(
        self,
        device: torch.device,
        dtypes: tuple[torch.dtype, ...],
        dims: tuple[int, ...] = (),
        format: str = "dense",
        impl: str | None = None,
    ) -> KernelSpec:
        """The kernel that serves this class of calls. Raises ``NoKernelError``."""
        key = (device, dtypes, dims, format, impl)
        spec = self._specs.get(key)
        if spec is None:
            generation = self._generation
            spec = select(self.query(device, dtypes, dims, format), impl)
            self._keep(self._specs, key, spec, generation)
        return spec

    def query(
        self,
        device: torch.device | platform.DeviceInfo,
        dtypes: tuple[torch.dtype, ...],
        dims: tuple[int, ...],
        format: str = "dense",
    ) -> Query:
        """The query that describes such calls, on a device at hand or on one described.

        Raises ``ContractError`` for complex numbers, of which torch's conversions would drop the imaginary part.
        """
        for argument, dtype in zip(self.info.dtypes, dtypes, strict=True):
            if dtype.is_complex:
                raise ContractError(self.name, argument, "real numbers", dtype)
        info = device if isinstance(device, platform.DeviceInfo) else platform.device_info(device)
        named = dict(zip(self.info.dtypes, dtypes, strict=True))
        return Query(self.name, info, named, dict(zip(self.info.dims, dims, strict=True)), format)

    def _adopt(self, spec: KernelSpec, device: torch.device, generation: int) -> None:
        """Take the kernel's shortcut if no other kernel, for any dtype or size, could come before it on its device."""
        if spec.direct is None or settings.current().debug:
            return
        info = platform.device_info(device)
        with _lock:
            if generation != self._generation or _active_override(self.name):
                return
            first = next(s for s in REGISTRY.kernels(self.name) if s.capability.serves(info))
            if first is spec:
                self.direct = spec.direct()

    def forget(self) -> None:
        """Drop the remembered choices."""
        with _lock:
            self._generation += 1
            self._chosen.clear()
            self._specs.clear()
            self.direct = declined


OPERATIONS: dict[str, Operation] = {}


def _forget_all() -> None:
    for operation in OPERATIONS.values():
        operation.forget()


def _forget(operation: str) -> None:
    if operation in OPERATIONS:
        OPERATIONS[operation].forget()


REGISTRY.listeners.append(_forget)
