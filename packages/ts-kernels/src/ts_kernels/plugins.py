"""Kernels from other packages, found by the entry point group ``ts_kernels.plugins``.

An entry point names a ``Plugin``: the version of this interface it was built for, and a function that registers
kernels. Plugins load at the first selection, those for vendors' libraries that are shipped here (``ts_kernels.vendor``)
too. One that fails, or that was built for another version, is reported by a warning that names it, registers nothing,
is not asked again, and takes nothing else down. tests/plugin_example is one to copy.
"""

import importlib.util
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from . import settings
from .errors import PluginError, RegistrationError
from .registry import OWN, REGISTRY, KernelSpec, OperationInfo, Registry

GROUP = "ts_kernels.plugins"
# Raised when what plugins use changes so that old ones break: KernelSpec's fields, Registrar, what kernels are given.
API_VERSION = 1
SHIPPED = {"flashinfer": "ts_kernels.vendor.flashinfer:plugin", "fla": "ts_kernels.vendor.fla:plugin"}

_lock = threading.RLock()
_state = {"loaded": False}


class PluginWarning(RuntimeWarning):
    """A plugin failed; the message names it and says why."""


class Registrar:
    """What a plugin is given: takes its kernels, and marks them as its own. They count once all of them are known."""

    def __init__(self, registry: Registry, origin: str) -> None:
        self._registry, self._origin = registry, origin
        self.specs: list[KernelSpec] = []

    def register(self, spec: KernelSpec) -> None:
        """Offer a kernel for an operation that exists; raises ``UnknownOperationError``."""
        self._registry.operation(spec.operation)
        self.specs.append(replace(spec, origin=self._origin) if spec.origin == OWN else spec)

    def operation(self, name: str) -> OperationInfo:
        """The declaration of operation ``name``: the arguments and sizes that a kernel can name."""
        return self._registry.operation(name)


@dataclass(frozen=True)
class Plugin:
    """What an entry point names. ``api_version`` is the ``API_VERSION`` that it was built for, written out."""

    api_version: int
    register: Callable[[Registrar], None]


def load(name: str, value: str, find: Callable[[], object], registry: Registry) -> None:
    """Load one plugin. Raises ``PluginError`` from whatever went wrong; then it has registered nothing."""
    label = f"plugin {name!r} ({value})"
    added: list[KernelSpec] = []
    try:
        plugin = find()
        _check(plugin)
        assert isinstance(plugin, Plugin)
        registrar = Registrar(registry, name)
        plugin.register(registrar)
        for spec in registrar.specs:
            registry.register(spec)
            added.append(spec)
    except (Exception, SystemExit) as error:
        for spec in added:
            registry.discard(spec.operation, spec.name)
        raise PluginError(f"{label} failed: {type(error).__name__}: {error}") from error


def _check(plugin: object) -> None:
    if not isinstance(plugin, Plugin):
        raise RegistrationError(f"it must be a ts_kernels.plugins.Plugin, is {type(plugin).__name__}")
    if not isinstance(plugin.api_version, int):
        raise RegistrationError(f"its api_version must be a whole number, is {plugin.api_version!r}")
    if plugin.api_version != API_VERSION:
        built = (
            f"it was built for version {plugin.api_version} of the plugin interface, this ts-kernels has {API_VERSION}"
        )
        advice = "update the plugin" if plugin.api_version < API_VERSION else "update ts-kernels"
        raise RegistrationError(f"{built}: {advice}")


def load_all() -> None:
    """Load every plugin once per process; another thread waits until they are there."""
    if _state["loaded"]:
        return
    with _lock:
        if _state.get("loading") or _state["loaded"]:
            return  # a plugin that selects kernels while it loads
        _state["loading"] = True
        try:
            if settings.current().plugins:
                _load_each(_entries())
        finally:
            _state.update(loaded=True, loading=False)


def _entries() -> list[EntryPoint]:
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    return [*(EntryPoint(name, value, GROUP) for name, value in SHIPPED.items()), *found]


def _load_each(entries: Iterable[EntryPoint]) -> None:
    for entry in entries:
        try:
            load(entry.name, entry.value, entry.load, REGISTRY)
        except PluginError as error:
            warnings.warn(str(error), PluginWarning, stacklevel=4)


def installed(package: str) -> bool:
    """Whether ``package`` can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
