"""Models of other packages (entry points ``ts_modeling.families``), each called after an architecture that it serves.

An entry point names a ``FamilyPlugin``. It is loaded in whatever process reads a ``config.json`` that asks for its
architecture, and in no other: a package that cannot be loaded, or was built for another version, is an error that names
it, for its own models alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from .errors import ConfigError
from .models.family import Family
from .plugins import checked

GROUP: Final = "ts_modeling.families"
API_VERSION: Final = 1
"""Raised when what a family has to give, or what its model is made of, changes."""


@dataclass(frozen=True, slots=True)
class FamilyPlugin:
    """What an entry point names. ``api_version`` is the ``API_VERSION`` that it was built for, written out."""

    api_version: int
    family: Family[Any]


def installed() -> Mapping[str, tuple[EntryPoint, ...]]:
    """Entry points by architecture; none of them is loaded."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def load(entries: tuple[EntryPoint, ...]) -> Family[Any]:
    """The family that serves an architecture. Raises ``ConfigError`` naming the entry points that cannot be used."""
    entry, *others = entries
    if others:
        raise ConfigError(
            f"architecture {entry.name} is that of {' and '.join(sorted(map(_told, entries)))}; uninstall one"
        )
    try:
        family = checked(entry.load(), FamilyPlugin, API_VERSION).family
        if entry.name not in family.architectures:
            raise ValueError(
                f"its family has {', '.join(family.architectures)}; call the entry point after one of them"
            )
    except Exception as error:  # whatever a foreign package raises
        raise ConfigError(f"{_told(entry)} failed: {type(error).__name__}: {error}") from error
    return family


def _told(entry: EntryPoint) -> str:
    of = f" of {entry.dist.name} {entry.dist.version}" if entry.dist else ""
    return f"family plugin {entry.name!r} ({entry.value}{of})"
