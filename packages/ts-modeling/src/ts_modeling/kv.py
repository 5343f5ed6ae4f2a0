"""What a model caches, declared: the runtime builds the cache from it, the scheduler its configuration.

Kinds have the names of the scheduler's cache groups: ``full`` attention holds every token, a ``window`` the last ones,
a ``state`` is one a request, whatever its length. Sizes are one rank's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

LayerCache = Tensor | tuple[Tensor, ...]
"""One layer's part: a latent cache alone, or keys and values, or the parts of a state."""
HOST_ALIGNMENT: Final = 64
"""Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheGroup:
    """Layers that cache alike; ``shapes`` are the tensors of one layer for one token, or for one state."""

    kind: Literal["full", "window", "state"]
    layers: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    window: int = 0
    """Tokens that a position of a window attends to, itself included."""

    @property
    def nbytes(self) -> int:
        """Bytes of one token, or of one state, in all layers of the group."""
        return len(self.layers) * sum(map(math.prod, self.shapes)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class KvSpec:
    """The groups of a model, each layer in one of them."""

    groups: tuple[CacheGroup, ...]

    @property
    def layers(self) -> int:
        """Layers that cache anything."""
        return sum(len(group.layers) for group in self.groups)

    @property
    def bytes_per_token(self) -> int:
        """Of all layers together. Windows count as full: they are kept in full attention's pages."""
        return sum(group.nbytes for group in self.groups if group.kind != "state")

    @property
    def bytes_per_state(self) -> int:
        """Of all layers with a running state together; 0 without any."""
        return sum(group.nbytes for group in self.groups if group.kind == "state")

    def new_cache(
        self, *, num_pages: int, page_size: int, num_states: int = 0, device: torch.device
    ) -> list[LayerCache]:
        """Zeroed tensors in layer order: [pages, page_size, ...] each, or [states, ...] of a state group.

        On the CPU the system clears memory when it is first touched: clearing 2 GiB here takes 3 s of each start.
        """
        assert num_states or not self.bytes_per_state, "a model with running states needs slots for them"
        made: dict[int, LayerCache] = {}
        for group in self.groups:
            rows = (num_states,) if group.kind == "state" else (num_pages, page_size)
            for layer in group.layers:
                tensors = tuple(_zeros((*rows, *shape), group.dtype, device) for shape in group.shapes)
                made[layer] = tensors if len(tensors) > 1 else tensors[0]
        return [made[layer] for layer in sorted(made)]


def group_layers(groups: Sequence[CacheGroup]) -> KvSpec:
    """A spec of one-layer groups, those alike made one, in the order of their first layers."""
    merged: dict[tuple[object, ...], CacheGroup] = {}
    for g in groups:
        key = (g.kind, g.shapes, g.dtype, g.window)
        layers = merged[key].layers + g.layers if key in merged else g.layers
        merged[key] = CacheGroup(kind=g.kind, layers=layers, shapes=g.shapes, dtype=g.dtype, window=g.window)
    return KvSpec(tuple(merged.values()))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return _host_zeros(shape, dtype) if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)


def _host_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory before they are written, aligned as torch's own tensors are."""
    size = math.prod(shape) * dtype.itemsize
    raw = torch.from_numpy(np.zeros(size + HOST_ALIGNMENT, np.uint8))
    start = -raw.data_ptr() % HOST_ALIGNMENT
    return raw[start : start + size].view(dtype).view(shape)
