"""Choice of a kernel: filter by capability, rank by band, cache by shape class, explain.

The choice for a class of calls (device, dtypes, format, sizes; never the batch) is made once and kept, so a later
call pays one dictionary lookup. Overrides come from the call (``impl=``), from ``override(...)``, or from
TS_KERNELS_IMPL, in that order of precedence; an override that cannot serve the call is an error, never ignored.
"""

import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from . import platform, plugins, settings
from .errors import NoKernelError, UnknownKernelError
from .registry import REGISTRY, Kernel, KernelSpec, OperationInfo, Query

_lock = threading.RLock()
_override_stack: list[Mapping[str, str]] = []


@dataclass(frozen=True)
class Candidate:
    """One kernel's part in an explanation: why it cannot serve, or None in ``objections`` and its rank."""

    spec: KernelSpec
    objections: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """The outcome of one selection: the winner (None where nothing serves) and every candidate, best first."""

    query: Query
    winner: KernelSpec | None
    override: str | None
    candidates: tuple[Candidate, ...]

    def __str__(self) -> str:
        lines = [f"{self.query.operation} on {_text(self.query)}"]
        for candidate in self.candidates:
            spec = candidate.spec
            label = f"  {spec.name} ({spec.origin}, band {spec.band.name.lower()})"
            if spec is self.winner:
                lines.append(f"{label}: CHOSEN" + (f" by override {self.override!r}" if self.override else ""))
            elif candidate.objections:
                lines.append(f"{label}: cannot: {'; '.join(candidate.objections)}")
            elif self.override:
                lines.append(f"{label}: can, but override {self.override!r} names another")
            else:
                lines.append(f"{label}: can, ranks lower")
        if self.winner is None:
            lines.append("  nothing serves this call")
        return "\n".join(lines)


def _text(query: Query) -> str:
    arch = f" {query.device.arch_name}".rstrip()
    dtypes = " ".join(f"{name}={str(dtype).removeprefix('torch.')}" for name, dtype in query.dtypes.items())
    dims = " ".join(f"{name}={size}" for name, size in query.dims.items())
    return " ".join(filter(None, (query.device.type + arch, dtypes, f"format={query.format}", dims)))


def explain(query: Query, impl: str | None = None) -> Explanation:
    """Run selection for ``query`` and report every candidate.

    Raises ``UnknownOperationError`` or ``UnknownKernelError`` for names that do not exist.
    """
    plugins.load_all()
    override = impl or _active_override(query.operation)
    kernels = REGISTRY.kernels(query.operation)
    if override is not None and override not in {spec.name for spec in kernels}:
        if impl is None and not _named_for(query.operation):
            override = None  # "every operation" means every one that has such a kernel
        else:
            names = ", ".join(spec.name for spec in kernels)
            raise UnknownKernelError(f"{query.operation} has no kernel {override!r}; it has {names}")
    candidates = tuple(Candidate(spec, tuple(spec.objections(query))) for spec in kernels)
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
    process, not for one thread: it is meant for tests and for bisecting a wrong result.
    """
    chosen = {name.replace("__", "."): kernel for name, kernel in by_operation.items()}
    for name in chosen:
        REGISTRY.operation(name)
    if impl is not None:
        chosen[settings.EVERY] = impl
    with _lock:
        _override_stack.append(chosen)
        _forget_all()
    try:
        yield
    finally:
        with _lock:
            _override_stack.remove(chosen)
            _forget_all()


def _active_override(operation: str) -> str | None:
    for layer in (*reversed(_override_stack), settings.current().overrides):
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

    def __init__(self, name: str, *, dtypes: tuple[str, ...], dims: tuple[str, ...] = (), summary: str) -> None:
        self.info = OperationInfo(name, dtypes, dims, summary)
        self.name = name
        self._chosen: dict[Hashable, Kernel] = {}
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
        key = (device, dtypes, dims, format)
        if impl is None:
            chosen = self._chosen.get(key)
            if chosen is not None:
                return chosen
        spec = self.choose(device, dtypes, dims, format, impl)
        function = spec.load()
        if impl is None:
            self._chosen[key] = function
            self._adopt(spec, device)
        return function

    def choose(
        self,
        device: torch.device,
        dtypes: tuple[torch.dtype, ...],
        dims: tuple[int, ...] = (),
        format: str = "dense",
        impl: str | None = None,
    ) -> KernelSpec:
        """The kernel that serves this class of calls. Raises ``NoKernelError``."""
        return select(self.query(device, dtypes, dims, format), impl)

    def query(
        self, device: torch.device, dtypes: tuple[torch.dtype, ...], dims: tuple[int, ...], format: str = "dense"
    ) -> Query:
        """The query that describes such calls."""
        named = dict(zip(self.info.dtypes, dtypes, strict=True))
        return Query(
            self.name, platform.device_info(device), named, dict(zip(self.info.dims, dims, strict=True)), format
        )

    def _adopt(self, spec: KernelSpec, device: torch.device) -> None:
        """Take the kernel's shortcut if no other kernel, for any dtype or size, could come before it on its device."""
        if spec.direct is None or settings.current().debug or _active_override(self.name):
            return
        info = platform.device_info(device)
        first = next(s for s in REGISTRY.kernels(self.name) if s.capability.objection(info) is None)
        if first is spec:
            self.direct = spec.direct()

    def forget(self) -> None:
        """Drop the remembered choices."""
        self._chosen.clear()
        self.direct = declined


OPERATIONS: dict[str, Operation] = {}


def _forget_all() -> None:
    for operation in OPERATIONS.values():
        operation.forget()


def _forget(operation: str) -> None:
    if operation in OPERATIONS:
        OPERATIONS[operation].forget()


REGISTRY.listeners.append(_forget)
