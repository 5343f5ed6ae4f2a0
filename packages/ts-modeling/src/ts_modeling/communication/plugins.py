"""Collectives from other packages, such as an all-reduce over peer memory (entry points ``ts_modeling.collectives``).

An entry point names a ``CollectivePlugin``. It is asked once for each collective of a plan, while the plan is lowered,
and gives a function or None, where the usual one stays; so a plan is the same with and without plugins, and every rank
has to have the same ones. One that fails to load, or was built for another version, is reported by a warning that
names it and takes nothing else down; one that fails when it is asked or run is an error like any other.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Final

from torch import Tensor, nn

from ..plugins import PluginWarning, checked

GROUP: Final = "ts_modeling.collectives"
API_VERSION: Final = 1
"""Raised when what a plugin is given or has to give changes."""


@dataclass(frozen=True, slots=True)
class CollectiveRequest:
    """One reduction of a plan.

    With ``norm`` (an ``AddRMSNorm``: ``weight``, ``eps``) the function takes the addends and the residual, and returns
    the normed sum and the sum; without, it takes the addends and returns their sum. ``reuse``: the addends' memory may
    be written.
    """

    kind: str
    """``all_reduce``, for now."""
    op: str
    """``sum`` or ``max``."""
    ranks: tuple[int, ...]
    """Of the group, in order; this process is among them."""
    group: Any
    """Of ``torch.distributed``."""
    norm: nn.Module | None
    reuse: bool


@dataclass(frozen=True, slots=True)
class CollectivePlugin:
    """What an entry point names. ``api_version`` is the ``API_VERSION`` that it was built for, written out."""

    api_version: int
    make: Callable[[CollectiveRequest], Callable[..., Any] | None]


@dataclass(frozen=True)
class Plugins:
    """Plugins by name; the first that answers is taken."""

    found: dict[str, CollectivePlugin] = field(default_factory=dict)

    @classmethod
    def installed(cls) -> "Plugins":
        """Those of the installed packages, in the order of their names."""
        found: dict[str, CollectivePlugin] = {}
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            try:
                found[entry.name] = checked(entry.load(), CollectivePlugin, API_VERSION)
            except Exception as error:  # whatever a foreign package raises
                label = f"collective plugin {entry.name!r} ({entry.value})"
                warnings.warn(f"{label} failed: {type(error).__name__}: {error}", PluginWarning, stacklevel=3)
        return cls(found)

    def make(self, request: CollectiveRequest) -> Callable[..., Tensor | Sequence[Tensor]] | None:
        """The first function that a plugin gives for ``request``."""
        return next((made for plugin in self.found.values() if (made := plugin.make(request))), None)
