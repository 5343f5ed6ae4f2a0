"""Launch settings of Triton kernels that were measured on a device, kept in one readable file a device.

A kernel asks for its settings where it launches, and says what to use where nothing was measured:

    >>> settings = tuned.config("mla.decode", default={"BLOCK_N": 64, "num_warps": 8}, H=16, L=512)

``<device>.json`` beside this module (or in TS_KERNELS_TUNED, which goes first) holds what ``ts-kernels tune`` found. A
shape class is each size rounded up to a power of two, so that a file stays short and a size between two measured ones
finds an entry. A device without a file, or a class that is not in it, gets the default. See docs/kernels/registry.md.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import settings
from ..errors import TuningError
from ._file import Entry, read, write

__all__ = ["Config", "Entry", "Request", "config", "device_name", "forget", "observe", "read", "shape_class", "write"]

Config = Mapping[str, Any]
ShapeClass = tuple[tuple[str, int], ...]
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Request:
    """One call of ``config``: what the tuner has to know to try others."""

    kernel: str
    default: Config
    dims: ShapeClass
    space: Mapping[str, Sequence[Any]] = field(default_factory=dict)


_observers: list[Callable[[Request], Config]] = []


def config(kernel: str, /, *, default: Config, space: Mapping[str, Sequence[Any]] | None = None, **dims: int) -> Config:
    """Settings for ``kernel`` at these sizes: the measured ones of this device, with ``default`` for what they lack.

    ``space`` gives the values that the tuner may try, by name; without it it tries those around the default. Raises
    ``TuningError`` where the device's file names a setting that the kernel does not have.
    """
    if _observers:
        return _observers[-1](Request(kernel, default, shape_class(dims), space or {}))
    table = _table(device_name())
    if kernel not in table:
        return default
    key = shape_class(dims)
    found = table[kernel].get(key)
    return default if found is None else _merged(kernel, key, found, default)


def shape_class(dims: Mapping[str, int]) -> ShapeClass:
    """Each size rounded up to a power of two, in the order of the names."""
    return tuple(sorted((name, 1 << max(size - 1, 0).bit_length()) for name, size in dims.items()))


@functools.cache
def device_name() -> str:
    """The current device as files name it, such as "nvidia-h200" or "amd-instinct-mi300x"; "cpu" without a GPU."""
    if not torch.cuda.is_available():
        return "cpu"
    name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    vendor = "nvidia" if torch.version.hip is None else "amd"
    return name if name.startswith(vendor) else f"{vendor}-{name}"


@functools.cache
def _table(device: str) -> Mapping[str, Mapping[ShapeClass, Entry]]:
    """What the files for ``device`` hold, the user's before those shipped here."""
    table: dict[str, dict[ShapeClass, Entry]] = {}
    own = settings.current().tuned
    for folder in (HERE, *([own] if own else [])):
        for entry in read(folder / f"{device}.json", device):
            table.setdefault(entry.kernel, {})[shape_class(entry.dims)] = entry
    return table


def _merged(kernel: str, key: ShapeClass, found: Entry, default: Config) -> Config:
    wrong = [
        f"{name}={value!r}"
        for name, value in found.config.items()
        if name not in default or type(value) is not type(default[name])
    ]
    if wrong:
        known = ", ".join(f"{name} ({type(value).__name__})" for name, value in default.items())
        at = ", ".join(f"{name}={size}" for name, size in key)
        raise TuningError(f"{found.path}: {kernel} at {at} sets {', '.join(wrong)}; the kernel has {known}")
    return {**default, **found.config}


@contextmanager
def observe(answer: Callable[[Request], Config]) -> Iterator[None]:
    """Within the block, ``answer`` gives every setting: for the tuner and for tests."""
    _observers.append(answer)
    try:
        yield
    finally:
        _observers.remove(answer)


def forget() -> None:
    """Read the files anew at the next call."""
    _table.cache_clear()
