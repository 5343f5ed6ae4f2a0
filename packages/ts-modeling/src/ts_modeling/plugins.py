"""What entry points of other packages may name: an object that says for which version it was built."""

from typing import Protocol, TypeVar


class PluginWarning(RuntimeWarning):
    """A plugin is left out; the message names it and says why."""


class _Versioned(Protocol):
    @property
    def api_version(self) -> int: ...


P = TypeVar("P", bound=_Versioned)


def checked(plugin: object, kind: type[P], version: int) -> P:
    """``plugin`` if it is a ``kind`` for ``version``. Raises ``TypeError`` or ``ValueError``."""
    if not isinstance(plugin, kind):
        raise TypeError(f"it must be a {kind.__name__}, is {type(plugin).__name__}")
    if plugin.api_version != version:
        raise ValueError(f"it was built for version {plugin.api_version}, this ts-modeling has {version}")
    return plugin
